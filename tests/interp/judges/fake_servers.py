"""Servers on this machine that speak the protocols of language-model services, and misbehave.

Out: `FakeServer`, which answers with what it is told, in order, and remembers what it was asked;
     bodies of Gemini and of OpenAI-compatible servers; faults that every client must survive.
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "AIzaSy-not-a-key-0123456789abcdef"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
JSON = {"Content-Type": "application/json; charset=UTF-8"}


@dataclass
class Answer:
    """One answer. cut: bytes sent before the line goes dead; every: seconds between bytes."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    every: float = 0.0

    @property
    def raw(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256  # five would refuse the sixth of many at once


class FakeServer:
    """Answers in order, the last one for ever; or what a function of the request says."""

    def __init__(self, *answers: Answer | Callable[[Seen], Answer]) -> None:
        self.answers = list(answers)
        self.seen: list[Seen] = []
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Answer) else answer(seen)

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = outer._next(
                    Seen(self.command, self.path, headers, self.rfile.read(length))
                )
                if answer.delay and outer._closing.wait(answer.delay):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {**JSON, **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.raw)))
                self.end_headers()
                if answer.cut is not None:
                    self.wfile.write(answer.raw[: answer.cut])
                    self.close_connection = True
                elif answer.every:
                    self.trickle(answer)
                else:
                    self.wfile.write(answer.raw)

            def trickle(self, answer: Answer) -> None:
                try:
                    for byte in answer.raw:
                        self.wfile.write(bytes([byte]))
                        if outer._closing.wait(answer.every):
                            return
                except OSError:  # the client has had enough
                    self.close_connection = True

            do_GET = do_POST = answer

            def log_message(self, *args: Any) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    pass

        return Handler


# ---------------------------------------------------------------- bodies


def gemini(text: str | None = "hello", finish: str | None = "STOP", **more: Any) -> dict:
    """A generateContent answer of one candidate; text None: without any part."""
    parts = more.pop("parts", None if text is None else [{"text": text}])
    candidate = {"content": {"role": "model"}, "index": 0}
    if parts is not None:
        candidate["content"]["parts"] = parts
    if finish is not None:
        candidate["finishReason"] = finish
    counts = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
    body = {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "fake-001"}
    return {**body, **more}


def openai(text: Any = "hello", finish: str | None = "stop", **more: Any) -> dict:
    """A chat completion of one choice."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more.pop("choice", {})}
    counts = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "fake-001",
            "choices": [choice], "usage": counts, **more}  # fmt: skip


def error(status: int, message: str = "no", **more: Any) -> Answer:
    """An error as Google and OpenAI write it; the message repeats the key, as some servers do."""
    headers = more.pop("headers", {})
    said = {"code": status, "message": f"{message} [key {KEY}]", "status": "WORD", **more}
    return Answer({"error": said}, status, headers)


# ---------------------------------------------------------------- faults of any HTTP service

RETRY_INFO = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
PAST = "Wed, 21 Oct 2015 07:28:00 GMT"
# name -> (answer, whether trying again can help, seconds to wait, words of the reason)
FAULTS: dict[str, tuple[Answer, bool, float | None, str]] = {
    "400": (error(400, "bad request"), False, None, "400: bad request"),
    "401": (error(401, "bad key"), False, None, "check the key"),
    "403": (error(403, "not allowed"), False, None, "not allowed"),
    "404": (error(404, "no such model"), False, None, "check the name of the model"),
    "408": (error(408), True, None, "408"),
    "429": (error(429, "slow down"), True, None, "slow down"),
    "429 seconds": (error(429, headers={"Retry-After": "7"}), True, 7.0, "429"),
    "429 date": (error(429, headers={"Retry-After": PAST}), True, 0.0, "429"),
    "429 nonsense": (error(429, headers={"Retry-After": "soon"}), True, None, "429"),
    "429 RetryInfo": (error(429, details=RETRY_INFO), True, 17.5, "429"),
    "429 spent": (error(429, code="insufficient_quota"), False, None, "nothing left"),
    "500": (error(500), True, None, "500"),
    "501": (error(501), False, None, "501"),
    "503": (error(503, headers={"Retry-After": "2"}), True, 2.0, "503"),
    "503 HTML": (Answer(b"<html>down</html>", 503, {"Content-Type": "text/html"}), True, None,
                 "503"),
    "500 empty": (Answer(b"", 500), True, None, "500"),
    "500 no UTF-8": (Answer(b"\xff\xfe\x00\xd8", 500), True, None, "500"),
    "400 no UTF-8": (Answer(b"\xff\xfe{", 400), False, None, "400"),
    "400 list": (Answer([{"error": {"message": "in a list"}}], 400), False, None, "in a list"),
    "400 text": (Answer({"error": "plain words"}, 400), False, None, "plain words"),
    "422 detail": (Answer({"detail": [{"loc": ["body"]}]}, 422), False, None, "422"),
    "half a body": (Answer(gemini(), cut=20), True, None, ""),
    "no body at all": (Answer(gemini(), cut=0), True, None, ""),
    "too slow": (Answer(gemini(), delay=5.0), True, None, "within 0.5 s"),
    "drop by drop": (Answer(gemini(), every=0.1), True, None, "within 0.5 s"),
    "200 garbage": (Answer(b"\xff\xfe\x00\xd8garbage"), True, None, ""),
    "200 empty": (Answer(b""), True, None, ""),
    "200 text": (Answer(b"it works!", headers={"Content-Type": "text/plain"}), True, None, ""),
    "200 list": (Answer(b"[]"), True, None, ""),
    "200 null": (Answer(b"null"), True, None, ""),
    "200 without an answer": (Answer({"hello": 1}), True, None, ""),
}  # fmt: skip


# ---------------------------------------------------------------- where a key could show


def traces(thing: object, failure: BaseException | None, records: list[logging.LogRecord]) -> str:
    """All that a client, its failure and the logs would show."""
    shown = [repr(thing), str(thing), repr(vars(thing))]
    seen, error = [], failure
    while error is not None and error not in seen:
        seen.append(error)
        shown += [repr(error), str(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    if failure is not None:
        shown += traceback.format_exception(failure)
    for record in records:
        shown += [record.getMessage(), repr(vars(record))]
    return "\n".join(shown)
