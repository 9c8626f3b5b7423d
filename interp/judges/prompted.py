"""A language model as a judge: tasks become prompts, replies become answers.

In:  tasks; a `Caller`, which asks the service with its limits, budget and cache. Out: one outcome a
     task, in order, each with the keys of the calls it was read from.

Windows of one explanation share a request: fewer prompts, and what fails in one window fails there
only, unless nobody can tell which window was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from data.records import Explanation
from interp.judges.calls import Caller, Outcome
from interp.judges.client import Message, Reply, Request
from interp.judges.tasks import (
    Answer,
    DetectTask,
    EstimateTask,
    ExplainTask,
    IntruderTask,
    SimulateTask,
)
from interp.passages import Vocabulary
from interp.protocols import detect, explain, simulate
from interp.protocols.replies import Unreadable

T = TypeVar("T", SimulateTask, EstimateTask, DetectTask)


@dataclass(frozen=True)
class Asking:
    """How the service is asked. None leaves a setting to it."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    thinking: str | None = None
    max_tokens: int = 2048  # thoughts included
    together: int = 5  # windows in one request
    structured: bool = True  # ask for the reply by schema, not by words alone


class PromptedJudge:
    """Explains and predicts through a language model."""

    is_language_model = True

    def __init__(self, caller: Caller, vocabulary: Vocabulary, asking: Asking = Asking()) -> None:
        self.caller, self.vocabulary, self.asking = caller, vocabulary, asking

    @property
    def name(self) -> str:
        return self.caller.client.name

    def explain(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        requests = [self.explain_request(task) for task in tasks]
        outcomes = self.caller.run_all(requests)
        return [self._explanation(t, o) for t, o in zip(tasks, outcomes, strict=True)]

    def explain_request(self, task: ExplainTask) -> Request:
        words = explain.messages(task, self.vocabulary)
        return self._request(words, explain.SCHEMA, task.draw)

    def simulate(self, tasks: Sequence[SimulateTask]) -> list[Answer]:
        return self._in_groups(
            tasks,
            lambda group: simulate.simulate_messages(
                group[0].explanation.text, [t.ids for t in group], self.vocabulary
            ),
            simulate.SIMULATE_SCHEMA,
            lambda reply, group: simulate.read_simulation(reply, [len(t.ids) for t in group]),
        )

    def estimate(self, tasks: Sequence[EstimateTask]) -> list[Answer]:
        return self._in_groups(
            tasks,
            lambda group: simulate.estimate_messages(
                group[0].explanation.text, [t.ids for t in group], self.vocabulary
            ),
            simulate.ESTIMATE_SCHEMA,
            lambda reply, group: simulate.read_estimates(reply, len(group)),
        )

    def detect(self, tasks: Sequence[DetectTask]) -> list[Answer]:
        return self._in_groups(
            tasks,
            lambda group: detect.detect_messages(group, self.vocabulary),
            detect.SCHEMA,
            lambda reply, group: detect.read_detection(reply, len(group)),
        )

    def intrude(self, tasks: Sequence[IntruderTask]) -> list[Answer]:
        requests = [
            self._request(detect.intruder_messages(t, self.vocabulary), detect.INTRUDER_SCHEMA)
            for t in tasks
        ]
        sizes = [len(task.windows) for task in tasks]
        return [
            _answers(outcome, 1, lambda reply, n=n: [detect.read_intruder(reply, n)])[0]
            for n, outcome in zip(sizes, self.caller.run_all(requests), strict=True)
        ]

    # ------------------------------------------------------------ inside

    def _request(self, words: tuple[Message, ...], schema: dict, draw: int = 0) -> Request:
        how = self.asking
        return Request(
            self.caller.client.model, words, schema if how.structured else None, how.max_tokens,
            how.temperature, how.top_p, how.seed, how.thinking, draw,
        )  # fmt: skip

    def _in_groups(
        self,
        tasks: Sequence[T],
        words: Callable[[Sequence[T]], tuple[Message, ...]],
        schema: dict,
        read: Callable[[Reply, Sequence[T]], list[Answer]],
    ) -> list[Answer]:
        answers: list[Answer | None] = [
            None if t.explanation.status == "ok" else _not_explained(t.explanation) for t in tasks
        ]
        open_ones = [at for at, answer in enumerate(answers) if answer is None]
        groups = list(_groups(tasks, open_ones, self.asking.together))
        requests = [self._request(words([tasks[at] for at in g]), schema) for g in groups]
        for group, outcome in zip(groups, self.caller.run_all(requests), strict=True):
            given = [tasks[at] for at in group]
            found = _answers(outcome, len(group), lambda reply, given=given: read(reply, given))
            for at, answer in zip(group, found, strict=True):
                answers[at] = answer
        return answers

    def _explanation(self, task: ExplainTask, outcome: Outcome) -> Explanation:
        about = {"protocol": task.protocol, "version": explain.VERSION, "draw": task.draw,
                 "calls": [outcome.key]}  # fmt: skip
        if outcome.state != "ok":
            status, reason = outcome.state, outcome.reason
        else:
            try:
                text = explain.read(outcome.reply)
                return Explanation(task.feature, self.name, text, about)
            except Unreadable as error:
                status, reason = "failed", str(error)
        return Explanation(task.feature, self.name, "", about, status, reason)


def _groups(tasks: Sequence[T], places: Sequence[int], together: int) -> Iterator[list[int]]:
    """Places of tasks that share a request: of one explanation, with marks all or none, at most
    `together`; neighbours stay together."""
    group: list[int] = []
    for at in places:
        if group and (len(group) == together or _kind(tasks[at]) != _kind(tasks[group[0]])):
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def _kind(task: T) -> tuple:
    return task.feature, task.explanation.text, getattr(task, "marks", None) is None


def _not_explained(explanation: Explanation) -> Answer:
    return Answer(None, "not_run", f"no explanation: {explanation.reason}")


def _answers(outcome: Outcome, n: int, read: Callable[[Reply], list[Answer]]) -> list[Answer]:
    if outcome.state != "ok":
        return [Answer(None, outcome.state, outcome.reason, (outcome.key,))] * n
    return [replace(answer, calls=(outcome.key,)) for answer in read(outcome.reply)]
