"""One auto-interp run: its numbers, the spread of its scores, and its table.

In:  a Shell, the run's folder name, the view in the address. Out: the panel; a click on a row opens
     the feature.
"""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import streamlit as st

from data import runs_store
from data.runs_store import RunRow, RunSummary
from ui import cards
from ui.figures import scores
from ui.keys import autointerp as keys
from ui.keys.autointerp import RunView
from ui.shell import Shell, set_address

PAGE = "autointerp"
# Column of the table -> (heading, what a click on the heading sorts by)
COLUMNS = {"feature": ("Feature", "feature"), "label": ("Label", "label"),
           "score": ("Score", "score"), "rests": ("Rests on", None),
           "reason": ("Why not", None)}  # fmt: skip


def show(shell: Shell, run: str, view: RunView, store_content: str | None) -> None:
    path = shell.workspace.run(run) / "results.duckdb"
    told = runs_store.summary(shell.root, path)
    made_from = told.meta.get("store_content")
    if store_content is not None and made_from not in (None, store_content):
        st.warning("This run explains an older harvest: its labels may not fit the features that "
                   "are shown now. Explain again.")  # fmt: skip
    _numbers(told)
    left, right = st.columns([1, 1.9], gap="large")
    with left:
        st.caption("How well the labels predict held-back activations")
        figure = scores.score_histogram(runs_store.scores_of(shell.root, path))
        if figure is None:
            st.caption("No scores yet: start Explain and score.")
        else:
            st.plotly_chart(figure, key=f"autointerp.scores.{run}",
                            config={"displayModeBar": False})  # fmt: skip
        st.caption(_method(told))
    with right:
        _table(shell, path, view)


def _numbers(told: RunSummary) -> None:
    columns = st.columns(4)
    columns[0].metric("Judge", _judge(told), border=True,
                      help="Who wrote the labels.")  # fmt: skip
    columns[1].metric("Labelled", f"{told.explained:,}", border=True,
                      help=f"{told.not_explained:,} features have no label: the judge failed, or "
                      "there was no text to go by.")  # fmt: skip
    columns[2].metric("Scored", f"{told.scored:,}", border=True,
                      help=f"{told.not_scored:,} could not be scored. A failure never counts as "
                      "a zero.")  # fmt: skip
    spread = None if told.median is None else f"{told.median:.2f} [{told.q25:.2f}, {told.q75:.2f}]"
    columns[3].metric("Median score", spread or "–", border=True,
                      help="Median over features, with the quarter below and above. 1 is perfect, "
                      "0 is chance.")  # fmt: skip


def _judge(told: RunSummary) -> str:
    return "token lookup" if told.judge == "lexical" else told.judge or "unknown"


def _method(told: RunSummary) -> str:
    words = (
        "Pearson’s correlation of predicted and real activations, on documents of the score split, "
        "which the judge never saw; the interval is a bootstrap over documents."
    )
    if told.judge == "lexical":
        words += " This judge is a baseline that looks tokens up, not a language model."
    return words


def _table(shell: Shell, path, view: RunView) -> None:
    rows, count = runs_store.run_rows(
        shell.root, path, view.sort, view.descending, view.page, keys.PAGE_SIZE
    )
    pages = max(1, math.ceil(count / keys.PAGE_SIZE))
    st.caption(f"{count:,} features. Click a row to open one, a heading to sort.")
    _pager(shell, view, pages)
    if not rows:
        st.info("There is no such page." if count else "This run holds no feature.")
        return
    table = pd.DataFrame([_row(row) for row in rows], columns=list(COLUMNS))
    if table["reason"].isna().all():
        table = table.drop(columns="reason")
    column = st.column_config
    config = {}
    for name, (heading, sort) in COLUMNS.items():
        if sort == view.sort:
            heading += " ↓" if view.descending else " ↑"
        width = {"label": 290, "feature": 80, "score": 140, "rests": 120}.get(name)
        make = column.NumberColumn if name == "feature" else column.TextColumn
        config[name] = make(heading, width=width)
    event = st.dataframe(
        table,
        key=f"autointerp.table.{path.parent.name}.{view.sort}.{view.descending}.{view.page}",
        hide_index=True,
        height=420,
        row_height=32,
        placeholder="–",
        column_config=config,
        on_select="rerun",
        selection_mode=["single-cell", "single-column"],
    )
    if event.selection.columns:
        sort = COLUMNS[event.selection.columns[0]][1]
        if sort is not None:
            down = not view.descending if sort == view.sort else True
            go(shell, dataclasses.replace(view, sort=sort, descending=down, page=1))
            st.rerun()
    if event.selection.cells:
        row, _ = event.selection.cells[0]
        shell.go("feature", {"f": str(rows[row].feature)})


def _row(row: RunRow) -> tuple:
    rests = None if not row.n_documents else f"{row.n_documents} documents"
    score = cards.interval(row.score, row.low, row.high)
    return row.feature, row.label, score, rests, row.reason


def _pager(shell: Shell, view: RunView, pages: int) -> None:
    if pages < 2:
        return
    here = min(view.page, pages)
    key = f"autointerp.page.{here}"

    def turn() -> None:
        go(shell, dataclasses.replace(view, page=st.session_state[key]))

    st.pagination(pages, default=here, key=key, on_change=turn, width="stretch")


def go(shell: Shell, view: RunView) -> None:
    """Writes the view into the address."""
    set_address(PAGE, shell.sae, keys.write_view(view))
