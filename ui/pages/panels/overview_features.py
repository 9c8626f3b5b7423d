"""How often features fire, and how many at once. In: the feature store. Out: two figures."""

from __future__ import annotations

import streamlit as st

from data.errors import StoreError
from ui import cards
from ui.figures import densities, sparsity
from ui.pages.panels.job_actions import shown
from ui.shell import Shell, not_yet, plain


def show(shell: Shell, wanted: float | None, told: bool) -> None:
    """told: whether the page has said already what is wrong with the store."""
    st.subheader("Features")
    if not shell.harvested:
        not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
        return
    try:
        store = shell.store()
        meta, (_, density, _) = store.meta, store.densities()
    except StoreError as error:
        if told:
            st.caption("Nothing can be shown until the features are harvested again.")
        else:
            st.error(plain(shown(shell, str(error))))
        return
    n = max(len(density), 1)
    shares = [
        ("alive", cards.percent(float((density > 0).sum()) / n)),
        ("dead", cards.percent(float((density == 0).sum()) / n)),
        ("fire on more than 1 % of tokens", cards.percent(float((density > 0.01).sum()) / n)),
        ("on more than 10 %", cards.percent(float((density > 0.1).sum()) / n)),
    ]
    words = ", ".join(f"**{value}** {name}" for name, value in shares)
    st.caption(f"Of {len(density):,} features over {meta.get('tokens', 0):,} tokens: {words}.")
    left, right = st.columns(2, gap="medium")
    with left:
        st.caption("How often features fire")
        st.plotly_chart(densities.density_histogram(density), key=f"overview.density.{shell.sae}",
                        config={"displayModeBar": False})  # fmt: skip
    with right:
        st.caption("How many features are active on a token")
        figure = sparsity.l0_histogram(meta.get("l0_counts") or [], wanted)
        if figure is None:
            st.caption("Not counted in this harvest.")
        else:
            st.plotly_chart(figure, key=f"overview.l0.{shell.sae}",
                            config={"displayModeBar": False})  # fmt: skip
