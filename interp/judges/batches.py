"""The same requests handed to a service as batches: for less money, and later.

In:  requests, a `Caller` whose client takes batches, a folder. Out: one `Outcome` each, in order.

    <folder>/<id>.json   {"name", "client", "title", "time", "requests": {key: request}}

A batch is written down as soon as the service has named it, and forgotten once its replies are in
the cache, so a run that is ended or killed goes on with the batches that are still open, whoever
started them. A batch that was submitted in the very moment of a kill, before its name was written,
is lost to us: one at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkbenchError
from data.workspace import publish
from interp.judges import one_loop
from interp.judges.budget import OverBudget, Reservation
from interp.judges.calls import Caller, Outcome, Run, cut_off
from interp.judges.client import BatchState, CallFailed, Client, Message, Reply, Request
from interp.judges.stored import reply_dict, reply_of

ENDED = ("done", "failed", "cancelled")
GONE = re.compile(r"\b(404|410)\b")


@dataclass(frozen=True)
class Polling:
    """How often an open batch is looked at, and for how long."""

    first_s: float = 5.0
    factor: float = 1.5  # each wait is so much longer than the one before
    cap_s: float = 300.0
    longest_s: float = 26 * 3600.0  # services promise a day; later ones stay open for the next run
    failures: int = 8  # looks in a row that may fail


@dataclass(frozen=True)
class Open:
    """A batch that the service has. requests: by key, as the cache keeps them, in its order."""

    path: Path
    name: str
    requests: dict[str, dict]
    held: list[Reservation]


class Batches:
    """Asks as a `Caller` does, in batches of at most `at_most` requests and `most_bytes`.

    on_state: told how a batch stands (its name, state), in the thread of the event loop.
    """

    def __init__(
        self,
        caller: Caller,
        folder: str | Path,
        title: str = "",
        polling: Polling = Polling(),
        at_most: int = 2000,
        most_bytes: int = 10_000_000,
        on_state: Callable[[str, BatchState], None] | None = None,
    ) -> None:
        if not takes_batches(caller.client):
            raise WorkbenchError(f"{caller.client.name} takes no batches: run without them")
        self.caller, self.folder, self.title, self.polling = caller, Path(folder), title, polling
        self.at_most, self.most_bytes, self.on_state = at_most, most_bytes, on_state
        prices = caller.budget.prices
        self.factor = 1.0 if prices is None else prices.batch

    @property
    def client(self) -> Client:
        return self.caller.client

    def run_all(
        self,
        requests: Sequence[Request],
        on_outcome: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """`run` from code that is not asynchronous. Ctrl-C leaves the batches open."""
        return one_loop.run(self.run(requests, on_outcome))

    async def run(
        self,
        requests: Sequence[Request],
        on_outcome: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """One outcome a request. not_run: over budget, or its batch is still open."""
        run = Run(self.caller, requests, on_outcome)
        missing = dict.fromkeys(run.request)
        for key in run.request:
            if (kept := self.caller.kept(key)) is not None:
                del missing[key]
                run.came(kept)
        if missing:
            self.caller.cache.check_writable()
        waiting = []
        for batch in self._open_ones(set(missing)):
            wanted = {key for key in batch.requests if key in missing}
            missing = {key: None for key in missing if key not in wanted}
            waiting.append(self._finish(run, batch, wanted))
        for part in self._parts(run, missing):
            waiting.append(self._submit(run, part))
        await one_loop.together(waiting)
        return run.outcomes()

    # ------------------------------------------------------------ inside

    def _open_ones(self, missing: set[str]) -> Iterator[Open]:
        """Batches with a request that is missing; those with nothing left to tell are forgotten."""
        for path in sorted(self.folder.glob("*.json")):
            about = _read(path)
            if about is None or about["client"] != self.client.name:
                continue
            keys = about["requests"].keys()
            if missing & keys:
                asked = map(_request, about["requests"].values())
                budget = self.caller.budget
                held = [budget.reserve_now(one, self.factor, sent=True) for one in asked]
                yield Open(path, about["name"], about["requests"], held)
            elif all(map(self.caller.cache.holds, keys)):
                path.unlink(missing_ok=True)

    def _parts(self, run: Run, missing: Iterable[str]) -> Iterator[dict[str, Reservation]]:
        """What fits the budget, cut into batches."""
        part: dict[str, Reservation] = {}
        size = 0
        for key in missing:
            try:
                held = self.caller.budget.reserve_now(run.request[key], self.factor)
            except OverBudget as over:
                run.came(Outcome(key, "not_run", str(over)))
                continue
            more = len(json.dumps(run.stored[key]))
            if part and (len(part) == self.at_most or size + more > self.most_bytes):
                yield part
                part, size = {}, 0
            part[key], size = held, size + more
        if part:
            yield part

    async def _submit(self, run: Run, part: Mapping[str, Reservation]) -> None:
        asked, caller = [run.request[key] for key in part], self.caller

        async def attempt() -> str:
            try:
                return await caller.retry.in_time(self.client.submit(asked, self.title))
            except CallFailed as error:
                if cut_off(error):  # it may be there: a second one would be paid as well
                    raise CallFailed(error.reason, again=False) from None
                raise

        try:
            name = await caller.retry.run(attempt)
        except CallFailed as error:
            for key, held in part.items():
                caller.budget.release(held)
                run.came(Outcome(key, "failed", error.reason, attempts=1))
            return
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
        stored = {key: run.stored[key] for key in part}
        about = {"name": name, "client": self.client.name, "title": self.title,
                 "time": time.time(), "requests": stored}  # fmt: skip
        with publish(path) as unfinished:
            unfinished.write_text(json.dumps(about), "utf-8")
        await self._finish(run, Open(path, name, stored, list(part.values())), set(part))

    async def _finish(self, run: Run, batch: Open, wanted: set[str]) -> None:
        """Waits for a batch, keeps its replies and forgets it."""
        state, replies = "failed", []
        try:
            state = await self._ended(batch.name)
            if state == "done":
                replies = await self.caller.retry.run(
                    lambda: self.caller.retry.in_time(self.client.fetch(batch.name))
                )
            reason = f"the batch {state}" if state != "done" else "the batch has no result for it"
        except CallFailed as error:
            if error.again or not GONE.search(error.reason):
                for held in batch.held:
                    self.caller.budget.release(held)
                for key in wanted:
                    run.came(Outcome(key, "not_run", f"its batch is still open: {error.reason}"))
                return
            reason = error.reason
        rest = CallFailed(reason, again=False)
        for at, (key, stored) in enumerate(batch.requests.items()):
            reply = replies[at] if at < len(replies) else rest
            outcome = self._came(key, stored, batch.held[at], reply)
            if key in wanted:
                run.came(outcome)
        batch.path.unlink(missing_ok=True)

    def _came(
        self, key: str, stored: dict, held: Reservation, reply: Reply | CallFailed
    ) -> Outcome:
        """Keeps a reply; one that was kept in an earlier run is not paid again."""
        caller = self.caller
        if (kept := caller.kept(key)) is not None:
            caller.budget.release(held)
            return kept
        if isinstance(reply, CallFailed):
            caller.budget.refused(held)
            if caller.record is not None:
                caller.record.failed(key, 1, reply.reason)
            return Outcome(key, "failed", reply.reason, attempts=1)
        counted = caller.budget.settle(held, reply.usage)
        if caller.record is not None:
            guessed = counted != reply.usage
            caller.record.paid(key, dict(vars(counted)), guessed, self.factor)
        standing = reply_of(caller.cache.put(stored, reply_dict(reply)))
        return Outcome(key, "ok", reply=standing, attempts=1)

    async def _ended(self, name: str) -> str:
        """How a batch ended. CallFailed: it is still open, or cannot be looked at."""
        now = asyncio.get_running_loop().time
        began, wait, failures = now(), self.polling.first_s, 0
        while True:
            try:
                state = await self.caller.retry.in_time(self.client.batch(name))
                failures = 0
                if self.on_state is not None:
                    self.on_state(name, state)
                if state.state in ENDED:
                    return state.state
            except CallFailed as error:
                failures += 1
                if not error.again or failures >= self.polling.failures:
                    raise
            if now() - began + wait > self.polling.longest_s:
                raise CallFailed("run again later to fetch it", again=True)
            await asyncio.sleep(wait)
            wait = min(self.polling.cap_s, wait * self.polling.factor)


def takes_batches(client: Client) -> bool:
    """Whether the service takes many requests at once."""
    return all(callable(getattr(client, name, None)) for name in ("submit", "batch", "fetch"))


def _request(fields: Mapping) -> Request:
    """A request from its stored form."""
    rest = {name: value for name, value in fields.items() if name != "endpoint"}
    return Request(**{**rest, "messages": tuple(Message(**m) for m in rest["messages"])})


def _read(path: Path) -> dict | None:
    try:
        about = json.loads(path.read_text("utf-8"))
        return about if {"name", "client", "requests"} <= about.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
