"""One feature: histogram counts of its activations and pre-activations in, figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame


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
    layout = frame.axes("activation (log scale)", "tokens", height, log_x=True, log_y=True, top=36)
    left, right = frame.with_ends(edges, ratio=edges[1] / edges[0], step=0.0)
    hover = "activation %{customdata}<br>%{y:,} tokens"
    bars = frame.bars(left, right, counts, [frame.ORANGE] * len(left), hover, open_ends=True)
    frame.log_ticks(layout["xaxis"], bars["x"])
    frame.log_ticks(layout["yaxis"], counts)
    if mean:
        frame.vertical(layout, mean, f"mean {mean:.3g}", side="left", row=1)
    if maximum:
        frame.vertical(layout, maximum, f"max {maximum:.3g}", side="left")
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
    layout = frame.axes(title, "sampled tokens", height, log_y=True, top=36)
    left, right = frame.with_ends(edges, ratio=1.0, step=edges[1] - edges[0])
    colours = np.where((left + right) / 2 > line, frame.ORANGE, frame.GREY)
    hover = f"%{{customdata}}{unit}<br>%{{y:,}} tokens"
    bars = frame.bars(left, right, counts, colours, hover, open_ends=True)
    frame.log_ticks(layout["yaxis"], counts)
    frame.vertical(layout, line, f"θ = {theta:.3g}" if theta > 0 else "0", frame.ORANGE)
    return go.Figure([bars], layout)
