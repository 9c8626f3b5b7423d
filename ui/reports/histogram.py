"""A histogram as inline SVG, for pages that must stand alone.

In:  bars as (left, right, height, colour class, hint), titles of the axes, lines to mark.
Out: an <svg> string without scripts or fonts of its own; its colours are classes of the page's
     style, so that it follows light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 260, 172
LEFT, RIGHT, TOP, BOTTOM = 32, 6, 30, 36  # room for ticks and titles


@dataclass(frozen=True)
class Bar:
    left: float
    right: float
    height: float
    name: str  # CSS class
    hint: str  # shown under the mouse


@dataclass(frozen=True)
class Scale:
    """Numbers from low to high onto pixels from start to stop."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            map(math.log10, (self.low, self.high, value)) if self.log
            else (self.low, self.high, value)
        )  # fmt: skip
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers from low to high: steps of 1, 2 or 5 of a power of ten; on a log axis
        powers of ten, or 1, 2 and 5 of each where there are few."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            step = max(1, -(-(last - first - 1) // wanted))
            sizes = (1, 2, 5) if self.high / self.low < 200 else (1,)
            found = [m * 10.0**power for power in range(first, last + 1, step) for m in sizes]
            return [tick for tick in found if self.low <= tick <= self.high]
        rough = (self.high - self.low) / wanted
        unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's or a count's text: 3 significant digits, k and M above a thousand."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def histogram(
    bars: Sequence[Bar],
    x: str,
    y: str,
    marks: Sequence[tuple[float, str]] = (),
    log_x: bool = False,
    log_y: bool = False,
    ticks: Sequence[tuple[float, str]] | None = None,
) -> str:
    """The chart; empty bars are left out. marks: (value, text) of dotted vertical lines. ticks: the
    same of the horizontal axis, where round numbers would say nothing.

    log_x needs every bar to begin above 0. log_y shows counts: its axis begins at half a count.
    """
    shown = [bar for bar in bars if bar.height > 0]
    if not shown:
        return '<p class="none">nothing to count</p>'
    tallest = max(bar.height for bar in shown)
    across = Scale(
        min([bar.left for bar in shown] + [value for value, _ in marks]),
        max([bar.right for bar in shown] + [value for value, _ in marks]),
        LEFT, WIDTH - RIGHT, log_x,
    )  # fmt: skip
    low = 0.5 if log_y else 0.0
    up = Scale(low, max(tallest, 2 * low) * (1.3 if log_y else 1.05), HEIGHT - BOTTOM, TOP, log_y)
    floor = HEIGHT - BOTTOM
    out = []
    for tick in (tick for tick in up.ticks(4) if tick >= 1 or not log_y):
        at = up(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                   f'y2="{at:.1f}"/>')  # fmt: skip
        out.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="end">{number(tick)}</text>')
    for value, text in ticks or [(tick, number(tick)) for tick in across.ticks(4)]:
        out.append(f'<text x="{across(value):.1f}" y="{floor + 12}" class="mid">{text}</text>')
    for bar in shown:
        left, top = across(bar.left), up(max(bar.height, low))
        width = max(across(bar.right) - left - 0.3, 0.6)
        out.append(f'<rect class="{bar.name}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                   f'height="{max(floor - top, 0.6):.1f}"><title>{html.escape(bar.hint)}</title>'
                   "</rect>")  # fmt: skip
    out += _marks(marks, across, floor)
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    out.append(f'<text x="{middle}" y="{HEIGHT - 8}" class="mid title">{html.escape(x)}</text>')
    out.append(f'<text x="2" y="10" class="title">{html.escape(y)}</text>')
    label = html.escape(f"{y} over {x}")
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"{''.join(out)}</svg>")  # fmt: skip


def _marks(marks: Sequence[tuple[float, str]], across: Scale, floor: int) -> list[str]:
    """Dotted lines with their texts above the plot, on the side where there is room."""
    out = []
    for value, text in marks:
        at = across(value)
        side, shift = ("end", -3) if at > (LEFT + WIDTH) / 2 else ("start", 3)
        out.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{floor}"/>')
        out.append(
            f'<text x="{at + shift:.1f}" y="{TOP - 4}" class="{side}">{html.escape(text)}</text>'
        )
    return out
