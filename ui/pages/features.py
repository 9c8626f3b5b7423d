"""Features: every feature of the SAE in a table that filters, sorts and pages in the store.

In:  the feature store, the lab and the filter in the address. Out: the page; a click opens a
     feature. The address holds the whole state, so a list can be sent to somebody else.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import streamlit as st

from data.errors import StoreError, WorkbenchError
from data.features_store import FeatureStore
from data.records import FeatureFilter
from ui.keys import features as keys
from ui.pages.panels import (
    feature_actions,
    feature_scatter,
    feature_table,
    filter_bar,
    saved_filters,
)
from ui.shell import Shell, address, not_yet, set_address, show_error

PAGE = "features"
NEEDS_SAE = True


def page(shell: Shell) -> None:
    if not shell.harvested:
        _nothing_yet(shell)
        return
    params = address(PAGE, shell.sae, keys.FILTER_KEYS)
    try:
        current = keys.read_filter(params)
    except WorkbenchError as error:
        st.title("Features")
        show_error(error)
        st.button("Clear the filter", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    store = shell.store()
    head = st.container()
    filter_bar.show(shell, current, store.results is not None)
    try:
        with st.spinner("Reading the text of the examples; once for this SAE.", show_time=True):
            rows, count = store.rows(current)
    except StoreError as error:
        with head:
            st.title("Features")
        show_error(error)
        filter_bar.chips(shell, current)
        return
    with head:
        _head(shell, store, current, count)
    feature_actions.notice()
    filter_bar.chips(shell, current)
    _plot(shell, store, current)
    if not rows:
        _nothing_fits(shell, current, count)
        return
    left, right = st.columns([1, 1], vertical_alignment="center")
    with left:
        _status(store, current, count)
    with right:
        feature_table.pager(shell, current, count, "above")
    feature_table.show(shell, store, current, rows)
    feature_table.pager(shell, current, count, "below")


def _head(shell: Shell, store: FeatureStore, current: FeatureFilter, count: int) -> None:
    """The title, and what can be done with the list as a whole."""
    left, right = st.columns([1, 3], vertical_alignment="center")
    left.title("Features")
    with right.container(horizontal=True, horizontal_alignment="right"):
        saved_filters.show(shell, current)
        feature_table.view(shell, current)
        feature_actions.mark_all(shell, store, current, count)
        feature_actions.download(shell, store, current, count)
        if st.button(
            "Random feature", icon=":material/shuffle:", disabled=not count,
            help="Opens a feature of this list that fires",
        ):  # fmt: skip
            try:
                chosen = store.random_feature(time.time_ns(), current)
            except StoreError as error:
                show_error(error)
            else:
                shell.go("feature", {"f": str(chosen), **keys.write_filter(current)})


def _plot(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    with st.container(key="feature-scatter"):
        feature_scatter.show(shell, store, current)


def _status(store: FeatureStore, current: FeatureFilter, count: int) -> None:
    first = (current.page - 1) * current.page_size + 1
    last = min(count, current.page * current.page_size)
    shown = f", {first:,} to {last:,} shown" if 1 <= first <= last < count or first > 1 else ""
    st.caption(
        f"**{count:,}** of {store.n_features:,} features{shown}. "
        "Click a row to open it, a heading to sort by it."
    )


def _nothing_fits(shell: Shell, current: FeatureFilter, count: int) -> None:
    if count:
        pages = math.ceil(count / current.page_size)
        st.info(
            f"There is no page {current.page:,}: this list has {pages:,}."
            if pages > 1
            else f"There is no page {current.page:,}: this list has one."
        )
        first = replace(current, page=1)
        st.button("First page", on_click=filter_bar.go, args=(shell, first))
        return
    st.caption(f"**0** of {shell.store().n_features:,} features")
    st.info(
        "No feature fits this filter. Take a part of it away above, or widen a range."
        if keys.parts(current)
        else "This store holds no features."
    )


def _nothing_yet(shell: Shell) -> None:
    st.title("Features")
    st.write(
        "This page lists every feature of the SAE: filter them by how often and how strongly they "
        "fire, by their label, the tokens and the words they fire on; sort by any column; open one "
        "with a click."
    )
    not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
