"""Search from anywhere: a number, a word of a label, or a token opens the feature.

In:  what is typed. Out: a dialog of at most ten features.
"""

from __future__ import annotations

import streamlit as st

from data.errors import WorkbenchError
from data.records import FeatureFilter, FeatureRow
from ui.cards import percent
from ui.keys import features as keys
from ui.pages.panels import dialog_focus
from ui.shell import Shell, plain, show_error
from ui.strips import token_text

SHOWN = 10


def button(shell: Shell) -> None:
    """In the sidebar; the key S presses it."""
    if shell.harvested and st.sidebar.button(
        "Search", icon=":material/search:", shortcut="S", width="stretch", type="tertiary"
    ):
        _ask(shell)


@st.dialog("Search features")
def _ask(shell: Shell) -> None:
    text = st.text_input(
        "Search", key="search.text", placeholder="label, token, or number",
        label_visibility="collapsed", max_chars=keys.LONGEST,
    ).strip()  # fmt: skip
    dialog_focus.first_field("search")
    if not text:
        st.caption("Labels and peak tokens are searched; a number opens that feature.")
        return
    try:
        _found(shell, text)
    except WorkbenchError as error:
        show_error(error)


def _found(shell: Shell, text: str) -> None:
    """The feature of that number first, then those whose label or peak token holds the text."""
    store = shell.store()
    number = int(text) if text.isdecimal() and int(text) < store.n_features else None
    if number is not None:
        _line(shell, number, "this number")
    wanted = FeatureFilter(text=text, sort="density", descending=True, page_size=SHOWN)
    rows, count = store.rows(wanted)
    for row in rows:
        if row.feature != number:
            _line(shell, row.feature, _about(row))
    if count > len(rows):
        if st.button(f"All {count:,} in the list", type="tertiary"):
            shell.go("features", keys.write_filter(FeatureFilter(text=text)))
    elif not count and number is None:
        st.caption(plain(f"No label or peak token holds “{text}”."))


def _line(shell: Shell, feature: int, about: str) -> None:
    if st.button(plain(f"{feature}  ·  {about}"), key=f"search.{feature}", type="tertiary"):
        shell.go("feature", {"f": str(feature)})


def _about(row: FeatureRow) -> str:
    if row.label:
        return row.label
    token = "never fires" if row.peak_token is None else f"fires on {token_text(row.peak_token)}"
    return f"{token}, {percent(row.density)} of tokens"
