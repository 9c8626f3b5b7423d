"""A run's table of features: sorted and cut in the store, a click opens a feature or its prompts.

In:  a Shell, the path of a run's results, the view in the address, a method. Out: the panel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from data import autointerp_page_store as page_store
from ui import cards
from ui.keys import autointerp as keys
from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_go import go
from ui.shell import Shell

# Column of the table -> (heading, what a click on the heading sorts by, width)
COLUMNS = {
    "feature": ("Feature", "feature", 74), "label": ("Explanation", "label", 330),
    "score": ("Score", "score", 132), "lift": ("Lift", "lift", 64),
    "rests": ("n", "failed", 70), "failed": ("Failed", "failed", 66),
    "calls": ("Asked", None, 66), "reason": ("Why not", None, 240),
}  # fmt: skip


def show(shell: Shell, path: Path, view: RunView, method: str, arms: Sequence[str]) -> None:
    rows, count = page_store.page_rows(
        shell.root, path, method, "lexical", view.sort, view.descending, view.page,
        keys.PAGE_SIZE, view.only,
    )  # fmt: skip
    _filter(shell, view)
    pages = max(1, math.ceil(count / keys.PAGE_SIZE))
    st.caption(f"{count:,} features. Click a row to open its feature, “show” to see what was "
               "asked, a heading to sort.")  # fmt: skip
    _pager(shell, view, pages)
    if not rows:
        st.info("There is no such page." if count else "No feature of this run is like that.")
        return
    names = [n for n in COLUMNS if n != "lift" or "lexical" in arms]
    table = pd.DataFrame([_row(row) for row in rows], columns=list(COLUMNS))[names]
    if table["reason"].isna().all():
        table = table.drop(columns="reason")
    event = st.dataframe(
        table,
        key=f"autointerp.table.{path.parent.name}.{method}.{view.sort}.{view.descending}"
        f".{view.only}.{view.page}",
        hide_index=True,
        height=430,
        row_height=32,
        placeholder="–",
        column_config=_config(view),
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
        row, column = event.selection.cells[0]
        feature = rows[row].feature
        if column == "calls":
            go(shell, dataclasses.replace(view, part="calls", feature=feature, method=method,
                                          arm="own", call=1))  # fmt: skip
            st.rerun()
        shell.go("feature", {"f": str(feature), "panel": "predicted"})


def _filter(shell: Shell, view: RunView) -> None:
    key = "autointerp.only"
    st.session_state[key] = view.only or None

    def choose() -> None:
        go(shell, dataclasses.replace(view, only=st.session_state[key] or "", page=1))

    about = " ".join(f"{words.STATUSES[s]}: {text}" for s, text in words.STATUS_HELP.items())
    st.pills("Show only", keys.STATUSES, key=key, on_change=choose,
             format_func=words.STATUSES.get, help=about)  # fmt: skip


def _config(view: RunView) -> dict:
    column, config = st.column_config, {}
    for name, (heading, sort, width) in COLUMNS.items():
        if sort == view.sort and name != "rests":
            heading += " ↓" if view.descending else " ↑"
        numeric = name in ("feature", "lift", "failed")
        make = column.NumberColumn if numeric else column.TextColumn
        more = {"format": "%+.2f"} if name == "lift" else {}
        about = {
            "lift": "Over token lookup on the same windows; a constant prediction counts as 0.",
            "rests": "Windows answered, of those wanted.", "failed": "Windows without an answer.",
            "calls": "Prompts and replies of this feature.",
        }.get(name)  # fmt: skip
        config[name] = make(heading, width=width, help=about, **more)
    return config


def _row(row: page_store.PageRow) -> tuple:
    """What the table shows of a feature; absent numbers stay absent."""
    score = cards.interval(row.value, row.low, row.high)
    rests = None if row.n_ok is None else f"{row.n_ok}/{row.wanted or row.n}"
    why = None
    if row.status != "ok":
        why = f"{words.STATUSES.get(row.status, row.status)}: {row.reason}".removesuffix(": ")
    return row.feature, row.label, score, row.lift, rests, row.failed, "show", why


def _pager(shell: Shell, view: RunView, pages: int) -> None:
    if pages < 2:
        return
    here = min(view.page, pages)
    key = f"autointerp.page.{here}"

    def turn() -> None:
        go(shell, dataclasses.replace(view, page=st.session_state[key]))

    st.pagination(pages, default=here, key=key, on_change=turn, width="stretch")
