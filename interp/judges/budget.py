"""What a run may cost, held to while it runs.

In:  prices, caps on calls, tokens and money; each request before it is sent, and what the service
     counted after. Out: leave to send it, or why not; what was spent.

Before a call is sent its worst case is set aside: as many prompt tokens as its text has bytes (no
tokenizer in use makes more of them), and `max_tokens` of reply at the dearest price. So the sum of
what is spent and what is under way never passes a cap, as long as the service keeps to max_tokens.
The difference comes back with the reply. A call that could fit once others have settled waits for
them; one that cannot fit whatever they cost is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import WorkbenchError
from data.llm_record import RunRecord
from interp.judges.client import Request, Usage
from interp.judges.limits import Line

MILLION = 1_000_000
TEMPLATE = 64  # tokens that a service may put around a prompt
AROUND = 16  # and around each message


class OverBudget(Exception):
    """The call does not fit. `args[0]` says which cap, without numbers: reasons are counted."""


@dataclass(frozen=True)
class Prices:
    """Money per million tokens. thoughts None: as replies; cached None: as prompts.

    batch: what a batch costs, as a share of single calls.
    """

    prompt: float
    reply: float
    thoughts: float | None = None
    cached: float | None = None
    batch: float = 1.0
    unit: str = "USD"

    def __post_init__(self) -> None:
        for name in ("prompt", "reply", "thoughts", "cached", "batch"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise WorkbenchError(f"the price {name} is {value}: give money per million tokens")

    def of(self, usage: Usage) -> float:
        """Money for tokens as the service counted them; what it does not say is none."""
        prompt, cached = usage.prompt or 0, min(usage.cached or 0, usage.prompt or 0)
        thoughts = self.reply if self.thoughts is None else self.thoughts
        again = self.prompt if self.cached is None else self.cached
        tokens = (
            (prompt - cached) * self.prompt + cached * again
            + (usage.reply or 0) * self.reply + (usage.thoughts or 0) * thoughts
        )  # fmt: skip
        return tokens / MILLION

    def at_most(self, prompt: int, reply: int) -> float:
        dearest = max(self.prompt, self.cached or 0), max(self.reply, self.thoughts or 0)
        return (prompt * dearest[0] + reply * dearest[1]) / MILLION


@dataclass(frozen=True)
class Worst:
    """The most that a call can take. reply None: there is no bound."""

    prompt: int
    reply: int | None

    @classmethod
    def of(cls, request: Request) -> Worst:
        tokens = TEMPLATE + sum(AROUND + _bytes(m.text) for m in request.messages)
        if request.schema is not None:
            tokens += _bytes(json.dumps(request.schema))
        return cls(tokens, request.max_tokens)


@dataclass(frozen=True)
class Spent:
    """What has been used. money: None without prices. guessed: calls of which the service did not
    say what they took; their worst case is counted."""

    calls: int = 0
    prompt: int = 0
    reply: int = 0
    thoughts: int = 0
    cached: int = 0  # of prompt
    money: float | None = None
    guessed: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.reply + self.thoughts


@dataclass(eq=False)
class Reservation:
    """What is set aside for a call under way."""

    worst: Worst
    factor: float  # of the usual price
    money: float


class Budget:
    """Caps of a run, and what it has spent. None sets no cap. Belongs to one event loop."""

    def __init__(
        self,
        calls: int | None = None,
        tokens: int | None = None,
        money: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        for name, cap in (("calls", calls), ("tokens", tokens), ("money", money)):
            if cap is not None and not cap >= 0:
                raise WorkbenchError(f"the cap on {name} is {cap}: give 0 or more, or leave it")
        if money is not None and prices is None:
            raise WorkbenchError("a cap on money needs prices: give those of prompt and reply")
        self.calls, self.tokens, self.money, self.prices = calls, tokens, money, prices
        self.spent = Spent(money=None if prices is None else 0.0)
        self._open: set[Reservation] = set()
        self._restored: set[Path] = set()
        self._line = Line()

    def restore(self, record: RunRecord) -> None:
        """Counts what the same run spent before it was interrupted; each record once."""
        if record.path not in self._restored:
            self._restored.add(record.path)
            for event in record.events():
                self._add(Usage(**event["usage"]), event["factor"], event["guessed"])

    async def reserve(self, request: Request) -> Reservation:
        """Sets the worst case aside, after waiting for others where that helps. OverBudget."""
        found: list[Reservation] = []

        def take() -> float:
            held = self._held(request)
            if held is None:
                return math.inf
            found.append(held)
            return 0.0

        await self._line.stand(take)
        return found[0]

    def reserve_now(self, request: Request, factor: float = 1.0, sent: bool = False) -> Reservation:
        """The same for calls that go together: nobody is waited for. OverBudget.

        factor: of the usual price. sent: it is on its way already, whatever the caps say.
        """
        if sent:
            held = self._wants(request, factor)
            self._open.add(held)
            return held
        held = self._held(request, factor)
        if held is None:
            raise OverBudget(f"{self._first_full(self._wants(request, factor))} is used up")
        return held

    def settle(self, held: Reservation, usage: Usage) -> Usage:
        """The call was answered; what is counted: its worst case where the service did not say."""
        left = max(0, held.worst.reply - (usage.thoughts or 0))
        counted = replace(
            usage,
            prompt=held.worst.prompt if usage.prompt is None else usage.prompt,
            reply=left if usage.reply is None else usage.reply,
        )
        self._add(counted, held.factor, guessed=counted != usage)
        self.release(held)
        return counted

    def refused(self, held: Reservation) -> None:
        """The service refused the call or broke down: it counts as a call without tokens."""
        self._add(Usage(), held.factor, guessed=False)
        self.release(held)

    def release(self, held: Reservation) -> None:
        """Gives back what is set aside: the call was settled, or never sent."""
        self._open.discard(held)
        self._line.wake()

    # ------------------------------------------------------------ inside

    def _held(self, request: Request, factor: float = 1.0) -> Reservation | None:
        """A reservation; None if others under way are in the way. OverBudget."""
        held = self._wants(request, factor)
        never = self._first_full(held, alone=True)
        if never is not None:
            raise OverBudget(f"{never} is used up")
        if self._first_full(held) is not None:
            return None
        self._open.add(held)
        return held

    def _wants(self, request: Request, factor: float) -> Reservation:
        worst = Worst.of(request)
        if worst.reply is None:
            if self.tokens is not None or self.money is not None:
                raise OverBudget("no max_tokens: what the call may take cannot be told")
            worst = Worst(worst.prompt, 0)
        money = 0.0 if self.prices is None else self.prices.at_most(worst.prompt, worst.reply)
        return Reservation(worst, factor, factor * money)

    def _first_full(self, held: Reservation, alone: bool = False) -> str | None:
        """The first cap that one more call would pass. alone: if all under way cost nothing."""
        others = () if alone else self._open
        calls = self.spent.calls + len(others) + 1
        tokens = self.spent.tokens + sum(
            one.worst.prompt + one.worst.reply for one in (held, *others)
        )
        money = math.fsum([self.spent.money or 0.0, held.money, *(one.money for one in others)])
        for name, wanted, cap in (("calls", calls, self.calls), ("tokens", tokens, self.tokens),
                                  ("money", money, self.money)):  # fmt: skip
            if cap is not None and wanted > cap:
                return f"the budget of {name}"
        return None

    def _add(self, usage: Usage, factor: float, guessed: bool) -> None:
        was = self.spent
        self.spent = Spent(
            was.calls + 1,
            was.prompt + (usage.prompt or 0),
            was.reply + (usage.reply or 0),
            was.thoughts + (usage.thoughts or 0),
            was.cached + (usage.cached or 0),
            None if self.prices is None else was.money + factor * self.prices.of(usage),
            was.guessed + guessed,
        )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
