"""Requests to a language-model service, with all that stands above its client.

In:  requests. Out: one `Outcome` each, in their order: a reply, or why there is none.

    cache -> budget -> limits -> client, in time -> cache
               ^----------- retry ----------|

A request that was answered before is read from the cache; the same request twice in a run is asked
once. As many workers as may call at once take one request after the other, and keep it until it is
answered or given up. A reply is in the cache before anybody is told of it, so a run that is killed
and started again pays twice at most for what was under way.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from data.llm_cache import LlmCache, key_of
from data.llm_record import RunRecord
from interp.judges import one_loop
from interp.judges.budget import Budget, OverBudget, Spent
from interp.judges.client import CallFailed, Client, Reply, Request, Usage
from interp.judges.forecast import Estimate, Guess, estimate
from interp.judges.limits import Limits, Place
from interp.judges.retry import NoAnswer, Retry
from interp.judges.stored import reply_dict, reply_of, request_dict

STOP_AFTER = 50
TOO_MANY = re.compile(r"\b429\b|too many requests|rate.?limit|quota|resource.?exhausted", re.I)
CUT_OFF = re.compile(r"did not answer within|connection .*broke", re.I)


@dataclass(frozen=True)
class Outcome:
    """What became of a request. state: ok (a reply came, whatever its finish reason) | failed |
    not_run (it was never sent)."""

    key: str  # of the reply in the cache
    state: str
    reason: str = ""
    reply: Reply | None = None
    cached: bool = False  # nothing was paid for it in this run
    attempts: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run has come. spent: by all runs on this budget."""

    done: int
    total: int
    cached: int
    failed: Mapping[str, int]  # by reason
    not_run: Mapping[str, int]  # by reason
    spent: Spent

    def __str__(self) -> str:
        """One line, the commonest failures first."""
        parts = [f"{self.done:,} of {self.total:,}", f"{self.cached:,} from the cache"]
        for name, reasons in (("failed", self.failed), ("not run", self.not_run)):
            if reasons:
                listed = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
                said = ", ".join(f"{n:,} {reason}" for reason, n in listed[:3])
                parts.append(f"{sum(reasons.values()):,} {name} ({said})")
        parts.append(f"{self.spent.calls:,} calls, {self.spent.tokens:,} tokens")
        if self.spent.money is not None:
            parts.append(f"{self.spent.money:,.2f} spent")
        return "; ".join(parts)


class Run:
    """The requests of one run and what became of them: each that is different once."""

    def __init__(
        self,
        caller: Caller,
        requests: Sequence[Request],
        on_outcome: Callable[[int, Outcome], None] | None,
    ) -> None:
        self.caller, self.on_outcome = caller, on_outcome
        self.request: dict[str, Request] = {}
        self.stored: dict[str, dict] = {}  # as the cache keeps them
        self._places: dict[str, list[int]] = {}
        for at, request in enumerate(requests):
            stored = request_dict(request, caller.client.endpoint)
            key = key_of(stored)
            self.request[key], self.stored[key] = request, stored
            self._places.setdefault(key, []).append(at)
        self._outcomes: list[Outcome | None] = [None] * len(requests)
        self._done = self._cached = 0
        self._failed: Counter[str] = Counter()
        self._not_run: Counter[str] = Counter()

    def came(self, outcome: Outcome) -> None:
        """Tells everybody."""
        first, *others = self._places[outcome.key]
        self._came(first, outcome)
        for at in others:
            again = replace(outcome, cached=True) if outcome.state == "ok" else outcome
            self._came(at, again)

    def outcomes(self) -> list[Outcome]:
        return list(self._outcomes)

    def _came(self, at: int, outcome: Outcome) -> None:
        self._outcomes[at] = outcome
        self._done += 1
        self._cached += outcome.cached
        if outcome.state == "failed":
            self._failed[outcome.reason] += 1
        elif outcome.state == "not_run":
            self._not_run[outcome.reason] += 1
        if self.on_outcome is not None:
            self.on_outcome(at, outcome)
        if self.caller.on_progress is not None:
            self.caller.on_progress(self.progress())

    def progress(self) -> Progress:
        return Progress(
            self._done, len(self._outcomes), self._cached, dict(self._failed),
            dict(self._not_run), self.caller.budget.spent,
        )  # fmt: skip


class Caller:
    """Asks one client. Its functions may be used from any thread.

    record: what is paid and what fails is written there, and what it says was spent counts at
    once. stop_after: failed requests in a row after which the rest is not sent, as with a wrong
    key. on_progress: told after each outcome, in the thread of the event loop.
    """

    def __init__(
        self,
        client: Client,
        cache: LlmCache,
        limits: Limits | None = None,
        budget: Budget | None = None,
        retry: Retry | None = None,
        record: RunRecord | None = None,
        stop_after: int = STOP_AFTER,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.client, self.cache, self.record = client, cache, record
        self.limits, self.budget = limits or Limits(), budget or Budget()
        self.retry, self.stop_after, self.on_progress = retry or Retry(), stop_after, on_progress
        self.guess = Guess()
        self._failed_in_a_row = 0
        if record is not None:
            self.budget.restore(record)

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What a run of these would take; nothing is sent."""
        return estimate(requests, self.client.endpoint, self.cache, self.budget.prices)

    def run_all(
        self,
        requests: Sequence[Request],
        on_outcome: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """`run` from code that is not asynchronous. Ctrl-C ends it; what was answered is kept."""
        return one_loop.run(self.run(requests, on_outcome))

    async def run(
        self,
        requests: Sequence[Request],
        on_outcome: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """One outcome a request, in order. on_outcome: told each (number of the request, outcome)
        as it comes, in the thread of the event loop.

        Raises WorkspaceError where replies cannot be kept, before anything is paid if it shows.
        """
        run = Run(self, requests, on_outcome)
        # After an earlier run was stopped, one more failure stops this one.
        self._failed_in_a_row = min(self._failed_in_a_row, self.stop_after - 1)
        todo, checked = iter(run.request.items()), []

        async def work() -> None:
            for key, request in todo:
                outcome = self.kept(key)
                if outcome is None:
                    if not checked:
                        self.cache.check_writable()
                        checked.append(True)
                    outcome = await self._ask(key, request, run.stored[key])
                run.came(outcome)
                await asyncio.sleep(0)  # lets the others go on

        workers = min(self.limits.concurrent, len(run.request))
        await one_loop.together(work() for _ in range(workers))
        return run.outcomes()

    def close(self) -> None:
        """Lets go of the client's connections."""
        one_loop.run(self.client.close())

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kept(self, key: str) -> Outcome | None:
        """From the cache."""
        entry = self.cache.get(key)
        return None if entry is None else Outcome(key, "ok", reply=reply_of(entry), cached=True)

    async def _ask(self, key: str, request: Request, stored: dict) -> Outcome:
        """From the service."""
        if self._failed_in_a_row >= self.stop_after:
            return Outcome(key, "not_run", f"stopped after {self.stop_after} failures in a row")
        call = _Call(self, key, request, stored)
        try:
            reply = await self.retry.run(call.attempt)
        except OverBudget as over:
            state, reason = ("failed", call.failure) if call.failure else ("not_run", str(over))
            return Outcome(key, state, reason, attempts=call.attempts)
        except CallFailed as error:
            self._failed_in_a_row += 1
            return Outcome(key, "failed", error.reason, attempts=call.attempts)
        self._failed_in_a_row = 0
        return Outcome(key, "ok", reply=reply, attempts=call.attempts)


class _Call:
    """One request on its way to a reply."""

    def __init__(self, caller: Caller, key: str, request: Request, stored: dict) -> None:
        self.caller, self.key, self.request, self.stored = caller, key, request, stored
        self.attempts = 0
        self.failure = ""

    async def attempt(self) -> Reply:
        """Sends it once. CallFailed, OverBudget. The reply is kept before this returns."""
        caller, budget = self.caller, self.caller.budget
        held = await budget.reserve(self.request)
        sent = False
        try:
            tokens = sum(caller.guess.tokens(self.request))
            async with caller.limits.place(tokens) as place:
                self.attempts, sent = self.attempts + 1, True
                reply = await self._send(place)
        except BaseException as error:
            if not sent:
                budget.release(held)
            elif isinstance(error, CallFailed) and not cut_off(error):
                budget.refused(held)
                self._note(error.reason, error.retry_after, None)
            else:
                reason = error.reason if isinstance(error, CallFailed) else "interrupted"
                self._note(reason, None, budget.settle(held, Usage()))
            raise
        return self._keep(reply, budget.settle(held, reply.usage))

    async def _send(self, place: Place) -> Reply:
        caller = self.caller
        try:
            reply = await caller.retry.in_time(caller.client.complete(self.request))
        except CallFailed as error:
            if error.retry_after is not None or TOO_MANY.search(error.reason):
                wait = None if caller.retry.too_long(error) else error.retry_after
                now = asyncio.get_running_loop().time()
                caller.limits.slow_down(now, place, wait)
            raise
        used = reply.usage
        if used.prompt is not None and used.reply is not None:
            place.correct(used.prompt + used.reply + (used.thoughts or 0))
        caller.guess.learn(self.request, used)
        caller.limits.succeeded()
        return reply

    def _keep(self, reply: Reply, counted: Usage) -> Reply:
        """No await from the reply's coming to here: a cancelled run loses nothing it has."""
        if self.caller.record is not None:
            self.caller.record.paid(self.key, dict(vars(counted)), guessed=counted != reply.usage)
        return reply_of(self.caller.cache.put(self.stored, reply_dict(reply), self.key))

    def _note(self, reason: str, retry_after: float | None, counted: Usage | None) -> None:
        self.failure = reason
        if self.caller.record is not None:
            usage = None if counted is None else dict(vars(counted))
            self.caller.record.failed(self.key, self.attempts, reason, retry_after, usage)


def cut_off(error: CallFailed) -> bool:
    """Whether the service may have answered, and count the call, though nothing reached us."""
    return isinstance(error, NoAnswer) or CUT_OFF.search(error.reason) is not None
