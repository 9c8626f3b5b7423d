"""Data and settings: to be written."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "settings"
NEEDS_SAE = False


def page(shell: Shell) -> None:
    st.title("Data and settings")
