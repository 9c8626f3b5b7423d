"""Stretches of text as a judge reads them: quoted tokens, levels from 0 to 10, marks.

In:  examples cut to windows, the vocabulary. Out: plain text, and the numbers that go with it.

A level is the same everywhere, when explaining and when scoring: min(10, floor(10 relu(a) / max)),
with the feature's largest activation in the corpus as max (Bills et al. 2023, with the corpus's
maximum instead of the shown records').
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from data.records import Example
from data.windows import window

WIDTH = 32  # tokens of a stretch of text that a judge sees
LEVELS = 10
MARK = ("«", "»")  # around a marked token; these signs inside a text are escaped
MARKED_FROM = 3  # the level from which on a token is marked

Vocabulary = Mapping[int, tuple[bytes, bool]]  # id -> (bytes, special)


def level(value: float, maximum: float) -> int:
    """An activation as a whole number from 0 to 10."""
    if maximum <= 0 or value <= 0:
        return 0
    return min(LEVELS, math.floor(LEVELS * value / maximum))


def levels(values: Iterable[float], maximum: float) -> list[int]:
    return [level(value, maximum) for value in values]


def disjoint_windows(examples: Iterable[Example], width: int = WIDTH) -> list[Example]:
    """Windows of the examples without those that overlap an earlier one: a token counts once."""
    kept: list[Example] = []
    taken: dict[int, list[int]] = {}
    for example in examples:
        cut = window(example, width)
        if all(abs(cut.start - other) >= width for other in taken.get(cut.doc, [])):
            taken.setdefault(cut.doc, []).append(cut.start)
            kept.append(cut)
    return kept


def one_a_document(examples: Iterable[Example]) -> list[Example]:
    """The first example of each document."""
    kept: dict[int, Example] = {}
    for example in examples:
        kept.setdefault(example.doc, example)
    return list(kept.values())


def quoted(raw: bytes) -> str:
    """A token as a quoted string: spaces as they are; quotes, backslashes, control characters and
    bytes that are no text escaped, so that it stays on its line."""
    return '"' + escaped(raw).replace('"', '\\"') + '"'


def escaped(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="surrogateescape")
    return "".join(_visible(character) for character in text)


def numbered(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """One token a line, numbered from 1."""
    return "\n".join(f"{n}: {quoted(vocabulary[i][0])}" for n, i in enumerate(ids, 1))


def with_levels(example: Example, maximum: float, vocabulary: Vocabulary) -> str:
    """One token a line with its level behind a tab; below, those above 0 once more, which are
    easily overlooked in a long list (Bills et al. 2023 do so for sparse neurons)."""
    found = levels(example.values, maximum)
    names = [quoted(vocabulary[i][0]) for i in example.ids]
    lines = [f"{name}\t{n}" for name, n in zip(names, found, strict=True)]
    strong = [line for line, n in zip(lines, found, strict=True) if n]
    if strong and len(strong) < 0.2 * len(lines):
        lines += ["Above 0 in this text:", *strong]
    return "\n".join(lines)


def marked(
    ids: Sequence[int], marks: Iterable[int], vocabulary: Vocabulary, specials: bool = True
) -> str:
    """Running text with «marks» around the tokens at the given places; neighbouring marked tokens
    share one pair. Line breaks are shown as they are."""
    chosen, out = set(marks), []
    for at, token in enumerate(ids):
        raw, special = vocabulary[token]
        if special and not specials:
            continue
        text = _running(raw)
        opens = at in chosen and at - 1 not in chosen
        closes = at in chosen and at + 1 not in chosen
        out.append((MARK[0] if opens else "") + text + (MARK[1] if closes else ""))
    return "".join(out)


def strong_places(example: Example, maximum: float, from_level: int = MARKED_FROM) -> list[int]:
    """Where the tokens of that level or more stand; the peak at least, if it is above 0."""
    found = [at for at, n in enumerate(levels(example.values, maximum)) if n >= from_level]
    if not found and example.values[example.peak] > 0:
        return [example.peak]
    return found


def _running(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="surrogateescape")
    kept = "".join(c if c in "\n\t" else _visible(c) for c in text)
    for sign in MARK:
        kept = kept.replace(sign, f"\\u{ord(sign):04x}")
    return kept


def _visible(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":  # a byte that is no part of a character
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
