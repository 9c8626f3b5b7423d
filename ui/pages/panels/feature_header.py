"""The head of the Feature page: which feature, the way to others, bookmark, tags, note, flags.

In:  a `Case`. Out: the panel; what people write goes to the lab at once and is confirmed.
"""

from __future__ import annotations

import html
import time
from urllib.parse import urlencode

import numpy as np
import streamlit as st

from data.errors import WorkbenchError
from ui import cards
from ui.keys import features as filters
from ui.pages.panels import feature_marks
from ui.pages.panels.feature_case import Case
from ui.shell import plain, short_name


def show(case: Case) -> None:
    shell, stats = case.shell, case.stats
    left, right = st.columns([1, 1.6], vertical_alignment="center")
    left.title(f"Feature {stats.feature}", anchor=False)
    with right.container(horizontal=True, horizontal_alignment="right", gap="small"):
        _ways(case)
    left, right = st.columns([1.2, 1], vertical_alignment="center")
    site = case.meta.get("site")
    model = short_name(case.meta.get("model"))
    about = " · ".join(str(part) for part in (shell.sae, site, model) if part)
    left.caption(plain(f"{about}. {_place(case)}"))
    with right.container(horizontal=True, horizontal_alignment="right", gap="small"):
        feature_marks.buttons(case)
        feature_marks.told()
        with st.popover("Link", icon=":material/link:", type="tertiary"):
            st.caption("The address holds everything you see: the feature, the list it is in, "
                       "and the options.")  # fmt: skip
            st.code(_address(case), language=None, wrap_lines=True)
    peak = [] if stats.peak_token is None else [stats.peak_token]
    found = cards.flags(stats, case.store.token_bytes(peak))
    row = cards.flag_row(found) + _tags(case)
    if row:
        st.html(f'<div class="head-row">{row}</div>')
    if case.mark.note:
        st.html(f'<div class="own-note">{html.escape(case.mark.note)}</div>')


def _ways(case: Case) -> None:
    """To the neighbours in the list one came from, to any of it, and back to the list."""
    before, after = case.store.neighbours(case.within, case.feature)

    def open_feature(feature: int) -> None:
        case.go(feature=feature, example=None)

    st.button("Previous", key="feature.previous", icon=":material/chevron_left:", shortcut="Left",
              on_click=open_feature, args=(before,), disabled=before is None)  # fmt: skip
    st.button("Next", key="feature.next", icon=":material/chevron_right:", icon_position="right",
              shortcut="Right", on_click=open_feature, args=(after,),
              disabled=after is None)  # fmt: skip
    st.button("Random", key="feature.random", on_click=_random, args=(case,),
              help="Any feature of this list that fires")  # fmt: skip
    if st.button("List", key="feature.list", help="Back to the feature list"):
        case.shell.go("features", filters.write_filter(case.within))


def _random(case: Case) -> None:
    """Any feature of the list that fires, drawn evenly; of a list of dead ones, any."""
    try:
        chosen = case.store.random_feature(time.time_ns(), case.within)
    except WorkbenchError as error:
        st.toast(plain(str(error)), icon=":material/error:")
    else:
        case.go(feature=chosen, example=None)


def _place(case: Case) -> str:
    """Where one is in the list one came from, in words."""
    listed, said = case.store.features(case.within), filters.in_words(case.within)
    at = np.flatnonzero(listed == case.feature)
    if not at.size:
        return f"Not in the list you came from ({said})."
    return f"{at[0] + 1:,} of {len(listed):,} in the list: {said}."


def _tags(case: Case) -> str:
    chips = "".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in case.mark.tags)
    return f'<span class="tags">{chips}</span>' if chips else ""


def _address(case: Case) -> str:
    """The whole address of the page, for somebody else."""
    base = (st.context.url or "feature").split("?")[0]
    params = {key: st.query_params[key] for key in st.query_params}
    return f"{base}?{urlencode(params)}"
