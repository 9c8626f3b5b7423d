"""A run gone through without asking anybody, to say beforehand what it would take.

In:  a `PromptedJudge`. Out: a judge that keeps the requests of whatever it is given, and their
     `Estimate`. Its answers say nothing, and must not be stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.records import Explanation
from interp.judges.calls import Caller, Outcome
from interp.judges.client import Client, Request
from interp.judges.forecast import Estimate
from interp.judges.prompted import PromptedJudge
from interp.judges.tasks import ExplainTask

IN_PLACE_OF_ONE = "words that are about as long as an explanation usually is, namely twenty " * 2


class _Listener:
    """Takes requests as a Caller does, and sends none."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.requests: list[Request] = []

    def run_all(self, requests: Sequence[Request]) -> list[Outcome]:
        self.requests += requests
        return [Outcome("", "not_run", "a rehearsal asks nobody") for _ in requests]


class Rehearsal(PromptedJudge):
    """Goes through a run as the judge would."""

    def __init__(self, judge: PromptedJudge) -> None:
        self._asks: Caller = judge.caller
        super().__init__(_Listener(judge.caller.client), judge.vocabulary, judge.asking)

    def explain(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        """Explanations in place of those to come, so that scoring them can be rehearsed too."""
        super().explain(tasks)
        return [Explanation(task.feature, self.name, IN_PLACE_OF_ONE, {}) for task in tasks]

    def estimate_of_all(self) -> Estimate:
        """Calls, tokens and money of all requests so far; those in the cache cost nothing."""
        return self._asks.estimate(self.caller.requests)
