"""The scatter beside the feature list: density against max or score, linked with the filter.

In:  the store, the filter in the address. Out: the figure; a box or a lasso sets the filter's
     ranges, a click opens a feature. Streamlit tells of clicks only while the mouse neither draws
     boxes nor lassos, so that takes another tool of the figure: the hand.
"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from data.features_store import FeatureStore
from data.records import FeatureFilter
from ui.figures import densities
from ui.keys import features as keys
from ui.pages.panels.filter_bar import go
from ui.shell import Shell

NAMES = {"max": "density × max", "score": "density × score", "none": "no plot"}
TOOLS = {
    "displaylogo": False,
    "displayModeBar": True,
    "modeBarButtons": [["select2d", "lasso2d", "zoom2d", "pan2d", "resetScale2d"]],
}


def show(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        _chooser(shell, current)
        told = st.empty()
    if current.plot == "none":
        return
    points = store.points(current, current.plot, densities.SCATTER_LIMIT)
    if not len(points.feature):
        what = "fires" if current.plot == "max" else "has a score"
        told.caption(f"Nothing to plot: no feature of this list {what}.")
        return
    bounds = _bounds(current)
    key = f"features.scatter.{hash((tuple(keys.write_filter(current).items()), bounds))}"
    st.plotly_chart(
        densities.linked(points, current.plot, bounds),
        key=key,
        on_select=lambda: _picked(shell, current, key),
        selection_mode=("points", "box", "lasso"),
        config=TOOLS,
        alt=f"Scatter of {len(points.feature):,} features: density against {current.plot}",
    )
    feature = st.session_state.pop("features.clicked", None)
    if feature is not None:
        shell.go("feature", {"f": str(feature), **keys.write_filter(current)})
    thinned = ""
    if len(points.feature) < points.total:
        thinned = f" {len(points.feature):,} of {points.total:,} features are drawn."
    told.caption(
        "Drag a box, or a lasso, to keep the features in it. With the hand, a click on a point "
        "opens it." + thinned
    )


def _chooser(shell: Shell, current: FeatureFilter) -> None:
    """Which plot, if any."""
    st.session_state["features.plot"] = current.plot

    def change() -> None:
        go(shell, replace(current, plot=st.session_state["features.plot"]))

    st.segmented_control(
        "Plot", keys.PLOTS, key="features.plot", format_func=lambda plot: NAMES[plot],
        required=True, on_change=change, label_visibility="collapsed",
    )  # fmt: skip


def _bounds(current: FeatureFilter) -> tuple[float | None, ...]:
    names = ("density", current.plot)
    return tuple(getattr(current, f"{name}_{end}") for name in names for end in ("min", "max"))


def _picked(shell: Shell, current: FeatureFilter, key: str) -> None:
    """A selection becomes the filter's ranges; one point alone is opened."""
    picked = st.session_state[key].selection
    areas = [*picked.box, *picked.lasso]
    if areas:
        ranges = {}
        for axis, name in (("x", "density"), ("y", current.plot)):
            values = [value for area in areas for value in area[axis]]
            least, most = {"density": (0, 1), "max": (0, float("inf")), "score": (-1, 1)}[name]
            low, high = max(min(values), least), min(max(values), most)
            ranges |= {f"{name}_min": _three(low), f"{name}_max": _three(high)}
        go(shell, replace(current, **ranges, page=1))
    elif picked.points:
        st.session_state["features.clicked"] = picked.points[0]["customdata"]


def _three(value: float) -> float:
    """Three significant digits: what is drawn by hand is no more exact."""
    return float(f"{value:.3g}")
