"""Any server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, OpenRouter, OpenAI.

In:  a model's name, the server's address, a key if it wants one. Out: a `Client`.

Servers differ, so the client learns once what its server takes and keeps to it:

    a schema     response_format json_schema; where that is refused, json_object with the schema in
                 the prompt; where that is refused too, the prompt alone. A reply is read leniently:
                 the first JSON object in it, since some servers ignore what they do not know.
    max_tokens   max_tokens; where the server asks for it, max_completion_tokens.
    thinking     reasoning_effort: a level, or `none` for off. There is no common word for a number.

A leading <think>...</think> is taken off: servers without a reasoning parser leave it in.
The key of OPENAI_API_KEY goes to the address given, whatever it is.
"""

from __future__ import annotations

import json
import time
from typing import Any

from interp.judges.answers import (
    Refusal,
    Secret,
    checked_address,
    count,
    first_object,
    refusal,
    schema_in_words,
    without_thoughts,
)
from interp.judges.client import CallFailed, Reply, Request, Usage
from interp.judges.connections import PerLoop, calling, guarded, plain_pool, pool

ADDRESS = "https://api.openai.com/v1"
LEVELS = ("minimal", "low", "medium", "high")
STRUCTURED = ("schema", "object", "prompt")
REFUSED = (400, 404, 415, 422, 500, 501)  # with which servers refuse a response_format
ABOUT_FORMAT = ("response_format", "json_schema", "json_object", "structured", "grammar", "schema")
FINISHED = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop",
    "length": "max_tokens", "max_tokens": "max_tokens",
    "content_filter": "blocked",
}  # fmt: skip


class OpenAICompatibleClient:
    """One model of one server. timeout: seconds for a whole call."""

    def __init__(
        self,
        model: str,
        base_url: str = ADDRESS,
        key: str | None = None,
        timeout: float = 120.0,
        structured: str = "schema",
    ) -> None:
        """structured: schema | object | prompt: what to begin with where a schema is asked for."""
        self.model = model
        self.endpoint = checked_address(base_url)
        self.name = f"openai:{model}@{self.endpoint}"
        self.timeout = timeout
        self._secret = Secret(key, "the key of the OpenAI-compatible server")
        self._structured = STRUCTURED.index(structured)
        self._limit_word = "max_tokens"
        self._connected = PerLoop(self._connect)

    async def complete(self, request: Request) -> Reply:
        begun = time.perf_counter()
        while True:
            structured, limit_word = self._structured, self._limit_word
            settings = self._settings(request, STRUCTURED[structured], limit_word)
            try:
                body = await self._send(settings)
                break
            except Refusal as refused:
                if refused.code == "content_filter" and refused.status == 400:  # Azure's way
                    detail = f"prompt: {refused.code}"
                    ms = 1000 * (time.perf_counter() - begun)
                    return Reply("", None, "blocked", detail, Usage(), None, ms)
                if not self._learns(refused, request, structured, limit_word):
                    raise self._explained(refused, request) from None
        ms = 1000 * (time.perf_counter() - begun)
        return self._reply(body, request.schema is not None, ms)

    async def _send(self, settings: dict) -> Any:
        async with calling(self.name, self.timeout, self._secret, _sdk_errors()):
            sdk = self._connected.here()[0]
            answer = await sdk.chat.completions.with_raw_response.create(**settings)
            return json.loads(answer.content)

    def models(self) -> list[str] | None:
        """None where the server has no list."""
        plain = plain_pool(self.name, self.endpoint, self.timeout, self._secret)
        headers = {"Authorization": f"Bearer {self._secret.reveal()}"} if self._secret else {}
        try:
            with plain, guarded(self.name, self.timeout, self._secret):
                found = plain.get(f"{self.endpoint}/models", headers=headers).json()
        except Refusal as refused:
            if refused.status in (404, 405, 501):
                return None
            raise
        listed = found.get("data") if isinstance(found, dict) else found
        listed = listed if isinstance(listed, list) else []
        names = [model.get("id") for model in listed if isinstance(model, dict)]
        return sorted(name for name in names if isinstance(name, str))

    async def close(self) -> None:
        connected = self._connected.take()
        if connected is not None:
            await connected[1].aclose()

    # ------------------------------------------------------------ what is sent

    def _settings(self, request: Request, structured: str, limit_word: str) -> dict[str, Any]:
        """Arguments of chat.completions.create, without what is not set."""
        messages = [{"role": m.role, "content": m.text} for m in request.messages]
        shape = None
        if request.schema is not None and structured == "schema":
            strict = _is_strict(request.schema)
            described = {"name": "reply", "schema": request.schema, "strict": strict}
            shape = {"type": "json_schema", "json_schema": described}
        elif request.schema is not None:
            # Into the last message: some chat templates know no system message.
            last = messages[-1] if messages else {"role": "user", "content": ""}
            words = f"{last['content']}\n\n{schema_in_words(request.schema)}"
            messages[-1:] = [{**last, "content": words}]
            shape = {"type": "json_object"} if structured == "object" else None
        settings = {
            "model": request.model,
            "messages": messages,
            "temperature": request.temperature,
            "top_p": request.top_p,
            # One seed would give every draw the same reply.
            "seed": None if request.seed is None else request.seed + request.draw,
            limit_word: request.max_tokens,
            "response_format": shape,
            "reasoning_effort": _effort(request.thinking),
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _learns(self, refused: Refusal, request: Request, structured: int, word: str) -> bool:
        """Whether another way of asking is left. Others may have learned it meanwhile."""
        said = refused.said.lower()
        if refused.status == 400 and word == "max_tokens" and "max_completion_tokens" in said:
            self._limit_word = "max_completion_tokens"
            return True
        about_format = any(words in said for words in ABOUT_FORMAT)
        if request.schema is None or not about_format or refused.status not in REFUSED:
            return False
        if structured + 1 == len(STRUCTURED):
            return False
        self._structured = max(self._structured, structured + 1)
        return True

    def _explained(self, refused: Refusal, request: Request) -> CallFailed:
        said = refused.said.lower()
        if refused.status != 400 or not request.thinking or "reasoning" not in said:
            return refused
        return CallFailed(
            f"{refused.reason}; thinking was {request.thinking!r}, which this model or server "
            "does not take: leave it out",
            again=False,
        )

    # ------------------------------------------------------------ what comes back

    def _reply(self, body: Any, structured: bool, ms: float) -> Reply:
        if isinstance(body, dict) and body.get("error"):  # OpenRouter: with status 200
            error = body["error"]
            status = count(error.get("code")) if isinstance(error, dict) else None
            raw = json.dumps(body).encode()
            raise refusal(self.name, status or 502, {}, raw, self._secret)
        choices = body.get("choices") if isinstance(body, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise CallFailed(f"{self.name} answered without a choice", again=True)
        if isinstance(choice.get("error"), dict):
            said = self._secret.out_of(str(choice["error"].get("message", "")))[:200]
            raise CallFailed(f"{self.name} broke off: {said}", again=True)
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        detail = str(choice.get("finish_reason") or "")
        finish = FINISHED.get(detail, "other")
        if message.get("refusal"):
            finish, detail = "blocked", "refusal"
        text = without_thoughts(self._secret.out_of_reply(_text(message.get("content"))))
        parsed = first_object(text) if structured else None
        version = body.get("model") if isinstance(body.get("model"), str) else None
        return Reply(text, parsed, finish, detail, _usage(body.get("usage")), version, ms)

    def _connect(self) -> tuple[Any, Any]:
        """(SDK, its pool.)"""
        from openai import AsyncOpenAI

        own = pool(self.name, self.endpoint, self.timeout, self._secret)
        sdk = AsyncOpenAI(
            api_key=self._secret.reveal() or "none",  # it must have one; keyless servers ignore it
            admin_api_key="",  # not the environment's
            base_url=self.endpoint,
            max_retries=0,
            timeout=self.timeout,
            http_client=own,
        )
        return sdk, own


def _sdk_errors() -> tuple[type[Exception], ...]:
    from openai import OpenAIError

    return (OpenAIError,)


def _text(content: Any) -> str:
    """A string, or parts of which some are texts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(found: Any) -> Usage:
    """completion_tokens holds the thoughts, with most servers; where it cannot, it is as said."""
    found = found if isinstance(found, dict) else {}
    details = found.get("completion_tokens_details")
    thoughts = count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    reply = count(found.get("completion_tokens"))
    if reply is not None and thoughts is not None and thoughts <= reply:
        reply -= thoughts
    prompts = found.get("prompt_tokens_details")
    cached = count(prompts.get("cached_tokens")) if isinstance(prompts, dict) else None
    return Usage(count(found.get("prompt_tokens")), reply, thoughts, cached)


def _effort(thinking: str | None) -> str | None:
    if thinking is None or thinking in LEVELS:
        return thinking
    if thinking == "off":
        return "none"
    raise CallFailed(
        f"thinking {thinking!r} cannot be asked of an OpenAI-compatible server: off, "
        f"{', '.join(LEVELS)}, or nothing",
        again=False,
    )


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes it: objects are closed and all their keys required."""
    if isinstance(schema, list):
        return all(_is_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    keys = schema.get("properties")
    if isinstance(keys, dict):
        closed = schema.get("additionalProperties") is False
        if not closed or set(keys) != set(schema.get("required", ())):
            return False
        return all(_is_strict(part) for part in keys.values())
    return all(_is_strict(part) for name, part in schema.items() if name != "enum")
