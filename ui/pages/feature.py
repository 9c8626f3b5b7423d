"""Feature: one feature of the SAE, from its statistics to the text it fires on.

In:  the feature store, the feature number and the options in the address. Out: the page: head,
     label, distribution, logits, examples, and of the other panels the one that is asked for.
"""

from __future__ import annotations

import dataclasses

import streamlit as st

from data.errors import WorkbenchError
from ui.keys import feature as keys
from ui.keys import features as filters
from ui.pages.panels import (
    feature_causal,
    feature_distribution,
    feature_examples,
    feature_header,
    feature_label,
    feature_logits,
    feature_neighbours,
    feature_predicted,
    feature_provenance,
    feature_steer,
    feature_test,
)
from ui.pages.panels.feature_case import PAGE, Case, go
from ui.shell import Shell, address, not_yet, show_error

NEEDS_SAE = True
PANELS = {
    "causal": ("Causal effect", feature_causal),
    "neighbours": ("Neighbours", feature_neighbours),
    "predicted": ("Predicted and real", feature_predicted),
    "test": ("Test a text", feature_test),
    "steer": ("Steer", feature_steer),
    "provenance": ("Provenance", feature_provenance),
}


def page(shell: Shell) -> None:
    if not shell.harvested:
        st.title("Feature")
        not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
        return
    try:
        case = _case(shell)
    except WorkbenchError as error:
        st.title("Feature")
        show_error(error)
        if st.button("Open the feature list"):
            shell.go("features", {})
        return
    feature_header.show(case)
    feature_label.show(case)
    feature_distribution.numbers(case)
    left, middle, right = st.columns([1, 1, 1.15], gap="large")
    with left:
        feature_distribution.show(case)
    with middle:
        feature_distribution.threshold(case)
    with right:
        feature_logits.show(case)
    feature_examples.show(case)
    _more(case)


def _case(shell: Shell) -> Case:
    """What the address asks for; without a feature in it one is drawn, the same each time."""
    store = shell.store()
    params = address(PAGE, shell.sae, (*keys.VIEW_KEYS, *filters.FILTER_KEYS))
    view, within = keys.read_view(params), filters.read_filter(params)
    if view.feature is None:
        view = dataclasses.replace(view, feature=store.random_feature(0))
        go(shell, view, within)
    return Case(shell, store, view, within, store.feature(view.feature))


def _more(case: Case) -> None:
    """The panels that cost a query or the model: only the one asked for is drawn."""
    st.subheader("More about it", anchor="more")
    state = st.session_state
    state["feature.panel"] = case.view.panel
    st.segmented_control(
        "Panel", list(PANELS), key="feature.panel", required=True, label_visibility="collapsed",
        format_func=lambda name: PANELS[name][0],
        on_change=lambda: case.go(panel=state["feature.panel"]),
    )  # fmt: skip
    _, panel = PANELS[case.view.panel]
    try:
        panel.show(case)
    except WorkbenchError as error:
        show_error(error)
