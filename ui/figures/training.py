"""Training curves: rows of train.jsonl in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ui.figures import frame


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
    for colour, (column, name) in zip(
        (frame.BLUE, frame.ORANGE, frame.GREY), series.items(), strict=False
    ):
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
    layout = frame.axes("training tokens", y, height, log_y=log_y)
    layout["showlegend"] = len(series) > 1
    if log_y:
        frame.log_ticks(layout["yaxis"], [value for trace in traces for value in trace["y"]])
    if target is not None:
        frame.horizontal(layout, target, f"target {target:g}")
    return go.Figure(traces, layout)
