"""Saved filters of the feature list: kept in the lab under a name, for the whole team.

In:  the lab, the filter in the address. Out: a popover to apply, save and delete them.
"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from data.errors import WorkbenchError
from data.records import FeatureFilter
from ui.keys import features as keys
from ui.pages.panels.feature_actions import tell
from ui.shell import Shell, plain, set_address

SHOWN = 200  # more than anybody keeps


def show(shell: Shell, current: FeatureFilter) -> None:
    saved = shell.lab.filters()
    query = keys.write_filter(replace(current, page=1))
    with st.popover("Saved filters", icon=":material/bookmark_manager:"):
        if not saved:
            st.caption(
                "Set a filter, a sort or columns, and keep them here under a name. Everybody who "
                "works on this workspace sees them, for any SAE."
            )
        for at, one in enumerate(saved[:SHOWN]):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button(
                    plain(one.name), key=f"features.apply.{at}", width="stretch",
                    type="primary" if one.query == query else "secondary",
                    on_click=set_address, args=("features", shell.sae, one.query),
                    help=plain(f"{_said(one.query)} (saved by {one.who})"),
                )  # fmt: skip
                st.button(
                    "Delete", icon=":material/delete:", key=f"features.forget.{at}",
                    type="tertiary",
                    help="Lists can undo it", on_click=_delete,
                    args=(shell, one.name),
                )  # fmt: skip
        with st.form("features.save", border=False, clear_on_submit=True):
            st.text_input(
                "Name", key="features.save.name", max_chars=120, placeholder="such as: to label"
            )
            st.form_submit_button(
                "Save the current filter", disabled=not query, on_click=_save, args=(shell, query),
                help=None if query else "Nothing is filtered, sorted or chosen yet",
            )  # fmt: skip


def _said(query: dict[str, str]) -> str:
    try:
        return keys.in_words(keys.read_filter(query))
    except WorkbenchError:
        return "does not fit this version any more"


def _save(shell: Shell, query: dict[str, str]) -> None:
    name = st.session_state["features.save.name"]
    with tell(f"Saved the filter “{name.strip()}”."):
        shell.lab.save_filter(name, query, who=shell.person.name)


def _delete(shell: Shell, name: str) -> None:
    with tell(f"Deleted the filter “{name}”."):
        shell.lab.delete_filter(name, who=shell.person.name)
