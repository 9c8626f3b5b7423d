"""Trying again: when, how often, and when to give up.

In:  an attempt, as a function. Out: what it returns in the end, or the last `CallFailed`.

Waits are drawn from [0, min(cap, first * 2^(n - 1))] after the n-th failure ("full jitter"; M.
Brooker, Exponential Backoff and Jitter, AWS 2015), so that those who failed together do not come
back together. What the service asks to wait is waited at least, even beyond the cap.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from data.errors import WorkbenchError
from interp.judges.client import CallFailed

T = TypeVar("T")


class NoAnswer(CallFailed):
    """Our patience ended before the service answered; it may have counted the call."""


@dataclass
class Retry:
    """How often and how long."""

    attempts: int = 6
    first_s: float = 1.0
    cap_s: float = 60.0
    longest_s: float = 300.0  # a service that asks for more than this is not waited for
    total_s: float = 900.0  # from the first attempt on; no attempt begins later
    timeout_s: float = 180.0  # for one attempt; clients have limits of their own below that
    seed: int | None = None  # of the jitter; None: another each time

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise WorkbenchError(f"attempts is {self.attempts}: a call needs at least 1")
        for name in ("first_s", "cap_s", "longest_s", "total_s", "timeout_s"):
            if not getattr(self, name) >= 0:
                raise WorkbenchError(f"{name} is {getattr(self, name)}: give seconds, 0 or more")
        self._random = random.Random(self.seed)

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first attempt that returns. Raises the last CallFailed once there are no more."""
        now = asyncio.get_running_loop().time
        began, number = now(), 0
        while True:
            number += 1
            try:
                return await attempt()
            except CallFailed as error:
                wait = self.wait_s(number, error, now() - began)
                if wait is None:
                    raise self._last(error) from None
            await asyncio.sleep(wait)

    def wait_s(self, number: int, error: CallFailed, elapsed: float) -> float | None:
        """Seconds to wait after the `number`-th failure; None: give up."""
        if not error.again or number >= self.attempts:
            return None
        wait = self._random.uniform(0, min(self.cap_s, self.first_s * 2.0 ** min(number - 1, 60)))
        if error.retry_after is not None:
            if self.too_long(error):
                return None
            wait = max(wait, error.retry_after)
        return wait if elapsed + wait <= self.total_s else None

    def too_long(self, error: CallFailed) -> bool:
        """Whether the service asks for more patience than there is."""
        return error.retry_after is not None and error.retry_after > self.longest_s

    def _last(self, error: CallFailed) -> CallFailed:
        if not (error.again and self.too_long(error)):
            return error
        reason = f"{error.reason}; the service asks to wait longer than {self.longest_s:g} s"
        return CallFailed(reason, again=False, retry_after=error.retry_after)

    async def in_time(self, call: Awaitable[T]) -> T:
        """One attempt, cut off when its time is over (NoAnswer)."""
        try:
            async with asyncio.timeout(None if self.timeout_s == math.inf else self.timeout_s):
                return await call
        except TimeoutError:
            raise NoAnswer(f"no answer within {self.timeout_s:g} s", again=True) from None
