"""An auto-interp run: explain features, predict their activations on text never shown, score.

In:  a feature store, a judge, a plan. Out: `Explained` and `Judged` features, block by block.

Every score has its baselines beside it, judged on the very same windows: the token-lookup baseline
fitted on the `explain` split, the explanation of another feature that fires about as often, and no
explanation at all. A replay costs nothing: replies are kept by the caller under what was asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np

from data.errors import WorkbenchError
from data.judged import AskedRow, ResultRow
from data.records import Example, Explanation, FeatureStats, LogitEffect
from interp import items, outcomes
from interp.estimates import correlation
from interp.items import Item, Mix, Shown
from interp.judges.judge import Judge
from interp.judges.tasks import Answer, EstimateTask, ExplainTask, SimulateTask
from interp.outcomes import Result
from interp.passages import level
from interp.protocols.explain import PROTOCOLS
from interp.token_sample import sample_of

METHODS = ("simulate", "estimate", "detect", "fuzz", "intruder")
MODES = ("held-out", "paper")  # paper: predict on the very windows that were explained
ARMS = ("own", "lexical", "shuffled", "empty")
CHOOSING = Mix(top=3, band=1, silent=3)  # of the `calibrate` split, to choose among candidates
NO_EXPLANATION = "something unknown"
BLOCK = 32  # features whose questions are out together


class Store(Protocol):
    """What a run reads: a data.features_store.FeatureStore."""

    def densities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(feature, density, largest activation) of all features."""

    def examples_for(self, features: Sequence[int], use: str) -> dict[int, list[Example]]:
        """Examples of one split, by feature."""

    def logits(self, i: int) -> LogitEffect | None:
        """Which tokens it raises and lowers."""

    def feature(self, i: int) -> FeatureStats:
        """What the harvest counted."""

    def bands(self, i: int) -> dict[str, tuple[float, int]]:
        """Where each band of ranks begins, and its fires."""

    @property
    def meta(self) -> dict:
        """`tokens` of the corpus."""


@dataclass(frozen=True)
class Plan:
    """What is asked of which features. The same plan on the same store asks the same questions."""

    protocol: str = "activations"
    candidates: int = 1  # explanations of each; the best on the `calibrate` split is taken
    methods: tuple[str, ...] = ("simulate",)
    arms: tuple[str, ...] = ARMS
    mode: str = "held-out"
    shown: Shown = field(default_factory=Shown)
    mix: Mix = field(default_factory=Mix)
    each: int = 10  # firing and silent windows to detect and to fuzz, of each sort
    rounds: int = 8  # of the intruder task
    seed: int = 0

    def __post_init__(self) -> None:
        for name, given, known in (
            ("protocol", (self.protocol,), PROTOCOLS),
            ("method", self.methods, METHODS),
            ("baseline", self.arms, ARMS),
            ("mode", (self.mode,), MODES),
        ):
            for one in given:
                if one not in known:
                    raise WorkbenchError(f"no {name} {one!r}: choose from {', '.join(known)}")
        if self.candidates < 1:
            raise WorkbenchError(f"candidates is {self.candidates}: ask for 1 or more")

    def as_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """One of several explanations, and how well it predicts the `calibrate` split."""

    explanation: Explanation
    value: float | None  # None: alone, or it could not be tried
    status: str


@dataclass(frozen=True)
class Asked:
    """One window as it was judged."""

    method: str
    arm: str
    item: int
    stratum: str  # of a simulation; else fires | silent
    doc: int
    start: int
    peak: int
    ids: tuple[int, ...]
    real: tuple[float, ...]  # activations
    answer: Answer


@dataclass(frozen=True)
class Judged:
    """A feature with all its results: (method, arm) -> Result."""

    explanation: Explanation
    candidates: tuple[Candidate, ...]
    results: dict[tuple[str, str], Result]
    asked: tuple[Asked, ...]


class Run:
    """Goes through features in blocks. `judge` explains and predicts; `lookup` is the baseline."""

    def __init__(self, store: Store, judge: Judge, lookup: Judge, plan: Plan) -> None:
        self.store, self.judge, self.lookup, self.plan = store, judge, lookup, plan
        _, density, maximum = store.densities()
        self._density, self._maximum = density, np.nan_to_num(maximum)

    def maximum(self, feature: int) -> float:
        """Largest activation in the corpus; 0 of a dead feature."""
        return float(self._maximum[feature])

    # ------------------------------------------------------------ explaining

    def explain(self, features: Sequence[int]) -> Iterator[list[tuple[Candidate, ...]]]:
        """The candidates of each feature, the chosen one first; a block at a time."""
        for start in range(0, len(features), BLOCK):
            block = features[start : start + BLOCK]
            examples = self.store.examples_for(block, "explain")
            tasks = [self._explain_task(f, examples[f], 0) for f in block]
            drawn = [
                replace(task, draw=draw) for task in tasks for draw in range(self.plan.candidates)
            ]
            said = self._explained(drawn)
            grouped = [
                said[n : n + self.plan.candidates]
                for n in range(0, len(said), self.plan.candidates)
            ]
            yield self._chosen(block, grouped)

    def _explain_task(self, feature: int, examples: Sequence[Example], draw: int) -> ExplainTask:
        plan = self.plan
        effect = self.store.logits(feature) if plan.protocol == "max_and_logits" else None
        raises = () if effect is None else effect.top_ids
        lowers = () if effect is None else effect.bottom_ids
        return items.shown(
            feature, plan.protocol, examples, self.maximum(feature), plan.shown, raises, lowers,
            draw,
        )  # fmt: skip

    def _explained(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        """A feature without a firing window is not put to the judge."""
        reason = "no firing window in the explain split"
        open_ones = [task for task in tasks if task.firing]
        said = iter(self.judge.explain(open_ones))
        return [
            next(said) if task.firing
            else Explanation(task.feature, self.judge.name, "", {}, "not_run", reason)
            for task in tasks
        ]  # fmt: skip

    def _chosen(
        self, block: Sequence[int], grouped: Sequence[Sequence[Explanation]]
    ) -> list[tuple[Candidate, ...]]:
        if self.plan.candidates == 1:
            return [(Candidate(group[0], None, group[0].status),) for group in grouped]
        mix = replace(CHOOSING, width=self.plan.mix.width)
        examples = self.store.examples_for(block, "calibrate")
        rows = {f: items.mixed(examples[f], mix, "calibrate") for f in block}
        tried = [(f, e, rows[f]) for f, group in zip(block, grouped, strict=True) for e in group]
        found = iter(self._simulated(self.judge, tried, sum(mix.strata.values())))
        out = []
        for group in grouped:
            candidates = [
                Candidate(e, result.value, result.status)
                for e, (result, _) in zip(group, found, strict=False)
            ]
            best = sorted(candidates, key=lambda c: (c.value is None, -(c.value or 0.0)))
            out.append(tuple(best))
        return out

    # ------------------------------------------------------------ scoring

    def score(
        self, explanations: Mapping[int, Explanation], candidates: Mapping[int, tuple] | None = None
    ) -> Iterator[list[Judged]]:
        """All methods and baselines of each explained feature; a block at a time."""
        features = sorted(explanations)
        others = self._others(explanations)
        for start in range(0, len(features), BLOCK):
            block = features[start : start + BLOCK]
            yield self._judged(block, explanations, others, candidates or {})

    def _judged(self, block, explanations, others, candidates) -> list[Judged]:
        examples = self.store.examples_for(block, "score")
        lookups = self._lookups(block)
        arms = {
            "own": (self.judge, explanations), "lexical": (self.lookup, lookups),
            "shuffled": (self.judge, others),
            "empty": (self.judge, {f: _empty(f, self.judge.name) for f in block}),
        }  # fmt: skip
        results: dict[int, dict] = {f: {} for f in block}
        asked: dict[int, list[Asked]] = {f: [] for f in block}
        for method in self.plan.methods:
            for arm in self.plan.arms if method != "intruder" else ("own",):
                judge, said = arms[arm]
                if arm in ("shuffled", "empty") and not judge.is_language_model:
                    continue  # a lookup table of nothing is no baseline
                ask = getattr(self, f"_{method}")
                for f, (result, windows) in zip(
                    block, ask(judge, block, said, examples), strict=True
                ):
                    results[f][method, arm] = result
                    asked[f] += [replace(one, method=method, arm=arm) for one in windows]
        return [
            Judged(explanations[f], candidates.get(f, ()), results[f], tuple(asked[f]))
            for f in block
        ]

    def _lookups(self, block: Sequence[int]) -> dict[int, Explanation]:
        """The baseline's own explanations, fitted on all examples of the `explain` split."""
        examples = self.store.examples_for(block, "explain")
        tasks = [self._explain_task(f, examples[f], 0) for f in block]
        return dict(zip(block, self.lookup.explain(tasks), strict=True))

    def _others(self, explanations: Mapping[int, Explanation]) -> dict[int, Explanation]:
        """For each feature the explanation of another one that fires about as often."""
        known = [f for f, e in explanations.items() if e.status == "ok"]
        by_density = sorted(known, key=lambda f: (self._density[f], f))
        place = {f: n for n, f in enumerate(by_density)}
        draw = random.Random(f"{self.plan.seed} shuffled")
        out = {}
        for f in sorted(explanations):
            near = [
                by_density[n]
                for n in range(place.get(f, 0) - 5, place.get(f, 0) + 6)
                if 0 <= n < len(by_density) and by_density[n] != f
            ]
            if f in place and near:
                other = explanations[draw.choice(near)]
                out[f] = replace(other, feature=f)
            else:
                reason = "no other explained feature" if f in place else explanations[f].reason
                out[f] = Explanation(f, self.judge.name, "", {}, "not_run", reason)
        return out

    def _windows(self, feature: int, examples: Mapping[int, Sequence[Example]]) -> list[Item]:
        if self.plan.mode == "held-out":
            return items.mixed(examples[feature], self.plan.mix)
        own = self.store.examples_for([feature], "explain")[feature]
        task = self._explain_task(feature, own, 0)
        return [Item("explained", e) for e in (*task.firing, *task.silent)]

    def _simulate(self, judge, block, said, examples):
        tried = [(f, said[f], self._windows(f, examples)) for f in block]
        found = self._simulated(judge, tried, sum(self.plan.mix.strata.values()))
        if self.plan.mode != "held-out":
            return found
        out = []
        for f, (result, windows) in zip(block, found, strict=True):
            if result.value is not None:
                rows = next(rows for g, _, rows in tried if g == f)
                corpus = self._over_the_corpus(f, rows, [one.answer for one in windows])
                result = replace(result, details={**result.details, "corpus": corpus})
            out.append((result, windows))
        return out

    def _over_the_corpus(
        self, feature: int, rows: Sequence[Item], answers: Sequence[Answer]
    ) -> dict:
        """The correlation over the corpus's documents of this split, from the peaks of the sampled
        windows by their inclusion (interp/estimates.py), and from how many that is worth."""
        said = {
            (item.example.doc, item.example.start + item.example.peak): answer.value[
                item.example.peak
            ]
            for item, answer in zip(rows, answers, strict=True)
            if answer.status == "ok" and item.stratum != "top"
        }
        kept = [
            item.example for item in rows
            if (item.example.doc, item.example.start + item.example.peak) in said
            and item.stratum != "top"
        ]  # fmt: skip
        fires = self.store.feature(feature).fires
        bands, tokens = self.store.bands(feature), self.store.meta["tokens"]
        try:
            sample = sample_of(kept, fires, tokens, "quantile", "score", bands)
        except WorkbenchError as error:  # a store without examples by rank
            return {"value": None, "reason": str(error)}
        guess = np.array([said[e.doc, e.start + e.peak] for e in sample.examples], dtype=float)
        found = correlation(sample, guess)
        return {"value": found.value, "low": found.low, "high": found.high,
                "ess": found.ess, "n": found.n, "reason": found.reason}  # fmt: skip

    def _simulated(
        self, judge: Judge, tried: Sequence[tuple[int, Explanation, list[Item]]], wanted: int
    ) -> list[tuple[Result, list[Asked]]]:
        tasks = [
            SimulateTask(f, explanation, item.example.ids, self.maximum(f))
            for f, explanation, rows in tried
            for item in rows
        ]
        answers = iter(judge.simulate(tasks))
        out = []
        for f, _, rows in tried:
            own = [next(answers) for _ in rows]
            result = outcomes.simulation(rows, own, self.maximum(f), wanted, self.plan.seed)
            out.append((result, _asked(rows, own)))
        return out

    def _estimate(self, judge, block, said, examples):
        rows = {f: self._windows(f, examples) for f in block}
        tasks = [
            EstimateTask(f, said[f], item.example.ids, self.maximum(f))
            for f in block
            for item in rows[f]
        ]
        answers, out = iter(judge.estimate(tasks)), []
        wanted = sum(self.plan.mix.strata.values())
        for f in block:
            own = [next(answers) for _ in rows[f]]
            true = [level(max(item.example.values), self.maximum(f)) for item in rows[f]]
            out.append(
                (outcomes.estimation(true, own, wanted, self.plan.seed), _asked(rows[f], own))
            )
        return out

    def _detect(self, judge, block, said, examples, make=items.to_detect, method="detect"):
        plan = self.plan
        rows = {
            f: make(said[f], examples[f], self.maximum(f), plan.seed, plan.each, plan.mix.width)
            for f in block
        }
        answers = iter(judge.detect([trial.task for f in block for trial in rows[f]]))
        out = []
        for f in block:
            own = [next(answers) for _ in rows[f]]
            fires = [trial.fires for trial in rows[f]]
            result = outcomes.detection(method, fires, own, 2 * plan.each, plan.seed)
            windows = [Item("fires" if t.fires else "silent", t.example) for t in rows[f]]
            out.append((result, _asked(windows, own)))
        return out

    def _fuzz(self, judge, block, said, examples):
        return self._detect(judge, block, said, examples, items.to_fuzz, "fuzz")

    def _intruder(self, judge, block, said, examples):
        plan = self.plan
        rows = {
            f: items.intruders(
                f, examples[f], self.maximum(f), plan.seed, plan.rounds, width=plan.mix.width
            )
            for f in block
        }
        answers = iter(judge.intrude([task for f in block for task, _ in rows[f]]))
        out = []
        for f in block:
            own = [next(answers) for _ in rows[f]]
            where = [place for _, place in rows[f]]
            size = len(rows[f][0][0].windows) if rows[f] else 5
            out.append((outcomes.intrusion(where, size, own, plan.rounds), []))
        return out


def rows_of(judged: Sequence[Judged], keep: bool) -> tuple[list[ResultRow], list[AskedRow]]:
    """Rows of the tables result and asked. keep: what was asked, too."""
    results, asked = [], []
    for one in judged:
        f = one.explanation.feature
        for (method, arm), r in one.results.items():
            results.append(
                ResultRow(f, method, arm, r.value, r.low, r.high, r.n_ok, r.n, r.wanted, r.status,
                          r.reason, r.reasons, r.details)
            )  # fmt: skip
        for w in one.asked if keep else ():
            value = w.answer.value
            said = value if isinstance(value, tuple) or value is None else (float(value),)
            asked.append(
                AskedRow(f, w.method, w.arm, w.item, w.stratum, w.doc, w.start, w.peak, w.ids,
                         w.real, said, w.answer.status, w.answer.reason, w.answer.calls)
            )  # fmt: skip
    return results, asked


def _empty(feature: int, judge: str) -> Explanation:
    return Explanation(feature, judge, NO_EXPLANATION, {"baseline": "empty"})


def _asked(rows: Sequence[Item], answers: Sequence[Answer]) -> list[Asked]:
    return [
        Asked("", "", n, item.stratum, e.doc, e.start, e.peak, e.ids, e.values, answer)
        for n, (item, answer) in enumerate(zip(rows, answers, strict=True))
        for e in (item.example,)
    ]
