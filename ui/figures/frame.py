"""The house style of figures: a frame, reference lines, ticks, bars.

In:  titles, values, histogram counts. Out: plain dictionaries that a figure is made of.

Backgrounds are transparent and there is no theme of its own, so that the page's light or dark theme
supplies ink and type. Two hues: blue for what is measured, orange for activation; grey for
references. Every axis is titled, with its unit.

Traces and layout are plain dictionaries handed to Plotly once: changing a figure that exists costs
ten times as much, and pages must draw quickly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLUE = "#4a8fd6"
ORANGE = "#e66400"
GREY = "rgba(128,128,128,.55)"
FAINT = "rgba(128,128,128,.16)"
CLEAR = "rgba(0,0,0,0)"


def axes(
    x: str, y: str, height: int, log_x: bool = False, log_y: bool = False, top: int = 12
) -> dict:
    """The house style. x, y: axis titles; top: margin above the plot in pixels."""

    def axis(title: str, log: bool) -> dict:
        common = {"gridcolor": FAINT, "zeroline": False, "automargin": True}
        kind = {"type": "log", "exponentformat": "power"} if log else {}
        return {"title": {"text": title, "font": {"size": 12}}, **common, **kind}

    return {
        "height": height,
        "margin": {"l": 8, "r": 10, "t": top, "b": 8},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "bargap": 0,
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "font": {"size": 12},
        "xaxis": axis(x, log_x),
        "yaxis": axis(y, log_y),
        "shapes": [],
        "annotations": [],
    }


def vertical(
    layout: dict, x: float, text: str, colour: str = GREY, side: str = "right", row: int = 0
) -> None:
    """A labelled vertical reference line; x in data units, the label to its `side`, `row` lines
    above the plot."""
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    place = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain"}
    layout["shapes"].append({"type": "line", "line": line, **place})
    is_log = layout["xaxis"].get("type") == "log"
    layout["annotations"].append(
        {
            "x": float(np.log10(x)) if is_log else x,  # an exponent here, a value in the line
            "y": 1.0,
            "yref": "y domain",
            "text": text,
            "showarrow": False,
            "font": {"size": 11},
            "opacity": 0.85,
            "xanchor": "left" if side == "right" else "right",
            "yanchor": "bottom",
            "yshift": 13 * row,
        }
    )


def horizontal(layout: dict, y: float, text: str) -> None:
    """A labelled horizontal reference line; y in data units of a linear axis."""
    line = {"color": ORANGE, "width": 1.3, "dash": "dot"}
    place = {"x0": 0, "x1": 1, "xref": "x domain", "y0": y, "y1": y}
    layout["shapes"].append({"type": "line", "line": line, **place})
    layout["annotations"].append(
        {
            "x": 1,
            "xref": "x domain",
            "y": y,
            "text": text,
            "showarrow": False,
            "font": {"size": 11},
            "opacity": 0.85,
            "xanchor": "right",
            "yanchor": "bottom",
        }
    )


def log_ticks(axis: dict, values: Sequence[float | None]) -> None:
    """Ticks of a log axis: decades, or 1-2-5 written out where there are less than two."""
    positive = [float(value) for value in values if value is not None and value > 0]
    if not positive or max(positive) / min(positive) > 60:
        axis["dtick"] = 1
        return
    low, high = np.floor(np.log10(min(positive))), np.ceil(np.log10(max(positive)))
    ticks = [m * 10.0**k for k in range(int(low), int(high) + 1) for m in (1, 2, 5)]
    axis["tickvals"], axis["ticktext"] = ticks, [f"{tick:g}" for tick in ticks]


def bars(
    left: np.ndarray,
    right: np.ndarray,
    counts: Sequence[int],
    colours: Sequence[str],
    hover: str,
    open_ends: bool = False,
) -> dict:
    """Bars between bin edges; empty bins are dropped, so a log axis never sees a zero.

    open_ends: the first and last bin hold everything beyond, and say so under the mouse.
    """
    kept = np.asarray(counts) > 0
    names = [f"{a:.3g}–{b:.3g}" for a, b in zip(left, right, strict=True)]
    if open_ends:
        names[0], names[-1] = f"below {right[0]:.3g}", f"above {left[-1]:.3g}"
    left, right = left[kept], right[kept]
    return {
        "type": "bar",
        "x": (left + right) / 2,
        "width": right - left,
        "y": np.asarray(counts)[kept],
        "marker": {"color": list(np.asarray(colours)[kept]), "line": {"width": 0}},
        "customdata": [name for name, keep in zip(names, kept, strict=True) if keep],
        "hovertemplate": hover + "<extra></extra>",
    }


def with_ends(edges: Sequence[float], ratio: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of the counts of a histogram that keeps one bin below its first edge
    and one beyond its last: those two are drawn as wide as their neighbours."""
    inner = np.asarray(edges, float)
    first, last = inner[0] / ratio - step, inner[-1] * ratio + step
    whole = np.concatenate([[first], inner, [last]])
    return whole[:-1], whole[1:]
