"""A request as the text that a local model continues: by its chat template, or a plain format.

In:  a `Request`, a tokenizer. Out: the text, and whether it holds the special tokens already.

A template that refuses a system message gets it in front of the user's first. A model without a
template gets this format, and its reply ends where it would speak for the user:

    SYSTEM

    User: ...
    Assistant: ...
    User: ...
    Assistant:
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.judges.answers import schema_in_words
from interp.judges.client import CallFailed, Message, Request

STOP = "\nUser:"  # of the plain format
LEVELS = ("minimal", "low", "medium", "high")


def written(request: Request, tokenizer: Any, name: str) -> tuple[str, bool]:
    """(Text, whether a chat template made it, special tokens included.) CallFailed."""
    messages = list(request.messages)
    if request.schema is not None and messages:
        words = f"{messages[-1].text}\n\n{schema_in_words(request.schema)}"
        messages[-1] = Message(messages[-1].role, words)
    extra = _thinking(request.thinking)
    if not tokenizer.chat_template:
        return plain_prompt(messages), False
    from jinja2 import TemplateError

    for attempt in (messages, without_system(messages)):
        said = [{"role": m.role, "content": m.text} for m in attempt]
        try:
            return tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=True, **extra
            ), True
        except TemplateError as error:
            reason = str(error)
    raise CallFailed(f"the chat template of {name} refuses: {reason}", again=False)


def plain_prompt(messages: Sequence[Message]) -> str:
    """The format above."""
    parts = []
    for message in messages:
        name = {"user": "User: ", "assistant": "Assistant: "}.get(message.role, "")
        parts.append(f"{name}{message.text}" + ("\n" if name else "\n\n"))
    return "".join(parts) + "Assistant:"


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The system message put before the first of the user."""
    if len(messages) < 2 or messages[0].role != "system":
        return list(messages)
    first = Message(messages[1].role, f"{messages[0].text}\n\n{messages[1].text}")
    return [first, *messages[2:]]


def _thinking(thinking: str | None) -> dict:
    """What chat templates are told; one that does not know the words ignores them."""
    if thinking is None:
        return {}
    if thinking == "off":
        return {"enable_thinking": False}
    if thinking in LEVELS:
        return {"enable_thinking": True, "reasoning_effort": thinking}
    raise CallFailed(
        f"thinking {thinking!r} cannot be asked of a local model: off, {', '.join(LEVELS)}, or "
        "nothing",
        again=False,
    )
