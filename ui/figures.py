"""Figures: records and arrays in, Plotly figures out.

In:  rows of train.jsonl, arrays of feature statistics, histogram counts.
Out: figures with transparent backgrounds and no theme of their own, so that the page's light or
     dark theme supplies ink and type. Two hues: blue for what is measured, orange for activation;
     grey for references. Every axis is titled, with its unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

BLUE = "#4a8fd6"
ORANGE = "#e66400"
GREY = "rgba(128,128,128,.55)"
FAINT = "rgba(128,128,128,.16)"
SCATTER_LIMIT = 20_000  # points a browser draws without stutter


def _base(
    x: str, y: str, height: int, log_x: bool = False, log_y: bool = False, legend: bool = False
) -> go.Figure:
    """An empty figure in the house style. x, y: axis titles."""
    figure = go.Figure()
    axis = dict(gridcolor=FAINT, zeroline=False, ticks="outside", ticklen=3, tickcolor=FAINT)
    figure.update_layout(
        height=height,
        margin=dict(l=8, r=10, t=12, b=8),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        bargap=0,
        showlegend=legend,
        legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom", title=None),
        hoverlabel=dict(font_size=12),
        font=dict(size=12),
    )
    figure.update_xaxes(title=dict(text=x, font_size=12), automargin=True, **axis)
    figure.update_yaxes(title=dict(text=y, font_size=12), automargin=True, **axis)
    if log_x:
        figure.update_xaxes(type="log", exponentformat="power")
    if log_y:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def _line_at(
    figure: go.Figure, x: float, text: str, colour: str = GREY, side: str = "right"
) -> None:
    """A labelled vertical reference line; x in data units, the label to its `side`."""
    figure.add_vline(x=x, line=dict(color=colour, width=1.5, dash="dot"))
    is_log = figure.layout.xaxis.type == "log"
    figure.add_annotation(
        x=float(np.log10(x)) if is_log else x,  # Plotly takes exponents here, but values above
        y=1.0,
        yref="paper",
        text=text,
        showarrow=False,
        font_size=11,
        opacity=0.85,
        xanchor="left" if side == "right" else "right",
        yanchor="bottom",
    )


def _log_ticks(figure: go.Figure, axis: str, values: Sequence[float | None]) -> None:
    """Ticks of a log axis: decades, or 1-2-5 written out where there are less than two.

    axis: "xaxis" | "yaxis"; values: what is drawn along it.
    """
    positive = [float(value) for value in values if value is not None and value > 0]
    if not positive or max(positive) / min(positive) > 60:
        figure.update_layout({axis: {"dtick": 1}})
        return
    low, high = np.floor(np.log10(min(positive))), np.ceil(np.log10(max(positive)))
    ticks = [m * 10.0**k for k in range(int(low), int(high) + 1) for m in (1, 2, 5)]
    figure.update_layout({axis: {"tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}})


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
    figure = _base("training tokens", y, height, log_y=log_y, legend=len(series) > 1)
    drawn = False
    for colour, (column, name) in zip((BLUE, ORANGE, GREY), series.items(), strict=False):
        values = [row.get(column) for row in rows]
        if all(value is None for value in values):
            continue
        drawn = True
        figure.add_scatter(
            x=[row.get("tokens") for row in rows],
            y=values,
            name=name,
            mode="lines",
            line=dict(color=colour, width=1.8),
            hovertemplate=f"%{{x:,}} tokens<br>{name} %{{y:.4g}}<extra></extra>",
        )
    if not drawn:
        return None
    if log_y:
        values = [row.get(column) for row in rows for column in series]
        _log_ticks(figure, "yaxis", values)
    if target is not None:
        figure.add_hline(
            y=target,
            line=dict(color=ORANGE, width=1.3, dash="dot"),
            annotation=dict(text=f"target {target:g}", font_size=11),
            annotation_position="top right",
        )
    return figure


def density_histogram(density: np.ndarray, height: int = 300) -> go.Figure:
    """Features per bin of log10 density; features that never fire are left out. density [d_sae]."""
    alive = density[density > 0]
    figure = _base("density: share of tokens on which a feature is active", "features", height)
    figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    if alive.size:
        low, high = np.floor(np.log10(alive.min())), 0.0
        edges = np.linspace(low, high, int(max(1, (high - low) * 8)) + 1)
        counts, _ = np.histogram(np.log10(alive), bins=edges)
        left, right = 10 ** edges[:-1], 10 ** edges[1:]
        _bars(figure, left, right, counts, BLUE, "density %{customdata}<br>%{y:,} features")
    for share, text in ((0.01, "1 %"), (0.1, "10 %")):
        _line_at(figure, share, text)
    figure.update_layout(margin_t=24)
    return figure


def _bars(
    figure: go.Figure,
    left: np.ndarray,
    right: np.ndarray,
    counts: np.ndarray,
    colour: str | list[str],
    hover: str,
    digits: int = 3,
) -> None:
    """Bars between bin edges; empty bins are dropped, so a log axis never sees a zero."""
    kept = np.asarray(counts) > 0
    left, right, counts = np.asarray(left)[kept], np.asarray(right)[kept], np.asarray(counts)[kept]
    if figure.layout.yaxis.type == "log":
        _log_ticks(figure, "yaxis", counts)
    if isinstance(colour, list):
        colour = [c for c, keep in zip(colour, kept, strict=True) if keep]
    figure.add_bar(
        x=(left + right) / 2,
        width=right - left,
        y=counts,
        marker=dict(color=colour, line_width=0),
        customdata=[f"{a:.{digits}g}–{b:.{digits}g}" for a, b in zip(left, right, strict=True)],
        hovertemplate=hover + "<extra></extra>",
    )


def density_max(
    feature: np.ndarray, density: np.ndarray, maximum: np.ndarray, height: int = 300
) -> go.Figure:
    """One point a feature that fires: density over largest activation, both on log axes.

    All arrays [d_sae]; `customdata` of a point is its feature number. Of more than 20,000 features
    every n-th is drawn.
    """
    figure = _base("density", "largest activation", height, log_x=True, log_y=True)
    figure.update_xaxes(dtick=1)
    shown = np.flatnonzero((density > 0) & (maximum > 0))
    _log_ticks(figure, "yaxis", maximum[shown])
    shown = shown[:: max(1, -(-shown.size // SCATTER_LIMIT))]
    figure.add_scattergl(
        x=density[shown],
        y=maximum[shown],
        customdata=feature[shown],
        mode="markers",
        marker=dict(color=BLUE, size=4, opacity=0.45),
        hovertemplate="feature %{customdata}<br>density %{x:.3g}<br>max %{y:.3g}<extra></extra>",
    )
    return figure


def frontier(rows: Sequence[Mapping], chosen: str, height: int = 300) -> go.Figure:
    """SAEs as points, L0 over explained variance. rows: at least one {"name", "l0", "fve"}."""
    figure = _base("L0: active features per token", "explained variance (FVE)", height)
    middle = (min(row["l0"] for row in rows) + max(row["l0"] for row in rows)) / 2
    for row in rows:
        here = row["name"] == chosen
        figure.add_scatter(
            x=[row["l0"]],
            y=[row["fve"]],
            mode="markers+text",
            text=[row["name"]],
            textposition="middle right" if row["l0"] <= middle else "middle left",
            cliponaxis=False,
            marker=dict(color=ORANGE if here else BLUE, size=11 if here else 8),
            hovertemplate=f"{row['name']}<br>L0 %{{x:.1f}}<br>FVE %{{y:.3f}}<extra></extra>",
        )
    return figure


def _with_ends(edges: Sequence[float], ratio: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of the counts of a histogram that keeps one bin below its first edge
    and one beyond its last: those two are drawn as wide as their neighbours."""
    inner = np.asarray(edges, float)
    first, last = inner[0] / ratio - step, inner[-1] * ratio + step
    whole = np.concatenate([[first], inner, [last]])
    return whole[:-1], whole[1:]


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
    figure = _base("activation (log scale)", "tokens", height, log_x=True, log_y=True)
    left, right = _with_ends(edges, ratio=edges[1] / edges[0], step=0.0)
    _bars(figure, left, right, counts, ORANGE, "activation %{customdata}<br>%{y:,} tokens")
    _log_ticks(figure, "xaxis", figure.data[0].x)
    if mean:
        _line_at(figure, mean, f"mean {mean:.3g}", side="left")
    if maximum:
        _line_at(figure, maximum, f"max {maximum:.3g}", side="left")
    figure.update_layout(margin_t=24)
    return figure


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
    figure = _base(title, "sampled tokens", height, log_y=True)
    left, right = _with_ends(edges, ratio=1.0, step=edges[1] - edges[0])
    colours = [ORANGE if (a + b) / 2 > line else GREY for a, b in zip(left, right, strict=True)]
    _bars(figure, left, right, counts, colours, f"%{{customdata}}{unit}<br>%{{y:,}} tokens")
    _line_at(figure, line, f"θ = {theta:.3g}" if theta > 0 else "0", ORANGE)
    figure.update_layout(margin_t=24)
    return figure
