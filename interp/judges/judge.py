"""What a judge can be asked; judges are language models, people or baselines.

In:  tasks (interp/judges/tasks.py), many at once, so that one who waits for a service can wait for
     all together. Out: one outcome a task, in order. Whoever scores them cannot tell who judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from data.records import Explanation
from interp.judges.tasks import (
    Answer,
    DetectTask,
    EstimateTask,
    ExplainTask,
    IntruderTask,
    SimulateTask,
)


class Judge(Protocol):
    """One that explains and predicts."""

    name: str
    is_language_model: bool

    def explain(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        """What each feature stands for."""

    def simulate(self, tasks: Sequence[SimulateTask]) -> list[Answer]:
        """A level from 0 to 10 for each token; baselines may say fractions."""

    def estimate(self, tasks: Sequence[EstimateTask]) -> list[Answer]:
        """The largest level of each window."""

    def detect(self, tasks: Sequence[DetectTask]) -> list[Answer]:
        """How probably the feature fires there, or the marks are its own."""

    def intrude(self, tasks: Sequence[IntruderTask]) -> list[Answer]:
        """Which window does not belong, from 0."""
