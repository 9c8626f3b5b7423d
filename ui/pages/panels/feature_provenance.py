"""Where the page's numbers come from. In: the store's meta. Out: a list of names and values."""

from __future__ import annotations

import streamlit as st

from ui import cards
from ui.pages.panels.feature_case import Case

NAMES = (
    "sae model lm_weights site text text_field dtype context rule masks tokens documents d_in "
    "d_sae weights_sha256 tokenizer activations examples seed code versions wall_s content_hash "
    "schema"
).split()


def show(case: Case) -> None:
    st.markdown("##### Provenance")
    rows = [(name.replace("_", " "), say(case.meta.get(name))) for name in NAMES]
    st.html(f'<div class="from">{cards.facts([("feature", str(case.feature)), *rows])}</div>')
    st.caption(f"To compute the store again and compare: `python run.py verify {case.shell.sae}`")


def say(value: object) -> str | None:
    """A value of the meta as people read it; None if it is absent."""
    if value is None:
        return None
    if isinstance(value, dict):
        return ", ".join(f"{key} {say(item) or '–'}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
