"""How many features are active on a token: counts of tokens in, a figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ui.figures import frame

BINS = 60


def l0_histogram(
    counts: Sequence[int], target: float | None = None, height: int = 300
) -> go.Figure | None:
    """Tokens by their number of active features; None without any token.

    counts[n]: tokens on which n features are active. target: the mean the SAE was trained to.
    """
    tokens = np.asarray(counts, dtype=np.float64)
    if not tokens.sum() > 0:
        return None
    layout = frame.axes("active features on a token (L0)", "tokens", height, top=38)
    seen = np.flatnonzero(tokens)
    low, high = int(seen[0]), int(seen[-1]) + 1
    # A few tokens with very many would squeeze all others: the last bin holds the last thousandth.
    share = np.cumsum(tokens) / tokens.sum()
    far = int(np.searchsorted(share, 0.999)) + 1
    last = min(high, max(far, low + 1))
    width = max(1, -(-(last - low) // BINS))
    edges = np.arange(low, last + width, width)
    grouped = [tokens[a : a + width].sum() for a in edges[:-1]]
    grouped[-1] += tokens[edges[-1] :].sum()
    names = [f"{a}" if width == 1 else f"{a} to {a + width - 1}" for a in edges[:-1]]
    if edges[-1] < high:
        names[-1] = f"{edges[-2]} and more"
    bars = {
        "type": "bar",
        "x": (edges[:-1] + (width - 1) / 2).tolist(),
        "y": grouped,
        "width": [width] * len(grouped),
        "marker": {"color": frame.BLUE, "line": {"width": 0}},
        "customdata": names,
        "hovertemplate": "%{customdata} active<br>%{y:,} tokens<extra></extra>",
    }
    mean = float((np.arange(len(tokens)) * tokens).sum() / tokens.sum())
    frame.vertical(layout, mean, f"mean {mean:.1f}")
    if target is not None:
        side = "left" if target < mean else "right"
        frame.vertical(layout, target, f"target {target:g}", frame.ORANGE, side, row=1)
    return go.Figure([bars], layout)
