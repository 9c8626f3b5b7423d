"""Token strips: records in, escaped HTML out.

In:  tokens as (bytes, special) pairs with one activation each, and the feature's corpus maximum.
Out: HTML strings (or plain segments for the clickable strip); `ui/style.css` gives them colour.

Three rules. Tokens are bytes: neighbours that share one UTF-8 character become one piece with the
larger activation. Colour is fixed to the feature's corpus maximum, never to the rows on show, so
a weak example looks weak. Only active tokens get an element; everything else is plain text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = 10  # colour classes a1..a10 of style.css


@dataclass(frozen=True)
class Piece:
    """One or more tokens that make whole characters. Bytes that are no UTF-8 are kept in `text` as
    lone surrogates (the `surrogateescape` convention) and shown as \\xNN."""

    text: str
    value: float  # largest activation among its tokens; 0 where silent
    special: bool
    first: int  # token positions, both inclusive
    last: int


def _missing(raw: bytes) -> int:
    """How many bytes the last character of `raw` still needs; 0 if it is whole or hopeless."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return max(0, length - back)
    return 0


def pieces(tokens: Sequence[tuple[bytes, bool]], values: Sequence[float]) -> list[Piece]:
    """Groups tokens into whole characters. tokens: (bytes, special) each; values: one each."""
    found: list[Piece] = []
    raw, first, top = b"", 0, 0.0

    def close(last: int) -> None:
        if raw:
            text = raw.decode("utf-8", "surrogateescape")
            found.append(Piece(text, top, False, first, last))

    for at, ((data, special), value) in enumerate(zip(tokens, values, strict=True)):
        joins = raw and not special and data[:1] and data[0] & 0xC0 == 0x80
        if raw and not joins:
            close(at - 1)
            raw = b""
        if special:
            found.append(Piece(data.decode("utf-8", "surrogateescape"), value, True, at, at))
            continue
        if not raw:
            first, top = at, 0.0
        raw, top = raw + data, max(top, value)
        if not _missing(raw):
            close(at)
            raw = b""
    close(len(tokens) - 1)
    return found


def raw(piece: Piece) -> bytes:
    """The bytes of a piece."""
    return piece.text.encode("utf-8", "surrogateescape")


def around(row: Sequence[Piece], peak: int, width: int | None) -> list[Piece]:
    """The pieces that touch the `width` tokens around token `peak`; all if width is None."""
    if width is None:
        return list(row)
    low = peak - width // 2
    return [piece for piece in row if piece.last >= low and piece.first < low + width]


def level(value: float, maximum: float | None) -> int:
    """Colour class 1..10 of an activation, 0 if silent: log10(1 + 9 value / maximum) in tenths."""
    if value <= 0 or not maximum or maximum <= 0:
        return 0
    share = math.log10(1 + 9 * min(1.0, value / maximum))
    return max(1, math.ceil(LEVELS * share - 1e-9))


def readable(text: str) -> str:
    """Text on one line, for a tooltip or a table cell: white space and odd bytes made visible."""
    out = []
    for char in text:
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char in "\n\t":
            out.append("\\n" if char == "\n" else "\\t")
        elif code < 32 or code == 127:
            out.append(f"\\x{code:02x}")
        else:
            out.append(char)
    return "".join(out)


def visible(text: str) -> str:
    """`readable`, with `␣` for each leading space."""
    text = readable(text)
    blanks = len(text) - len(text.lstrip(" "))
    return "␣" * blanks + text[blanks:]


def token_text(data: bytes) -> str:
    """A token as a table shows it: leading spaces, line ends and odd bytes visible."""
    return visible(data.decode("utf-8", "surrogateescape"))


def _inner(text: str, breaks: bool, dots: bool) -> str:
    """Escaped text with its invisible characters marked; `dots` also marks spaces."""
    out = []
    for char in text:
        if char == "\n":
            out.append("<i>↵</i>\n" if breaks else "<i>↵</i>")
        elif char == "\t":
            out.append("<i>→</i>")
        elif char == " " and dots:
            out.append("·")
        elif ord(char) < 32 or ord(char) == 127 or 0xDC80 <= ord(char) <= 0xDCFF:
            out.append(f"<i>{readable(char)}</i>")
        else:
            out.append(html.escape(char))
    return "".join(out)


def _title(piece: Piece, maximum: float) -> str:
    share = 100 * piece.value / maximum
    return html.escape(f"{visible(piece.text)} · {piece.value:.4g} · {share:.0f} % of maximum")


def _element(piece: Piece, maximum: float | None, peak: int | None, breaks: bool) -> str:
    """One piece: bare text if silent, a <mark> if active, a badge if special."""
    shade = level(piece.value, maximum)
    inner = _inner(piece.text, breaks, dots=shade > 0 and piece.text.isspace())
    if not shade:
        return f'<span class="sp">{inner}</span>' if piece.special else inner
    names = f"a{shade}"
    if piece.special:
        names += " sp"
    if peak is not None and piece.first <= peak <= piece.last:
        names += " pk"
    return f'<mark class="{names}" tabindex="0" title="{_title(piece, maximum)}">{inner}</mark>'


def strip(
    row: Sequence[Piece], maximum: float | None, peak: int | None = None, breaks: bool = False
) -> str:
    """Running text with active tokens coloured. maximum: the feature's largest activation."""
    return "".join(_element(piece, maximum, peak, breaks) for piece in row)


def kwic(row: Sequence[Piece], maximum: float | None, peak: int) -> str:
    """Three cells, the piece with token `peak` in the middle (keyword in context)."""
    left = [piece for piece in row if piece.last < peak]
    middle = [piece for piece in row if piece.first <= peak <= piece.last]
    right = [piece for piece in row if piece.first > peak]
    cells = (strip(part, maximum, peak) for part in (left, middle, right))
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


def examples(
    lines: Sequence[Line], maximum: float | None, centre: bool = False, breaks: bool = False
) -> str:
    """A list of examples: value, document and split on the left, the strip on the right."""
    out = []
    for line in lines:
        name, short = html.escape(line.document), html.escape(_short(line.document))
        meta = (
            f'<div class="ex-meta"><span class="ex-max">{line.value:.3g}</span>'
            f'<span class="ex-doc" title="{name}, token {line.position}">{short}'
            f'<span class="ex-pos">:{line.position}</span></span>'
            f'<span class="ex-use use-{html.escape(line.use)}" title="'
            f'{_USES.get(line.use, "")}">{html.escape(line.use)}</span></div>'
        )
        if centre:
            body = f'<div class="kwic">{kwic(line.row, maximum, line.peak)}</div>'
        else:
            text = strip(line.row, maximum, line.peak, breaks)
            left = "<i>…</i>" if line.clipped_left else ""
            right = "<i>…</i>" if line.clipped_right else ""
            kind = "strip breaks" if breaks else "strip"
            body = f'<div class="{kind}">{left}{text}{right}</div>'
        out.append(f'<div class="ex">{meta}{body}</div>')
    return f'<div class="exs">{"".join(out)}</div>'


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
        blank = piece.text.isspace()
        text = "".join("·" if c == " " and blank and shade else c for c in piece.text)
        text = readable(text).replace("\\n", "↵\n").replace("\\t", "→")
        best = max(range(piece.first, piece.last + 1), key=lambda at: len(notes.get(at, "")))
        note = notes.get(best, "")
        out.append({"text": text, "cls": " ".join(names), "title": note, "token": piece.first})
    return out
