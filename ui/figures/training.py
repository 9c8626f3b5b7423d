"""Training curves: rows of train.jsonl in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ui.figures import frame

POINTS = 800  # of a curve; more cannot be seen
FEW = 12  # values that are marked one by one


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
    Missing values leave gaps. Of very many rows every n-th is drawn, and always the last.
    """
    rows = rows[::-1][:: max(1, -(-len(rows) // POINTS))][::-1]
    traces = []
    for colour, (column, name) in zip(
        (frame.BLUE, frame.ORANGE, frame.GREY), series.items(), strict=False
    ):
        values = [row.get(column) for row in rows]
        said = sum(value is not None for value in values)
        if said:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines" if said > FEW else "lines+markers",
                    "x": [row.get("tokens") for row in rows],
                    "y": values,
                    # What is measured now and then is a line through what there is.
                    "connectgaps": said < len(values) / 3,
                    "name": name,
                    "line": {"color": colour, "width": 1.8},
                    "hovertemplate": f"%{{x:,}} tokens<br>{name} %{{y:.4g}}<extra></extra>",
                }
            )
    if not traces:
        return None
    layout = frame.axes("training tokens", y, height, log_y=log_y)
    layout["showlegend"] = len(series) > 1
    drawn = [value for trace in traces for value in trace["y"] if value is not None]
    if not any(drawn):  # all zero: a line on the axis, and none below it
        layout["yaxis"]["range"] = [0, 1]
    if log_y:
        frame.log_ticks(layout["yaxis"], drawn)
    if target is not None:
        frame.horizontal(layout, target, f"target {target:g}")
    return go.Figure(traces, layout)
