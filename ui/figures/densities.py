"""How often and how strongly features fire: columns of all features in, figures out."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame

SCATTER_LIMIT = 20_000  # points a browser draws without stutter


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
