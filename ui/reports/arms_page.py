"""A study over several SAEs as a page that needs nothing else: curves, bars, tables.

In:  the report's JSON (interp/arms_report.py). Out: the page as a string, the same bytes for the
     same JSON; its tables are those of the Markdown (arms_tables.py).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ui.reports.arms_tables import (
    AXES,
    NOTE,
    Table,
    asked,
    mean_text,
    plan_table,
    tables_of,
    warnings,
    written,
)
from ui.reports.histogram import Scale, number

STYLES = ("feature_page.css", "arms_page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
COLOURS = 8
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 16, 32  # room for ticks and titles


@dataclass(frozen=True)
class Box:
    """The size of a picture, and its scales."""

    width: int
    height: int

    def across(self, low: float, high: float) -> Scale:
        return Scale(low, high, LEFT, self.width - RIGHT)

    def up(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.height - BOTTOM, TOP)


LARGE, SMALL = Box(520, 250), Box(260, 172)


def arms_page(report: Mapping[str, Any]) -> str:
    """The page: charts and tables of each method."""
    style = "\n".join((Path(__file__).parent / s).read_text("utf-8") for s in STYLES)
    title = f"Study {report['study']}"
    parts = [f"<header><h1>{html.escape(title)}</h1><p>{html.escape(asked(report))}</p></header>"]
    parts += [f'<p class="warn">{html.escape(line)}</p>' for line in warnings(report)]
    parts.append(f'<p class="about">{html.escape(NOTE)}</p>')
    for method, found in report["methods"].items():
        parts.append(f"<h2>{html.escape(method)}</h2>")
        parts.append(_figures(method, found))
        parts += [_as_html(table) for table in tables_of(found)]
    parts.append(_as_html(plan_table(report)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>\n{style}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _as_html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        f'<section><h3>{html.escape(table.title)}</h3><p class="about">{html.escape(table.about)}'
        f'</p><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div></section>"
    )


# ---------------------------------------------------------------- figures


def _figures(method: str, found: Mapping[str, Any]) -> str:
    colour = {g["group"]: f"g{n % COLOURS}" for n, g in enumerate(found["groups"])}
    key = "".join(
        f'<span class="{colour[g["group"]]}">{html.escape(g["group"])} · '
        f"{written(g['mean']['value'])}</span>"
        for g in found["groups"]
    )
    axis = AXES.get(method, method)
    about = (
        "density over features; dashed: the mean; kernels mirrored at the ends, so that nothing "
        "lies beyond them"
    )
    whole = (
        f'<div class="key">{key}</div><figure class="wide"><figcaption>{html.escape(axis)}<small>'
        f"{about}</small></figcaption>{_curves(found, colour, axis)}</figure>"
    )
    charts = []
    for arm in found["arms"]:
        charts.append(
            f'<figure class="{colour[arm["group"]]}"><figcaption>{html.escape(arm["sae"])}<small>'
            f"{arm['mean']['n']} features, counted</small></figcaption>{_bars(arm, found)}</figure>"
        )
    charts.append(
        "<figure><figcaption>High-frequency features<small>mean of those above 10 %, against L0"
        f"</small></figcaption>{_against_l0(found, colour)}</figure>"
    )
    return f'{whole}<section class="charts">{"".join(charts)}</section>'


def _curves(found: Mapping[str, Any], colour: Mapping[str, str], axis: str) -> str:
    drawn = [g for g in found["groups"] if g["curve"]]
    if not drawn:
        return '<p class="none">too few features for a curve</p>'
    low, high = found["range"]
    across = LARGE.across(low, high)
    up = LARGE.up(0, max(y for g in drawn for _, y in g["curve"]) * 1.05)
    out = [_axes(LARGE, across, up, axis, "density")]
    for g in drawn:
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in g["curve"])
        ends = f"{across(high):.1f},{up(0):.1f} {across(low):.1f},{up(0):.1f}"
        at = across(g["mean"]["value"])
        hint = html.escape(f"{g['group']}: mean {mean_text(g['mean'])}, {g['mean']['n']} features")
        out.append(
            f'<g class="{colour[g["group"]]}"><title>{hint}</title>'
            f'<polygon class="area" points="{line} {ends}"/>'
            f'<polyline class="curve" points="{line}"/>'
            f'<line class="average" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{up(0):.1f}"/></g>'
        )
    return _svg(LARGE, out, f"density over {axis}")


def _bars(arm: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Counted scores of one arm; all arms on one axis."""
    counts, edges = arm["histogram"], found["edges"]
    across, up = SMALL.across(*found["range"]), SMALL.up(0, max([*counts, 1]) * 1.05)
    out = [_axes(SMALL, across, up, "score", "features")]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            x, top = across(left), up(count)
            out.append(
                f'<rect class="bar" x="{x:.1f}" y="{top:.1f}" width="{across(right) - x - 0.3:.1f}"'
                f' height="{up(0) - top:.1f}"><title>{left:.2f} to {right:.2f}: {count} features'
                "</title></rect>"
            )
    if arm["mean"]["value"] is not None:
        at = across(arm["mean"]["value"])
        out.append(
            f'<line class="average" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{up(0):.1f}"/>'
        )
    return _svg(SMALL, out, f"features of {arm['sae']} over score")


def _against_l0(found: Mapping[str, Any], colour: Mapping[str, str]) -> str:
    arms = [a for a in found["arms"] if a["dense"]["value"] is not None and a["l0"] is not None]
    if not arms:
        return '<p class="none">no feature drawn fires on more than 10 % of tokens</p>'
    low, high = found["range"]
    most = max(a["l0"] for a in arms)
    across, up = SMALL.across(0, most * 1.1 or 1), SMALL.up(low, high)
    out = [_axes(SMALL, across, up, "L0", "mean")]
    for a in arms:
        x, mean = across(a["l0"]), a["dense"]
        hint = html.escape(f"{a['sae']}: {mean_text(mean)}, {mean['n']} features")
        ends = "" if mean["low"] is None else (
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{up(mean["low"]):.1f}" '
            f'y2="{up(mean["high"]):.1f}"/>'
        )  # fmt: skip
        dot = f'<circle class="dot" r="4" cx="{x:.1f}" cy="{up(mean["value"]):.1f}"/>'
        out.append(f'<g class="{colour[a["group"]]}"><title>{hint}</title>{ends}{dot}</g>')
    return _svg(SMALL, out, "mean score of high-frequency features over L0")


def _axes(box: Box, across: Scale, up: Scale, x: str, y: str) -> str:
    floor, end = box.height - BOTTOM, box.width - RIGHT
    out = []
    for tick in up.ticks(4):
        at = up(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 5}" y="{at + 3:.1f}" class="end">{number(tick)}</text>')
    for tick in across.ticks(6):
        out.append(
            f'<text x="{across(tick):.1f}" y="{floor + 12}" class="mid">{number(tick)}</text>'
        )
    out.append(f'<line class="axis" x1="{LEFT}" x2="{end}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + end) / 2
    out.append(f'<text x="{middle}" y="{box.height - 6}" class="mid title">{html.escape(x)}</text>')
    out.append(f'<text x="2" y="9" class="title">{html.escape(y)}</text>')
    return "".join(out)


def _svg(box: Box, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {box.width} {box.height}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )
