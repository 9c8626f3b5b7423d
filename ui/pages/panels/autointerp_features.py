"""Which features a new run is about: all, listed, drawn at random, of a filter, a list or a tag.

In:  a Shell. Out: the features as run.py takes them, and how many.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from data.errors import WorkbenchError
from ui.keys import features as filters
from ui.pages.panels.autointerp_commands import chosen, compact
from ui.shell import Shell, plain

WAYS = {
    "random": "At random", "these": "These", "all": "All", "filter": "Of a saved filter",
    "list": "Of a list", "tag": "With a tag",
}  # fmt: skip
KEY = "autointerp.new"


def choose(shell: Shell, first: str = "") -> tuple[str, int]:
    """(features, how many); ("", 0) where none is chosen, with the reason shown."""
    state = st.session_state
    if f"{KEY}.way" not in state or (first and state.get(f"{KEY}.first") != first):
        state[f"{KEY}.way"] = "these" if first else "random"
        state[f"{KEY}.these"] = first
    state[f"{KEY}.first"] = first
    way = st.segmented_control("Features", list(WAYS), key=f"{KEY}.way", required=True,
                               format_func=WAYS.get)  # fmt: skip
    store = shell.store()
    try:
        if way == "all":
            return "all", store.n_features
        if way == "these":
            text = st.text_input("Numbers and ranges", key=f"{KEY}.these",
                                 placeholder="0:100,205")  # fmt: skip
            numbers = chosen(text, store.n_features) if text.strip() else []
        else:
            numbers = {"random": _random, "filter": _filter, "list": _list, "tag": _tag}[way](shell)
    except WorkbenchError as error:
        st.warning(plain(str(error)))
        return "", 0
    return compact(numbers), len(numbers)


def _random(shell: Shell) -> list[int]:
    """n that fire at all, each as likely: a fair sample of the SAE's."""
    _, density, _ = shell.store().densities()
    alive = np.flatnonzero(density > 0)
    if not len(alive):
        raise WorkbenchError("no feature of this SAE ever fires")
    left, right = st.columns(2)
    n = left.number_input("How many", 1, len(alive), min(100, len(alive)), key=f"{KEY}.n",
                          help=f"Of the {len(alive):,} that fire at all. About 100 give a mean "
                          "that is sure to about 0.05.")  # fmt: skip
    seed = right.number_input("Seed", 0, None, 0, key=f"{KEY}.draw",
                              help="The same seed draws the same features.")  # fmt: skip
    drawn = np.random.default_rng(int(seed)).choice(alive, int(n), replace=False)
    return [int(f) for f in drawn]


def _filter(shell: Shell) -> list[int]:
    saved = {one.name: one for one in shell.lab.filters()}
    if not saved:
        raise WorkbenchError(
            "no filter is saved yet: set one on the Features page and save it there"
        )
    name = st.selectbox("Filter", list(saved), key=f"{KEY}.filter")
    wanted = replace(filters.read_filter(saved[name].query), page=1)
    found = shell.store().features(wanted)
    st.caption(f"{len(found):,} features fit it.")
    return [int(f) for f in found]


def _list(shell: Shell) -> list[int]:
    lists = {one.id: one for one in shell.lab.lists()}
    if not lists:
        raise WorkbenchError("there is no list yet: make one on the Lists page")
    id = st.selectbox("List", list(lists), key=f"{KEY}.list",
                      format_func=lambda one: lists[one].name)  # fmt: skip
    found = [f for sae, f in lists[id].entries if sae == shell.sae]
    st.caption(
        f"{len(found):,} of its {len(lists[id].entries):,} entries are of {plain(shell.sae)}."
    )
    return found


def _tag(shell: Shell) -> list[int]:
    tags = shell.lab.tags(shell.sae)
    if not tags:
        raise WorkbenchError("no feature of this SAE has a tag yet: give tags on their pages")
    tag = st.selectbox("Tag", list(tags), key=f"{KEY}.tag",
                       format_func=lambda one: f"{one} ({tags[one]:,})")  # fmt: skip
    return sorted(shell.lab.tagged(shell.sae, tag))
