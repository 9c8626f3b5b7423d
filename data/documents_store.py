"""The documents of features.duckdb: their tokens in pieces, found by number.

In:  table `doc` of a harvest; for readers places (document, start, length).
Out: tables `document` and `text` (data/schema.py); the token ids of those places.

A page needs a hundred stretches of a few dozen tokens. One list a document would be read whole for
each, 3 ms for 300,000 tokens; of pieces it reads one or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import schema
from data.errors import StoreError
from data.schema import PIECE, Root

MISSING = "texts that examples stand in are missing from this store: make it again"


def load_documents(con: Any, given: pa.Table | Iterable[pa.Table]) -> None:
    """Table `doc` into `document` and `text`: the ids of each document cut into pieces."""
    first = 0  # piece of the block's first document
    for block in [_sorted(given)] if isinstance(given, pa.Table) else given:
        ids = block["ids"].combine_chunks()
        lengths = pc.list_value_length(ids).to_numpy()
        pieces = -(-lengths // PIECE)  # of each document
        ends = np.cumsum(pieces)
        owner = np.repeat(np.arange(len(block)), pieces)
        starts = np.cumsum(lengths) - lengths
        cuts = starts[owner] + PIECE * (np.arange(len(owner)) - (ends - pieces)[owner])
        offsets = pa.array(np.append(cuts, lengths.sum()), pa.int32())
        text = {
            "piece": pa.array(first + np.arange(len(owner)), pa.int32()),
            "doc": block["doc"].take(owner),
            "ids": pa.ListArray.from_arrays(offsets, ids.flatten()),
        }
        place = pa.array(first + ends - pieces, pa.int32())
        documents = block.drop_columns("ids").append_column("first_piece", place)
        schema.load(con, {"document": [documents], "text": [pa.table(text)]})
        first += len(owner)


def _sorted(table: pa.Table) -> pa.Table:
    """By document; as it is if it lies so, since sorting copies every token."""
    return table if (np.diff(table["doc"]) > 0).all() else table.sort_by("doc")


@dataclass(frozen=True)
class Documents:
    """Name, use and place of each document's text, sorted by number.

    Read once for as long as the store is attached as `store`.
    """

    store: str
    doc: np.ndarray
    first_piece: np.ndarray
    n_tokens: np.ndarray
    name: pa.Array
    use: pa.Array

    @classmethod
    def of(cls, root: Root, cursor: Any, store: str) -> Documents:
        def read() -> Documents:
            table = cursor.sql(f"""
                SELECT doc, first_piece, n_tokens, name, "use" FROM {store}.document ORDER BY doc
                """).to_arrow_table()
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            numbers = {n: columns.pop(n).to_numpy() for n in ("doc", "first_piece", "n_tokens")}
            return cls(store, **numbers, **columns)

        return root.remember(store, "documents", read)

    def _places(self, docs: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self.doc, docs)
        if (at == len(self.doc)).any() or (self.doc[at] != docs).any():
            raise StoreError(MISSING)
        return at

    def about(self, docs: Sequence[int]) -> list[tuple[str, str]]:
        """(name, use) of each."""
        at = self._places(np.array(docs, dtype=np.int64))
        columns = (column.take(at).to_pylist() for column in (self.name, self.use))
        return list(zip(*columns, strict=True))

    def texts(self, cursor: Any, places: Sequence[tuple[int, int, int]]) -> list[tuple[int, ...]]:
        """Token ids of each (document, start, length).

        By the numbers of the pieces, which an index finds: a join would read the ids of every
        document.
        """
        if not places:
            return []
        doc, start, length = np.array(places, dtype=np.int64).T
        at = self._places(doc)
        if (start + length > self.n_tokens[at]).any():
            raise StoreError(MISSING)
        first = self.first_piece[at] + start // PIECE
        last = self.first_piece[at] + (start + length - 1) // PIECE
        spans = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        numbers = np.unique(np.concatenate(spans))
        listed = ", ".join(map(str, numbers))
        read = cursor.execute(
            f"SELECT piece, ids FROM {self.store}.text WHERE piece IN ({listed})"
        ).fetchnumpy()
        if len(read["piece"]) != len(numbers):
            raise StoreError(MISSING)
        ids = read["ids"][np.argsort(read["piece"])]
        flat, ends = np.concatenate(ids), np.cumsum([len(some) for some in ids])
        # Pieces of a document follow one another, and all but the last are full.
        at = np.searchsorted(numbers, first)
        begin = ends[at] - [len(ids[i]) for i in at] + start % PIECE
        return [tuple(flat[a:b].tolist()) for a, b in zip(begin, begin + length, strict=True)]
