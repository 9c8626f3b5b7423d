"""Recorded replies: a judge that costs nothing, for tests, demonstrations and runs again elsewhere.

In:  a JSONL file, or a function given in Python. Out: a `Client`.

A line is {"request": HASH, "text": "..."} to answer that request, or {"text": "..."} to answer in
order; a file is of one kind. A line may also have parsed, finish_reason, detail, usage {prompt,
reply, thoughts, cached}, model_version and ms; or, instead of a text, {"failed": "why",
"again": false, "retry_after": null}. What is not there is `CallFailed`; trying again is no help.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data.errors import WorkbenchError
from interp.judges.answers import as_json
from interp.judges.client import CallFailed, Reply, Request, Usage

FINISH = ("stop", "max_tokens", "blocked", "other")
Answer = Reply | CallFailed | str | dict
KNOWN = {"request", "text", "parsed", "finish_reason", "detail", "usage", "model_version", "ms",
         "failed", "again", "retry_after"}  # fmt: skip


def request_hash(request: Request) -> str:
    """Of all that decides a reply: sha256 of its fields as JSON with sorted keys."""
    written = json.dumps(asdict(request), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(written.encode("utf-8", errors="surrogatepass")).hexdigest()


def line_of(request: Request, answer: Reply | CallFailed) -> str:
    """A line of a file that answers `request` so."""
    if isinstance(answer, CallFailed):
        said = {"failed": answer.reason, "again": answer.again, "retry_after": answer.retry_after}
    else:
        said = asdict(answer)
    return json.dumps({"request": request_hash(request), **said})


class ScriptedClient:
    """Answers from a file or a function, which may be asynchronous and gets the request."""

    def __init__(
        self,
        script: str | Path | Callable[[Request], Answer | Awaitable[Answer]],
        model: str = "scripted",
    ) -> None:
        self.model = model
        self._function = script if callable(script) else None
        self._keyed: dict[str, dict] = {}
        self._ordered: list[dict] = []
        self._next = 0
        if self._function is not None:
            self.name = self.endpoint = f"scripted:{model}"
            return
        path = Path(script)
        try:
            written = path.read_bytes()
            lines = written.decode("utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise WorkbenchError(f"the script {path} cannot be read: {reason}") from None
        self.name = f"scripted:{script}"
        # Other replies under the same name are other answers.
        self.endpoint = f"scripted:{hashlib.sha256(written).hexdigest()[:16]}"
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._take(line, f"{path}, line {number}")
        if self._keyed and self._ordered:
            raise WorkbenchError(f"{path} has lines with a request and lines without: choose one")

    def _take(self, line: str, where: str) -> None:
        entry = as_json(line)
        if not isinstance(entry, dict) or ("text" in entry) == ("failed" in entry):
            raise WorkbenchError(f'{where}: no JSON object with either "text" or "failed"')
        if strange := sorted(set(entry) - KNOWN):
            raise WorkbenchError(f"{where}: {strange[0]!r} is unknown: {', '.join(sorted(KNOWN))}")
        entry["reply"] = _recorded_reply(entry, where) if "text" in entry else None
        request = entry.get("request")
        if request is None:
            self._ordered.append(entry)
        elif request in self._keyed:
            raise WorkbenchError(f"{where}: a second line for request {request}")
        else:
            self._keyed[request] = entry

    async def complete(self, request: Request) -> Reply:
        if self._function is not None:
            answer = self._function(request)
            answer = await answer if inspect.isawaitable(answer) else answer
        else:
            answer = self._recorded(request)
        if isinstance(answer, CallFailed):
            raise answer
        return answer if isinstance(answer, Reply) else _reply(answer, request)

    def _recorded(self, request: Request) -> Answer:
        if self._keyed:
            entry = self._keyed.get(request_hash(request))
            missing = f"{self.name} has no reply to request {request_hash(request)}"
        else:
            place, self._next = self._next, self._next + 1
            entry = self._ordered[place] if place < len(self._ordered) else None
            missing = (
                f"{self.name} has {len(self._ordered)} replies, and this is request {place + 1}"
            )
        if entry is None:
            return CallFailed(missing, again=False)
        if "failed" in entry:
            again = bool(entry.get("again", False))
            return CallFailed(str(entry["failed"]), again, entry.get("retry_after"))
        reply = entry["reply"]
        if "parsed" in entry or request.schema is None:
            return reply
        return replace(reply, parsed=as_json(reply.text))

    def models(self) -> list[str] | None:
        return None

    async def close(self) -> None:
        pass


def _recorded_reply(entry: dict, where: str) -> Reply:
    """A line's reply; WorkbenchError if a field is not what it should be."""
    text, usage = entry["text"], entry.get("usage") or {}
    finish, ms = entry.get("finish_reason", "stop"), entry.get("ms", 0.0)
    faults = {
        "text is no text": not isinstance(text, str),
        f"finish_reason is none of {', '.join(FINISH)}": finish not in FINISH,
        "ms is no number": not isinstance(ms, (int, float)),
        "usage is no {prompt, reply, thoughts, cached}": not isinstance(usage, dict)
        or not set(usage) <= {"prompt", "reply", "thoughts", "cached"},
    }
    for words, wrong in faults.items():
        if wrong:
            raise WorkbenchError(f"{where}: {words}")
    return Reply(
        text,
        entry.get("parsed"),
        finish,
        entry.get("detail", "scripted"),
        Usage(**usage),
        entry.get("model_version"),
        float(ms),
    )


def _reply(answer: Any, request: Request) -> Reply:
    """A function's text, or object for its JSON, as a reply."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    parsed = as_json(text) if request.schema is not None else None
    return Reply(text, parsed, "stop", "scripted", Usage(), None, 0.0)
