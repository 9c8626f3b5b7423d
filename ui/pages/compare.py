"""Compare: to be written."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "compare"
NEEDS_SAE = True


def page(shell: Shell) -> None:
    st.title("Compare")
