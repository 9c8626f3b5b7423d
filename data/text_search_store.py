"""Finds features by words that stand around the peaks of their strongest examples.

In:  features.duckdb and a text. Out: bool a feature.

The documents are read once and kept as one run of lower-case bytes, with the place of each token in
it and of the WIDTH tokens around the peak of each example of kind `top`, which is what a page shows
of it at first. (Somewhere in the whole context nearly every word occurs for nearly every feature.)
A search looks through the bytes for the rarest byte of the text, tests its neighbours, and asks
which stretches hold a whole hit: its time depends on the size of the corpus, hardly on how often
the text occurs.

Kept: the bytes, 4 more a token, 12 an example; documents of more than LARGEST tokens together are
refused, at which that is about 250 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.documents_store import MISSING, Documents
from data.errors import StoreError
from data.schema import Root

LARGEST = 24_000_000
KIND, WIDTH = "top", 16
BLOCK = 1 << 22  # bytes looked through at a time
SHORTEST = 2  # bytes; a single letter is everywhere


@dataclass(frozen=True)
class ExampleText:
    """The documents of a store as bytes, and the stretches of them that its examples show."""

    text: np.ndarray  # uint8 [bytes], letters A to Z as a to z
    counts: np.ndarray  # int64 [256], how often each byte occurs
    starts: np.ndarray  # int32 [tokens + 1], where in `text` each token begins
    documents: np.ndarray  # int64 [documents + 1], the first token of each
    begin: np.ndarray  # int32 [examples], sorted: the first token of each stretch
    end: np.ndarray  # int32 [examples], the one after its last
    feature: np.ndarray  # int32 [examples]

    def features_with(self, wanted: str) -> np.ndarray:
        """Features that have `wanted` in one of these stretches, whatever its capitals.

        StoreError for a text too short to search for.
        """
        forms = {form.encode("utf-8", "replace").lower() for form in _capitals(wanted)}
        if min(map(len, forms)) < SHORTEST:
            raise StoreError("one letter occurs in nearly every example: type at least two")
        found = np.zeros(self.feature.max(initial=-1) + 1, dtype=bool)
        for form in forms:
            found[self.feature[self._holding(*self._hits(form))]] = True
        return np.flatnonzero(found)

    def _hits(self, wanted: bytes) -> tuple[np.ndarray, np.ndarray]:
        """First and last token of each place where `wanted` stands, within one document."""
        form = np.frombuffer(wanted, np.uint8)
        rarest, found = int(np.argmin(self.counts[form])), [np.zeros(0, np.int64)]
        for low in range(0, len(self.text), BLOCK) if self.counts[form[rarest]] else ():
            at = np.flatnonzero(self.text[low : low + BLOCK] == form[rarest]) + (low - rarest)
            at = at[(at >= 0) & (at <= len(self.text) - len(form))]
            for i, byte in enumerate(form):
                if i != rarest and len(at):
                    at = at[self.text[at + i] == byte]
            found.append(at)
        at = np.concatenate(found)
        first = np.searchsorted(self.starts, at, "right") - 1
        last = np.searchsorted(self.starts, at + len(form) - 1, "right") - 1
        of_first, of_last = (np.searchsorted(self.documents, t, "right") for t in (first, last))
        whole = of_first == of_last
        return first[whole], last[whole]

    def _holding(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """bool [examples]: those in whose stretch one of these hits lies whole; hits are sorted."""
        if not len(first):
            return np.zeros(len(self.begin), dtype=bool)
        # The first hit that begins inside: after as many hits as begin before it.
        before = np.searchsorted(self.begin, first, "right")
        at = np.cumsum(np.bincount(before, minlength=len(self.begin) + 1)[:-1])
        near = np.minimum(at, len(first) - 1)
        return (at < len(first)) & (last[near] < self.end)


def example_text(root: Root, cursor: Any, store: str) -> ExampleText:
    """The text of the store attached as `store`, read when it is first asked for.

    StoreError for one that is too large to be kept.
    """
    return root.remember(store, "example text", lambda: _read(root, cursor, store))


def _read(root: Root, cursor: Any, store: str) -> ExampleText:
    known = Documents.of(root, cursor, store)
    tokens = int(known.n_tokens.sum())
    if tokens > LARGEST:
        raise StoreError(
            f"the documents of this SAE have {tokens:,} tokens, and words in examples can be "
            f"searched in up to {LARGEST:,}: search labels and tokens, or harvest over less text"
        )
    text, starts = _text(cursor, store)
    first = np.append(0, np.cumsum(known.n_tokens, dtype=np.int64))
    if tokens != len(starts) - 1:
        raise StoreError(MISSING)
    begin, end, feature = _stretches(cursor, store, known, first)
    counts = np.zeros(256, np.int64)
    for low in range(0, len(text), BLOCK):  # numpy counts in eight times the bytes
        counts += np.bincount(text[low : low + BLOCK], minlength=256)
    return ExampleText(text, counts, starts, first, begin, end, feature)


def _stretches(
    cursor: Any, store: str, known: Documents, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first token, the one after the last, feature) of what each example shows, by first token.

    As data/windows.py cuts them. first: the first token of each document.
    """
    table = cursor.sql(f"""SELECT feature, doc, start, length, peak FROM {store}.example
        WHERE kind = '{KIND}'""").to_arrow_table()
    feature, doc, start, length, peak = (column.to_numpy() for column in table.columns)
    cut = np.clip(peak - WIDTH // 2, 0, np.maximum(length - WIDTH, 0))
    place = np.searchsorted(known.doc, doc.astype(known.doc.dtype))
    begin = (first[place] + start + cut).astype(np.int32)
    end = begin + np.minimum(length, WIDTH)
    order = np.argsort(begin, kind="stable")
    return begin[order], end[order].astype(np.int32), feature[order]


def _text(cursor: Any, store: str) -> tuple[np.ndarray, np.ndarray]:
    """(lower-case bytes, where each token begins) of all documents in their order."""
    table = cursor.sql(f"SELECT id, bytes FROM {store}.token ORDER BY id").to_arrow_table()
    known, raw = table["id"].to_numpy(), table["bytes"].combine_chunks()
    pieces = cursor.sql(f"SELECT ids FROM {store}.text ORDER BY piece").to_arrow_table()["ids"]
    ids = np.concatenate(
        [np.zeros(0, np.int32), *(chunk.flatten().to_numpy() for chunk in pieces.chunks)]
    )
    if len(known) != known[-1:].sum() + 1:  # not 0, 1, 2, ..., which would be their own places
        at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
        ids = np.where(known[at] == ids, at, len(known))
    taken = raw.take(pa.array(ids, mask=ids >= len(known)))
    _, offsets, data = taken.buffers()
    starts = np.frombuffer(offsets, np.int32, len(taken) + 1)
    lower = bytes(memoryview(data)[: starts[-1]]).lower() if len(taken) else b""
    return np.frombuffer(lower, np.uint8), starts


def _capitals(wanted: str) -> set[str]:
    """The ways to write it that may occur; A to Z are made a to z everywhere, other letters not."""
    return {wanted, wanted.lower(), wanted.upper(), wanted.capitalize()}
