"""Figures: records and arrays in, Plotly figures out.

In:  rows of train.jsonl, arrays of feature statistics, histogram counts.
Out: figures with transparent backgrounds and no theme of their own, so that the page's light or
     dark theme supplies ink and type. Two hues: blue for what is measured, orange for activation;
     grey for references. Every axis is titled, with its unit.

Traces and layout are built as plain dictionaries and handed to Plotly once: changing a figure that
exists costs ten times as much, and pages must draw quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

BLUE = "#4a8fd6"
ORANGE = "#e66400"
GREY = "rgba(128,128,128,.55)"
FAINT = "rgba(128,128,128,.16)"
CLEAR = "rgba(0,0,0,0)"
SCATTER_LIMIT = 20_000  # points a browser draws without stutter


def _layout(
    x: str, y: str, height: int, log_x: bool = False, log_y: bool = False, top: int = 12
) -> dict:
    """The house style. x, y: axis titles; top: margin above the plot in pixels."""

    def axis(title: str, log: bool) -> dict:
        common = {"gridcolor": FAINT, "zeroline": False, "automargin": True}
        kind = {"type": "log", "exponentformat": "power"} if log else {}
        return {"title": {"text": title, "font": {"size": 12}}, **common, **kind}

    return {
        "height": height,
        "margin": {"l": 8, "r": 10, "t": top, "b": 8},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "bargap": 0,
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "font": {"size": 12},
        "xaxis": axis(x, log_x),
        "yaxis": axis(y, log_y),
        "shapes": [],
        "annotations": [],
    }


def _vertical(
    layout: dict, x: float, text: str, colour: str = GREY, side: str = "right", row: int = 0
) -> None:
    """A labelled vertical reference line; x in data units, the label to its `side`, `row` lines
    above the plot."""
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    place = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain"}
    layout["shapes"].append({"type": "line", "line": line, **place})
    is_log = layout["xaxis"].get("type") == "log"
    layout["annotations"].append(
        {
            "x": float(np.log10(x)) if is_log else x,  # an exponent here, a value in the line
            "y": 1.0,
            "yref": "y domain",
            "text": text,
            "showarrow": False,
            "font": {"size": 11},
            "opacity": 0.85,
            "xanchor": "left" if side == "right" else "right",
            "yanchor": "bottom",
            "yshift": 13 * row,
        }
    )


def _horizontal(layout: dict, y: float, text: str) -> None:
    """A labelled horizontal reference line; y in data units of a linear axis."""
    line = {"color": ORANGE, "width": 1.3, "dash": "dot"}
    place = {"x0": 0, "x1": 1, "xref": "x domain", "y0": y, "y1": y}
    layout["shapes"].append({"type": "line", "line": line, **place})
    layout["annotations"].append(
        {
            "x": 1,
            "xref": "x domain",
            "y": y,
            "text": text,
            "showarrow": False,
            "font": {"size": 11},
            "opacity": 0.85,
            "xanchor": "right",
            "yanchor": "bottom",
        }
    )


def _log_ticks(axis: dict, values: Sequence[float | None]) -> None:
    """Ticks of a log axis: decades, or 1-2-5 written out where there are less than two."""
    positive = [float(value) for value in values if value is not None and value > 0]
    if not positive or max(positive) / min(positive) > 60:
        axis["dtick"] = 1
        return
    low, high = np.floor(np.log10(min(positive))), np.ceil(np.log10(max(positive)))
    ticks = [m * 10.0**k for k in range(int(low), int(high) + 1) for m in (1, 2, 5)]
    axis["tickvals"], axis["ticktext"] = ticks, [f"{tick:g}" for tick in ticks]


def _bars(
    left: np.ndarray,
    right: np.ndarray,
    counts: Sequence[int],
    colours: Sequence[str],
    hover: str,
    open_ends: bool = False,
) -> dict:
    """Bars between bin edges; empty bins are dropped, so a log axis never sees a zero.

    open_ends: the first and last bin hold everything beyond, and say so under the mouse.
    """
    kept = np.asarray(counts) > 0
    names = [f"{a:.3g}–{b:.3g}" for a, b in zip(left, right, strict=True)]
    if open_ends:
        names[0], names[-1] = f"below {right[0]:.3g}", f"above {left[-1]:.3g}"
    left, right = left[kept], right[kept]
    return {
        "type": "bar",
        "x": (left + right) / 2,
        "width": right - left,
        "y": np.asarray(counts)[kept],
        "marker": {"color": list(np.asarray(colours)[kept]), "line": {"width": 0}},
        "customdata": [name for name, keep in zip(names, kept, strict=True) if keep],
        "hovertemplate": hover + "<extra></extra>",
    }


def curves(
    rows: Sequence[Mapping],
    series: Mapping[str, str],
    y: str,
    target: float | None = None,
    log_y: bool = False,
    height: int = 210,
) -> go.Figure | None:
    """Columns of train.jsonl over training tokens; None if no row has any of them.

    series: column -> name in the legend. target: a horizontal reference in the unit of y.
    Missing values leave gaps.
    """
    traces = []
    for colour, (column, name) in zip((BLUE, ORANGE, GREY), series.items(), strict=False):
        values = [row.get(column) for row in rows]
        if any(value is not None for value in values):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [row.get("tokens") for row in rows],
                    "y": values,
                    "name": name,
                    "line": {"color": colour, "width": 1.8},
                    "hovertemplate": f"%{{x:,}} tokens<br>{name} %{{y:.4g}}<extra></extra>",
                }
            )
    if not traces:
        return None
    layout = _layout("training tokens", y, height, log_y=log_y)
    layout["showlegend"] = len(series) > 1
    if log_y:
        _log_ticks(layout["yaxis"], [value for trace in traces for value in trace["y"]])
    if target is not None:
        _horizontal(layout, target, f"target {target:g}")
    return go.Figure(traces, layout)


def density_histogram(density: np.ndarray, height: int = 300) -> go.Figure:
    """Features per bin of log10 density; features that never fire are left out. density [d_sae]."""
    title = "density: share of tokens on which a feature is active"
    layout = _layout(title, "features", height, log_x=True, top=24)
    layout["xaxis"]["dtick"] = 1
    for share, text in ((0.01, "1 %"), (0.1, "10 %")):
        _vertical(layout, share, text)
    alive = density[density > 0]
    if not alive.size:
        return go.Figure([], layout)
    low = min(np.floor(np.log10(alive.min())), -1)
    edges = np.linspace(low, 0, int(-low * 8) + 1)
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    hover = "density %{customdata}<br>%{y:,} features"
    bars = _bars(10 ** edges[:-1], 10 ** edges[1:], counts, [BLUE] * len(counts), hover)
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
    layout = _layout("density", "largest activation", height, log_x=True, log_y=True, top=24)
    layout["xaxis"]["dtick"] = 1
    _log_ticks(layout["yaxis"], maximum[shown])
    points = {
        "type": "scattergl",
        "mode": "markers",
        "x": density[shown],
        "y": maximum[shown],
        "customdata": feature[shown],
        "marker": {"color": BLUE, "size": 4, "opacity": 0.45},
        "hovertemplate": "feature %{customdata}<br>density %{x:.3g}<br>max %{y:.3g}<extra></extra>",
    }
    return go.Figure([points], layout)


def frontier(rows: Sequence[Mapping], chosen: str, height: int = 300) -> go.Figure:
    """SAEs as points, L0 over explained variance. rows: at least one {"name", "l0", "fve"}."""
    layout = _layout("L0: active features per token", "explained variance (FVE)", height)
    middle = (min(row["l0"] for row in rows) + max(row["l0"] for row in rows)) / 2
    traces = []
    for row in rows:
        here = row["name"] == chosen
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [row["l0"]],
                "y": [row["fve"]],
                "text": [row["name"]],
                "textposition": "middle right" if row["l0"] <= middle else "middle left",
                "cliponaxis": False,
                "marker": {"color": ORANGE if here else BLUE, "size": 11 if here else 8},
                "hovertemplate": "%{text}<br>L0 %{x:.1f}<br>FVE %{y:.3f}<extra></extra>",
            }
        )
    return go.Figure(traces, layout)


def _with_ends(edges: Sequence[float], ratio: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of the counts of a histogram that keeps one bin below its first edge
    and one beyond its last: those two are drawn as wide as their neighbours."""
    inner = np.asarray(edges, float)
    first, last = inner[0] / ratio - step, inner[-1] * ratio + step
    whole = np.concatenate([[first], inner, [last]])
    return whole[:-1], whole[1:]


def activation_histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    mean: float | None,
    maximum: float | None,
    height: int = 260,
) -> go.Figure:
    """Non-zero activations per bin, both axes log.

    edges [n] rising, all positive; counts [n + 1], the first below edges[0], the last beyond
    edges[-1].
    """
    layout = _layout("activation (log scale)", "tokens", height, log_x=True, log_y=True, top=36)
    left, right = _with_ends(edges, ratio=edges[1] / edges[0], step=0.0)
    hover = "activation %{customdata}<br>%{y:,} tokens"
    bars = _bars(left, right, counts, [ORANGE] * len(left), hover, open_ends=True)
    _log_ticks(layout["xaxis"], bars["x"])
    _log_ticks(layout["yaxis"], counts)
    if mean:
        _vertical(layout, mean, f"mean {mean:.3g}", side="left", row=1)
    if maximum:
        _vertical(layout, maximum, f"max {maximum:.3g}", side="left")
    return go.Figure([bars], layout)


def pre_histogram(
    edges: Sequence[float], counts: Sequence[int], theta: float, height: int = 260
) -> go.Figure:
    """Pre-activations around the threshold: what falls left of the line is silenced.

    edges [n] in units of theta (of pre_unit if theta is 0); counts [n + 1], the first below
    edges[0], the last beyond edges[-1], each drawn as one more bin; log y.
    """
    line = 1.0 if theta > 0 else 0.0
    unit = " × θ" if theta > 0 else ""
    title = "pre-activation, in thresholds θ" if theta > 0 else "pre-activation, in units of ‖x‖"
    layout = _layout(title, "sampled tokens", height, log_y=True, top=36)
    left, right = _with_ends(edges, ratio=1.0, step=edges[1] - edges[0])
    colours = np.where((left + right) / 2 > line, ORANGE, GREY)
    hover = f"%{{customdata}}{unit}<br>%{{y:,}} tokens"
    bars = _bars(left, right, counts, colours, hover, open_ends=True)
    _log_ticks(layout["yaxis"], counts)
    _vertical(layout, line, f"θ = {theta:.3g}" if theta > 0 else "0", ORANGE)
    return go.Figure([bars], layout)
