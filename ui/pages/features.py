"""Features: every feature of the SAE in a table that filters, sorts and pages in SQL.

In:  the feature store and the filter in the address. Out: the page; a click opens a feature.
"""

from __future__ import annotations

import dataclasses
import math
import time

import pandas as pd
import streamlit as st

from data.errors import WorkbenchError
from data.features_store import FeatureStore
from data.records import FeatureFilter, FeatureRow
from ui.cards import interval, percent
from ui.keys import features as keys
from ui.shell import Shell, address, not_yet, set_address, show_error
from ui.strips import token_text

PAGE = "features"
NEEDS_SAE = True
# Column of the table -> (heading, column the click on its heading sorts by, tooltip)
COLUMNS = {
    "feature": ("feature", "feature", "Number of the feature."),
    "label": ("label", "label", "What a judge says the feature stands for."),
    "density": ("density", "density", "Share of tokens on which the feature is active."),
    "fires": ("fires", "fires", "Tokens on which the feature is active."),
    "max": ("max", "max", "Largest activation in the corpus."),
    "mean": ("mean", "mean", "Mean of the non-zero activations."),
    "theta": ("θ", "theta", "Threshold: pre-activations below it are silenced."),
    "score": ("score", "score", "How well the label predicts held-back activations: correlation "
              "with its 95 % interval."),
    "peak_token": ("peak token", "peak_share", "Commonest token among sampled active positions, "
                   "and its share."),
    "top_logit_token": ("top logit", "top_logit_token", "Token the feature promotes most."),
}  # fmt: skip
STEPS = [factor * 10.0**power for power in range(-6, 0) for factor in (1, 2, 5)]


def page(shell: Shell) -> None:
    st.title("Features")
    if not shell.harvested:
        not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
        return
    store = shell.store()
    params = address(PAGE, shell.sae, keys.FILTER_KEYS)
    try:
        current = keys.read_filter(params)
    except WorkbenchError as error:
        show_error(error)
        st.button("Clear the filter", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    _bar(shell, store, current)
    rows, count = store.rows(current)
    left, right, _ = st.columns(
        [1.3, 1, 0.3], vertical_alignment="center"
    )  # room for the table's tools
    with left:
        _status(store, current, count)
    with right:
        _pager(shell, current, count, "above")
    if not rows:
        st.info("No feature fits this filter." if count == 0 else "There is no such page.")
        return
    _table(shell, current, rows)
    _pager(shell, current, count, "below")


def _pager(shell: Shell, current: FeatureFilter, count: int, place: str) -> None:
    """Page numbers, above and below the table."""
    pages = math.ceil(count / current.page_size)
    if pages < 2:
        return
    here = min(current.page, pages)
    key = f"features.page.{place}.{here}"

    def turn() -> None:
        _go(shell, dataclasses.replace(current, page=st.session_state[key]))

    st.pagination(pages, default=here, key=key, on_change=turn, width="stretch")


def _go(shell: Shell, filter: FeatureFilter) -> None:
    set_address(PAGE, shell.sae, keys.write_filter(filter))


def _bar(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    """The filter bar. Widgets are filled from the address and write to it when they change."""
    state = st.session_state
    low = 0.0 if current.density_min is None else current.density_min
    high = 1.0 if current.density_max is None else current.density_max
    steps = sorted({0.0, *STEPS, 1.0, low, high})
    fill = {
        "q": current.text if current.feature is None else f"#{current.feature} {current.text}",
        "max": current.max_min,
        "score": current.score_min,
        "alive": {None: None, True: "alive", False: "dead"}[current.alive],
        "sort": current.sort,
        "dir": "descending" if current.descending else "ascending",
        "size": current.page_size,
    }
    for key, value in fill.items():
        state[f"features.{key}"] = value.strip() if isinstance(value, str) else value
    more = {"on_change": _changed, "args": (shell, current)}
    with st.container(border=True):
        row = st.columns([2.6, 3, 1.3, 1.3, 1.7], gap="medium", vertical_alignment="top")
        row[0].text_input(
            "Label or token", key="features.q", placeholder="text, or #12 for feature 12",
            help="In the label or the peak token. `#12` finds feature 12.", **more,
        )  # fmt: skip
        slider = f"features.density.{low}.{high}"  # a range is no range without its value
        row[1].select_slider(
            "Density", steps, (low, high), key=slider, format_func=percent, on_change=_changed,
            args=(shell, current, slider), help="Share of tokens on which a feature is active.",
        )  # fmt: skip
        row[2].number_input(
            "Max at least", min_value=0.0, value=None, key="features.max", format="%g",
            placeholder="any", help="Largest activation in the corpus.", **more,
        )  # fmt: skip
        row[3].number_input(
            "Score at least", -1.0, 1.0, None, step=0.1, key="features.score", format="%g",
            placeholder="any", help="Correlation of predicted and real activations; features "
            "without a score are left out.", **more,
        )  # fmt: skip
        row[4].segmented_control("Show", ["alive", "dead"], key="features.alive", **more)
        row = st.columns([2.6, 2, 1, 2.3], gap="medium", vertical_alignment="bottom")
        row[0].selectbox("Sort by", keys.SORTS, key="features.sort", format_func=_heading, **more)
        row[1].segmented_control(
            "Direction", ["ascending", "descending"], key="features.dir", required=True, **more
        )
        row[2].selectbox("Rows", keys.PAGE_SIZES, key="features.size", **more)
        with row[3].container(horizontal=True, horizontal_alignment="right"):
            st.button("Clear", on_click=_go, args=(shell, FeatureFilter()), help="Clear the filter")
            if st.button("Random feature", help="Any feature that fires"):
                chosen = store.random_feature(time.time_ns())
                shell.go("feature", {"f": str(chosen), **keys.write_filter(current)})


def _heading(sort: str) -> str:
    return COLUMNS[sort][0] if sort in COLUMNS else sort.replace("_", " ")


def _changed(shell: Shell, current: FeatureFilter, slider: str | None = None) -> None:
    """Reads the widgets, writes the address; a changed filter starts at its first page.

    slider: key of the density slider if that is what moved.
    """
    names = ("q", "max", "score", "alive", "sort", "dir", "size")
    state = {name: st.session_state[f"features.{name}"] for name in names}
    feature, text = keys.search_words(state["q"])
    changed = dataclasses.replace(
        current,
        text=text,
        feature=feature,
        max_min=state["max"],
        score_min=state["score"],
        alive={None: None, "alive": True, "dead": False}[state["alive"]],
        sort=state["sort"],
        descending=state["dir"] == "descending",
        page_size=state["size"],
        page=1,
    )
    if slider is not None:
        low, high = st.session_state[slider]
        low, high = (low if low > 0 else None), (high if high < 1 else None)
        changed = dataclasses.replace(changed, density_min=low, density_max=high)
    _go(shell, changed)


def _status(store: FeatureStore, current: FeatureFilter, count: int) -> None:
    first = (current.page - 1) * current.page_size + 1
    last = min(count, current.page * current.page_size)
    shown = f", {first:,} to {last:,} shown" if 1 <= first <= last < count or first > 1 else ""
    st.caption(
        f"**{count:,}** of {store.n_features:,} features{shown}. "
        "Click a row to open it, a heading to sort by it."
    )


def _table(shell: Shell, current: FeatureFilter, rows: list[FeatureRow]) -> None:
    """At most 100 rows. A click on a cell opens its feature, one on a heading sorts in SQL."""
    table = pd.DataFrame(
        {
            "feature": [row.feature for row in rows],
            "label": [row.label for row in rows],
            "density": [percent(row.density) for row in rows],
            "fires": [row.fires for row in rows],
            "max": [row.max for row in rows],
            "mean": [row.mean for row in rows],
            "theta": [row.theta for row in rows],
            "score": [interval(row.score, row.score_low, row.score_high) for row in rows],
            "peak_token": [_peak(row) for row in rows],
            "top_logit_token": [_token(row.top_logit_token) for row in rows],
        }
    )
    column = st.column_config
    numbers = {
        "fires": "localized",
        "max": "%.3g",
        "mean": "%.3g",
        "theta": "%.3g",
        "feature": "%d",
    }
    config = {}
    for name, (heading, sort, help) in COLUMNS.items():
        if sort == current.sort:
            heading += " ↓" if current.descending else " ↑"
        if name in numbers:
            config[name] = column.NumberColumn(heading, help=help, format=numbers[name])
        else:
            width = "large" if name == "label" else None
            config[name] = column.TextColumn(heading, help=help, width=width)
    event = st.dataframe(
        table,
        key=f"features.table.{current.sort}.{current.descending}.{current.page}",
        hide_index=True,
        height="content",
        row_height=32,
        placeholder="–",
        column_config=config,
        on_select="rerun",
        selection_mode=["single-cell", "single-column"],
    )
    picked = event.selection
    if picked.columns:
        sort = COLUMNS[picked.columns[0]][1]
        down = not current.descending if sort == current.sort else True
        _go(shell, dataclasses.replace(current, sort=sort, descending=down, page=1))
        st.rerun()
    if picked.cells:
        row, _ = picked.cells[0]
        shell.go("feature", {"f": str(rows[row].feature), **keys.write_filter(current)})


def _token(raw: bytes | None) -> str | None:
    return None if raw is None else token_text(raw)


def _peak(row: FeatureRow) -> str | None:
    if row.peak_token is None or row.peak_share is None:
        return _token(row.peak_token)
    return f"{100 * row.peak_share:.0f} %  {token_text(row.peak_token)}"
