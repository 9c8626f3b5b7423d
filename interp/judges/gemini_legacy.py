"""Gemini through google-generativeai, the older SDK, for those who ask for it by name.

In:  a model's name, a key. Out: a `Client`. Its support ended on 30 November 2025, and it is
     imported only when chosen. Measured with 0.8.6: only its REST transport takes another address,
     and that cannot wait asynchronously, so calls run in threads; importing it prints two warnings;
     it knows neither thinking nor a seed, and asks them to be left out; its records know no
     thoughts and glue them to the answer, so the body is read raw by a hook; it would follow a
     redirect with the key in a header, and ask again three times after a 401.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from interp.judges.answers import Secret, as_json, checked_address, refusal
from interp.judges.client import CallFailed, Reply, Request
from interp.judges.gemini_replies import ADDRESS, asked, reply_of

THREADS = 64  # asyncio's own would be six on two cores
# Keywords of a JSON schema that its Schema record knows.
KEPT = {"description": "description", "nullable": "nullable", "format": "format_",
        "minItems": "min_items", "maxItems": "max_items", "required": "required"}  # fmt: skip


class GeminiLegacyClient:
    """One Gemini model. timeout: seconds for a whole call."""

    def __init__(
        self, model: str, key: str, base_url: str | None = None, timeout: float = 120.0
    ) -> None:
        self.model = model.removeprefix("models/")
        self.name = f"gemini-legacy:{self.model}"
        self.endpoint = checked_address(base_url or ADDRESS)
        self.timeout = timeout
        self._secret = Secret(key, "the Gemini key")
        self._sdk, self._manager = _imported()
        self._seen = threading.local()  # .body: of the answer that this thread got last
        self._service = self._hooked("generative")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gemini-legacy")

    async def complete(self, request: Request) -> Reply:
        if request.thinking is not None or request.seed is not None:
            what = "thinking" if request.thinking is not None else "a seed"
            raise CallFailed(
                f"the older Gemini SDK knows no {what.removeprefix('a ')}: leave {what} out, "
                f"or use gemini:{self.model}",
                again=False,
            )
        loop, begun = asyncio.get_running_loop(), time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                body = await loop.run_in_executor(self._threads, self._call, request)
        except TimeoutError:
            raise self._too_slow() from None
        ms = 1000 * (time.perf_counter() - begun)
        return reply_of(as_json(body), request.schema is not None, ms, self.name, self._secret)

    def models(self) -> list[str]:
        """Those that answer generateContent."""
        service = self._hooked("model")
        found = self._guarded(
            lambda: list(self._sdk.list_models(client=service, request_options=self._options()))
        )
        return sorted(
            model.name.removeprefix("models/")
            for model in found or []
            if "generateContent" in model.supported_generation_methods
        )

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._service.transport.close()

    # ------------------------------------------------------------ in a thread

    def _call(self, request: Request) -> str:
        """The raw body of a reply; CallFailed."""
        system, contents = asked(request)
        config = {
            "max_output_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.schema is not None:
            config["response_mime_type"] = "application/json"
            config["response_schema"] = self._sdk.protos.Schema(schema_record(request.schema))
        model = self._sdk.GenerativeModel(request.model, system_instruction=system)
        model._client = self._service
        config = {name: value for name, value in config.items() if value is not None}
        self._seen.body = None
        self._guarded(
            lambda: model.generate_content(
                contents, generation_config=config, request_options=self._options()
            )
        )
        if self._seen.body is None:
            raise CallFailed(f"{self.name} gave no answer", again=True)
        return self._seen.body.decode("utf-8", errors="replace")

    def _guarded(self, call: Any) -> Any:
        """call() with what breaks as CallFailed; None where only the SDK cannot read the answer
        (a token count that is no number), for the hook has it."""
        import requests
        from google.protobuf.json_format import ParseError

        self._seen.body = None
        try:
            return call()
        except requests.exceptions.Timeout:
            failed = self._too_slow()
        except (requests.exceptions.RequestException, OSError) as error:
            said = self._secret.out_of(" ".join(str(error).split()))[:200]
            failed = CallFailed(f"the connection to {self.name} broke: {said}", again=True)
        except (ParseError, ValueError) as error:
            if self._seen.body is not None and as_json(self._seen.body.decode("latin-1")):
                return None
            said = self._secret.out_of(type(error).__name__)
            failed = CallFailed(f"{self.name} answered with what is no JSON ({said})", again=True)
        raise failed

    def _hooked(self, kind: str) -> Any:
        """A service client of the SDK whose answers pass through `_look` first."""
        import requests

        # genai.configure() would set the key for the whole process. What it would configure shows
        # the key in its repr, so it is not kept.
        manager = self._manager()
        manager.configure(
            api_key=self._secret.reveal(),
            transport="rest",
            client_options={"api_endpoint": self.endpoint},
        )
        service = manager.get_default_client(kind)
        session = service.transport._session
        session.hooks["response"].append(self._look)
        # As many connections as threads; the library keeps ten and warns of each beyond.
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
        return service

    def _look(self, answer: Any, *args: Any, **kwargs: Any) -> None:
        """Raises a refusal before redirects and repeats come about; keeps the body."""
        if answer.status_code != 200:
            said = (answer.status_code, answer.headers, answer.content, self._secret)
            raise refusal(self.name, *said)
        self._seen.body = answer.content

    def _options(self) -> dict[str, Any]:
        return {"retry": None, "timeout": self.timeout}

    def _too_slow(self) -> CallFailed:
        return CallFailed(f"{self.name} did not answer within {self.timeout:g} s", again=True)


def _imported() -> tuple[Any, Any]:
    """(The SDK, its class for clients), without its two FutureWarnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import google.generativeai
        from google.generativeai.client import _ClientManager  # the package deletes the name

    return google.generativeai, _ClientManager


def schema_record(schema: dict) -> dict:
    """A JSON schema as its Schema record, without the keywords that knows not. CallFailed where
    leaving one out would change what is asked."""
    for word in ("$ref", "anyOf", "oneOf", "allOf"):
        if word in schema:
            reason = f"the older Gemini SDK knows no {word} in a schema: use gemini:MODEL"
            raise CallFailed(reason, again=False)
    record: dict[str, Any] = {new: schema[old] for old, new in KEPT.items() if old in schema}
    kinds = schema.get("type")
    kinds = list(kinds) if isinstance(kinds, list) else [kinds] if kinds else []
    if "null" in kinds:
        record["nullable"] = True
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) > 1:
        raise CallFailed("the older Gemini SDK knows one type for each value", again=False)
    if kinds:
        record["type_"] = kinds[0].upper()
    if "enum" in schema:
        record["enum"] = [str(value) for value in schema["enum"]]
    if "items" in schema:
        record["items"] = schema_record(schema["items"])
    if "properties" in schema:
        inner = schema["properties"].items()
        record["properties"] = {name: schema_record(part) for name, part in inner}
    return record
