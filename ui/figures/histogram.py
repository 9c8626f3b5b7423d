"""A histogram as HTML, for pages that must be there at once.

In:  a `Chart`: bars, axis titles, values to mark.
Out: an HTML string; ui/styles/charts.css draws it in the theme's ink, light or dark.

It takes a hundredth of the time of a Plotly figure, on the server and in the browser. A bar tells
its range and count under the mouse; the chart as a whole has a name for those who hear the page.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from ui.reports.histogram import Bar, Scale, number

MANY = 60  # bars; more stand without gaps
SPACE = 2.1  # width of a letter of a mark's text, in hundredths of the chart's


@dataclass(frozen=True)
class Mark:
    """A vertical line with a text above it. kind: ref (a reference) | theta | here (one's own)."""

    value: float
    text: str
    kind: str = "ref"


@dataclass(frozen=True)
class Chart:
    """Bars from left to right and what is written around them; counts on a log axis."""

    name: str  # what it shows, in words
    bars: Sequence[Bar]  # of height 0: left out
    x: str
    y: str
    marks: Sequence[Mark] = ()
    log_x: bool = False  # needs every bar to begin above 0


def draw(chart: Chart, height: int = 150) -> str:
    """The chart. height: of the bars' area, in pixels."""
    shown = [bar for bar in chart.bars if bar.height > 0]
    if not shown:
        return '<p class="none">nothing to count</p>'
    ends = [edge for bar in shown for edge in (bar.left, bar.right)]
    marks = [m for m in chart.marks if m.value > 0 or not chart.log_x]
    ends += [mark.value for mark in marks]
    tallest = max(bar.height for bar in shown)
    across = Scale(min(ends), max(ends), 0, 100, chart.log_x)
    up = Scale(0.5, max(tallest, 1) * 1.3, 0, 100, log=True)
    rows, lines = _marks(marks, across)
    inner = [
        f'<i class="gl" style="bottom:{up(tick):.1f}%"><b>{number(tick)}</b></i>'
        for tick in up.ticks(4)
        if tick >= 1
    ]
    for bar in shown:
        left = across(bar.left)
        place = f"left:{left:.2f}%;width:{max(across(bar.right) - left, 0.5):.2f}%"
        tip = html.escape(bar.hint)
        inner.append(f'<i class="hb {bar.name}" style="{place};--h:{up(bar.height):.1f}%" '
                     f'data-t="{tip}"></i>')  # fmt: skip
    ticks = "".join(
        f'<b style="left:{across(tick):.1f}%">{number(tick)}</b>' for tick in across.ticks(5)
    )
    told = ", ".join(mark.text for mark in marks)
    above = max(1.05 * rows + 0.5, 1.5)  # rem; room for the axis title at least
    label = html.escape(f"{chart.name}: {chart.y} over {chart.x}. {told}")
    tight = " tight" * (len(shown) > MANY)
    return (
        f'<div class="hist{tight}" role="img" aria-label="{label}">'
        f'<div class="hy">{html.escape(chart.y)}</div>'
        f'<div class="hp" style="height:{height}px;margin-top:{above:.2f}rem">'
        f'{"".join(inner)}{lines}</div><div class="ht">{ticks}</div>'
        f'<div class="hx">{html.escape(chart.x)}</div></div>'
    )  # fmt: skip


def _marks(marks: Sequence[Mark], across: Scale) -> tuple[int, str]:
    """(rows of texts above the chart, the lines): texts that would overlap go one row up."""
    free: list[float] = []  # where the text of each row ends
    out = []
    for mark in sorted(marks, key=lambda mark: mark.value):
        at = across(mark.value)
        width = SPACE * len(mark.text) + 2
        left = at + width > 100
        begin = at - width if left else at
        row = next((n for n, end in enumerate(free) if begin >= end), len(free))
        if row == len(free):
            free.append(0.0)
        free[row] = at if left else begin + width
        side = " end" * left
        out.append(
            f'<i class="hm {mark.kind}{side}" style="left:{at:.2f}%;--row:{row}">'
            f"<b>{html.escape(mark.text)}</b></i>"
        )
    return len(free), "".join(out)
