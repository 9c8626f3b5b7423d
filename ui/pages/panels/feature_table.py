"""The table of the feature list: at most 100 rows, the columns its reader chose.

In:  the rows of one page, what people wrote about them, the filter in the address. Out: the table;
     a click on a row opens its feature, one on a heading sorts the whole list in the store.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from data.features_store import FeatureStore
from data.records import FeatureFilter, FeatureRow, Mark
from ui.cards import interval
from ui.keys import features as keys
from ui.pages.panels.filter_bar import go
from ui.shell import Shell
from ui.strips import token_text

USUAL = (
    "feature", "bookmarked", "label", "tags", "density", "max", "score", "peak_token",
    "top_logit_token", "flags",
)  # fmt: skip
# Column -> (heading, tooltip); the others are headed by their names.
HEADINGS = {
    "feature": ("feature", "Number of the feature."),
    "bookmarked": ("★", "Bookmarked by somebody of the team."),
    "label": ("label", "What a judge says the feature stands for; ✎ a person’s own words."),
    "tags": ("tags", "Given by people."),
    "density": ("density", "Share of tokens on which the feature is active."),
    "fires": ("fires", "Tokens on which the feature is active."),
    "max": ("max", "Largest activation in the corpus."),
    "mean": ("mean", "Mean of the non-zero activations."),
    "sd": ("sd", "Standard deviation of the non-zero activations."),
    "skew": ("skew", "Skewness of the non-zero activations."),
    "kurtosis": ("kurtosis", "Excess kurtosis of the non-zero activations."),
    "q50": ("median", "Median of the non-zero activations."),
    "theta": ("θ", "Threshold: pre-activations below it are silenced."),
    "score": ("score", "How well the label predicts held-back activations: correlation with its "
              "95 % interval."),
    "peak_token": ("peak token", "Token it fires on most often, with its share of the fires."),
    "top_logit_token": ("promotes", "Token whose logit the feature raises most."),
    "outlier_share": ("outlier share", "Share of its fires on tokens of unusual norm."),
    "total": ("sum", "Sum of its activations."),
    "total_squares": ("sum of squares", "Sum of its squared activations."),
    "flags": ("flags", "What is remarkable about the feature."),
}  # fmt: skip
SHARES = {"density", "peak_share", "outlier_share"}
WHOLE = {"fires", "first_doc", "last_doc"}
TEXTS = {"label", "tags", "peak_token", "top_logit_token"}  # rise when first sorted by
FLAG_FIELDS = ("dead", *keys.FLAG_WORDS)


def heading(column: str) -> str:
    return HEADINGS[column][0] if column in HEADINGS else column.replace("_", " ")


def show(shell: Shell, store: FeatureStore, current: FeatureFilter, rows: list[FeatureRow]) -> None:
    columns = current.columns or USUAL
    marks = store.marks_of([row.feature for row in rows])
    table = pd.DataFrame({name: _values(name, rows, marks) for name in columns})
    event = st.dataframe(
        table,
        key=f"features.table.{current.sort}.{current.descending}.{current.page}",
        hide_index=True,
        height="content",
        row_height=32,
        placeholder="–",
        column_config={name: _column(name, current) for name in columns},
        on_select="rerun",
        selection_mode=["single-cell", "single-column"],
        alt="The features of this page of the list",
    )
    picked = event.selection
    if picked.columns and picked.columns[0] in keys.SORTS:
        name = picked.columns[0]
        down = not current.descending if name == current.sort else name not in TEXTS
        go(shell, replace(current, sort=name, descending=down, page=1))
        st.rerun()
    if picked.cells:
        row, _ = picked.cells[0]
        shell.go("feature", {"f": str(rows[row].feature), **keys.write_filter(current)})


def pager(shell: Shell, current: FeatureFilter, count: int, place: str) -> None:
    """Page numbers, above and below the table."""
    pages = math.ceil(count / current.page_size)
    if pages < 2:
        return
    here = min(current.page, pages)
    key = f"features.page.{place}.{here}"

    def turn() -> None:
        go(shell, replace(current, page=st.session_state[key]))

    st.pagination(pages, default=here, key=key, on_change=turn, width="stretch")


def view(shell: Shell, current: FeatureFilter) -> None:
    """Which columns, in which order, and how many rows a page: a popover."""
    state = st.session_state
    state["features.sort"] = current.sort
    state["features.dir"] = "falling" if current.descending else "rising"
    state["features.size"] = current.page_size
    state["features.columns"] = list(current.columns or USUAL)

    def change() -> None:
        chosen = tuple(state["features.columns"])
        changed = replace(
            current,
            sort=state["features.sort"],
            descending=state["features.dir"] == "falling",
            page_size=state["features.size"],
            columns=() if chosen in ((), USUAL) else chosen,
            page=1,
        )
        go(shell, changed)

    with (
        st.popover("View", icon=":material/view_column:"),
        st.container(width=400),
    ):
        st.multiselect(
            "Columns", keys.COLUMNS, key="features.columns", format_func=heading, on_change=change,
            help="Shown in this order; without any the usual ones.",
        )  # fmt: skip
        left, right = st.columns([2, 1])
        left.selectbox(
            "Sort by", keys.SORTS, key="features.sort", format_func=heading, on_change=change
        )
        right.selectbox("Rows", keys.PAGE_SIZES, key="features.size", on_change=change)
        st.segmented_control(
            "Direction", ["rising", "falling"], key="features.dir", required=True, on_change=change
        )
        st.button(
            "Usual columns", disabled=not current.columns, on_click=go,
            args=(shell, replace(current, columns=())),
        )  # fmt: skip


def _column(name: str, current: FeatureFilter) -> Any:
    column, title = st.column_config, heading(name)
    if name == current.sort:
        title += " ↓" if current.descending else " ↑"
    help = HEADINGS[name][1] if name in HEADINGS else None
    if name in ("tags", "flags"):
        return column.ListColumn(title, help=help, width=100 if name == "tags" else 150)
    if name in TEXTS or name in ("bookmarked", "score"):
        width = {"label": 230, "bookmarked": 40, "top_logit_token": 85, "peak_token": 115}.get(name)
        return column.TextColumn(title, help=help, width=width)
    if name in FLAG_FIELDS:
        return column.CheckboxColumn(title, help=help)
    shape = "%.3g %%" if name in SHARES else "localized" if name in WHOLE else "%.3g"
    return column.NumberColumn(title, help=help, format="%d" if name == "feature" else shape)


def _values(name: str, rows: list[FeatureRow], marks: dict[int, Mark]) -> list:
    """One column of the table; what is absent is None, which shows as a dash."""
    nothing = Mark("", 0)
    written = [marks.get(row.feature, nothing) for row in rows]
    if name == "bookmarked":
        return ["★" if mark.bookmarked else "" for mark in written]
    if name == "tags":
        return [list(mark.tags) for mark in written]
    if name == "label":
        return [
            f"✎ {mark.label}" if mark.label else row.label
            for row, mark in zip(rows, written, strict=True)
        ]
    if name == "flags":
        return [_flags(row) for row in rows]
    if name == "score":
        return [interval(row.score, row.score_low, row.score_high) for row in rows]
    if name == "peak_token":
        return [_peak(row) for row in rows]
    if name == "top_logit_token":
        return [_token(row.top_logit_token) for row in rows]
    values = [getattr(row, name) for row in rows]
    if name in SHARES:
        return [None if value is None else 100 * value for value in values]
    return values


def _flags(row: FeatureRow) -> list[str]:
    if row.dead:
        return ["dead"]
    found = [said for flag, said in keys.FLAG_WORDS.items() if getattr(row, flag)]
    weaker = keys.FLAG_WORDS["dense_1"]
    return [said for said in found if not (row.dense_10 and said == weaker)]


def _token(raw: bytes | None) -> str | None:
    return None if raw is None else token_text(raw)


def _peak(row: FeatureRow) -> str | None:
    if row.peak_token is None or row.peak_share is None:
        return _token(row.peak_token)
    return f"{100 * row.peak_share:.0f} %  {token_text(row.peak_token)}"
