"""The one event loop on which this process talks to language-model services.

In:  a coroutine, from any thread. Out: what it returns, once it is done.

One for all, in a thread of its own: clients keep connections, and limits keep queues, that belong
to the loop they were first used on. It also works where a loop runs already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

ENDING_S = 10.0  # what is cancelled may take so long to let go of its connections

_starting = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a fork takes no threads along


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end, while this thread waits.

    An interrupt (Ctrl-C) cancels it, waits until it has let go of everything, and goes on up.
    """
    loop, ended = _loop(), threading.Event()

    async def watched() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(watched(), loop)
    try:
        return future.result()
    except (KeyboardInterrupt, SystemExit):
        future.cancel()
        ended.wait(ENDING_S)
        raise


async def together(work: Iterable) -> None:
    """Runs all; when one raises, the others are cancelled, and that error goes up by itself."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="llm calls", daemon=True).start()
        return loop
