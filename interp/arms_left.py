"""How much of an arm is without an answer: what a run would have to ask were it run again.

In:  a judge, what it explained. Out: calls that no kept reply answers; 0 for a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data.records import Explanation
from interp.autointerp import Candidate, Plan, Run, Store
from interp.judges.judge import Judge
from interp.judges.prompted import PromptedJudge
from interp.judges.rehearsal import Rehearsal
from interp.judges.tasks import ExplainTask


class _Known(Rehearsal):
    """Goes through a run as the judge would, with the explanations that it gave."""

    def __init__(self, judge: PromptedJudge, said: Mapping[int, Sequence[Explanation]]) -> None:
        super().__init__(judge)
        self._said = {feature: iter(group) for feature, group in said.items()}

    def explain(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        super().explain(tasks)
        return [next(self._said[task.feature]) for task in tasks]


def unanswered(
    store: Store, judge: Judge, lookup: Judge, plan: Plan, groups: Sequence[Sequence[Candidate]]
) -> int:
    """groups: the candidates of each feature, as `Run.explain` gave them."""
    if not judge.is_language_model:
        return 0
    said = {group[0].explanation.feature: [one.explanation for one in group] for group in groups}
    known = _Known(judge, said)
    run = Run(store, known, lookup, plan)
    for _ in run.explain(list(said)):
        pass
    for _ in run.score({feature: group[0] for feature, group in said.items()}):
        pass
    return known.estimate_of_all().calls
