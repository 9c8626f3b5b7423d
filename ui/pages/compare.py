"""Compare: two features side by side, or two SAEs with the features they share.

In:  the two in the address, feature stores, neighbours files if there are any. Out: the page.
"""

from __future__ import annotations

import dataclasses
import html

import streamlit as st

from data.errors import WorkbenchError
from interp.compare import comparable
from ui.keys import compare as keys
from ui.keys.compare import CompareView, Side
from ui.pages.panels import (
    compare_examples,
    compare_numbers,
    compare_pair,
    compare_saes,
    compare_side,
)
from ui.pages.panels.compare_side import Subject, go, made, subject
from ui.shell import Shell, address, plain, set_address, show_error

PAGE = "compare"
NEEDS_SAE = True
MODES = {"feature": "Two features", "sae": "Two SAEs"}


def page(shell: Shell) -> None:
    st.title("Compare")
    params = address(PAGE, shell.sae, keys.COMPARE_KEYS)
    try:
        view = _whole(shell, keys.read_compare(params))
    except WorkbenchError as error:
        show_error(error)
        st.button("Start afresh", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    _mode(shell, view)
    if view.mode == "sae":
        _saes(shell, view)
    else:
        _features(shell, view)


def _whole(shell: Shell, view: CompareView) -> CompareView:
    """With the SAEs that the address leaves out; WorkbenchError for one that is not there."""
    names = shell.workspace.saes
    a = view.a if view.a.sae else Side(shell.sae, view.a.feature)
    b = view.b
    if not b.sae:
        others = [name for name in names if name != a.sae]
        b = Side(a.sae if view.mode == "feature" else (others or [""])[0], b.feature)
    for side in (a, b):
        if side.sae:
            shell.workspace.sae(side.sae)
    return dataclasses.replace(view, a=a, b=b)


def _mode(shell: Shell, view: CompareView) -> None:
    st.session_state["compare.mode"] = view.mode

    def changed() -> None:
        go(shell, view, mode=st.session_state["compare.mode"], page=1)

    st.segmented_control(
        "What to compare", list(MODES), key="compare.mode", required=True, on_change=changed,
        format_func=MODES.get, label_visibility="collapsed",
    )  # fmt: skip


# ---------------------------------------------------------------- two SAEs


def _saes(shell: Shell, view: CompareView) -> None:
    if len(shell.workspace.saes) < 2:
        st.info(
            "There is one SAE in this workspace. Train or import another to compare it with, on "
            "the Jobs page or with: `python run.py train --name NAME`"
        )
        return
    left, middle, right = st.columns([1, 0.22, 1], vertical_alignment="bottom")
    with left:
        compare_side.choose_sae(shell, view, "a")
    with right:
        compare_side.choose_sae(shell, view, "b")
    middle.button(
        "Swap", icon=":material/swap_horiz:", width="stretch", on_click=go, args=(shell, view),
        kwargs={"a": view.b, "b": view.a, "page": 1},
    )  # fmt: skip
    if view.a.sae == view.b.sae:
        st.info("This is the same SAE twice: choose another one for A or B.")
        return
    compare_saes.show(shell, view)


# ---------------------------------------------------------------- two features


def _features(shell: Shell, view: CompareView) -> None:
    for column, letter in zip(st.columns(2, gap="large"), "ab", strict=True):
        with column:
            compare_side.choose_feature(shell, view, letter)
    if view.a.feature is None or view.b.feature is None:
        _empty(shell, view)
        return
    found: list[Subject] = []
    for side in (view.a, view.b):
        try:
            found.append(subject(shell, side))
        except WorkbenchError as error:
            show_error(error)
    if len(found) < 2:
        return
    a, b = found
    compare_pair.ways(shell, view, a, b)
    for column, one, letter in zip(st.columns(2, gap="large"), found, "ab", strict=True):
        with column:
            compare_numbers.head(shell, one, letter)
    can = comparable(made(shell, a.sae), made(shell, b.sae)) if a.sae != b.sae else None
    for remark in () if can is None else can.remarks:
        st.html(f'<div class="remark">{html.escape(remark)}</div>')
    left, right = st.columns([1.1, 1], gap="large")
    with left:
        compare_numbers.statistics(a, b)
    with right:
        if can is None or can.directions:
            compare_pair.measures(shell, a, b)
        compare_numbers.histograms(a, b)
    compare_numbers.logits(a, b)
    compare_examples.show(shell, view, a, b)
    compare_examples.documents(view, a, b, _one_corpus(a, b))


def _one_corpus(a: Subject, b: Subject) -> bool:
    """Whether documents of one number are the same document."""
    metas = [one.store.meta for one in (a, b)]
    names = ("text", "documents", "tokens", "context")
    return all(metas[0].get(name) == metas[1].get(name) for name in names)


def _empty(shell: Shell, view: CompareView) -> None:
    st.markdown(
        "Set two features beside each other: what they fire on, how strongly, which tokens they "
        "promote, and the documents they share. Choose them above by number or by a word of "
        "their label; the ⇄ beside a neighbour on a feature’s page brings you here too."
    )
    for sae in dict.fromkeys((view.a.sae, view.b.sae)):
        if not shell.named(sae).harvested:
            st.info(f"No features harvested yet: `python run.py harvest {plain(sae)}`")
            return
    compare_pair.suggestions(shell, view)
