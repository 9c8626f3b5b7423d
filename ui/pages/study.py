"""Study results: what ratings of people say, and how far raters agree."""

from __future__ import annotations

import streamlit as st

from ui.shell import Shell

PAGE = "study"
NEEDS_SAE = False


def page(shell: Shell) -> None:
    st.title("Study results")
    st.write(
        "Here the ratings of a study are put together: how far raters agree, how they did on the "
        "controls, and whether automatic scores say the same as people."
    )
    st.info("There is no study in this workspace, so there are no results.")
