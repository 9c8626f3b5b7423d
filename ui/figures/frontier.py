"""Sparsity against fidelity: metrics of SAEs in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame

# Architecture -> (name, colour, symbol): told apart without colour as well.
KINDS = {
    "jumprelu": ("JumpReLU", frame.BLUE, "circle"),
    "topk": ("TopK", "#3f9a63", "square"),
    "batchtopk": ("BatchTopK", "#8a63c4", "diamond"),
    "matryoshka": ("Matryoshka", "#b9820a", "pentagon"),
    "gated": ("Gated", "#1f9aa8", "triangle-up"),
    "standard": ("ReLU", "#b24b7f", "cross"),
}
OTHER = ("other", frame.BLUE, "circle")
NAMED = 16  # SAEs whose names still fit beside their points
MEASURES = {
    "fve": ("explained variance (FVE)", "FVE %{y:.3f}"),
    "delta_loss": ("rise of the loss (nats per token)", "Δ loss %{y:.3f}"),
}


def frontier(
    rows: Sequence[Mapping], chosen: str, measure: str = "fve", height: int = 300
) -> go.Figure:
    """SAEs as points, L0 on a log axis over `measure`; the chosen one in orange.

    rows: at least one {"name", "l0", measure}, with "architecture" where it is known. `customdata`
    of a point is its name.
    """
    y, hover = MEASURES[measure]
    layout = frame.axes("L0: active features per token", y, height, log_x=True)
    values = [float(row["l0"]) for row in rows]
    layout["xaxis"] |= _ticks(min(values), max(values))
    heights = [float(row[measure]) for row in rows]
    if min(heights) == max(heights):  # a lone point would stand in a range that makes no sense
        layout["yaxis"]["range"] = [0.0, max(1.0, 1.2 * heights[0])]
    middle = (min(values) * max(values)) ** 0.5
    groups: dict[tuple[str, str, str], list[Mapping]] = {}
    for row in rows:
        kind = KINDS.get(str(row.get("architecture")), OTHER)
        if row["name"] == chosen:
            kind = (f"{kind[0]}, chosen", frame.ORANGE, kind[2])
        groups.setdefault(kind, []).append(row)
    kinds = sorted(groups, key=lambda kind: kind[1] == frame.ORANGE)  # the chosen one on top
    layout["showlegend"] = len({kind[2] for kind in kinds}) > 1
    labelled = len(rows) <= NAMED
    return go.Figure([_points(kind, groups[kind], measure, hover, middle, labelled)
                      for kind in kinds], layout)  # fmt: skip


def _ticks(low: float, high: float) -> dict:
    """Range and ticks of the log axis: from a 1, 2 or 5 below the points to one above them."""
    first, last = np.floor(np.log10(low)) - 1, np.ceil(np.log10(high)) + 1
    steps = [m * 10.0**k for k in range(int(first), int(last) + 1) for m in (1, 2, 5)]
    start = max(step for step in steps if step < low * 0.97)
    end = min(step for step in steps if step > high * 1.03)
    ticks = [step for step in steps if start <= step <= end]
    return {
        "range": [float(np.log10(start)), float(np.log10(end))],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _points(
    kind: tuple[str, str, str],
    rows: Sequence[Mapping],
    measure: str,
    hover: str,
    middle: float,
    labelled: bool,
) -> dict:
    name, colour, symbol = kind
    size = 12 if colour == frame.ORANGE else 9
    return {
        "type": "scatter",
        "mode": "markers+text" if labelled else "markers",
        "name": name,
        "x": [row["l0"] for row in rows],
        "y": [row[measure] for row in rows],
        "text": [_label(row["name"]) for row in rows],
        "textposition": ["middle right" if row["l0"] <= middle else "middle left" for row in rows],
        "customdata": [row["name"] for row in rows],
        "cliponaxis": False,
        "marker": {"color": colour, "size": size, "symbol": symbol},
        "hovertemplate": "%{text}<br>L0 %{x:.1f}<br>" + hover + "<extra>" + name + "</extra>",
    }


def _label(name: str) -> str:
    """A name beside its point; Plotly reads some HTML, and names have none of its signs."""
    text = name if len(name) <= 24 else f"{name[:23]}…"
    return text.replace("<", "‹").replace(">", "›")
