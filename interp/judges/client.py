"""What every language-model service is to this program: a request in, a reply out, or why not.

In:  a `Request`. Out: a `Reply`, or `CallFailed` with what went wrong and whether trying again can
     help. Clients are thin: limits, retries, budget and cache stand above them, once for all
     (interp/judges/calls.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Message:
    """role: system | user | assistant. A system message comes first, if at all."""

    role: str
    text: str


@dataclass(frozen=True)
class Request:
    """All that decides a reply. None leaves a setting to the service."""

    model: str
    messages: tuple[Message, ...]
    schema: dict | None = None  # JSON schema (an object) that the reply must follow; None: text
    max_tokens: int | None = 1024  # of the reply, thoughts included where the service counts so
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    thinking: str | None = None  # off | minimal | low | medium | high, or a number of tokens
    draw: int = 0  # several draws of one request are several replies


@dataclass(frozen=True)
class Usage:
    """Tokens as the service counted them; None where it does not say."""

    prompt: int | None = None
    reply: int | None = None  # without thoughts
    thoughts: int | None = None
    cached: int | None = None  # of `prompt`: read from the service's own cache


@dataclass(frozen=True)
class Reply:
    """What came back. finish_reason: stop | max_tokens | blocked | other (`detail` says which)."""

    text: str  # the answer alone, without thoughts; "" if there is none
    parsed: Any  # the text as JSON where a schema was asked for and it parses; else None
    finish_reason: str
    detail: str  # the service's own word for it
    usage: Usage
    model_version: str | None  # as the service names the model that answered
    ms: float


class CallFailed(Exception):
    """No reply. `again`: trying again can help (a limit, a server error, a cut connection).

    retry_after: seconds the service asked to wait; None: it did not say. The message holds no
    secret: no key, no header.
    """

    def __init__(self, reason: str, again: bool, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.again, self.retry_after = reason, again, retry_after


class Client(Protocol):
    """One service, or a model on this machine."""

    name: str  # as a judge is named on the command line, such as gemini:MODEL; no secret in it
    model: str
    endpoint: str  # whom replies are from: part of the key they are kept under

    async def complete(self, request: Request) -> Reply:
        """One reply; CallFailed."""

    def models(self) -> list[str] | None:
        """Names of the models the service offers; None: it cannot list them. CallFailed."""

    async def close(self) -> None:
        """Lets go of connections and memory."""


@dataclass(frozen=True)
class BatchState:
    """How a batch stands. state: waiting | running | done | failed | cancelled."""

    state: str
    done: int
    total: int
    detail: str = ""


class BatchClient(Client, Protocol):
    """A service that also takes many requests at once, for less money and later."""

    async def submit(self, requests: Sequence[Request], title: str) -> str:
        """Hands over the requests; the batch's name, which outlives this process. CallFailed."""

    async def batch(self, name: str) -> BatchState:
        """How it stands. CallFailed."""

    async def fetch(self, name: str) -> list[Reply | CallFailed]:
        """Its replies, in the order of the requests, once it is done. CallFailed."""
