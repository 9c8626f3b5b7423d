"""How much may be asked of a service at once and in a minute, for all who ask it.

In:  one who wants to call, with the tokens it will take as far as can be told. Out: a place, when
     there is one; first come, first served.

Calls at once are halved when the service says that there are too many, and grow again by one for
each full round of replies (additive increase, multiplicative decrease: Chiu and Jain 1989). Rates
are token buckets that hold a second's worth, so calls go evenly; on top of that what went in the
last 60 s is summed up, so that no 60 s ever hold more than a minute's worth. No thread, no timer:
whoever stands first sleeps until its time has come. All of it belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from data.errors import WorkbenchError

MINUTE = 60.0
BURST_S = 1.0  # of its rate a bucket holds so many seconds' worth, at least one
TICK_S = 1e-4  # the shortest sleep: a clock may not tell shorter ones
LEAST = 1 / 64  # of a call at once: one call, then a pause of 63 times its length
NARROW = 1e-9  # relative: sums of floats that should be equal


class Line:
    """Those who wait, in the order they came. Only the first is asked whether it can go."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Event] = deque()

    async def stand(self, take: Callable[[], float]) -> None:
        """Returns once `take` has: it takes and says 0, or takes nothing and says how many seconds
        to wait before it is asked again (infinity: until `wake`)."""
        woken = asyncio.Event()
        self._waiting.append(woken)
        try:
            while True:
                woken.clear()
                wait = take() if self._waiting[0] is woken else math.inf
                if wait <= 0:
                    return
                try:
                    async with asyncio.timeout(None if wait == math.inf else max(wait, TICK_S)):
                        await woken.wait()
                except TimeoutError:
                    pass
        finally:
            self._waiting.remove(woken)
            self.wake()

    def wake(self) -> None:
        """Something has changed: asks the first again."""
        if self._waiting:
            self._waiting[0].set()


@dataclass
class Taken:
    """What was taken from a bucket, and when."""

    at: float
    amount: float


class Bucket:
    """A rate: at most `a_minute` in any 60 s. Knows no clock: it is told the time, in seconds."""

    def __init__(self, a_minute: float) -> None:
        self.a_minute, self.rate = a_minute, a_minute / MINUTE
        self.size = max(1.0, self.rate * BURST_S)
        self._level, self._filled_at = self.size, -math.inf
        self._minute: deque[Taken] = deque()
        self._sum = 0.0  # of the last minute

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until so much may be taken; 0: now. Less than that may be too early again.

        More than the bucket holds goes when it is full, and leaves a debt; more than a whole
        minute's worth goes when nothing else went for a minute.
        """
        self._pass(now)
        short = min(amount, self.size) - self._level
        wait = short / self.rate if short > NARROW * self.size else 0.0
        over = self._sum + amount - self.a_minute
        for taken in self._minute:
            if over <= NARROW * self.a_minute:
                break
            wait = max(wait, taken.at + MINUTE - now)
            over -= taken.amount
        return wait

    def take(self, now: float, amount: float) -> Taken:
        self._pass(now)
        taken = Taken(now, amount)
        self._minute.append(taken)
        self._sum += amount
        self._level -= amount
        return taken

    def correct(self, now: float, taken: Taken, amount: float) -> None:
        """It was more or less than was said."""
        self._pass(now)
        self._level = min(self.size, self._level + taken.amount - amount)
        if now - taken.at < MINUTE:
            self._sum += amount - taken.amount
        taken.amount = amount

    def _pass(self, now: float) -> None:
        since = now - self._filled_at
        self._level = min(self.size, self._level + since * self.rate) if since > 0 else self._level
        self._filled_at = now
        while self._minute and now - self._minute[0].at >= MINUTE:
            self._sum -= self._minute.popleft().amount
        if not self._minute:
            self._sum = 0.0  # and no rounding of ages


@dataclass
class Place:
    """A call that is under way."""

    began: float
    tokens: Taken | None
    used: float | None = None  # tokens, once they are known

    def correct(self, tokens: int | None) -> None:
        """The tokens that it took after all."""
        self.used = tokens


class Limits:
    """What one service allows. May be shared by all who ask it.

    concurrent: calls at once. requests_a_minute, tokens_a_minute: None sets no limit.
    """

    def __init__(
        self,
        concurrent: int = 8,
        requests_a_minute: float | None = None,
        tokens_a_minute: float | None = None,
    ) -> None:
        for name, value in (("concurrent", concurrent), ("requests_a_minute", requests_a_minute),
                            ("tokens_a_minute", tokens_a_minute)):  # fmt: skip
            if value is not None and not 1 <= value < math.inf:
                raise WorkbenchError(f"{name} is {value}: give a number of at least 1, or leave it")
        self.concurrent = concurrent
        self.allowed = float(concurrent)  # of them, at the moment
        self.under_way = 0
        self._requests = None if requests_a_minute is None else Bucket(requests_a_minute)
        self._tokens = None if tokens_a_minute is None else Bucket(tokens_a_minute)
        self._closed_until = self._slowed_at = -math.inf
        self._line = Line()

    @asynccontextmanager
    async def place(self, tokens: float = 0) -> AsyncIterator[Place]:
        """Waits for a place, and holds it while the block runs."""
        now = asyncio.get_running_loop().time
        places: list[Place] = []

        def take() -> float:
            wait = self._wait_s(now(), tokens)
            if wait <= 0:
                places.append(self._take(now(), tokens))
            return wait

        await self._line.stand(take)
        place = places[0]
        try:
            yield place
        finally:
            self.under_way -= 1
            if self.allowed < 1:  # one at a time, and a pause
                rest = place.began + (now() - place.began) / self.allowed
                self._closed_until = max(self._closed_until, rest)
            if place.tokens is not None and place.used is not None:
                self._tokens.correct(now(), place.tokens, place.used)
            self._line.wake()

    def succeeded(self) -> None:
        """A reply came: after a round of them one more may be under way at once."""
        more = min(1 / self.allowed, self.allowed / 8)
        self.allowed = min(self.concurrent, self.allowed + more)
        self._line.wake()

    def slow_down(self, now: float, place: Place, retry_after: float | None) -> None:
        """The service said that these are too many: nobody begins for as long as it asks, and half
        as many are under way at once; halved once for all that were under way together."""
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + retry_after)
        if place.began >= self._slowed_at:
            self.allowed = max(LEAST, self.allowed / 2)
            self._slowed_at = now

    def minutes(self, calls: int, tokens: float) -> float:
        """The least time that so many calls and tokens take by the rates."""
        needed = ((calls, self._requests), (tokens, self._tokens))
        return max((n / b.a_minute for n, b in needed if b is not None), default=0.0)

    def _wait_s(self, now: float, tokens: float) -> float:
        if self.under_way >= max(1, int(self.allowed + NARROW)):
            return math.inf
        wait = max(0.0, self._closed_until - now)
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(now, tokens))
        return wait

    def _take(self, now: float, tokens: float) -> Place:
        self.under_way += 1
        if self._requests is not None:
            self._requests.take(now, 1)
        taken = None if self._tokens is None else self._tokens.take(now, tokens)
        return Place(now, taken)
