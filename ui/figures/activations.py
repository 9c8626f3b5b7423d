"""One feature's activations: what the store counted in, charts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.records import FeatureStats
from ui.figures.histogram import Bar, Chart, Mark


def activation_chart(
    stats: FeatureStats, meta: Mapping[str, Any], tested: float | None = None
) -> Chart:
    """All non-zero activations of the corpus, both axes log, with mean, quantiles and maximum.

    tested: an activation of one's own text, marked too.
    """
    edges = meta["hist_edges"]
    whole = [edges[0] * edges[0] / edges[1], *edges, max(edges[-1] * 2, stats.max or 0.0)]
    bars = []
    for at, count in enumerate(stats.hist_counts, start=stats.hist_first):
        left, right = whole[at], whole[at + 1]
        span = f"{left:.3g} to {right:.3g}"
        if at == 0:
            span = f"below {right:.3g}"
        elif at == len(edges):
            span = f"above {left:.3g}"
        bars.append(Bar(left, right, count, "on", f"{span}: {count:,} tokens"))
    found = [(stats.q50, "median"), (stats.q90, "90 %"), (stats.q99, "99 %"), (stats.mean, "mean")]
    marks = [Mark(value, name) for value, name in found if value]
    if stats.max:
        marks.append(Mark(stats.max, f"max {stats.max:.3g}"))
    if tested:
        marks.append(Mark(tested, f"your text {tested:.3g}", "here"))
    return Chart("Activations", bars, "activation", "tokens", marks, log_x=True)


def pre_chart(stats: FeatureStats, meta: Mapping[str, Any]) -> Chart:
    """Pre-activations around the threshold: what falls left of the line (grey) is silenced."""
    edges, unit = meta["pre_edges"], stats.pre_unit or 1.0
    step = edges[1] - edges[0]
    whole = [(edges[0] - step) * unit, *(edge * unit for edge in edges), (edges[-1] + step) * unit]
    bars = []
    for at, count in enumerate(stats.pre_counts):
        left, right = whole[at], whole[at + 1]
        span = f"{left:.3g} to {right:.3g}"
        if at in (0, len(edges)):
            span = f"below {right:.3g}" if at == 0 else f"above {left:.3g}"
        passes = (left + right) / 2 > stats.theta
        bars.append(Bar(left, right, count, "on" if passes else "off", f"{span}: {count:,} tokens"))
    text = f"θ = {stats.theta:.3g}" if stats.theta > 0 else "0"
    marks = [Mark(stats.theta, text, "theta")]
    return Chart("Around the threshold", bars, "pre-activation", "sampled tokens", marks)
