"""A clock that only moves when everybody waits, and a service that is a function."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from interp.judges.client import BatchState, CallFailed, Message, Reply, Request, Usage

T = TypeVar("T")


class FakeTime(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next moment at which somebody wants to wake."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        really = self._selector.select

        def select(timeout: float | None = None) -> list:
            if timeout is None:
                return really(None)
            self.now += max(timeout, 0.0)
            return really(0)

        self._selector.select = select

    def time(self) -> float:
        return self.now


def in_fake_time(work: Coroutine[None, None, T]) -> T:
    """Runs it to its end at once, whatever it sleeps."""
    loop = FakeTime()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


def ask(text: str, max_tokens: int | None = 100, draw: int = 0, **more) -> Request:
    return Request("m", (Message("user", text),), max_tokens=max_tokens, draw=draw, **more)


def says(text: str, prompt: int | None = 10, reply: int | None = 5, **more) -> Reply:
    return Reply(text, None, "stop", "STOP", Usage(prompt, reply, **more), "m-001", 1.0)


class FakeClient:
    """`answer(request, number)` says what the service does at its `number`-th call, from 1 on."""

    name, model, endpoint = "fake:m", "m", "http://127.0.0.1:1/v1"

    def __init__(
        self,
        answer: Callable[[Request, int], Reply] | None = None,
        takes_s: Callable[[int], float] | float = 0.2,
    ) -> None:
        self.answer = answer or (lambda request, n: says("re: " + request.messages[-1].text))
        self.takes_s = takes_s
        self.began: list[float] = []
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.closed = False

    async def complete(self, request: Request) -> Reply:
        self.began.append(now())
        self.asked.append(request.messages[-1].text)
        number = len(self.began)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            seconds = self.takes_s(number) if callable(self.takes_s) else self.takes_s
            await asyncio.sleep(seconds)
            return self.answer(request, number)
        finally:
            self.at_once -= 1

    def models(self) -> list[str] | None:
        return None

    async def close(self) -> None:
        self.closed = True


class FakeBatchClient(FakeClient):
    """Its batches are done after `looks` looks. Shared by tests that play two processes."""

    def __init__(self, looks: int = 3, ends: str = "done", **more) -> None:
        super().__init__(**more)
        self.looks, self.ends = looks, ends
        self.batches: dict[str, list[Request]] = {}
        self.looked: list[float] = []
        self.fetched = 0

    async def submit(self, requests, title: str) -> str:
        name = f"batches/{len(self.batches)}"
        self.batches[name] = list(requests)
        return name

    async def batch(self, name: str) -> BatchState:
        self.looked.append(now())
        self.looks -= 1
        n = len(self.batches[name])
        return BatchState(self.ends if self.looks <= 0 else "running", 0, n)

    async def fetch(self, name: str) -> list[Reply | CallFailed]:
        self.fetched += 1
        found = []
        for number, request in enumerate(self.batches[name], start=1):
            try:
                found.append(self.answer(request, number))
            except CallFailed as error:
                found.append(error)
        return found


async def all_of(*work: Awaitable[T]) -> list[T]:
    return list(await asyncio.gather(*work))
