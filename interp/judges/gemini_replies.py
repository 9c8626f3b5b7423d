"""A generateContent answer, read from its raw JSON: what both Gemini clients share.

In:  the body as the service sent it. Out: a `Reply`. Read raw because the SDKs lose replies that
     are there: google-genai raises on a token count that is no number and warns about finish
     reasons it does not know; google-generativeai drops both, and cannot tell thoughts from text.
"""

from __future__ import annotations

from typing import Any

from interp.judges.answers import Secret, as_json, count
from interp.judges.client import CallFailed, Message, Reply, Request, Usage

ADDRESS = "https://generativelanguage.googleapis.com"
BLOCKED = {
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "ESCALATION",
    "MODEL_ARMOR", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
}  # fmt: skip
FINISHED = {"STOP": "stop", "MAX_TOKENS": "max_tokens"}


def asked(request: Request) -> tuple[str | None, list[dict]]:
    """(System instruction, contents) of a request; CallFailed if nothing is asked."""
    messages = list(request.messages)
    system = messages.pop(0).text if messages and messages[0].role == "system" else None
    if not messages:
        raise CallFailed("the request asks nothing: it has no message of the user", again=False)
    return system, [_content(message) for message in messages]


def _content(message: Message) -> dict:
    if message.role not in ("user", "assistant"):
        raise CallFailed(f"a message of {message.role!r} cannot stand here", again=False)
    role = "model" if message.role == "assistant" else "user"
    return {"role": role, "parts": [{"text": message.text}]}


def reply_of(body: Any, structured: bool, ms: float, service: str, secret: Secret) -> Reply:
    """structured: whether a schema was asked for. CallFailed where the body is no answer."""
    if not isinstance(body, dict):
        raise CallFailed(f"{service} answered with what is no JSON object", again=True)
    usage, version = _usage(body.get("usageMetadata")), body.get("modelVersion")
    version = version if isinstance(version, str) else None
    candidates = body.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(candidate, dict):
        feedback = body.get("promptFeedback")
        reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if reason:
            return Reply("", None, "blocked", f"prompt: {reason}", usage, version, ms)
        raise CallFailed(f"{service} answered without a candidate", again=True)
    detail = str(candidate.get("finishReason") or "")
    finish = "blocked" if detail in BLOCKED else FINISHED.get(detail, "other")
    text = secret.out_of_reply(_text(candidate.get("content")))
    return Reply(text, as_json(text) if structured else None, finish, detail, usage, version, ms)


def _text(content: Any) -> str:
    """The answer's parts glued, without thoughts; "" where there are none (all tokens thought)."""
    parts = content.get("parts") if isinstance(content, dict) else None
    texts = [
        part["text"]
        for part in (parts if isinstance(parts, list) else [])
        if isinstance(part, dict) and not part.get("thought") and isinstance(part.get("text"), str)
    ]
    return "".join(texts)


def _usage(found: Any) -> Usage:
    """candidatesTokenCount is without thoughts here, unlike in other services."""
    found = found if isinstance(found, dict) else {}
    return Usage(
        prompt=count(found.get("promptTokenCount")),
        reply=count(found.get("candidatesTokenCount")),
        thoughts=count(found.get("thoughtsTokenCount")),
        cached=count(found.get("cachedContentTokenCount")),
    )
