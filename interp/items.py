"""What is put before a judge: which windows of a feature, in which order, with which marks.

In:  a feature's examples of one split, a seed. Out: explaining material; the fixed mix that is
     simulated; windows to detect and to fuzz, half of them negatives; intruder rounds.

Everything is chosen by rank and seed, never by what a judge would find easy. The mix's silent
windows are around tokens drawn from those on which the feature is silent; it may fire beside them,
so that the mix can stand for the corpus. A negative is silent on all its tokens, and has the
length, and in fuzzing the number and the places of the marks, of a positive, so that neither gives
anything away.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.records import Example, Explanation
from interp.judges.tasks import DetectTask, ExplainTask, IntruderTask
from interp.passages import WIDTH, disjoint_windows, one_a_document, strong_places

BANDS = ("0.99-1", "0.9-0.99", "0.5-0.9", "0-0.5")


@dataclass(frozen=True)
class Shown:
    """How much of a feature an explanation may be written from. Documents are unique."""

    top: int = 10
    band: int = 2  # from each band of ranks
    silent: int = 5
    near_miss: int = 5  # in place of `silent` where the protocol contrasts
    width: int = WIDTH


@dataclass(frozen=True)
class Mix:
    """What is simulated: the same for every feature, so that scores can be compared. 40 windows."""

    top: int = 10
    band: int = 5
    silent: int = 10
    width: int = WIDTH

    @property
    def strata(self) -> dict[str, int]:
        """Name -> windows wanted."""
        return {"top": self.top, **dict.fromkeys(BANDS, self.band), "silent": self.silent}


@dataclass(frozen=True)
class Item:
    """One window of the mix."""

    stratum: str  # top, a band, or silent: around a token on which it is silent
    example: Example


@dataclass(frozen=True)
class Trial:
    """One window to detect in, or with marks to fuzz."""

    task: DetectTask
    fires: bool  # it fires there; the marks are its own
    example: Example


def shown(
    feature: int,
    protocol: str,
    examples: Sequence[Example],
    maximum: float,
    plan: Shown,
    raises: Sequence[int] = (),
    lowers: Sequence[int] = (),
    draw: int = 0,
) -> ExplainTask:
    """The material of an explanation. Raises AssertionError for an example of another split."""
    leaked = {e.use for e in examples} - {"explain"}
    assert not leaked, f"examples of {leaked} must not reach an explanation"
    firing = _of(examples, "top", "")[: plan.top]
    for band in BANDS:
        firing += _fresh(_of(examples, "quantile", band), firing)[: plan.band]
    firing = one_a_document(disjoint_windows(firing, plan.width))
    if protocol == "contrastive":
        near = _of(examples, "near_miss", "token") + _of(examples, "near_miss", "under")
        silent = _silent(_fresh(near, firing), plan.width)[: plan.near_miss]
    else:
        silent = _silent(_fresh(_of(examples, "random", ""), firing), plan.width)[: plan.silent]
    return ExplainTask(
        feature, protocol, tuple(firing), tuple(silent), maximum, tuple(raises), tuple(lowers),
        tuple(examples), draw,
    )  # fmt: skip


def mixed(examples: Sequence[Example], mix: Mix, use: str = "score") -> list[Item]:
    """The windows that are simulated, all of the split `use`, no token twice."""
    leaked = {e.use for e in examples} - {use}
    assert not leaked, f"examples of {leaked} must not reach a score"
    items: list[Item] = []
    for stratum, wanted in mix.strata.items():
        kind = {"top": "top", "silent": "random"}.get(stratum, "quantile")
        found = _of(examples, kind, stratum if kind == "quantile" else "")
        taken = [item.example for item in items]
        fresh = disjoint_windows([*taken, *found], mix.width)[len(taken) :]
        items += [Item(stratum, example) for example in fresh[:wanted]]
    return items


def to_detect(
    explanation: Explanation,
    examples: Sequence[Example],
    maximum: float,
    seed: int,
    each: int = 10,
    width: int = WIDTH,
) -> list[Trial]:
    """At most `each` windows it fires in and as many it is silent in, shuffled.

    Firing ones come evenly from the top and the bands; of the silent ones half are near misses, as
    far as there are any. There are never more of one sort than of the other.
    """
    firing, silent = _two_sorts(examples, each, width)
    trials = [
        _trial(explanation, e, None, fires, maximum)
        for group, fires in ((firing, True), (silent, False))
        for e in group
    ]
    random.Random(f"{seed} detect {explanation.feature}").shuffle(trials)
    return trials


def to_fuzz(
    explanation: Explanation,
    examples: Sequence[Example],
    maximum: float,
    seed: int,
    each: int = 10,
    width: int = WIDTH,
) -> list[Trial]:
    """As `to_detect`, with marks: on the strong tokens of a firing window, and at the very same
    places of a silent one, so that where and how many tells nothing."""
    firing, silent = _two_sorts(examples, each, width)
    trials = []
    for real, other in zip(firing, silent, strict=True):
        places = strong_places(real, maximum)
        trials.append(_trial(explanation, real, places, True, maximum))
        trials.append(_trial(explanation, other, places, False, maximum))
    random.Random(f"{seed} fuzz {explanation.feature}").shuffle(trials)
    return trials


def intruders(
    feature: int,
    examples: Sequence[Example],
    maximum: float,
    seed: int,
    rounds: int = 8,
    size: int = 5,
    width: int = WIDTH,
) -> list[tuple[IntruderTask, int]]:
    """Rounds of `size` windows of which one is silent, and where it stands."""
    draw = random.Random(f"{seed} intruder {feature}")
    firing, silent = _two_sorts(examples, rounds * (size - 1), width, even=False)
    out = []
    for at, other in enumerate(silent[:rounds]):
        own = firing[at * (size - 1) : (at + 1) * (size - 1)]
        if len(own) < size - 1:
            break
        places = [strong_places(e, maximum) for e in own]
        windows = [e.ids for e in own]
        where = draw.randrange(size)
        windows.insert(where, other.ids)
        places.insert(where, draw.choice(places))
        task = IntruderTask(feature, tuple(windows), tuple(tuple(p) for p in places))
        out.append((task, where))
    return out


# ---------------------------------------------------------------- choosing


def _of(examples: Iterable[Example], kind: str, part: str) -> list[Example]:
    found = [e for e in examples if e.kind == kind and e.part == part]
    return sorted(found, key=lambda e: e.rank)


def _fresh(examples: Iterable[Example], taken: Iterable[Example]) -> list[Example]:
    """Those of other documents than the taken ones."""
    documents = {e.doc for e in taken}
    return [e for e in examples if e.doc not in documents]


def _silent(examples: Iterable[Example], width: int) -> list[Example]:
    """Windows without any active token."""
    return [cut for cut in disjoint_windows(examples, width) if not any(cut.values)]


def _two_sorts(
    examples: Sequence[Example], each: int, width: int, even: bool = True
) -> tuple[list[Example], list[Example]]:
    """Firing and silent windows of one length, no token twice; as many of both if `even`."""
    groups = [_of(examples, "top", ""), *(_of(examples, "quantile", b) for b in BANDS)]
    turns = [e for row in _in_turn(groups) for e in row]
    firing = [e for e in disjoint_windows(turns, width) if len(e.ids) == width]
    near = [*_of(examples, "near_miss", "token"), *_of(examples, "near_miss", "under")]
    candidates = _in_turn([near, _of(examples, "random", "")])
    quiet = disjoint_windows([*firing, *(e for row in candidates for e in row)], width)
    silent = [e for e in quiet[len(firing) :] if len(e.ids) == width and not any(e.values)]
    if even:
        each = min(each, len(firing), len(silent))
    return firing[:each], silent[:each]


def _in_turn(groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
    """First of each, second of each, ..."""
    longest = max((len(group) for group in groups), default=0)
    return [[group[n] for group in groups if n < len(group)] for n in range(longest)]


def _trial(
    explanation: Explanation,
    example: Example,
    places: Sequence[int] | None,
    fires: bool,
    maximum: float,
) -> Trial:
    marks = None if places is None else tuple(places)
    task = DetectTask(explanation.feature, explanation, example.ids, marks, maximum)
    return Trial(task, fires, example)
