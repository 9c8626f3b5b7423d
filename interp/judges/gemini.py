"""Gemini through google-genai: generateContent, its list of models, and its batches.

In:  a model's name, a key. Out: a `BatchClient`. Measured with google-genai 3.4.0, and why the
     client is as it is: with aiohttp installed the SDK would try again by itself after a pause and
     follow redirects with the key in a header; it may go on after a cut reply with more requests;
     GOOGLE_GENAI_USE_VERTEXAI would send everything elsewhere; its timeout is in milliseconds and
     for each read alone. Batches lose their counts and their error in its records, so they are read
     raw.

Thinking depends on the model, and names of models are not known here, so it is passed on as asked:
a level goes as thinkingLevel (Gemini 3 and later; `minimal` is an error for some), a number as
thinkingBudget (Gemini 2.5), `off` as a budget of 0 (refused by models that always think). What the
service refuses comes back with that said. Thoughts count towards max_tokens: a reply may end as
max_tokens without a word. On Gemini 3 a temperature below 1 may loop, and neither temperature 0
nor a seed makes replies equal.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from interp.judges import gemini_batches
from interp.judges.answers import Refusal, Secret, checked_address
from interp.judges.client import BatchState, CallFailed, Reply, Request
from interp.judges.connections import PerLoop, calling, guarded, plain_pool, pool
from interp.judges.gemini_replies import ADDRESS, asked, reply_of

LEVELS = ("minimal", "low", "medium", "high")
SEEDS = 2**31  # the service takes 32-bit integers


class GeminiClient:
    """One Gemini model. timeout: seconds for a whole call."""

    def __init__(
        self,
        model: str,
        key: str,
        base_url: str | None = None,
        api_version: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        """base_url: another server that speaks the protocol. api_version: None takes the SDK's
        (v1; aliases such as gemini-flash-latest are known to v1beta only)."""
        self.model = model.removeprefix("models/")
        self.name = f"gemini:{self.model}"
        self.endpoint = checked_address(base_url or ADDRESS)
        self.timeout = timeout
        self._version, self._secret = api_version, Secret(key, "the Gemini key")
        self._connected = PerLoop(self._connect)

    # ------------------------------------------------------------ one at a time

    async def complete(self, request: Request) -> Reply:
        contents, config = self._wording(request)
        # The body as it came: see gemini_replies.
        config |= {"should_return_http_response": True, "automatic_continuation": False}
        settings = _config(config)
        begun = time.perf_counter()
        try:
            async with self._calling():
                answer = await self._sdk().aio.models.generate_content(
                    model=request.model, contents=contents, config=settings
                )
                body = json.loads(answer.sdk_http_response.body)
        except Refusal as refused:
            raise self._explained(refused, request) from None
        ms = 1000 * (time.perf_counter() - begun)
        return reply_of(body, request.schema is not None, ms, self.name, self._secret)

    def models(self) -> list[str]:
        """Those that answer generateContent."""
        sdk, _, plain = self._connect()
        with plain, guarded(self.name, self.timeout, self._secret, _sdk_errors()):
            found = list(sdk.models.list(config={"page_size": 1000}))
        names = [
            model.name.removeprefix("models/")
            for model in found
            if model.name and "generateContent" in (model.supported_actions or [])
        ]
        return sorted(names)

    async def close(self) -> None:
        connected = self._connected.take()
        if connected is not None:
            await connected[1].aclose()

    # ------------------------------------------------------------ many at once

    async def submit(self, requests: Sequence[Request], title: str) -> str:
        """All of one model, at most 20 MB together; the service takes them inline."""
        gemini_batches.check(requests)
        items = []
        for number, request in enumerate(requests):
            contents, config = self._wording(request)
            items.append(
                {
                    "contents": contents,
                    "config": config,
                    "metadata": gemini_batches.label(number, len(requests), request),
                }
            )
        gemini_batches.check_size(items)
        try:
            async with self._calling():
                job = await self._sdk().aio.batches.create(
                    model=requests[0].model, src=items, config={"display_name": title}
                )
        except Refusal as refused:
            raise self._explained(refused, requests[0]) from None
        except CallFailed as failed:
            # The service may have taken it all the same, and would be paid twice.
            reason = f"{failed.reason}; whether the batch was made is not known: look before again"
            raise CallFailed(reason, again=False) from None
        if not job.name:
            raise CallFailed(f"{self.name} made a batch without a name", again=False)
        return job.name

    async def batch(self, name: str) -> BatchState:
        return gemini_batches.state(await self._job(name), self._secret)

    async def fetch(self, name: str) -> list[Reply | CallFailed]:
        return gemini_batches.replies(await self._job(name), self.name, self._secret)

    async def _job(self, name: str) -> Any:
        """The raw JSON of a batch: the SDK's record has neither its counts nor its error."""
        if not re.fullmatch(r"batches/[^/?#]+", name):
            raise CallFailed(f"{name!r} is no name of a batch: batches/...", again=False)
        async with self._calling():
            answer = await self._sdk()._api_client.async_request("get", name, {})
            return json.loads(answer.body)

    # ------------------------------------------------------------ what is sent

    def _wording(self, request: Request) -> tuple[list[dict], dict]:
        """(contents, config) in google-genai's words, without what is not set."""
        system, contents = asked(request)
        seed = None if request.seed is None else (request.seed + request.draw) % SEEDS
        config = {
            "system_instruction": system,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": seed,  # one seed would give every draw the same reply
            "max_output_tokens": request.max_tokens,
            "thinking_config": _thinking(request.thinking),
            "response_json_schema": request.schema,
            "response_mime_type": "application/json" if request.schema is not None else None,
        }
        return contents, {name: value for name, value in config.items() if value is not None}

    def _explained(self, refused: Refusal, request: Request) -> CallFailed:
        """A refusal of the thinking setting, with what can be done about it."""
        if refused.status != 400 or not request.thinking or "think" not in refused.said.lower():
            return refused
        return CallFailed(
            f"{refused.reason}; thinking was {request.thinking!r}, and models differ in what they "
            f"take: another of {', '.join(LEVELS)}, a number of tokens, off, or nothing",
            again=False,
        )

    # ------------------------------------------------------------ connections

    def _connect(self) -> tuple[Any, Any, Any]:
        """(SDK, its pool, its pool for code that does not wait)."""
        from google import genai
        from google.genai import types

        about = (self.name, self.endpoint, self.timeout, self._secret)
        waits, plain = pool(*about), plain_pool(*about)  # given only one, it would make the other
        options = types.HttpOptions(
            base_url=self.endpoint,
            api_version=self._version,
            timeout=int(1000 * self.timeout),
            httpx_client=plain,
            httpx_async_client=waits,
        )
        sdk = genai.Client(vertexai=False, api_key=self._secret.reveal(), http_options=options)
        return sdk, waits, plain

    def _sdk(self) -> Any:
        return self._connected.here()[0]

    def _calling(self) -> Any:
        return calling(self.name, self.timeout, self._secret, _sdk_errors())


def _config(settings: dict) -> Any:
    from google.genai import types

    return types.GenerateContentConfig(**settings)


def _sdk_errors() -> tuple[type[Exception], ...]:
    from google.genai import errors

    return (errors.APIError,)


def _thinking(thinking: str | None) -> dict | None:
    if thinking is None:
        return None
    if thinking == "off":
        return {"thinking_budget": 0}
    if thinking in LEVELS:
        return {"thinking_level": thinking.upper()}
    if re.fullmatch("[0-9]{1,7}", thinking):
        return {"thinking_budget": int(thinking)}
    raise CallFailed(
        f"thinking {thinking!r} is unknown: off, {', '.join(LEVELS)}, or a number of tokens",
        again=False,
    )
