"""A judge by its name: `lexical`, or a language-model service with all that stands above it.

In:  JUDGE as typed, the vocabulary, where replies are kept, limits and caps. Out: a `Judge`.
Secrets come from the environment, or are passed, and reach nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from data.errors import WorkbenchError
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from interp.judges.budget import Budget, Prices
from interp.judges.calls import Caller, Progress
from interp.judges.judge import Judge
from interp.judges.lexical import LexicalJudge
from interp.judges.limits import Limits
from interp.judges.named import KINDS, available, client_named
from interp.judges.prompted import Asking, PromptedJudge
from interp.judges.retry import Retry
from interp.judges.service import Service
from interp.passages import Vocabulary


def asking(service: Service) -> Asking:
    return Asking(
        service.temperature, service.top_p, service.model_seed, service.thinking,
        service.reply_tokens, service.together,
    )  # fmt: skip


def budget(service: Service) -> Budget:
    prices = None
    if service.prompt_price is not None:
        prices = Prices(service.prompt_price, service.reply_price, unit=service.currency)
    return Budget(service.max_calls, service.max_tokens, service.max_money, prices)


def limits(service: Service) -> Limits:
    return Limits(service.concurrent, service.requests_a_minute, service.tokens_a_minute)


def open_judge(
    name: str,
    vocabulary: Vocabulary,
    replies: Path | None = None,
    record: Path | None = None,
    service: Service | None = None,
    key: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] = print,
) -> Judge:
    """replies: folder of the kept replies (Workspace.llm_cache); record: calls.jsonl of the run;
    tell: hears of damaged replies, which are asked again.

    Both are needed by a language model. WorkbenchError for a name, a key or a cap that is wrong."""
    if name == "lexical":
        return LexicalJudge(vocabulary)
    if name.partition(":")[0] not in KINDS:
        others = ", ".join(offer.pattern for offer in available())
        raise WorkbenchError(f"no judge {name!r}: there are lexical, people, {others}")
    service = service or Service()
    client = client_named(name, key, service.timeout)
    if replies is None:
        raise WorkbenchError("a language-model judge needs a folder to keep its replies in")
    caller = Caller(
        client,
        LlmCache(replies, tell),
        limits(service),
        budget(service),
        Retry(timeout_s=math.inf if name.startswith("hf:") else service.timeout + 60),
        None if record is None else RunRecord(record),
        on_progress=on_progress,
    )
    return PromptedJudge(caller, vocabulary, asking(service))
