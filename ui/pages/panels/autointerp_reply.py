"""One call of a language model: the whole prompt, the whole reply, settings, tokens, time.

In:  a Shell, a run's folder name, the key of a call. Out: the panel; a call without a kept reply
     says so, with its failed attempts where the run has recorded them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import streamlit as st

from data.errors import WorkbenchError
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from ui import cards
from ui.cards import safe
from ui.pages.panels.job_actions import BIDI
from ui.shell import Shell, plain, show_error

ROLES = {"system": "system", "user": "user", "assistant": "assistant, as an example"}
FINISHED = {
    "stop": "ended by itself", "max_tokens": "cut off: max_tokens reached",
    "blocked": "blocked by the service", "other": "ended otherwise",
}  # fmt: skip
LONGEST = 60_000  # characters of one message on the page


def show(shell: Shell, run: str, key: str) -> None:
    told: list[str] = []
    try:
        entry = LlmCache(shell.workspace.llm_cache, told.append).get(key)
    except WorkbenchError as error:
        show_error(error)
        return
    if entry is None:
        _absent(shell, run, key, bool(told))
        return
    request, reply = entry["request"], entry["reply"]
    _reply(reply)
    _prompt(request)
    with st.expander("Settings of the call"):
        st.html(cards.facts(_settings(request, entry)))
        if request.get("schema") is not None:
            st.caption("The reply had to follow this schema:")
            st.code(_text(json.dumps(request["schema"], indent=1)), language=None, wrap_lines=True)


def _absent(shell: Shell, run: str, key: str, damaged: bool) -> None:
    """No reply is kept: why, as far as it is known."""
    if damaged:
        st.warning(
            "The kept reply is damaged: it will be asked for again when the run is repeated."
        )
    else:
        st.info("No reply is kept for this call: it failed, was never sent, or the folder "
                "llm_cache of the workspace was emptied. Run what failed again to ask "
                "anew.")  # fmt: skip
    try:
        events = RunRecord(shell.workspace.run(run) / "calls.jsonl").events()
    except WorkbenchError as error:
        show_error(error)
        return
    tries = [e for e in events if e.get("key") == key and e["event"] == "failed"]
    for event in tries[-5:]:
        said = f"Attempt {event.get('attempt')}, {event.get('time')}: {event.get('reason')}"
        st.caption(plain(BIDI.sub("�", said)))
    st.caption(f"Key of the call: {key}")


def _reply(reply: Mapping) -> None:
    usage = reply.get("usage") or {}
    finish = reply.get("finish_reason") or "unknown"
    tokens = ", ".join(
        f"{usage[name]:,} {label}" for name, label in
        (("prompt", "of prompt"), ("reply", "of reply"), ("thoughts", "of thoughts"),
         ("cached", "of the prompt from the service’s cache"))
        if isinstance(usage.get(name), int)
    )  # fmt: skip
    detail = reply.get("detail")
    ms = reply.get("ms")
    rows = [
        ("model", _text(reply.get("model_version") or "not said")),
        ("finished", _text(FINISHED.get(finish, finish) + (f" ({detail})" if detail else ""))),
        ("tokens", tokens or "not said"),
        ("time", f"{ms:,.0f} ms" if isinstance(ms, (int, float)) else None),
    ]
    st.html('<div class="ai-role">reply</div>')
    text = reply.get("text") or ""
    if text:
        st.code(_text(text), language=None, wrap_lines=True)
    else:
        st.caption("The reply is empty.")
    st.html(cards.facts(rows))


def _prompt(request: Mapping) -> None:
    """The last message is the question; what stands before it is the same for all features."""
    messages = list(request.get("messages") or [])
    if not messages:
        return
    *before, last = messages
    if before:
        with st.expander(f"Instructions and worked examples: {len(before):,} messages before"):
            for message in before:
                _message(message)
    _message(last)


def _message(message: Mapping) -> None:
    role = str(message.get("role"))
    st.html(f'<div class="ai-role">{safe(ROLES.get(role, role))}</div>')
    st.code(_text(str(message.get("text") or "")), language=None, wrap_lines=True)


def _settings(request: Mapping, entry: Mapping) -> list[tuple[str, str | None]]:
    names = ("model", "endpoint", "max_tokens", "temperature", "top_p", "seed", "thinking", "draw")
    rows = [(name, None if request.get(name) is None else _text(str(request[name])))
            for name in names]  # fmt: skip
    return [*rows, ("kept", str(entry.get("time"))), ("key", str(entry.get("key")))]


def _text(text: str) -> str:
    """Text as a visitor may see it: no turned-around text, half characters marked, bounded."""
    clean = BIDI.sub("�", text).encode("utf-8", "replace").decode()
    if len(clean) <= LONGEST:
        return clean
    return f"{clean[:LONGEST]}\n… {len(clean) - LONGEST:,} further characters"
