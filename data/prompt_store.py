"""What the Prompt page asks of many features at once, and a few texts to begin with.

In:  a `Root` and the path of a features.duckdb.
Out: density and largest activation of all features; histograms of some; passages of the corpus.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import columns_store
from data.documents_store import Documents
from data.schema import Root

PASSAGE_TOKENS = 96  # read, of which whole lines or sentences are kept
PASSAGE_CHARACTERS = 160
ENDS = re.compile(r"\n\s*\n|(?<=[.!?])\s+|\n")


@dataclass(frozen=True)
class Scales:
    """Of every feature by its number; NaN: there is no such feature, or it never fired."""

    density: np.ndarray  # float64
    maximum: np.ndarray  # float32, largest activation in the corpus


@dataclass(frozen=True)
class ActivationHistogram:
    """Non-zero activations of one feature; bins as in the store's meta `hist_edges`."""

    first: int  # bin that counts begin with
    counts: tuple[int, ...]
    maximum: float


def scales(root: Root, path: str | Path) -> Scales:
    """Read once for as long as the file is attached."""

    def read() -> Scales:
        rows = cursor.execute(f"""
            SELECT feature, density, coalesce(max, 'nan'::FLOAT) AS max FROM {store}.feature
            """).fetchnumpy()
        features = np.asarray(rows["feature"])
        size = int(features.max(initial=-1)) + 1
        density, maximum = np.full(size, np.nan), np.full(size, np.nan, np.float32)
        density[features], maximum[features] = rows["density"], rows["max"]
        return Scales(density, maximum)

    with root.reading(path) as (cursor, store):
        return root.remember(store, "scales", read)


def histograms(
    root: Root, path: str | Path, features: Sequence[int]
) -> dict[int, ActivationHistogram]:
    """Of those of `features` that fired."""
    if not features:
        return {}
    listed = ", ".join(str(int(feature)) for feature in features)
    with root.reading(path) as (cursor, store):
        rows = cursor.execute(f"""
            SELECT feature, hist_first, hist_counts, max FROM {store}.feature
            WHERE feature IN ({listed}) AND max IS NOT NULL""").fetchall()
    return {row[0]: ActivationHistogram(row[1], tuple(row[2]), row[3]) for row in rows}


def passages(root: Root, path: str | Path, n: int = 3) -> list[str]:
    """At most `n` short passages from documents all over the corpus, always the same ones."""

    def read() -> list[str]:
        documents = Documents.of(root, cursor, store)
        tokens = columns_store.tokens(root, cursor, store)
        long = np.flatnonzero(documents.n_tokens >= PASSAGE_TOKENS)
        chosen = long if len(long) >= n else np.arange(len(documents.doc))
        found: list[str] = []
        # More than asked for: one may hold nothing but a table, or the same words as another.
        for at in chosen[np.linspace(0, len(chosen) - 1, min(4 * n, len(chosen))).astype(int)]:
            room = int(documents.n_tokens[at])
            start = max(0, min(room // 3, room - PASSAGE_TOKENS))
            place = (int(documents.doc[at]), start, min(PASSAGE_TOKENS, room - start))
            (ids,) = documents.texts(cursor, [place]) if place[2] else [()]
            raw = b"".join(tokens[i][0] for i in ids if i in tokens and not tokens[i][1])
            text = _whole(raw.decode("utf-8", "ignore"), start > 0)
            if text and text not in found:
                found.append(text)
        step = max(len(found) // n, 1)
        return found[::step][:n]

    with root.reading(path) as (cursor, store):
        return root.remember(store, f"passages {n}", read)


def _whole(text: str, cut: bool) -> str:
    """From the first beginning of a line or sentence on, up to the end of one; "" if too short."""
    ends = [match.end() for match in ENDS.finditer(text)]
    start = ends[0] if cut and ends else 0
    last = [end for end in ends if 40 <= end - start <= PASSAGE_CHARACTERS]
    text = text[start : last[-1] if last else start + PASSAGE_CHARACTERS]
    text = textwrap.dedent(text.lstrip("\n")).strip()
    return text if len(text.split()) >= 4 else ""
