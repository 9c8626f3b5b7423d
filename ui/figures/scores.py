"""How scores of explanations are spread: values in, a figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame


def score_histogram(values: Sequence[float], height: int = 240) -> go.Figure | None:
    """Features by score, with the median; None without any. values: correlations from -1 to 1."""
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        return None
    layout = frame.axes("score: correlation of predicted and real activations", "features", height,
                        top=24)  # fmt: skip
    low = min(0.0, float(np.floor(found.min() * 20) / 20))
    edges = np.linspace(low, 1.0, round((1.0 - low) * 20) + 1)
    counts, _ = np.histogram(np.clip(found, low, 1.0), bins=edges)
    hover = "score %{customdata}<br>%{y:,} features"
    bars = frame.bars(edges[:-1], edges[1:], counts, [frame.BLUE] * len(counts), hover)
    median = float(np.median(found))
    frame.vertical(layout, median, f"median {median:.2f}", frame.ORANGE, "left")
    return go.Figure([bars], layout)
