"""What a feature does to the next token: which logits it raises and lowers, and how unevenly.

In:  a `Case`. Out: the panel. Through the final norm's own scale, or the unembedding alone: the
     address says which.
"""

from __future__ import annotations

import streamlit as st

from ui import cards
from ui.figures.histogram import draw
from ui.figures.logits import logit_chart
from ui.pages.panels.feature_case import Case
from ui.pages.panels.feature_distribution import panel

TITLE = "Effect on the next token"
SHOWN = 10
NORM = (
    "On: one unit of activation through the final norm’s learned scale and the unembedding. Off: "
    "through the unembedding alone. The norm’s division by the size of the stream is in neither, "
    "so compare tokens with each other, not sizes across models."
)


def show(case: Case) -> None:
    effect = case.store.logits(case.feature, case.view.scaled)
    if effect is None:
        about = "This site does not write to the residual stream, so there is nothing to read off."
        st.html(panel(TITLE, '<p class="none">Not computed.</p>', about))
        return
    tokens = case.store.token_bytes([*effect.top_ids, *effect.bottom_ids])
    tables = []
    for title, ids, values, up in (
        ("raises", effect.top_ids, effect.top_logits, True),
        ("lowers", effect.bottom_ids, effect.bottom_logits, False),
    ):
        pairs = list(zip(ids, values, strict=True))[:SHOWN]
        rows = [(tokens[token][0], value) for token, value in pairs if token in tokens]
        tables.append(cards.logit_table(title, rows, up))
    about = (
        f"All {sum(effect.counts):,} tokens: sd {effect.sd:.2g}, skew {effect.skew:.2g}, kurtosis "
        f"{effect.kurtosis:.2g}. A few tokens far out make the last two large."
    )
    body = f'<div class="pair">{"".join(tables)}</div>{draw(logit_chart(effect), 64)}'
    st.html(panel(TITLE, body, about))
    st.session_state["feature.norm"] = case.view.scaled
    st.toggle(
        "With the final norm’s scale", key="feature.norm", help=NORM,
        on_change=lambda: case.go(scaled=st.session_state["feature.norm"]),
    )  # fmt: skip
