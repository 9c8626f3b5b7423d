"""Sparsity against fidelity: metrics of SAEs in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ui.figures import frame


def frontier(rows: Sequence[Mapping], chosen: str, height: int = 300) -> go.Figure:
    """SAEs as points, L0 over explained variance. rows: at least one {"name", "l0", "fve"}."""
    layout = frame.axes("L0: active features per token", "explained variance (FVE)", height)
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
                "marker": {
                    "color": frame.ORANGE if here else frame.BLUE,
                    "size": 11 if here else 8,
                },
                "hovertemplate": "%{text}<br>L0 %{x:.1f}<br>FVE %{y:.3f}<extra></extra>",
            }
        )
    return go.Figure(traces, layout)
