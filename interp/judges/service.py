"""How a language-model service is asked, and what it may cost. In: options. Out: their objects.

Loads none of the services and nothing heavy, so that a command line can name the options.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import WorkbenchError


@dataclass(frozen=True)
class Service:
    """How a language-model service is asked, and what it may cost. None: no limit, or left to it.

    Prices are money for a million tokens, in whatever currency: a cap on money needs them.
    """

    temperature: float | None = None
    top_p: float | None = None
    model_seed: int | None = None
    thinking: str | None = None  # off, minimal, low, medium, high, or a number of tokens
    reply_tokens: int = 2048  # most tokens of a reply, thoughts included
    together: int = 5  # windows in one request
    concurrent: int = 8  # calls at once
    requests_a_minute: float | None = None
    tokens_a_minute: float | None = None
    max_calls: int | None = None  # caps of the whole run
    max_tokens: int | None = None
    max_money: float | None = None
    prompt_price: float | None = None  # of a million tokens
    reply_price: float | None = None
    currency: str = "USD"
    timeout: float = 120.0  # seconds a call

    def check(self) -> None:
        """WorkbenchError for options that cannot be."""
        if (self.prompt_price is None) != (self.reply_price is None):
            raise WorkbenchError("give both prices, of a million prompt and reply tokens")
        if self.together < 1:
            raise WorkbenchError(f"{self.together} windows in one request: give 1 or more")
