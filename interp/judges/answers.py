"""What every client does alike with what comes back: refusals read, secrets removed, JSON found.

In:  an HTTP status with its headers and body, or a text. Out: `CallFailed` whose message holds no
     key; the text without thoughts; the JSON in it; a JSON schema put into words for models that
     cannot be held to one.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from data.errors import WorkbenchError
from interp.judges.client import CallFailed

AGAIN = {408, 429}  # and every 5xx but 501
SPENT = {"insufficient_quota", "billing_hard_limit_reached"}  # a 429 that waiting does not mend
SAID = 300  # characters of a service's own words that a message quotes
REAL_KEY = 16  # characters; shorter keys are stand-ins such as EMPTY, which replies may contain
CURES = {
    401: "check the key",
    403: "check what the key may do",
    404: "check the name of the model and the address",
    413: "the request is too large",
}


# ---------------------------------------------------------------- secrets


class Secret:
    """A key that shows itself nowhere: not in a repr, not in a message made with `out_of`."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None, where: str) -> None:
        """where: what to name if the value cannot be a key, such as GEMINI_API_KEY."""
        value = (value or "").strip()
        # httpx puts a header that it cannot send into its error message.
        if not re.fullmatch(r"[\x21-\x7e]*", value):
            raise WorkbenchError(
                f"{where} holds blanks or characters that no key has; set it to the key alone"
            )
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret(none)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """For the header of a request, and nothing else."""
        return self._value

    def out_of(self, text: str) -> str:
        """`text` without the key, nor a word half hidden by the service (sk-ab****yz)."""
        if self._value:
            text = text.replace(self._value, "***").replace(quote(self._value, safe=""), "***")
        return re.sub(r"\S*\*{3,}\S*", "***", text)

    def out_of_reply(self, text: str) -> str:
        """A reply without the key, should a server echo it; nothing else is changed."""
        return text.replace(self._value, "***") if len(self._value) >= REAL_KEY else text


def checked_address(address: str) -> str:
    """A base URL without its last slash; WorkbenchError if it is none, or holds a secret."""
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise WorkbenchError(
            "a server's address holds no name, password or ?query: put the key into the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WorkbenchError(f"{address!r} is no address of a server: http://HOST:PORT/v1")
    return address.rstrip("/")


# ---------------------------------------------------------------- refusals


class Refusal(CallFailed):
    """The service answered, and not with a reply. said: its words, without secrets."""

    def __init__(
        self, reason: str, status: int, said: str, code: str, again: bool, wait: float | None
    ) -> None:
        super().__init__(reason, again, wait)
        self.status, self.said, self.code = status, said, code


def refusal(
    service: str, status: int, headers: Mapping[str, str], body: bytes, secret: Secret
) -> Refusal:
    """What an answer other than 200 means. headers: any case, as HTTP libraries give them."""
    error = _error_of(body)
    text = body.decode("utf-8", errors="replace")
    said = str(error.get("message") or "") if error else ("" if "<html" in text.lower() else text)
    said = " ".join(secret.out_of(said).split())[:SAID]
    code = str(error.get("code") or error.get("type") or error.get("status") or "")
    spent = bool(SPENT & {str(error.get(word)) for word in ("code", "type")})
    again = (status in AGAIN or (status >= 500 and status != 501)) and not spent
    reason = f"{service} answered {status}" + (f": {said}" if said else "")
    cure = CURES.get(status)
    if 300 <= status < 400:
        cure = "it sends elsewhere, which is not followed: give the address it moved to"
    if spent:
        cure = "the account has nothing left"
    reason += f" ({cure})" if cure else ""
    return Refusal(reason, status, said, code, again, _wait(headers, error))


def _error_of(body: bytes) -> dict:
    """The error object of a JSON body as services write it: {error: {...}}, {error: text},
    {detail: text}, [{error: ...}]; {} if it is none of these."""
    found = as_json(body.decode("utf-8", errors="replace"))
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return {}
    error = found.get("error", found)
    if isinstance(error, dict):
        return error if "message" in error else {"message": error.get("detail"), **error}
    return {"message": error}


def _wait(headers: Mapping[str, str], error: dict) -> float | None:
    """Seconds to wait, from Retry-After (seconds or a date) or Google's RetryInfo."""
    named = {str(name).lower(): str(value) for name, value in headers.items()}
    asked = [_seconds(named.get("retry-after", ""))]
    thousandths = _seconds(named.get("retry-after-ms", ""))
    asked.insert(0, None if thousandths is None else thousandths / 1000)
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict):
            asked.append(_seconds(str(detail.get("retryDelay", "")).removesuffix("s")))
    return next((seconds for seconds in asked if seconds is not None), None)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def count(value: object) -> int | None:
    """A number of tokens as a service wrote it; None where it is none."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):  # int64 of protobuf's JSON
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


# ---------------------------------------------------------------- texts


def as_json(text: str) -> Any:
    """The text as JSON; None if it is none (NaN and Infinity are no JSON)."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(word: str) -> None:
    raise ValueError(word)


def first_object(text: str) -> dict | None:
    """The text as a JSON object, or else the first one in it; None if there is none.

    For models that cannot be held to a schema: they put words or a fence around their answer.
    """
    whole = as_json(text)
    if isinstance(whole, dict):
        return whole
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    start = text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    return None


def without_thoughts(text: str) -> str:
    """The text behind a leading <think>...</think>, which some servers leave in; "" if the
    thoughts never end. Such words further on may be what the answer is about, and stay."""
    start = text.lstrip()
    if not start.startswith("<think>"):
        return text
    return start.partition("</think>")[2].lstrip()


def schema_in_words(schema: dict) -> str:
    """What is said to a model that cannot be held to a schema."""
    return (
        "Answer with one JSON object and nothing else, no fence around it. It must follow this "
        f"JSON schema:\n{json.dumps(schema)}"
    )
