"""What a judge can be asked: explain a feature, simulate its activations, detect where it fires.

In:  stretches of text as token ids, with activations for explaining. Out: an `Explanation`, or
     predictions. Judges are language models, people, or baselines; whoever scores them cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data.records import Example, Explanation


@dataclass(frozen=True)
class Prediction:
    """One predicted activation per token of a window. status: ok | failed (values is None)."""

    values: tuple[float, ...] | None
    status: str = "ok"
    reason: str = ""


class Judge(Protocol):
    """One that explains and predicts. A failure is an outcome with its reason, never a zero."""

    name: str
    is_language_model: bool

    def explain(self, feature: int, examples: Sequence[Example]) -> Explanation:
        """Says what the feature stands for, from examples of the `explain` split only."""

    def simulate(
        self, explanation: Explanation, windows: Sequence[Sequence[int]]
    ) -> list[Prediction]:
        """Predicts the activation of every token of every window (token ids)."""

    def detect(
        self, explanation: Explanation, windows: Sequence[Sequence[int]]
    ) -> list[float | None]:
        """Score in [0, 1] that the feature fires somewhere in each window; None where it failed."""
