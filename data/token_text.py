"""Tokens as text: what their bytes say, and a visible mark for everything that cannot be seen.

In:  tokens as (bytes, special) pairs with one activation each.
Out: `Piece`s, which are whole characters; plain strings in which white space, invisible characters
     and bytes that are no text can be told apart.

Tokens are bytes. Neighbours that share one UTF-8 character become one piece with the larger
activation; bytes that make no character, alone or together, stay in the token they are in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from data.windows import bounds

# What stands for a character that cannot be seen. Others: U+XXXX, and \xNN for control characters
# and for bytes that are no UTF-8.
MARKS = {
    "\n": "↵", "\t": "→", "\r": "␍", "\u00a0": "⍽", "\u00ad": "SHY", "\u200b": "ZWSP",
    "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM", "\u2060": "WJ",
    "\ufeff": "BOM",
}  # fmt: skip
JOINERS = frozenset("\u200c\u200d")  # they shape the characters beside them


@dataclass(frozen=True)
class Piece:
    """One or more tokens that make whole characters. Bytes that are no UTF-8 are kept in `text` as
    lone surrogates (the `surrogateescape` convention)."""

    text: str
    value: float  # largest activation among its tokens; 0 where silent
    special: bool
    first: int  # token positions, both inclusive
    last: int


def pieces(tokens: Sequence[tuple[bytes, bool]], values: Sequence[float]) -> list[Piece]:
    """Groups tokens into whole characters. tokens: (bytes, special) each; values: one each.

    Every token is in exactly one piece.
    """
    found: list[Piece] = []
    raw, first = b"", 0  # the bytes of tokens [first, at), whose last character is not whole yet

    for at, ((data, special), value) in enumerate(zip(tokens, values, strict=True)):
        if raw and not (not special and _continues(raw, data)):
            found += _close(tokens, values, first, at)
            raw = b""
        if special:
            found.append(Piece(_text(data), value, True, at, at))
            continue
        if not raw:
            if not _missing(data):  # nearly all of them
                found.append(Piece(_text(data), value, False, at, at))
                continue
            first = at
        raw += data
        if not _missing(raw):
            found += _close(tokens, values, first, at + 1)
            raw = b""
    return found + (_close(tokens, values, first, len(tokens)) if raw else [])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _missing(raw: bytes) -> int:
    """How many bytes the last character of `raw` still needs; 0 if it is whole or hopeless."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0x80:  # a continuation byte
            continue
        # 0xC0, 0xC1 and those above 0xF4 begin no character of UTF-8 (RFC 3629, section 4).
        length = 0 if byte < 0xC2 or byte > 0xF4 else 2 + (byte >= 0xE0) + (byte >= 0xF0)
        return max(0, length - back)
    return 0


def _continues(raw: bytes, data: bytes) -> bool:
    """Whether `data` begins with what the last character of `raw` still needs, or is part of it."""
    missing = _missing(raw)
    lead = 0
    while lead < min(missing, len(data)) and data[lead] & 0xC0 == 0x80:
        lead += 1
    return lead > 0 and lead in (missing, len(data))


def _close(tokens, values, first: int, stop: int) -> list[Piece]:
    """One piece of the tokens [first, stop), or one of each if joining makes no character."""
    texts = [_text(tokens[at][0]) for at in range(first, stop)]
    joined = _text(b"".join(tokens[at][0] for at in range(first, stop)))
    if len(texts) == 1 or _broken(joined) < sum(map(_broken, texts)):
        return [Piece(joined, max(values[first:stop]), False, first, stop - 1)]
    return [
        Piece(text, value, False, at, at)
        for at, (text, value) in enumerate(zip(texts, values[first:stop], strict=True), first)
    ]


def _broken(text: str) -> int:
    """Bytes in `text` that are no UTF-8."""
    return 0 if text.isascii() else sum(0xDC80 <= ord(char) <= 0xDCFF for char in text)


def raw(piece: Piece) -> bytes:
    """The bytes of a piece."""
    return piece.text.encode("utf-8", "surrogateescape")


def around(row: Sequence[Piece], peak: int, width: int | None) -> list[Piece]:
    """The pieces that touch the window of `width` tokens around token `peak` (data/windows.py)."""
    if not row:
        return []
    first = row[0].first
    low, high = bounds(row[-1].last + 1 - first, peak - first, width)
    return [piece for piece in row if piece.last - first >= low and piece.first - first < high]


def invisible(text: str) -> bool:
    """Whether nothing of `text` leaves ink: white space, controls, joiners alone."""
    return not any(
        char != " "
        and (char.isprintable() and not _selector(char) or 0xDC80 <= ord(char) <= 0xDCFF)
        for char in text
    )


def _selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f"


def mark(char: str, alone: bool = False) -> str | None:
    """What is shown in place of a character that cannot be seen; None where it can.

    Joiners, variation selectors and wide spaces show themselves in the characters beside them;
    `alone` says that there are none.
    """
    code = ord(char)
    if char == " " or (char.isprintable() and not _selector(char)):
        return None
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if char in JOINERS or _selector(char) or (char != "\u00a0" and char.isspace() and code > 0xFF):
        if not alone and char not in "\u2028\u2029":
            return None
    if char in MARKS:
        return MARKS[char]
    return f"\\x{code:02x}" if code < 32 or code == 127 else f"U+{code:04X}"


def readable(text: str) -> str:
    """Text on one line, for a tooltip or a table cell, with everything invisible marked."""
    if text.isascii() and text.isprintable():
        return text
    alone = invisible(text)
    dotted = "◌" if unicodedata.category(text[0])[0] == "M" and not alone else ""  # an accent
    return dotted + "".join(mark(char, alone) or char for char in text)


def visible(text: str) -> str:
    """`readable`, with `␣` for each space at its beginning and its end."""
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - before - len(inner)
    return "␣" * before + readable(inner) + "␣" * after


def token_text(data: bytes) -> str:
    """A token as a table shows it: outer spaces, line ends, odd bytes visible; ∅ if it has none."""
    return visible(_text(data)) or "∅"
