"""The keys of the app, on one card. Out: a dialog."""

from __future__ import annotations

import streamlit as st

KEYS = (
    ("Anywhere", (("S", "search features"), ("H", "this card"), ("Esc", "close a card"))),
    ("Feature", (
        ("← →", "previous and next feature of the filter you came from"),
        ("B", "bookmark"), ("N", "note"), ("T", "tags"),
    )),
    ("Compare", (("← →", "previous and next match"), ("X", "swap"))),
    ("Token strips", (("Tab", "from active token to active token; value and percentile show"),)),
)  # fmt: skip


def button() -> None:
    """In the sidebar; the key H presses it."""
    if st.sidebar.button(
        "Keys", icon=":material/keyboard:", shortcut="H", width="stretch", type="tertiary"
    ):
        _card()


@st.dialog("Keys")
def _card() -> None:
    for place, keys in KEYS:
        st.markdown(f"**{place}**")
        lines = "".join(f"<dt><kbd>{key}</kbd></dt><dd>{what}</dd>" for key, what in keys)
        st.html(f'<dl class="facts keys">{lines}</dl>')
