"""Token strips: records in, escaped HTML out.

In:  examples, or the pieces of data/token_text.py, and the feature's corpus maximum.
Out: HTML strings (or plain segments for the clickable strip); ui/styles gives them colour.

Three rules. Tokens are bytes: neighbours that share one UTF-8 character are one piece with the
larger activation. Colour is fixed to the feature's corpus maximum and not to the rows on show, so
a weak example looks weak (unless a reader asks for each row's own scale). Only active tokens and
the peak get an element; the rest is plain text. An active token's value shows under the mouse and
under keyboard focus: ui/styles draws the attribute data-t.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from data.records import Example
from data.token_text import Piece, around, invisible, mark, pieces, raw, token_text, visible
from data.windows import bounds
from ui.percentiles import percentile_text

__all__ = ["Piece", "around", "pieces", "raw", "token_text", "visible"]  # for those who draw

LEVELS = 10  # colour classes a1..a10 (and n1..n10, below zero) of styles/tokens.css
LEAST = 0.02  # share of the largest change below which a token stays bare
LONGEST = 60  # characters of a token in its tooltip
Rank = Callable[[float], float | None]  # activation -> its percentile, from 0 to 1


def level(value: float, maximum: float | None) -> int:
    """Colour class 1..10 of an activation, 0 if silent: log10(1 + 9 value / maximum) in tenths."""
    if value <= 0 or not maximum or maximum <= 0:
        return 0
    share = math.log10(1 + 9 * min(1.0, value / maximum))
    return max(1, math.ceil(LEVELS * share - 1e-9))


def _inner(text: str, breaks: bool, active: bool) -> str:
    """Escaped text with what cannot be seen marked; an active piece also shows its spaces if it has
    nothing else, and an accent without the letter it stands on."""
    if text.isascii() and text.isprintable() and not (active and text.isspace()):
        return html.escape(text)
    alone = active and invisible(text)
    accent = active and unicodedata.category(text[0])[0] == "M" and not alone
    out = ["◌"] if accent else []
    for char in text:
        shown = "·" if char == " " and alone else mark(char, alone)
        out.append(html.escape(char) if shown is None else f"<i>{shown}</i>")
        if char == "\n" and breaks:
            out.append("\n")
    return "".join(out)


def about(text: str, value: str, where: str = "") -> str:
    """What is told of a token under the mouse or the keyboard's focus."""
    name = visible(text) or "∅"
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return " · ".join(part for part in (name, value, where) if part)


def _tip(piece: Piece, maximum: float, rank: Rank | None) -> str:
    if rank is None:
        where = f"{100 * piece.value / maximum:.0f} % of maximum"
    else:
        where = percentile_text(rank(piece.value))
    return html.escape(about(piece.text, f"{piece.value:.4g}", where))


def _element(
    piece: Piece, maximum: float | None, peak: int | None, breaks: bool, rank: Rank | None
) -> str:
    """One piece: bare text if silent, a <mark> if active; a badge if special; the peak marked."""
    shade = level(piece.value, maximum)
    inner = _inner(piece.text or "∅" * (shade > 0), breaks, active=shade > 0)
    here = peak is not None and piece.first <= peak <= piece.last
    names = " sp" * piece.special + " pk" * here
    if not shade:
        return f'<span class="{names[1:]}">{inner}</span>' if names else inner
    names = f"a{shade}{names}"
    return (
        f'<mark class="{names}" tabindex="0" data-t="{_tip(piece, maximum, rank)}">{inner}</mark>'
    )


def strip(
    row: Sequence[Piece],
    maximum: float | None,
    peak: int | None = None,
    breaks: bool = False,
    rank: Rank | None = None,
) -> str:
    """Running text with active tokens coloured. maximum: the feature's largest activation."""
    return "".join(_element(piece, maximum, peak, breaks, rank) for piece in row)


def signed(
    row: Sequence[Piece],
    change: Mapping[int, float],
    largest: float,
    unit: str,
    peak: int | None = None,
) -> str:
    """Running text coloured by what changes at each token: orange above zero, blue below.

    change: token position -> value; positions it lacks were not measured and stay bare. largest:
    the size that gets the full colour. Of tokens that share a character the larger change shows.
    """
    out = []
    for piece in row:
        there = [change[at] for at in range(piece.first, piece.last + 1) if at in change]
        value = max(there, key=abs, default=0.0)
        shade = level(abs(value), largest) if abs(value) >= largest * LEAST else 0
        here = " pk" * (peak is not None and piece.first <= peak <= piece.last)
        inner = _inner(piece.text or "∅" * (shade > 0), False, active=shade > 0)
        if shade:
            tip = html.escape(about(piece.text, f"{value:+.3g} {unit}"))
            name = f"{'a' if value > 0 else 'n'}{shade}{here}"
            out.append(f'<mark class="{name}" tabindex="0" data-t="{tip}">{inner}</mark>')
        else:
            out.append(f'<span class="pk">{inner}</span>' if here else inner)
    return "".join(out)


def halves(
    row: Sequence[Piece],
    maximum: float | None,
    predicted: Sequence[float],
    full: float,
    peak: int | None = None,
) -> str:
    """Running text with two colours a token: what is real above (orange, the feature's scale),
    what was predicted below (blue, evenly from 0 to `full`).

    predicted: one number a token, by position; of tokens that share a character the largest shows.
    """
    out = []
    for piece in row:
        said = max(predicted[piece.first : piece.last + 1], default=0.0)
        real, guess = level(piece.value, maximum), shade_evenly(said, full)
        here = " pk" * (peak is not None and piece.first <= peak <= piece.last)
        inner = _inner(piece.text or "∅", False, active=real + guess > 0)
        if not real and not guess:
            out.append(f'<span class="pk">{inner}</span>' if here else inner)
            continue
        tip = html.escape(about(piece.text, f"real {piece.value:.3g}", f"predicted {said:.3g}"))
        names = f"hf r{real} p{guess}{here}"
        out.append(f'<mark class="{names}" tabindex="0" data-t="{tip}">{inner}</mark>')
    return "".join(out)


def shade_evenly(value: float, full: float) -> int:
    """Colour class 1..10 of a prediction in even steps up to `full`, 0 of none."""
    if value <= 0 or full <= 0:
        return 0
    return min(LEVELS, max(1, math.ceil(LEVELS * value / full - 1e-9)))


def legend_of_halves(maximum: float | None, full: str) -> str:
    """Both scales of `halves`, each with its ends."""
    real = "".join(f'<span class="a{n}"></span>' for n in range(1, LEVELS + 1))
    said = "".join(f'<span class="n{n}"></span>' for n in range(1, LEVELS + 1))
    end = "no activation" if not maximum else f"{maximum:.3g}, its corpus maximum (log-like)"
    return (
        '<div class="legend two-scales"><b>above: real</b><span>0</span>'
        f'<span class="ramp">{real}</span><span>{html.escape(end)}</span>'
        f'<b>below: predicted</b><span>0</span><span class="ramp">{said}</span>'
        f"<span>{html.escape(full)} (even steps)</span></div>"
    )


def kwic(row: Sequence[Piece], maximum: float | None, peak: int, rank: Rank | None = None) -> str:
    """Three cells, the piece with token `peak` in the middle (keyword in context)."""
    left = [piece for piece in row if piece.last < peak]
    middle = [piece for piece in row if piece.first <= peak <= piece.last]
    right = [piece for piece in row if piece.first > peak]
    cells = (strip(part, maximum, peak, rank=rank) for part in (left, middle, right))
    return "".join(
        f'<div class="{name}"><span>{cell}</span></div>'
        for name, cell in zip(("kl", "km", "kr"), cells, strict=True)
    )


@dataclass(frozen=True)
class Line:
    """One example ready to draw."""

    row: Sequence[Piece]  # already cut to the context on show
    peak: int  # token position of the example's peak
    value: float  # activation there
    document: str
    position: int  # of the peak, in tokens from the start of the document
    use: str  # explain | calibrate | score
    clipped_left: bool
    clipped_right: bool
    copies: int = 1  # tokens of the corpus with the same text around them that it stands for
    note: str = ""  # beside the value, where that alone says too little
    again: bool = False  # its document stands further up in the list
    link: str = ""  # address of the Prompt page with its text


def lines(
    found: Sequence[Example], tokens: Mapping[int, tuple[bytes, bool]], width: int | None
) -> list[Line]:
    """Examples cut to `width` tokens around their peaks (None: whole), ready to draw.

    tokens: (bytes, special) of each id that occurs. Characters at the window's ends stay whole.
    """
    out, seen = [], set()
    for example in found:
        row = around_peak([tokens[token] for token in example.ids], example.values, example.peak,
                          width)  # fmt: skip
        place = (example.document, example.start + example.peak, example.use)
        clipped = (row[0].first > 0, row[-1].last < len(example.ids) - 1)
        again = example.doc in seen
        line = Line(row, example.peak, example.max, *place, *clipped, example.copies, again=again)
        out.append(line)
        seen.add(example.doc)
    return out


def around_peak(
    tokens: Sequence[tuple[bytes, bool]], values: Sequence[float], peak: int, width: int | None
) -> list[Piece]:
    """`around(pieces(tokens, values), peak, width)`, without making pieces of the whole context:
    a piece can only begin at a token that does not go on with a character."""
    low, high = first, last = bounds(len(tokens), peak, width)
    while low > 0 and _goes_on(tokens[low]):
        low -= 1
    while high < len(tokens) and _goes_on(tokens[high]):
        high += 1
    found = pieces(tokens[low:high], values[low:high])
    moved = [replace(p, first=p.first + low, last=p.last + low) for p in found] if low else found
    return [piece for piece in moved if piece.last >= first and piece.first < last]


def _goes_on(token: tuple[bytes, bool]) -> bool:
    """Whether it begins with bytes that belong to a character begun before."""
    return not token[1] and token[0][:1] > b"\x7f" and token[0][:1] < b"\xc0"


def examples(
    lines: Sequence[Line],
    maximum: float | None,
    centre: bool = False,
    breaks: bool = False,
    rank: Rank | None = None,
    own_scale: bool = False,
) -> str:
    """A list of examples: value, document and split on the left, the strip on the right.

    own_scale: each row's colours end at its own maximum.
    """
    out = []
    for line in lines:
        top = max((piece.value for piece in line.row), default=None) if own_scale else maximum
        if centre:
            body = f'<div class="kwic">{kwic(line.row, top, line.peak, rank)}</div>'
        else:
            text = strip(line.row, top, line.peak, breaks, rank)
            left = "<i>…</i>" if line.clipped_left else ""
            right = "<i>…</i>" if line.clipped_right else ""
            kind = "strip breaks" if breaks else "strip"
            body = f'<div class="{kind}" dir="auto">{left}{text}{right}</div>'
        again = " again" * line.again
        out.append(f'<div class="ex{again}">{_meta(line)}{body}</div>')
    return f'<div class="exs">{"".join(out)}</div>'


def _meta(line: Line) -> str:
    """Where an example is from, and what else is known of it."""
    name, short = html.escape(line.document), html.escape(_short(line.document))
    note = f'<span class="ex-note">{html.escape(line.note)}</span>' if line.note else ""
    if line.copies > 1:
        title = f"stands for {line.copies:,} tokens with the same text around them"
        note += f'<span class="ex-note" title="{title}">×{line.copies:,}</span>'
    if line.again:
        title = "this document is shown above already"
        note += f'<span class="ex-note" title="{title}">shown above</span>'
    go = ""
    if line.link:
        address = html.escape(line.link)
        go = (f'<a class="ex-go" data-go href="{address}" title="Open its text on the Prompt page"'
              ' aria-label="Open in Prompt">↗</a>')  # fmt: skip
    return (
        f'<div class="ex-meta"><span class="ex-max">{line.value:.3g}</span>{note}'
        f'<span class="ex-doc" title="{name}, token {line.position}">{short}'
        f'<span class="ex-pos">:{line.position}</span></span>'
        f'<span class="ex-use use-{html.escape(line.use)}" title="'
        f'{_USES.get(line.use, "")}">{html.escape(line.use)}</span>{go}</div>'
    )


_USES = {
    "explain": "explanations may be written from this document",
    "calibrate": "simulators may be calibrated on this document",
    "score": "held back: explanations are scored on this document",
}


def _short(document: str) -> str:
    """The last part of a path; of a long one its beginning and its end, where row numbers are."""
    name = document.rsplit("/", 1)[-1]
    return name if len(name) <= 18 else f"{name[:7]}…{name[-10:]}"


def legend(maximum: float | None, end: str = "") -> str:
    """The colour scale with its end points; says so when the feature has no maximum."""
    if not maximum or maximum <= 0:
        return '<div class="legend">no activation, so no colour</div>'
    cells = "".join(f'<span class="a{shade}"></span>' for shade in range(1, LEVELS + 1))
    end = end or f"{maximum:.3g}, the feature’s corpus maximum"
    return (
        f'<div class="legend"><span>0</span><span class="ramp">{cells}</span>'
        f"<span>{html.escape(end)} (log-like scale)</span></div>"
    )


def segments(
    row: Sequence[Piece],
    maximum: float | None,
    notes: dict[int, str],
    masked: frozenset[int] = frozenset(),
    chosen: int | None = None,
) -> list[dict]:
    """The clickable strip: {text, cls, title, token} each; the browser sets them as text, never
    as markup. notes: tooltip of a token position. masked: positions training leaves out."""
    out = []
    for piece in row:
        shade = level(piece.value, maximum)
        names = [f"a{shade}"] if shade else []
        names += ["sp"] if piece.special else []
        names += ["mk"] if piece.first in masked else []
        names += ["on"] if chosen is not None and piece.first <= chosen <= piece.last else []
        alone = bool(shade) and invisible(piece.text)
        text = "".join(
            ("·" if char == " " and alone else mark(char, alone) or char)
            + ("\n" if char == "\n" else "")
            for char in piece.text
        )
        best = max(range(piece.first, piece.last + 1), key=lambda at: len(notes.get(at, "")))
        note = notes.get(best, "")
        out.append({"text": text, "cls": " ".join(names), "title": note, "token": piece.first})
    return out
