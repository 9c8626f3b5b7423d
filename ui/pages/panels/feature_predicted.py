"""What the label predicts for each token, beside the real activations. Out: a panel."""

from __future__ import annotations

import streamlit as st

from ui.pages.panels.feature_case import Case


def show(case: Case) -> None:
    st.markdown("##### Predicted and real")
    st.caption(
        "No predictions token by token are kept of this feature: scores are kept as one number "
        "each. The score of its label stands at the top of the page."
    )
