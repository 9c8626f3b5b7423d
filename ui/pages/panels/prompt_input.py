"""What the Prompt page reads: the text box, the SAEs side by side, passages to begin with.

In:  a Shell and the view in the address. Out: widgets that write the address.
"""

from __future__ import annotations

import dataclasses
import html

import streamlit as st

from data import prompt_store
from data.errors import WorkbenchError
from ui.keys import prompt as keys
from ui.keys.prompt import PromptView
from ui.shell import Shell, origin, plain, set_address, show_error

PAGE = "prompt"


def go(shell: Shell, view: PromptView) -> None:
    set_address(PAGE, shell.sae, keys.write_prompt(view))


def text_box(shell: Shell, view: PromptView) -> None:
    """The text; Ctrl+Enter sends it."""

    def run() -> None:
        text = st.session_state["prompt.text"]
        go(shell, dataclasses.replace(view, text=text, token=None, feature=None, of=""))

    st.session_state["prompt.text"] = view.text or st.session_state.get("prompt.text", "")
    with st.form("prompt.form", border=False):
        st.text_area(
            "Text", key="prompt.text", height=118, max_chars=keys.PROMPT_CHARACTERS,
            placeholder="Type or paste a text, then press Ctrl+Enter.",
            label_visibility="collapsed",
        )  # fmt: skip
        st.form_submit_button(
            "Show features", type="primary", on_click=run, help="Ctrl+Enter in the text"
        )


def beside(shell: Shell, view: PromptView) -> None:
    """Other SAEs of the same language model, to be read side by side."""
    others = candidates(shell)
    if not others:
        st.caption("Other SAEs of the same language model can stand beside this one here.")
        return
    st.session_state["prompt.beside"] = [name for name in view.beside if name in others]

    def changed() -> None:
        chosen = tuple(st.session_state["prompt.beside"])
        gone = view.of not in ("", *chosen)
        after = dataclasses.replace(view, beside=chosen)
        go(shell, dataclasses.replace(after, of="", feature=None) if gone else after)

    st.multiselect(
        "Read beside it", list(others), key="prompt.beside", on_change=changed,
        max_selections=keys.MOST_SAES - 1, format_func=lambda name: f"{name} · {others[name]}",
        placeholder="other SAEs of the same model",
        help="The model runs once for all of them, whatever their layers and sites.",
    )  # fmt: skip


def candidates(shell: Shell) -> dict[str, str]:
    """Other SAEs of the workspace that read the same language model, with their sites."""
    mine = _model(shell.workspace.config(shell.sae))
    found = {}
    for name in shell.workspace.saes:
        if name != shell.sae:
            try:
                config = shell.workspace.config(name)
            except (WorkbenchError, OSError):  # it is being replaced, or damaged
                continue
            if mine is not None and _model(config) == mine:
                about = origin(config)
                found[name] = str(about.get("site") or about.get("hook_name") or "")
    return found


def _model(config: dict) -> tuple | None:
    """What tells a language model, if it is recorded."""
    about = origin(config)
    return (about["lm_weights"], about.get("dtype")) if "lm_weights" in about else None


def refuse_strangers(shell: Shell, view: PromptView) -> None:
    """WorkbenchError for SAEs in the address that cannot stand beside the chosen one."""
    others = candidates(shell) if view.beside else {}
    for name in view.beside:
        shell.workspace.sae(name)
        if name not in others:
            raise WorkbenchError(
                f"{name} cannot be read beside {shell.sae}: it is of another language model, or "
                "does not record which"
            )
    if view.of and view.of not in (shell.sae, *view.beside):
        raise WorkbenchError(
            f"f={view.of}:{view.feature} is of an SAE that is not on this page: add it to `with`"
        )


def passages(shell: Shell, view: PromptView) -> None:
    """The empty state: what the page will show, and passages of the SAE's own corpus."""
    st.markdown(
        "See which features of the SAE are active on a text of your own, token by token. "
        "Write one above, or begin with a passage of the corpus it was harvested on."
    )
    if not shell.harvested:
        st.caption(
            f"Passages appear here after a harvest: `python run.py harvest {plain(shell.sae)}`"
        )
        return
    try:
        store = shell.store()
        found = prompt_store.passages(store.root, store.path)
    except WorkbenchError as error:
        show_error(error)
        return
    for number, (column, text) in enumerate(zip(st.columns(3), found, strict=False)):
        with column.container(border=True, height="stretch"):
            st.html(f'<div class="passage" dir="auto">{html.escape(text)}</div>')
            st.button(
                "Read this", key=f"prompt.passage.{number}", on_click=go,
                args=(shell, dataclasses.replace(view, text=text)), icon=":material/arrow_upward:",
            )  # fmt: skip
