"""Features of two SAEs matched: how well overall, pair by pair, and those only one of them has.

In:  names of two SAEs, what can be compared of them, neighbours files if there are any.
Out: the panels; a row opens the pair.
"""

from __future__ import annotations

import html
import math

import numpy as np
import streamlit as st

from data import compare_store
from data.compare_store import Matches
from data.errors import WorkbenchError
from interp.compare import Comparable
from ui import cards
from ui.figures import compare as figures
from ui.keys.compare import CompareView
from ui.pages.panels import compare_pair, compare_table
from ui.pages.panels.compare_side import go
from ui.pages.panels.compare_table import PairRow
from ui.shell import Shell, show_error

PAGE_SIZE = 25
ALONE = 12  # features listed that only one has
KINDS = {"decoder": "Decoder cosine", "correlation": "Correlation of activations"}


def show(shell: Shell, view: CompareView, can: Comparable) -> None:
    st.subheader("Matched features", anchor=False)
    if not can.directions:
        st.caption("Features of these two cannot be matched: see above.")
        return
    a, b = view.a.sae, view.b.sae
    unread = [name for name in (a, b) if not shell.named(name).harvested]
    if unread:
        st.caption(f"Matches are shown once both are harvested; {' and '.join(unread)} is not.")
        return
    try:
        stores = [compare_pair.between(shell, *names) for names in ((a, b), (b, a))]
        if None in stores:
            compare_pair.offer(shell, a, b, "Not computed: which features of one are in the other.")
            return
        _options(shell, view)
        if not all(view.kind in store.meta["kinds"] for store in stores):
            compare_pair.offer(shell, a, b, "They were compared by direction alone, without text: "
                               "correlations are not computed.")  # fmt: skip
            return
        there, back = (compare_store.matches(store, view.kind) for store in stores)
        living = [compare_store.alive(shell.named(name).store()) for name in (a, b)]
        _overall(view, there, back, living)
        _pairs(shell, view, there)
        _alone(shell, view, there, back, living)
    except WorkbenchError as error:
        show_error(error)


def _options(shell: Shell, view: CompareView) -> None:
    state = st.session_state
    state["compare.kind"], state["compare.below"] = view.kind, view.below

    def changed() -> None:
        go(shell, view, kind=state["compare.kind"], below=state["compare.below"], page=1)

    with st.container(horizontal=True, vertical_alignment="bottom", gap="large"):
        st.segmented_control(
            "Match by", list(KINDS), key="compare.kind", required=True, on_change=changed,
            format_func=KINDS.get,
            help="Decoder cosine: they write in the same direction. Correlation: they fire alike "
            "on a sample of tokens.",
        )  # fmt: skip
        low = min(0.0, view.below)
        st.slider(
            "A best match below this is none", low, 1.0, key="compare.below", step=0.01,
            on_change=changed, width=340,
        )  # fmt: skip


def _living(found: Matches, alive: np.ndarray) -> np.ndarray:
    """Which rows are of features that fire."""
    inside = found.feature < len(alive)
    inside[inside] = alive[found.feature[inside]]
    return inside


def _overall(view: CompareView, there: Matches, back: Matches, living: list) -> None:
    columns, facts = [], []
    names = (view.a.sae, view.b.sae)
    for found, alive, (one, other) in zip((there, back), living, (names, names[::-1]), strict=True):
        values = found.value[_living(found, alive)]
        columns.append((f"{one} → {other}", values))
        total = int(alive.sum())
        share = None if not total else float((values >= view.below).sum()) / total
        facts.append((f"{one} in {other}", f"{cards.percent(share)} of {total:,} that fire"))
        if len(values) < total:
            facts.append((f"{one}: too rare to tell", f"{total - len(values):,}"))
    left, right = st.columns([1, 1.6], gap="large", vertical_alignment="center")
    with left:
        st.html(f'<p class="about">Features with a match of at least {view.below:g}:</p>'
                + cards.facts(facts))  # fmt: skip
    with right:
        figure = figures.best_matches(columns, f"best {KINDS[view.kind].lower()}", view.below)
        st.plotly_chart(figure, key="compare.best", config={"displayModeBar": False})


def _pairs(shell: Shell, view: CompareView, found: Matches) -> None:
    n = len(found.feature)
    if not n:
        st.caption("No feature has a match.")
        return
    pages = math.ceil(n / PAGE_SIZE)
    here = min(view.page, pages)
    if view.page > pages:
        st.error(f"There is no page {view.page}: the matches have 1 to {pages}.")
    part = slice((here - 1) * PAGE_SIZE, here * PAGE_SIZE)
    by_r = view.kind == "correlation"
    rows = [
        PairRow(int(f), int(g), float(value), None if by_r else float(r))
        for f, g, value, r in zip(
            found.feature[part], found.other[part], found.value[part], found.r[part], strict=True
        )
    ]
    names = (view.a.sae, view.b.sae)
    st.html(compare_table.pairs(shell, names, rows, "r" if by_r else "cosine", view.kind))
    key = f"compare.page.{here}"
    if pages > 1:
        st.pagination(
            pages, default=here, key=key, width="stretch",
            on_change=lambda: go(shell, view, page=st.session_state[key]),
        )  # fmt: skip
    st.caption(f"{n:,} features of {view.a.sae}, the closest first.")


def _alone(shell: Shell, view: CompareView, there: Matches, back: Matches, living: list) -> None:
    st.subheader(
        "Only one of them has", anchor=False,
        help="Features that fire and whose best match in the other SAE is below the limit.",
    )  # fmt: skip
    names = (view.a.sae, view.b.sae)
    for column, found, alive, (one, other), flip in zip(
        st.columns(2, gap="large"), (there, back), living, (names, names[::-1]), (False, True),
        strict=True,
    ):  # fmt: skip
        alone = np.flatnonzero(_living(found, alive) & (found.value < view.below))[::-1]
        with column:
            whose, where = html.escape(one), html.escape(other)
            st.html(
                f'<p class="about"><b>{len(alone):,}</b> features of {whose} have no match in '
                f"{where}</p>"
            )
            rows = [
                PairRow(*pair[:: -1 if flip else 1], float(found.value[at]))
                for at in alone[:ALONE]
                for pair in [(int(found.feature[at]), int(found.other[at]))]
            ]
            if rows:
                st.html(compare_table.alone(shell, names, rows, view.kind, flip))
            if len(alone) > ALONE:
                st.caption(f"The {ALONE} least like any are shown.")
