"""Pairs of features as a table: numbers and labels of both, how alike they are, a way to the pair.

In:  a Shell, the names of the two SAEs, rows. Out: an HTML string; its links open in place.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ui import cards
from ui.keys import compare as keys
from ui.keys.compare import CompareView, Side
from ui.shell import Shell

NUMBER = '<col class="n">'


@dataclass(frozen=True)
class PairRow:
    """Feature `f` of A, `g` of B, and how alike they are. r: None where it is no column."""

    f: int
    g: int
    value: float
    r: float | None = None


def pairs(
    shell: Shell, names: tuple[str, str], rows: Sequence[PairRow], measure: str, kind: str
) -> str:
    """names: of A and B. measure: what `value` is called. kind: of match, kept in the links."""
    told = [
        about(shell, name, [row.f if i == 0 else row.g for row in rows])
        for i, name in enumerate(names)
    ]
    with_r = any(row.r is not None for row in rows)
    body = "".join(
        f"<tr>{_cells(shell, names[0], row.f, told[0])}{_cells(shell, names[1], row.g, told[1])}"
        f'<td class="n">{row.value:.3f}</td>{_r(row.r) if with_r else ""}'
        f"{_go(shell, names, row.f, row.g, kind, 'Compare the two')}</tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col" colspan="2">{html.escape(name)}</th>' for name in names)
    r = '<th scope="col">r</th>' * with_r
    columns = f"{NUMBER}<col>" * 2 + NUMBER * (1 + with_r) + '<col class="go">'
    return (
        f'<table class="matches"><colgroup>{columns}</colgroup><thead><tr>{heads}'
        f'<th scope="col">{html.escape(measure)}</th>{r}<td></td></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def alone(
    shell: Shell, names: tuple[str, str], rows: Sequence[PairRow], kind: str, second: bool
) -> str:
    """Features of one SAE that lack a match, with the value of the best there is. names: of A and
    B; second: they are features of B."""
    own = names[1] if second else names[0]
    told = about(shell, own, [row.g if second else row.f for row in rows])
    body = "".join(
        f"<tr>{_cells(shell, own, row.g if second else row.f, told)}"
        f'<td class="n">{row.value:.3f}</td>'
        f"{_go(shell, names, row.f, row.g, kind, 'Compare with its best match')}</tr>"
        for row in rows
    )
    columns = f'{NUMBER}<col>{NUMBER}<col class="go">'
    return f'<table class="matches"><colgroup>{columns}</colgroup><tbody>{body}</tbody></table>'


def about(shell: Shell, sae: str, features: list[int]) -> dict[int, str]:
    """Labels; for want of one the density."""
    rows = shell.named(sae).store().rows_of(features)
    return {row.feature: row.label or f"{cards.percent(row.density)} of tokens" for row in rows}


def _cells(shell: Shell, sae: str, feature: int, told: dict[int, str]) -> str:
    address = html.escape(shell.link("feature", {"f": str(feature)}, sae))
    text = html.escape(told.get(feature, ""))
    return (
        f'<td class="n"><a data-go href="{address}">{feature}</a></td>'
        f'<td class="who" title="{text}">{text}</td>'
    )


def _r(value: float | None) -> str:
    shown = "–" if value is None or math.isnan(value) else f"{value:.2f}"
    return f'<td class="n">{shown}</td>'


def _go(shell: Shell, names: tuple[str, str], f: int, g: int, kind: str, title: str) -> str:
    pair = CompareView(a=Side(names[0], f), b=Side(names[1], g), kind=kind)
    address = html.escape(shell.link("compare", keys.write_compare(pair)))
    return (
        f'<td><a data-go href="{address}" title="{title}" aria-label="Compare {f} and {g}">⇄</a>'
        "</td>"
    )
