"""What a run will cost, told before it begins.

In:  the requests, the cache, prices. Out: an `Estimate` of calls, tokens and money, as lines.

"About" rests on replies to the same model that are in the cache or came in the meantime; "at most"
is the worst case that the budget sets aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.llm_cache import LlmCache, key_of
from interp.judges.budget import Budget, Prices, Worst
from interp.judges.client import Request, Usage
from interp.judges.limits import Limits
from interp.judges.stored import reply_of, request_dict

TOKENS_A_BYTE = 0.3  # of a prompt, until replies say more: English prose has about 0.25, code 0.3
READ = 200  # kept replies that a guess is made from


class Guess:
    """How many tokens calls take, learned from those that were made."""

    def __init__(self) -> None:
        self.replies = 0
        self._bytes = self._prompt = self._reply = 0

    def learn(self, request: Request, usage: Usage) -> None:
        if usage.prompt is not None and usage.reply is not None:
            self.replies += 1
            self._bytes += Worst.of(request).prompt
            self._prompt += usage.prompt
            self._reply += usage.reply + (usage.thoughts or 0)

    def tokens(self, request: Request) -> tuple[float, float]:
        """(prompt, reply) that a call takes, about; the most it may reply if nothing is known."""
        worst = Worst.of(request)
        ratio = self._prompt / self._bytes if self._bytes else TOKENS_A_BYTE
        reply = self._reply / self.replies if self.replies else worst.reply or 0
        return ratio * worst.prompt, min(reply, worst.reply or reply)


@dataclass(frozen=True)
class Estimate:
    """What a run will take. None: not known. Estimates of parts of a run can be added."""

    requests: int
    cached: int  # of them, answered from the cache
    repeated: int  # of them, the same as another
    prompt: float = 0.0  # tokens, about
    prompt_most: int = 0
    reply: float | None = 0.0
    reply_most: int | None = 0
    money: float | None = 0.0
    money_most: float | None = 0.0
    unit: str = ""

    @property
    def calls(self) -> int:
        return self.requests - self.cached - self.repeated

    def __add__(self, other: Estimate) -> Estimate:
        def both(name: str):
            a, b = getattr(self, name), getattr(other, name)
            return None if a is None or b is None else a + b

        numbers = ("requests", "cached", "repeated", "prompt", "prompt_most", "reply",
                   "reply_most", "money", "money_most")  # fmt: skip
        return Estimate(*(both(name) for name in numbers), self.unit or other.unit)

    def lines(self, budget: Budget | None = None, limits: Limits | None = None) -> list[str]:
        """For people to read before they say yes."""
        lines = [
            f"{self.requests:,} requests: {self.cached:,} in the cache, {self.repeated:,} asked "
            f"twice, {self.calls:,} calls",
            f"prompts: about {self.prompt:,.0f} tokens, at most {self.prompt_most:,}",
            f"replies: {_about(self.reply, ',.0f', ' tokens')}, {_most(self.reply_most, ',')}",
        ]
        if self.unit:
            unit = f" {self.unit}"
            lines.append(
                f"money: {_about(self.money, ',.2f', unit)}, {_most(self.money_most, ',.2f', unit)}"
            )
        else:
            lines.append("money: not known, no prices are set")
        return lines + self._against(budget) + self._minutes(limits)

    def _against(self, budget: Budget | None) -> list[str]:
        if budget is None:
            return []
        tokens = None if self.reply_most is None else self.prompt_most + self.reply_most
        spent, lines = budget.spent, []
        for name, form, most, cap, used in (
            ("calls", ",.0f", self.calls, budget.calls, spent.calls),
            ("tokens", ",.0f", tokens, budget.tokens, spent.tokens),
            (self.unit or "money", ",.2f", self.money_most, budget.money, spent.money),
        ):
            if cap is not None:
                enough = most is not None and used + most <= cap
                rest = "enough for all" if enough else "what does not fit will not run"
                before = f", {used:{form}} of it spent before" if used else ""
                lines.append(f"cap: {cap:{form}} {name}{before}: {rest}")
        return lines

    def _minutes(self, limits: Limits | None) -> list[str]:
        if limits is None or not self.calls:
            return []
        shortest = limits.minutes(self.calls, self.prompt + (self.reply or 0))
        return [f"time: at least {shortest:,.1f} minutes by the limits"] if shortest >= 0.1 else []


def estimate(
    requests: Sequence[Request],
    endpoint: str,
    cache: LlmCache,
    prices: Prices | None = None,
    factor: float = 1.0,
) -> Estimate:
    """What a run of these requests will take. factor: of the prices, in a batch."""
    asked = {key_of(d): (r, d) for r in requests for d in [request_dict(r, endpoint)]}
    kept = [key for key in asked if cache.holds(key)]
    guess = Guess()
    for key in kept[:READ]:
        entry = cache.get(key)
        if entry is not None:
            guess.learn(asked[key][0], reply_of(entry).usage)
    there = set(kept)
    missing = [request for key, (request, _) in asked.items() if key not in there]
    about = [guess.tokens(request) for request in missing]
    worst = [Worst.of(request) for request in missing]
    prompt, prompt_most = sum(a[0] for a in about), sum(w.prompt for w in worst)
    reply = sum(a[1] for a in about) if guess.replies or not missing else None
    bounded = all(w.reply is not None for w in worst)
    reply_most = sum(w.reply for w in worst) if bounded else None
    money = money_most = None
    if prices is not None:
        if reply is not None:
            money = factor * prices.of(Usage(round(prompt), round(reply)))
        if bounded:
            money_most = factor * prices.at_most(prompt_most, reply_most)
    return Estimate(
        len(requests), len(kept), len(requests) - len(asked), prompt, prompt_most, reply,
        reply_most, money, money_most, "" if prices is None else prices.unit,
    )  # fmt: skip


def _about(number: float | None, form: str, unit: str) -> str:
    return "not known yet" if number is None else f"about {number:{form}}{unit}"


def _most(number: float | None, form: str, unit: str = "") -> str:
    return "without a bound (no max_tokens)" if number is None else f"at most {number:{form}}{unit}"
