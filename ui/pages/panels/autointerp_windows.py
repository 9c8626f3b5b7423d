"""Windows as a judge was asked about them: the text, what is real, what was said, how it went.

In:  rows `AskedRow`, the bytes of tokens, the feature's largest activation. Out: escaped HTML, and
     what each window is worth on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data.judged import AskedRow
from interp.passages import LEVELS, levels
from interp.score import pearson
from ui import strips
from ui.cards import safe
from ui.pages.panels import autointerp_words as words

Tokens = Mapping[int, tuple[bytes, bool]]


def token_by_token(row: AskedRow) -> bool:
    """Whether it was predicted on each token."""
    return row.method == "simulate" and row.said is not None and len(row.said) == len(row.ids)


def in_levels(row: AskedRow, maximum: float, looked_up: bool) -> tuple[float, ...]:
    """What was predicted, from 0 to 10; the lookup table predicts activations."""
    if not looked_up:
        return row.said
    return tuple(LEVELS * value / maximum if maximum > 0 else 0.0 for value in row.said)


def correlation(row: AskedRow) -> float | None:
    """Of one window alone; None where a side is constant."""
    return pearson(row.real, row.said) if token_by_token(row) else None


def error(row: AskedRow, maximum: float, looked_up: bool) -> float | None:
    """Mean distance of predicted and real levels, from 0 to 10; None without a prediction."""
    if not token_by_token(row) or not row.ids:
        return None
    said = in_levels(row, maximum, looked_up)
    real = levels(row.real, maximum)
    return sum(abs(a - b) for a, b in zip(real, said, strict=True)) / len(said)


def show(
    rows: Sequence[AskedRow], tokens: Tokens, maximum: float | None, looked_up: bool,
    documents: Mapping[int, str] | None = None,
) -> str:  # fmt: skip
    """All of them below each other."""
    body = "".join(_window(row, tokens, maximum, looked_up, documents or {}) for row in rows)
    return f'<div class="wins">{body}</div>'


def _window(
    row: AskedRow, tokens: Tokens, maximum: float | None, looked_up: bool, documents: Mapping
) -> str:
    about = [tokens.get(token, (b"?", False)) for token in row.ids]
    pieces = strips.pieces(about, row.real)
    peak = row.peak if 0 <= row.peak < len(row.ids) else None
    if token_by_token(row):
        said = in_levels(row, maximum or 0.0, looked_up)
        text = strips.halves(pieces, maximum, said, LEVELS, peak)
    else:
        text = strips.strip(pieces, maximum, peak)
    meta = _meta(row, maximum, looked_up, documents)
    return f'<div class="win">{meta}<div class="strip">{text}</div></div>'


def _meta(row: AskedRow, maximum: float | None, looked_up: bool, documents: Mapping) -> str:
    top = max(row.real, default=0.0)
    parts = [f"<b>{row.item + 1}</b>", f"<span>{safe(_stratum(row.stratum))}</span>"]
    if row.status != "ok":
        said = f"{words.STATUSES.get(row.status, row.status)}: {row.reason}"
        parts.append(f'<span class="ai-chip wide failed">{safe(said)}</span>')
    elif token_by_token(row):
        r, off = correlation(row), error(row, maximum or 0.0, looked_up)
        why = "silent throughout" if not any(row.real) else "constant prediction"
        parts.append(f"<b>{'r = ' + format(r, '.2f') if r is not None else 'no r'}</b>")
        if r is None:
            parts.append(f"<span>{why}</span>")
        parts.append(f"<span>off by {off:.1f} of 10 a token</span>")
    elif row.said:
        parts.append(f"<b>{safe(_said(row))}</b>")
    parts.append(f"<span>largest activation {top:.3g}</span>")
    name = documents.get(row.doc, f"document {row.doc}")
    parts.append(f"<span>{safe(name)}:{row.start}</span>")
    return f'<div class="win-meta">{"".join(parts)}</div>'


def _said(row: AskedRow) -> str:
    value = row.said[0]
    if row.method == "estimate":
        return f"largest level said: {value:.3g} of 10"
    share = f"{100 * value:.0f} %"
    return f"said to fire: {share}" if row.method == "detect" else f"said rightly marked: {share}"


STRATA = {
    "top": "among the strongest", "0.99-1": "top 1 % of fires", "0.9-0.99": "90–99 % of fires",
    "0.5-0.9": "50–90 % of fires", "0-0.5": "weakest half of fires",
    "silent": "around a silent token", "fires": "it fires here",
    "explained": "it was explained from",
}  # fmt: skip


def _stratum(name: str) -> str:
    return STRATA.get(name, name)
