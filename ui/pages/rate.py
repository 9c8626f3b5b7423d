"""Rate: to be written."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "rate"
NEEDS_SAE = False


def page(shell: Shell) -> None:
    st.title("Rate")
