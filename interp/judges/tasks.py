"""The tasks a judge can be given, and its answers, as records.

In:  examples of a store, an explanation. Out: what one question says and what one answer is.

An outcome has three states: ok, failed with a reason, not_run with a reason (the budget was spent,
or there was nothing to go by). A failure is never a zero and never a "no".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from data.records import Example, Explanation


@dataclass(frozen=True)
class ExplainTask:
    """Say what a feature stands for. All examples are of the `explain` split."""

    feature: int
    protocol: str  # a key of interp.protocols.explain.PROTOCOLS
    firing: tuple[Example, ...]  # windows in which the feature fires, strongest first
    silent: tuple[Example, ...]  # windows in which it does not; near misses in `contrastive`
    maximum: float  # its largest activation in the corpus
    raises: tuple[int, ...] = ()  # tokens its decoder direction promotes most
    lowers: tuple[int, ...] = ()
    everything: tuple[Example, ...] = ()  # all its examples of the split: for baselines that count
    draw: int = 0


@dataclass(frozen=True)
class SimulateTask:
    """Predict the level of every token of a window, from an explanation alone."""

    feature: int
    explanation: Explanation
    ids: tuple[int, ...]
    maximum: float  # so that predictions in other units can be brought to levels


@dataclass(frozen=True)
class EstimateTask:
    """Estimate the largest level in a window, from an explanation alone (the 2025 protocol)."""

    feature: int
    explanation: Explanation
    ids: tuple[int, ...]
    maximum: float


@dataclass(frozen=True)
class DetectTask:
    """Say whether the feature fires in a window; or, with marks, whether the marked tokens are
    those it fires on (fuzzing)."""

    feature: int
    explanation: Explanation
    ids: tuple[int, ...]
    marks: tuple[int, ...] | None = None  # None: detection
    maximum: float = 1.0


@dataclass(frozen=True)
class IntruderTask:
    """Find the one window in which the feature does not fire; nobody explains anything."""

    feature: int
    windows: tuple[tuple[int, ...], ...]
    marks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Answer:
    """What a judge said. value: by task: one level a token; a level; the probability from 0 to 1
    that it fires; the number of a window. None unless status is ok."""

    value: tuple[float, ...] | float | int | None
    status: str = "ok"  # ok | failed | not_run
    reason: str = ""
    calls: tuple[str, ...] = field(default=())  # keys of the replies it was read from
