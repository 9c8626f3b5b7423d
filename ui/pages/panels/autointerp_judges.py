"""Who judges: what there is, what is missing and what to set, models by name.

In:  a Shell. Out: the judge's name as run.py takes it. Keys come from the environment of the server
     and are never shown; a service is only asked for its models on a click, and not for long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import streamlit as st

from data.errors import WorkbenchError
from interp.judges import named
from interp.judges.client import CallFailed
from ui.pages.panels.job_actions import BIDI
from ui.shell import Shell, plain

WAIT_S = 8.0  # for a list of models
SHOWN = 200  # models
NO_MODEL = {
    "lexical": ("Token lookup (baseline)", "Looks tokens up in a table of this feature’s examples: "
                "no key, no network, about a minute for all features."),
    "people": ("People’s words", "Scores what people wrote as labels, in exactly the same way."),
}  # fmt: skip
TITLES = {
    "gemini": "Gemini", "gemini-legacy": "Gemini, older SDK", "openai": "OpenAI-compatible server",
    "hf": "Model on this machine", "scripted": "Recorded replies",
}  # fmt: skip
ASKED = {  # kind -> (label, placeholder)
    "gemini": ("Model", "name of a model; List models asks the service"),
    "gemini-legacy": ("Model", "name of a model; List models asks the service"),
    "openai": ("Model", "name of a model as the server calls it"),
    "hf": ("Model folder or hub id", "such as a folder with config.json"),
    "scripted": ("File of recorded replies", "a .jsonl file on the server"),
}  # fmt: skip


def choose(shell: Shell, key: str, kinds: list[str], question: str, first: str = "") -> str:
    """The judge's name; of a kind without its model, the kind and a colon."""
    offers = {offer.kind: offer for offer in named.available()}
    kind_first, _, rest = first.partition(":")
    state = st.session_state
    known, address = named.split_address(rest)
    if f"{key}.kind" not in state or state.get(f"{key}.first") != first:  # a link leads here anew
        state[f"{key}.kind"] = kind_first if kind_first in kinds else kinds[0]
        state[f"{key}.base"] = address or ""
        state[f"{key}.model.{kind_first}"] = known
    state[f"{key}.first"] = first
    kind = st.selectbox(question, kinds, key=f"{key}.kind", format_func=lambda k: _title(k, offers))
    if kind in NO_MODEL:
        st.caption(NO_MODEL[kind][1])
        return kind
    offer = offers[kind]
    if offer.missing:
        cure = (
            "Set it where the app is started, and start the app again. Without a key there are "
            "token lookup, a model on this machine, and any OpenAI-compatible server."
        )
        st.warning(plain(f"{offer.missing}. {cure}"), icon=":material/key_off:")
    else:
        st.caption(f":material/check_circle: {plain(offer.words)}")
    base = ""
    if kind == "openai":
        base = st.text_input(
            "Address", key=f"{key}.base", placeholder="http://127.0.0.1:8000/v1",
            help="Of the server, up to /v1. Empty: OPENAI_BASE_URL, else api.openai.com, which "
            "needs OPENAI_API_KEY. The server that runs this app reaches it, not your browser.",
        ).strip()  # fmt: skip
    model = _model(shell, key, kind, base, known, bool(offer.missing))
    return f"{kind}:{model}" + (f"@{base}" if base else "")


def lacking(judge: str) -> str:
    """What is missing for it here: a key or a package; "" if nothing."""
    kind = judge.partition(":")[0]
    return next((offer.missing for offer in named.available() if offer.kind == kind), "")


def _title(kind: str, offers: dict) -> str:
    if kind in NO_MODEL:
        return NO_MODEL[kind][0]
    return TITLES[kind] + (" (something is missing)" if offers[kind].missing else "")


def _model(shell: Shell, key: str, kind: str, base: str, known: str, missing: bool) -> str:
    label, placeholder = ASKED[kind]
    about = f"{key}.models.{kind}.{base}"
    listed: list[str] = st.session_state.get(about) or []
    lists = kind in ("gemini", "gemini-legacy", "openai") and not missing
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if listed:
            model = st.selectbox(label, listed[:SHOWN], key=f"{key}.model.{kind}.listed",
                                 index=listed.index(known) if known in listed else None,
                                 accept_new_options=True,
                                 placeholder="choose or type one")  # fmt: skip
        else:
            model = st.text_input(label, key=f"{key}.model.{kind}", placeholder=placeholder)
        if lists and shell.person.role == "researcher" and st.button(
            "List models", key=f"{key}.list.{kind}", help="Asks the service, at most "
            f"{WAIT_S:.0f} seconds.",
        ):  # fmt: skip
            with st.spinner("Asking the service…"):
                found, why = in_time(lambda: named.models_of(kind, None, WAIT_S, base or None))
            st.session_state[about] = [BIDI.sub("�", name) for name in found or []]
            if why or not found:
                st.toast(plain(f"No list: {why or 'the service names no model'}"))
            else:
                st.rerun()
    return (model or "").strip()


def in_time(ask: Callable[[], list[str] | None], seconds: float = WAIT_S) -> tuple:
    """(what `ask` gives, "") or (None, why not); never longer than `seconds`."""
    out: list[tuple] = []

    def work() -> None:
        try:
            out.append((ask(), ""))
        except CallFailed as failed:
            out.append((None, failed.reason))
        except WorkbenchError as error:
            out.append((None, str(error)))
        except Exception as error:  # an SDK's own; its text may hold an address
            out.append((None, type(error).__name__))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return out[0] if out else (None, f"no answer within {seconds:.0f} seconds")
