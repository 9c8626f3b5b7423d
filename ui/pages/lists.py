"""Lists: bookmarks, tags, notes, lists and what was changed last, of all SAEs.

In:  the lab, the part of the page in the address. Out: the page. What people write is one team's:
     everybody sees it, and every change keeps its author.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from data.errors import WorkbenchError
from ui.keys import lists as keys
from ui.pages.panels import lists_history, lists_marks, lists_named
from ui.pages.panels.lists_entries import go
from ui.shell import Shell, address, plain, set_address, show_error

PAGE = "lists"
NEEDS_SAE = False
NOTICE = "lists.notice"
PARTS = {
    "lists": lists_named.show,
    "bookmarks": lists_marks.bookmarks,
    "tags": lists_marks.tags,
    "notes": lists_marks.notes,
    "changes": lists_history.changes,
    "copy": lists_history.copy,
}


def page(shell: Shell) -> None:
    left, right = st.columns([1, 1.6], vertical_alignment="center")
    left.title("Lists")
    params = address(PAGE, shell.sae, keys.VIEW_KEYS)
    try:
        view = keys.read_view(params)
    except WorkbenchError as error:
        show_error(error)
        st.button("All lists", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    with right.container(horizontal=True, horizontal_alignment="right", key="lists-undo"):
        lists_history.undo(shell, _act)
    _notice()
    st.session_state["lists.part"] = view.part

    def choose() -> None:
        go(shell, keys.ListsView(part=st.session_state["lists.part"], scope=view.scope))

    st.segmented_control(
        "Part", list(keys.PARTS), key="lists.part", format_func=keys.PARTS.__getitem__,
        required=True, on_change=choose, label_visibility="collapsed",
    )  # fmt: skip
    PARTS[view.part](shell, view, _act)


def _act(change: Callable[[], str]) -> None:
    """Runs a change in a callback; what it says, or why it could not be made, is shown next."""
    try:
        st.session_state[NOTICE] = (True, change())
    except WorkbenchError as error:
        st.session_state[NOTICE] = (False, str(error))


def _notice() -> None:
    done, text = st.session_state.pop(NOTICE, (True, ""))
    if text and done:
        st.toast(plain(text), icon=":material/check:")
    elif text:
        st.error(plain(text))
