"""Auto-interp: to be written."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "autointerp"
NEEDS_SAE = True


def page(shell: Shell) -> None:
    st.title("Auto-interp")
