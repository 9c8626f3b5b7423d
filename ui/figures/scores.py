"""How scores of explanations are spread: values in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame

POINTS = 300  # features up to which each is drawn


def by_arm(
    arms: Mapping[str, Sequence[float]], title: str, chance: float | None = None, height: int = 0
) -> go.Figure | None:
    """One box an arm, the explanation's on top, with every feature as a point while they are few.

    arms: name -> values of the features that have one; None without any.
    """
    shown = {name: np.asarray(values, float) for name, values in arms.items() if len(values)}
    if not shown:
        return None
    layout = frame.axes(title, "", height or 96 + 52 * len(shown), top=20)
    low = min(0.0, min(float(v.min()) for v in shown.values()))
    layout["xaxis"]["range"] = [low - 0.03, max(1.03, max(float(v.max()) for v in shown.values()))]
    layout["yaxis"]["gridcolor"] = frame.CLEAR
    traces = []
    for at, (name, values) in enumerate(reversed(shown.items())):
        colour = frame.BLUE if at == len(shown) - 1 else "rgba(140,140,140,.9)"
        traces.append({
            "type": "box", "orientation": "h", "x": values, "name": name, "boxmean": True,
            "boxpoints": "all" if len(values) <= POINTS else "outliers", "jitter": 0.6,
            "pointpos": 0, "marker": {"color": colour, "size": 4, "opacity": 0.45},
            "line": {"color": colour, "width": 1.4}, "fillcolor": frame.FAINT, "width": 0.62,
            "hoveron": "boxes",
        })  # fmt: skip
    if chance is not None:
        frame.vertical(layout, chance, "chance", frame.GREY, "left")
    return go.Figure(traces, layout)


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
