"""How often and how strongly features fire: columns of all features in, figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from data.list_store import GROUPS, Points
from ui.figures import frame

SCATTER_LIMIT = 20_000  # points a browser draws without stutter
# Group -> name, colour, mark. Hues that differ for any colour vision (Okabe and Ito), and shapes.
LOOKS = {
    "outlier_bound": ("outlier-bound", "#cc79a7", "x"),
    "position_bound": ("position-bound", "#b8a400", "diamond"),
    "single_token": ("single token", "#009e73", "square"),
    "dense_1": ("dense > 1 %", frame.ORANGE, "triangle-up"),
    "rare": ("rare", "#8c8c8c", "circle-open"),
    "": ("other", frame.BLUE, "circle"),
}
AXES = {"max": "largest activation", "score": "score (correlation)"}


def density_histogram(density: np.ndarray, height: int = 300) -> go.Figure:
    """Features per bin of log10 density; features that never fire are left out. density [d_sae]."""
    title = "density: share of tokens on which a feature is active"
    layout = frame.axes(title, "features", height, log_x=True, top=24)
    layout["xaxis"]["dtick"] = 1
    for share, text in ((0.01, "1 %"), (0.1, "10 %")):
        frame.vertical(layout, share, text)
    alive = density[density > 0]
    if not alive.size:
        return go.Figure([], layout)
    low = min(np.floor(np.log10(alive.min())), -1)
    edges = np.linspace(low, 0, int(-low * 8) + 1)
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    hover = "density %{customdata}<br>%{y:,} features"
    bars = frame.bars(10 ** edges[:-1], 10 ** edges[1:], counts, [frame.BLUE] * len(counts), hover)
    return go.Figure([bars], layout)


def density_max(
    feature: np.ndarray, density: np.ndarray, maximum: np.ndarray, height: int = 300
) -> go.Figure:
    """One point a feature that fires: density over largest activation, both on log axes.

    All arrays [d_sae]; `customdata` of a point is its feature number. Of more than 20,000 features
    every n-th is drawn.
    """
    shown = np.flatnonzero((density > 0) & (maximum > 0))
    shown = shown[:: max(1, -(-shown.size // SCATTER_LIMIT))]
    layout = frame.axes("density", "largest activation", height, log_x=True, log_y=True, top=24)
    layout["xaxis"]["dtick"] = 1
    frame.log_ticks(layout["yaxis"], maximum[shown])
    points = {
        "type": "scattergl",
        "mode": "markers",
        "x": density[shown],
        "y": maximum[shown],
        "customdata": feature[shown],
        "marker": {"color": frame.BLUE, "size": 4, "opacity": 0.45},
        "hovertemplate": "feature %{customdata}<br>density %{x:.3g}<br>max %{y:.3g}<extra></extra>",
    }
    return go.Figure([points], layout)


def linked(
    points: Points,
    against: str,
    bounds: Sequence[float | None],
    height: int = 250,
) -> go.Figure:
    """Density against max or score, one point a feature, coloured by what is remarkable about it.

    against: max (log axis) or score. bounds: low and high of density, low and high of the other,
    drawn as a frame; points outside are faint. `customdata` of a point is its feature number.
    """
    layout = frame.axes(
        "density", AXES[against], height, log_x=True, log_y=against == "max", top=30
    )
    frame.log_ticks(layout["xaxis"], [points.density.min(), points.density.max()])
    if against == "max":
        frame.log_ticks(layout["yaxis"], [points.value.min(), points.value.max()])
    ranges = (
        _range(points.density, bounds[:2], True), _range(points.value, bounds[2:], against == "max")
    )  # fmt: skip
    for axis, span in zip(("xaxis", "yaxis"), ranges, strict=True):
        layout[axis]["range"] = span
    size = 5 if len(points.feature) < 4_000 else 3.5
    layout |= {"showlegend": True, "dragmode": "select", "hovermode": "closest"}
    layout["legend"] |= {"x": 1, "xanchor": "right", "itemsizing": "constant"}
    layout["modebar"] = {"orientation": "v", "bgcolor": frame.CLEAR, "color": frame.GREY}
    layout["margin"]["r"] = 40  # the tools stand there
    if any(bound is not None for bound in bounds):
        logs = (True, against == "max")
        layout["shapes"].append(_frame(bounds, ranges, logs))
    number = "%{y:.3g}" if against == "max" else "%{y:.2f}"
    hover = f"feature %{{customdata}}<br>density %{{x:.3g}}<br>{against} {number}<extra></extra>"

    def trace(chosen: np.ndarray, name: str, marker: dict, shown: bool) -> dict:
        return {
            "type": "scattergl",
            "mode": "markers",
            "x": points.density[chosen].astype(np.float32),
            "y": points.value[chosen].astype(np.float32),
            "customdata": points.feature[chosen],
            "marker": {"size": size, **marker},
            "name": name,
            "showlegend": shown,
            "hovertemplate": hover,
        }

    faint = {"color": "rgba(128,128,128,.22)"}
    traces = [trace(~points.inside, "outside the filter", faint, not points.inside.all())]
    for group, (name, colour, mark) in reversed(LOOKS.items()):
        place = GROUPS.index(group) if group else len(GROUPS)
        chosen = points.inside & (points.group == place)
        if chosen.any():
            marker = {"color": colour, "symbol": mark, "opacity": 0.75 if group else 0.5}
            traces.append(trace(chosen, name, marker, True))
    return go.Figure(traces, layout)


def _range(values: np.ndarray, bounds: Sequence[float | None], log: bool) -> tuple[float, float]:
    """The span of an axis, in its own unit: all points and all bounds with a little room."""
    ends = [*(float(end(values)) for end in (np.min, np.max)), *(b for b in bounds if b)]
    low, high = min(ends), max(ends)
    if log:
        low, high = np.log10(low), np.log10(high)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _frame(
    bounds: Sequence[float | None],
    ranges: Sequence[tuple[float, float]],
    logs: Sequence[bool],
) -> dict:
    """The filter's own bounds as a rectangle; where there is none it goes to the axis's end."""
    ends = [
        value if value is not None else 10 ** ranges[at // 2][at % 2] if logs[at // 2]
        else ranges[at // 2][at % 2]
        for at, value in enumerate(bounds)
    ]  # fmt: skip
    line = {"color": frame.ORANGE, "width": 1.2, "dash": "dot"}
    corners = dict(zip(("x0", "x1", "y0", "y1"), ends, strict=True))
    return {"type": "rect", "line": line, "layer": "above", **corners}
