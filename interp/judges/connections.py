"""HTTP connections of our own, put under both SDKs, so that both fail and behave alike.

In:  an address, a time limit. Out: pools of httpx2 that follow no redirect (the key would go along
     in its header), read every refusal themselves (the SDKs lose the status where a body is no
     UTF-8), and ask no proxy for an address on this machine; and a guard that turns what breaks
     into `CallFailed`.

A pool belongs to the event loop that opened its connections, so there is one for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from interp.judges.answers import Secret, refusal
from interp.judges.client import CallFailed

KEPT = 64  # idle connections; busy ones are limited above the clients, not here
LOCAL = ("localhost", "::1")


def is_local(address: str) -> bool:
    """Whether it names this machine."""
    host = urlsplit(address).hostname or ""
    return host in LOCAL or host.startswith("127.")


def _settings(address: str, timeout: float) -> dict[str, Any]:
    import httpx2

    return {
        "timeout": httpx2.Timeout(timeout),
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT),
        "follow_redirects": False,
        "trust_env": not is_local(address),
        # Certificates take a tenth of a second to load, and plain HTTP has none.
        "verify": address.startswith("https"),
    }


def pool(service: str, address: str, timeout: float, secret: Secret) -> Any:
    """An httpx2.AsyncClient whose answers other than 2xx are raised as CallFailed."""
    import httpx2

    async def refuse(response) -> None:
        if not response.is_success:
            body = await response.aread()
            raise refusal(service, response.status_code, response.headers, body, secret)

    hooks = {"response": [refuse]}
    return httpx2.AsyncClient(event_hooks=hooks, **_settings(address, timeout))


def plain_pool(service: str, address: str, timeout: float, secret: Secret) -> Any:
    """The same for code that does not wait: an httpx2.Client."""
    import httpx2

    def refuse(response) -> None:
        if not response.is_success:
            body = response.read()
            raise refusal(service, response.status_code, response.headers, body, secret)

    hooks = {"response": [refuse]}
    return httpx2.Client(event_hooks=hooks, **_settings(address, timeout))


class PerLoop:
    """One thing for each event loop that asks."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._kept = make, {}

    def here(self) -> Any:
        """That of the running loop. Those of loops that have ended are dropped."""
        loop = asyncio.get_running_loop()
        self._kept = {kept: thing for kept, thing in self._kept.items() if not kept.is_closed()}
        if loop not in self._kept:
            self._kept[loop] = self._make()
        return self._kept[loop]

    def take(self) -> Any | None:
        """That of the running loop, if there is one, to be closed; the others are dropped."""
        mine = self._kept.pop(asyncio.get_running_loop(), None)
        self._kept = {}
        return mine


@contextmanager
def guarded(
    service: str, timeout: float, secret: Secret, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns what a connection or an SDK raises into CallFailed. also: the SDK's own errors."""
    import httpx2

    broken = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, *also)
    try:
        yield
    except CallFailed:
        raise
    except broken as error:
        # What an SDK wraps says more than its wrapping.
        inner = error.__cause__ if isinstance(error.__cause__, httpx2.HTTPError) else error
        raise CallFailed(*_why(service, timeout, inner, secret)) from None


@asynccontextmanager
async def calling(
    service: str, timeout: float, secret: Secret, also: tuple[type[Exception], ...] = ()
) -> AsyncIterator[None]:
    """`guarded`, and a limit of time on the whole: HTTP libraries limit each read alone, and a
    server that sends a byte a second would never be too slow."""
    with guarded(service, timeout, secret, also):
        async with asyncio.timeout(timeout):
            yield


def _why(service: str, timeout: float, error: BaseException, secret: Secret) -> tuple[str, bool]:
    """(What happened, whether trying again can help.)"""
    import httpx2

    said = secret.out_of(" ".join(str(error).split()))[:200] or type(error).__name__
    if isinstance(error, (TimeoutError, httpx2.TimeoutException)):
        return f"{service} did not answer within {timeout:g} s", True
    if isinstance(error, httpx2.ConnectError):
        return f"{service} cannot be reached: {said}", True
    if isinstance(error, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
        return f"{service} has an address that cannot be used: {said}", False
    if isinstance(error, (httpx2.DecodingError, ValueError)):
        return f"{service} answered with what is no JSON it should send: {said}", True
    return f"the connection to {service} broke: {said}", True
