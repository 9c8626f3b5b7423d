"""The commands of an auto-interp run: to explain and to score, to estimate, to run again.

In:  what was chosen on the page, or the meta of a run. Out: lists of arguments for run.py; faults
     as WorkbenchError. No text typed into a form is read by a shell, or taken for an option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from data.errors import WorkbenchError
from interp.judges.service import Service

RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
KINDS = ("lexical", "people", "gemini", "gemini-legacy", "openai", "hf", "scripted")
CAPS = ("max_calls", "max_tokens", "max_money")
SHOWN = {"top": 10, "band": 2, "silent": 5, "width": 32}  # defaults of `explain`
MIXED = {"top": 10, "band": 5, "silent": 10, "each": 10, "rounds": 8, "width": 32, "seed": 0}
BASELINES = ("lexical", "shuffled", "empty")


@dataclass(frozen=True)
class Wanted:
    """What a new run is to do."""

    sae: str
    features: str  # as run.py takes them
    judge: str  # who explains
    scorer: str  # who predicts
    run: str
    protocols: tuple[str, ...] = ("activations",)
    candidates: int = 1
    methods: tuple[str, ...] = ("simulate",)
    baselines: tuple[str, ...] = BASELINES
    mode: str = "held-out"
    shown: Mapping[str, int] = field(default_factory=dict)  # options of `explain`
    mixed: Mapping[str, int] = field(default_factory=dict)  # options of `score`
    service: Mapping[str, object] = field(default_factory=dict)


def names_of_runs(wanted: Wanted) -> dict[str, str]:
    """protocol -> name of its run: several protocols are several runs."""
    if len(wanted.protocols) == 1:
        return {wanted.protocols[0]: wanted.run}
    return {protocol: f"{wanted.run}-{protocol}" for protocol in wanted.protocols}


def commands(wanted: Wanted, root: str) -> list[list[str]]:
    """Explain and score, for each protocol."""
    out = []
    for protocol, run in names_of_runs(wanted).items():
        out += [_explain(wanted, protocol, run, root), _score(wanted, run, root)]
    return out


def estimates(wanted: Wanted, root: str) -> list[list[str]]:
    """What says beforehand what all of it will take: whatever a language model is asked."""
    out = []
    for protocol, run in names_of_runs(wanted).items():
        for judge, command in ((wanted.judge, _explain(wanted, protocol, run, root)),
                               (wanted.scorer, _score(wanted, run, root))):  # fmt: skip
            if is_language_model(judge):
                out.append([*command, "--estimate", "--json"])
    return out


def is_language_model(judge: str) -> bool:
    return judge not in ("lexical", "people")


def _explain(wanted: Wanted, protocol: str, run: str, root: str) -> list[str]:
    words = ["explain", wanted.sae, "--judge", wanted.judge, "--run", run]
    words += _features(wanted.features)
    if wanted.judge != "people":
        words += _options({"protocol": protocol, "candidates": wanted.candidates},
                          {"protocol": "activations", "candidates": 1})  # fmt: skip
        words += _options(wanted.shown, SHOWN)
    if is_language_model(wanted.judge):
        words += service_options(wanted.service)
    return [*words, "--workspace", root]


def _score(wanted: Wanted, run: str, root: str) -> list[str]:
    words = ["score", wanted.sae, "--judge", wanted.scorer, "--run", run]
    words += _features(wanted.features)
    words += _options({"method": ",".join(wanted.methods), "mode": wanted.mode},
                      {"method": "simulate", "mode": "held-out"})  # fmt: skip
    words += _options(wanted.mixed, MIXED)
    if is_language_model(wanted.scorer):
        words += _options({"baselines": ",".join(wanted.baselines)},
                          {"baselines": ",".join(BASELINES)})  # fmt: skip
        words += service_options(wanted.service)
    return [*words, "--workspace", root]


def service_options(service: Mapping[str, object]) -> list[str]:
    """Options of a service that differ from its defaults."""
    usual = {one.name: one.default for one in fields(Service)}
    return _options({k: v for k, v in service.items() if k in usual}, usual)


def _features(text: str) -> list[str]:
    return [] if text == "all" else ["--features", text]


def _options(given: Mapping[str, object], usual: Mapping[str, object]) -> list[str]:
    out = []
    for name, value in given.items():
        if value is not None and value != usual.get(name):
            said = f"{value:.12g}" if isinstance(value, (int, float)) else str(value)
            out += [f"--{name.replace('_', '-')}", said]
    return out


# ---------------------------------------------------------------- again


def again(
    meta: Mapping, run: str, sae: str, features: Iterable[int], unexplained: Iterable[int],
    methods: Iterable[str], root: str, caps: Mapping[str, object] | None = None,
    everything: bool = False,
) -> list[list[str]]:  # fmt: skip
    """The commands that ask a run's failed parts again: what was answered is in the cache.

    unexplained: explained first; everything: all of them are. caps: in place of the run's own.
    """
    plan, how = meta.get("plan") or {}, meta.get("score_plan") or {}
    judge = meta.get("judge") or "lexical"
    chosen = compact(features)
    service = {**(meta.get("service") or {}), **(caps or {})}
    scoring = {**(meta.get("score_service") or service), **(caps or {})}
    wanted = Wanted(
        sae, chosen, judge, meta.get("scorer") or judge, run,
        (plan.get("protocol", "activations"),), plan.get("candidates", 1),
        tuple(methods) or ("simulate",),
        tuple(arm for arm in how.get("arms", ("own", *BASELINES)) if arm != "own"),
        how.get("mode", "held-out"), _of(plan.get("shown"), SHOWN),
        {**_of(how.get("mix"), MIXED), **_of(how, {"each": 0, "rounds": 0, "seed": 0})}, service,
    )  # fmt: skip
    out = []
    missing = compact(features if everything else unexplained)
    if missing:
        first = Wanted(**{**vars(wanted), "features": missing})
        out.append(_explain(first, wanted.protocols[0], run, root))
    scored = Wanted(**{**vars(wanted), "service": scoring})
    if wanted.scorer != "people":
        out.append(_score(scored, run, root))
    return out


def _of(given: Mapping | None, names: Iterable[str]) -> dict:
    return {name: given[name] for name in names if given and name in given}


# ---------------------------------------------------------------- features


def compact(features: Iterable[int]) -> str:
    """Numbers as run.py takes them: `0:48,60`; "" for none."""
    numbers = np.unique(np.fromiter(features, dtype=np.int64))
    if not len(numbers):
        return ""
    ends = np.flatnonzero(np.diff(numbers) != 1)
    first = numbers[np.concatenate([[0], ends + 1])]
    last = numbers[np.concatenate([ends, [len(numbers) - 1]])]
    return ",".join(
        str(a) if a == b else f"{a}:{b + 1}"
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    )


def chosen(text: str, n_features: int) -> list[int]:
    """The features that `all`, or numbers and ranges A:B (B not included), stand for.

    WorkbenchError for anything else, and for a feature there is not."""
    if text.strip() == "all":
        return list(range(n_features))
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", part)
        if match is None:
            raise WorkbenchError(
                f"{part!r:.40} is no feature: give all, or numbers and ranges such as 0:100,205"
            )
        low = int(match[1])
        high = int(match[2]) if match[2] else low + 1
        if not low < high <= n_features:
            raise WorkbenchError(
                f"{part} is not among the features of this SAE, which are 0 to {n_features - 1}"
            )
        found.update(range(low, high))
    return sorted(found)


def faults(wanted: Wanted) -> list[str]:
    """What cannot be, each in a sentence."""
    found = []
    for judge in dict.fromkeys((wanted.judge, wanted.scorer)):
        kind, _, rest = judge.partition(":")
        if kind not in KINDS or (kind not in ("lexical", "people") and not rest.strip()):
            found.append(f"{kind} needs {_missing(kind)}.")
        elif not judge.isprintable() or len(judge) > 400:
            found.append("The judge’s name holds what cannot be printed: type it again.")
    if wanted.judge == "people" and wanted.scorer == "lexical":
        found.append("A lookup table cannot read people’s words: choose a language model to "
                     "predict.")  # fmt: skip
    if wanted.judge == "lexical" and is_language_model(wanted.scorer):
        found.append("Token lookup’s explanations are for token lookup: let one judge do both.")
    if not RUN_NAME.fullmatch(wanted.run):
        found.append(f"{wanted.run!r:.60} cannot be a run’s name: use letters, digits, “.”, “_” "
                     "and “-”.")  # fmt: skip
    if not wanted.protocols:
        found.append("Choose at least one way to explain.")
    if not wanted.methods:
        found.append("Choose at least one way to score.")
    if not wanted.features:
        found.append("No feature is chosen.")
    prices = [wanted.service.get(name) for name in ("prompt_price", "reply_price")]
    if (prices[0] is None) != (prices[1] is None):
        found.append("Give both prices, of a million prompt and of a million reply tokens.")
    if wanted.service.get("max_money") is not None and prices[0] is None:
        found.append("A cap on money needs both prices.")
    return found


def _missing(kind: str) -> str:
    return {"hf": "a model folder or hub id", "scripted": "a file of recorded replies"}.get(
        kind, "the name of a model"
    )
