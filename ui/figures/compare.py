"""Two things laid over each other: histograms and columns in, figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from data.records import FeatureStats
from ui.figures import frame

COLOURS = (frame.BLUE, frame.ORANGE)
DASHES = ("solid", "dot")  # so that the two can be told apart without colour
BINS = 40


def activations(
    curves: Sequence[tuple[str, Sequence[float], FeatureStats]], height: int = 230
) -> go.Figure:
    """(name, bin edges, statistics) of features that fire: share of fires over activation / max.

    Counts are per octave of activation, so that bins of different widths compare.
    """
    layout = frame.axes("activation / own maximum", "share of fires per octave", height,
                        log_x=True, top=26)  # fmt: skip
    layout["showlegend"] = True
    traces, lowest = [], 1.0
    for (name, edges, stats), colour, dash in zip(curves, COLOURS, DASHES, strict=False):
        inner = np.asarray(edges, float)
        counts = np.zeros(len(inner) + 1)
        counts[stats.hist_first : stats.hist_first + len(stats.hist_counts)] = stats.hist_counts
        left = np.append(inner[0] / 2, inner)
        right = np.append(inner, inner[-1] * 2)
        shown = np.flatnonzero(counts)
        shown = np.arange(shown[0], shown[-1] + 1)
        share = counts / counts.sum() / np.log2(right / left)
        x = np.append(left[shown], right[shown[-1]]) / stats.max
        y = np.append(share[shown], 0)
        lowest = min(lowest, float(x[0]))
        traces.append(_steps(name, x, y, colour, dash, "%{x:.3g} of maximum<br>%{y:.3g}"))
    frame.log_ticks(layout["xaxis"], [lowest, 1.0])
    return go.Figure(traces, layout)


def densities(columns: Sequence[tuple[str, np.ndarray]], height: int = 330) -> go.Figure | None:
    """(name, density of every feature) of SAEs: share of features over density; None if no
    feature fires. The dead are left out."""
    alive = [(name, density[density > 0], len(density)) for name, density in columns]
    firing = [values for _, values, _ in alive if len(values)]
    if not firing:
        return None
    every = np.concatenate(firing)
    low, high = np.floor(np.log10(every.min()) * 5) / 5, 0.0
    edges = 10.0 ** np.linspace(low, high, max(int(round((high - low) * 5)), 1) + 1)
    layout = frame.axes("density: share of tokens", "share of features", height, log_x=True,
                        top=46)  # fmt: skip
    layout["xaxis"]["dtick"] = 1
    _legend_above(layout)
    traces = []
    for (name, values, n), colour, dash in zip(alive, COLOURS, DASHES, strict=False):
        counts, _ = np.histogram(np.minimum(values, 1.0), edges)
        y = np.append(counts / n, 0)
        traces.append(_steps(name, edges, y, colour, dash, "from %{x:.2g}<br>%{y:.2%}"))
    for share, text in ((0.01, "1 %"), (0.1, "10 %")):
        frame.vertical(layout, share, text)
    return go.Figure(traces, layout)


def best_matches(
    columns: Sequence[tuple[str, np.ndarray]], axis: str, below: float, height: int = 240
) -> go.Figure:
    """(direction, best value of every feature): share of features over value, the limit marked."""
    layout = frame.axes(axis, "share of features", height, top=46)
    _legend_above(layout)
    low = min([0.0, *(float(values.min()) for _, values in columns if len(values))])
    edges = np.linspace(low, 1.0, BINS + 1)
    traces = []
    for (name, values), colour, dash in zip(columns, COLOURS, DASHES, strict=False):
        if len(values):
            counts, _ = np.histogram(np.minimum(values, 1.0), edges)
            y = np.append(counts / len(values), 0)
            traces.append(_steps(name, edges, y, colour, dash, "from %{x:.2f}<br>%{y:.2%}"))
    frame.vertical(layout, below, f"limit {below:g}")
    return go.Figure(traces, layout)


def _legend_above(layout: dict) -> None:
    """Over the labels of reference lines."""
    layout["showlegend"] = True
    layout["legend"] = {**layout["legend"], "y": 1.12}


def _steps(name: str, x: np.ndarray, y: np.ndarray, colour: str, dash: str, hover: str) -> dict:
    """A histogram's outline: y[i] from x[i] to x[i + 1]."""
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": x, "y": y,
        "line": {"color": colour, "width": 2, "shape": "hv", "dash": dash},
        "hovertemplate": f"{hover}<extra></extra>",
    }  # fmt: skip
