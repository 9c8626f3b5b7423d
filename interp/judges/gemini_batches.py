"""A Gemini batch, read from its raw JSON: how it stands, and its replies in order.

In:  the body of GET batches/NAME. Out: a `BatchState`; replies. Each request carries its number,
     how many there are and whether it asked for a schema as metadata, which comes back with its
     reply, so that a batch can be fetched by a process that knows its name alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from interp.judges.answers import Secret, count
from interp.judges.client import BatchState, CallFailed, Reply, Request
from interp.judges.gemini_replies import reply_of

LIMIT = 20_000_000  # bytes of requests that the service takes inline
STATES = {
    "PENDING": "waiting", "QUEUED": "waiting", "PAUSED": "waiting", "UNSPECIFIED": "waiting",
    "RUNNING": "running", "UPDATING": "running", "CANCELLING": "running",
    "SUCCEEDED": "done", "PARTIALLY_SUCCEEDED": "done",
    "FAILED": "failed", "EXPIRED": "failed",
    "CANCELLED": "cancelled",
}  # fmt: skip
# Codes of one request's error, of gRPC or HTTP, after which another try can help.
AGAIN = {1, 4, 8, 10, 13, 14, 408, 429, 499, 500, 502, 503, 504}


def check(requests: Sequence[Request]) -> None:
    """CallFailed if they are no batch."""
    models = sorted({request.model for request in requests})
    if len(models) != 1:
        seen = " and ".join(models) or "no request at all"
        raise CallFailed(f"a batch is of one model; this one has {seen}", again=False)


def check_size(items: list[dict]) -> None:
    size = len(json.dumps(items).encode())
    if size > LIMIT:
        reason = f"a batch holds {LIMIT / 1e6:.0f} MB; these requests have {size / 1e6:.0f}: split"
        raise CallFailed(reason, again=False)


def label(number: int, of: int, request: Request) -> dict[str, str]:
    """What a request takes along; the service allows texts only."""
    return {"n": str(number), "of": str(of), "schema": str(int(request.schema is not None))}


def state(job: Any, secret: Secret) -> BatchState:
    """Counts are those of the service; where it gives none, they are of the replies that are
    there."""
    meta = _meta(job)
    stats = meta.get("batchStats")
    stats = stats if isinstance(stats, dict) else {}
    here = _answers(job)
    total = count(stats.get("requestCount"))
    done = [count(stats.get(f"{word}RequestCount")) for word in ("successful", "failed")]
    ended = sum(n for n in done if n is not None) if any(n is not None for n in done) else None
    detail = _error_text(job.get("error"), secret) or _word(meta)
    return BatchState(
        STATES.get(_word(meta), "waiting"),
        len(here) if ended is None else ended,
        len(here) if total is None else total,
        detail,
    )


def replies(job: Any, service: str, secret: Secret) -> list[Reply | CallFailed]:
    """In the order of the requests; a request without a result is a CallFailed among them."""
    stands = state(job, secret)
    if stands.state != "done":
        waits = stands.state in ("waiting", "running")
        reason = f"the batch is {stands.state}, not done ({stands.detail})"
        raise CallFailed(reason, again=waits)
    found: dict[int, Reply | CallFailed] = {}
    answers, total = _answers(job), stands.total
    for place, answer in enumerate(answers):
        about = answer.get("metadata")
        about = about if isinstance(about, dict) else {}
        number = count(about.get("n"))
        total = max(total, count(about.get("of")) or 0)
        found[place if number is None else number] = _one(
            answer, about.get("schema") == "1", service, secret
        )
    if not answers:
        raise CallFailed("the batch is done, and its replies are not in it", again=False)
    missing = CallFailed("the batch ended without a result for this request", again=True)
    return [found.get(number, missing) for number in range(max(total, max(found) + 1))]


def _one(answer: dict, structured: bool, service: str, secret: Secret) -> Reply | CallFailed:
    if "response" in answer:
        try:
            return reply_of(answer["response"], structured, 0.0, service, secret)
        except CallFailed as failed:
            return failed
    error = answer.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return CallFailed(f"{service}: {_error_text(error, secret) or 'no reply'}", again=code in AGAIN)


def _meta(job: Any) -> dict:
    if not isinstance(job, dict):
        raise CallFailed("the service says nothing about the batch", again=True)
    meta = job.get("metadata")
    return meta if isinstance(meta, dict) else {}


def _word(meta: dict) -> str:
    return str(meta.get("state") or "").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")


def _answers(job: Any) -> list[dict]:
    """From metadata.output, or from the operation's response: services give either."""
    for place in (_meta(job).get("output"), job.get("response")):
        inlined = place.get("inlinedResponses") if isinstance(place, dict) else None
        if isinstance(inlined, dict):
            inlined = inlined.get("inlinedResponses")
        if isinstance(inlined, list):
            return [answer if isinstance(answer, dict) else {} for answer in inlined]
    return []


def _error_text(error: Any, secret: Secret) -> str:
    if not isinstance(error, dict):
        return ""
    return secret.out_of(f"{error.get('code', '')} {error.get('message', '')}".strip())[:300]
