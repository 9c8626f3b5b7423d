"""Rate: where people judge explanations without knowing where they come from."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "rate"
NEEDS_SAE = False


def page(shell: Shell) -> None:
    st.title("Rate")
    st.write(
        "Here people rate how well a label fits a feature, without seeing which SAE, feature or "
        "judge it came from. Repeated items and planted controls show how far the ratings can be "
        "trusted."
    )
    st.info("There is no study in this workspace, so there is nothing to rate.")
