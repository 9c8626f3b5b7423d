"""features.duckdb: what one harvest found out about every feature of an SAE.

In:  Arrow tables of tokens, documents, features and examples (from the harvest); for readers the
     process's `Root` and the path, with the path of a results.duckdb if there is one.
Out: a file with a content hash; the records FeatureRow, FeatureStats, Example, Explanation, Score.

Columns: data/schema.py. Bulk loads go through Arrow: row-wise inserts are a hundred times slower.
A store that is written anew is seen by the next call; nothing is kept of a replaced file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data import columns_store, list_export_store, list_store, runs_store, schema
from data.documents_store import Documents, load_documents
from data.errors import StoreError
from data.list_store import MarksSource
from data.records import (
    Example,
    Explanation,
    FeatureFilter,
    FeatureRow,
    FeatureStats,
    LogitEffect,
    Mark,
    Score,
)
from data.schema import USES, Root

KINDS = ("top", "quantile", "active", "near_miss", "random")
BANDS = ("0.99-1", "0.9-0.99", "0.5-0.9", "0-0.5")  # parts of `quantile`: ranks among the fires
MISSES = ("under", "token")  # parts of `near_miss`
ORDER = {name: place for place, name in enumerate((*KINDS, "", *BANDS, *MISSES))}
WRITER_MEMORY = "1GB"
EVERYTHING = FeatureFilter()

EXAMPLE = """feature, kind, part, rank, doc, start, length, peak, max, pre, inclusion, copies,
    act_index, act_value"""


def write_features(
    path: str | Path, meta: dict, tables: Mapping[str, pa.Table | Iterable[pa.Table]]
) -> str:
    """Writes features.duckdb whole or not at all; returns its content hash (64 hex digits).

    tables: token, doc, feature, logit, band, example, with exactly the columns of data/schema.py in
    any order. A table is sorted here; an iterable of tables must come in the order of its key.
    `meta` is any JSON; `schema` and `content_hash` are added. StoreError on a full disk.
    """
    with schema.writing(path, WRITER_MEMORY) as con:
        schema.create_features(con)
        for name, given in tables.items():
            if name == "doc":
                load_documents(con, given)
            else:
                schema.load(con, {name: given})
        digest = schema.content_hash(con)
        schema.write_meta(con, {**meta, "content_hash": digest})
    return digest


class FeatureStore:
    """Named queries over one features.duckdb, joined with one results.duckdb if there is one.

    Holds no handle: each call reads the file that is at `path` then. Safe between threads. Every
    call raises StoreError or StoreBusy when a file cannot be read.
    """

    def __init__(
        self,
        root: Root,
        path: str | Path,
        results: str | Path | None = None,
        marks: MarksSource | None = None,
    ):
        """marks: what people wrote, for lists that are filtered by it (data/marks_store.py)."""
        self.root = root
        self.path = Path(path)
        self.results = Path(results) if results is not None else None
        self.marks = marks

    @property
    def _list(self) -> list_store.Source:
        return list_store.Source(self.root, self.path, self.results, self.marks)

    @property
    def meta(self) -> dict:
        """What is recorded of the harvest, by key (data/schema.py)."""
        with self.root.reading(self.path) as (cursor, store):
            return self.root.remember(store, "meta", lambda: schema.read_meta(cursor, store))

    @property
    def n_features(self) -> int:
        with self.root.reading(self.path) as (cursor, store):
            return cursor.execute(f"SELECT count(*) FROM {store}.feature").fetchone()[0]

    def summary(self) -> dict[str, int | None]:
        """Counts of features: all, alive, dead, active on more than 1% and 10% of tokens, and with
        an explanation and a score that did not fail (None without results)."""
        with self.root.reading(self.path) as (cursor, store):
            row = cursor.execute(f"""
                SELECT count(*), count(*) FILTER (fires > 0), count(*) FILTER (fires = 0),
                       count(*) FILTER (density > 0.01), count(*) FILTER (density > 0.1)
                FROM {store}.feature""").fetchone()
        names = ("features", "alive", "dead", "dense_1", "dense_10")
        counts = dict(zip(names, row, strict=True))
        return {**counts, **runs_store.count_results(self.root, self.results)}

    def rows(self, filter: FeatureFilter) -> tuple[list[FeatureRow], int]:
        """One page of the feature list, and how many features the filter lets through.

        Sorted by any field of FeatureRow, or by what people wrote; absent values last, ties by
        feature. Raises StoreError for an unknown sort column.
        """
        return list_store.rows(self._list, filter)

    def rows_of(self, features: Sequence[int]) -> list[FeatureRow]:
        """The rows of these features in their order; those there are not are left out."""
        return list_store.rows_of(self._list, list(features))

    def marks_of(self, features: Sequence[int]) -> dict[int, Mark]:
        """What people wrote about these features; those without a word are left out."""
        return list_store.marks_of(self._list, list(features))

    def features(self, filter: FeatureFilter) -> np.ndarray:
        """All features that the filter lets through, in the order of the list; int64."""
        return list_store.features(self._list, filter)

    def points(self, filter: FeatureFilter, against: str, limit: int) -> list_store.Points:
        """The features of a list as points of density against max or score (data/list_store.py)."""
        return list_store.points(self._list, filter, against, limit)

    def exported(self, filter: FeatureFilter, format: str) -> bytes:
        """All features of the list as a file: csv or parquet (data/list_export_store.py)."""
        return list_export_store.exported(self._list, filter, format)

    def neighbours(self, filter: FeatureFilter, feature: int) -> tuple[int | None, int | None]:
        """The features before and after `feature` in the list of that filter and sort.

        None at either end; (None, None) if the filter leaves `feature` out.
        """
        return list_store.neighbours(self._list, filter, feature)

    def random_feature(self, seed: int, filter: FeatureFilter = EVERYTHING) -> int:
        """A feature of the list drawn evenly from those that fire; of a list of dead ones, from
        all. StoreError if there is none.
        """
        return list_store.random_feature(self._list, filter, seed)

    def feature(self, i: int) -> FeatureStats:
        """Everything counted of one feature; StoreError if there is no such feature."""
        with self.root.reading(self.path) as (cursor, store):
            columns = ", ".join(field.name for field in fields(FeatureStats))
            row = cursor.execute(
                f"SELECT {columns} FROM {store}.feature WHERE feature = ?", [i]
            ).fetchone()
            if row is None:
                low, high = cursor.execute(
                    f"SELECT min(feature), max(feature) FROM {store}.feature"
                ).fetchone()
                has = "it has none" if low is None else f"it has {low} to {high}"
                raise StoreError(f"no feature {i} in this SAE: {has}")
        return FeatureStats(*(tuple(v) if isinstance(v, list) else v for v in row))

    def logits(self, i: int, scaled: bool = True) -> LogitEffect | None:
        """What feature `i` does to the logits; None where its site does not write to the stream."""
        with self.root.reading(self.path) as (cursor, store):
            columns = ", ".join(field.name for field in fields(LogitEffect))
            row = cursor.execute(
                f"SELECT {columns} FROM {store}.logit WHERE feature = ? AND scaled = ?", [i, scaled]
            ).fetchone()
        if row is None:
            return None
        return LogitEffect(*(tuple(v) if isinstance(v, list) else v for v in row))

    def explanation(self, i: int) -> Explanation | None:
        """What the run says feature `i` stands for; None without a run or without one of it."""
        if self.results is None:
            return None
        return runs_store.read_explanation(self.root, self.results, i)

    def score(self, i: int) -> Score | None:
        """How well that explanation predicts; None without a run or without a score."""
        if self.results is None:
            return None
        return runs_store.read_score(self.root, self.results, i)

    def bands(self, i: int) -> dict[str, tuple[float, int]]:
        """Each band of ranks among the fires of feature `i`, in the order of BANDS: the activation
        it begins at, and how many fires it holds. Empty for a feature that never fires."""
        with self.root.reading(self.path) as (cursor, store):
            rows = cursor.execute(
                f"SELECT part, low, fires FROM {store}.band WHERE feature = ?", [i]
            ).fetchall()
        return {part: (low, n) for part, low, n in sorted(rows, key=lambda row: ORDER[row[0]])}

    def example_counts(self, i: int) -> dict[tuple[str, str], int]:
        """How many examples of each (kind, part) feature `i` has."""
        with self.root.reading(self.path) as (cursor, store):
            rows = cursor.execute(
                f"SELECT kind, part, count(*) FROM {store}.example WHERE feature = ? GROUP BY ALL",
                [i],
            ).fetchall()
        return {(kind, part): n for kind, part, n in rows}

    def examples(self, i: int, kind: str | None = None, use: str | None = None) -> list[Example]:
        """Examples of feature `i` in the order of KINDS, BANDS and MISSES, each by rank.

        `kind` and `use` narrow it; StoreError for a kind or use there is not.
        """
        if kind is not None and kind not in KINDS:
            raise StoreError(f"no examples of kind {kind!r}: choose from {', '.join(KINDS)}")
        return self._examples([i], use, kind)

    def examples_for(self, features: Sequence[int], use: str) -> dict[int, list[Example]]:
        """Examples of each feature from documents of one use only: explain, calibrate or score.

        Reads through the view of that use, so no other text can come back. A feature without
        examples there has an empty list.
        """
        found: dict[int, list[Example]] = {int(i): [] for i in features}
        for example in self._examples(list(found), use):
            found[example.feature].append(example)
        return found

    def token_bytes(self, ids: Sequence[int]) -> dict[int, tuple[bytes, bool]]:
        """(bytes, special) of each token id; ids the tokenizer does not have are left out."""
        with self.root.reading(self.path) as (cursor, store):
            tokens = columns_store.tokens(self.root, cursor, store)
        return {int(i): tokens[int(i)] for i in ids if int(i) in tokens}

    def vocabulary(self) -> dict[int, tuple[bytes, bool]]:
        """(bytes, special) of every token id of the tokenizer."""
        with self.root.reading(self.path) as (cursor, store):
            return columns_store.tokens(self.root, cursor, store)

    def densities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(feature int32, density float64, max float32) of all features; NaN: dead."""
        with self.root.reading(self.path) as (cursor, store):
            columns = cursor.execute(f"""
                SELECT feature, density, coalesce(max, 'nan'::FLOAT) AS max
                FROM {store}.feature ORDER BY feature""").fetchnumpy()
        return tuple(np.asarray(columns[name]) for name in ("feature", "density", "max"))

    def _examples(
        self, features: list[int], use: str | None, kind: str | None = None
    ) -> list[Example]:
        """Of one use, or of all if that is None; in order."""
        if use is not None and use not in USES:
            raise StoreError(f"no examples for {use!r}: choose from {', '.join(USES)}")
        if not features:
            return []
        which = f"feature IN ({_numbers(features)})"
        if kind is not None:
            which += f" AND kind = '{kind}'"
        source = "example" if use is None else f"example_{use}"
        with self.root.reading(self.path) as (cursor, store):
            rows = cursor.execute(f"SELECT {EXAMPLE} FROM {store}.{source} WHERE {which}")
            rows = sorted(rows.fetchall(), key=lambda r: (r[0], ORDER[r[1]], ORDER[r[2]], r[3]))
            documents = Documents.of(self.root, cursor, store)
            about = documents.about([row[4] for row in rows])
            if use is not None and any(its != use for _, its in about):  # a view can be redefined
                raise StoreError(
                    f"{source} of {self.path} gives texts that are for another use: it was "
                    "changed after its harvest; make it again"
                )
            texts = documents.texts(cursor, [row[4:7] for row in rows])  # doc, start, length
        return [_example(*row) for row in zip(rows, about, texts, strict=True)]


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values)


def _example(row: tuple[Any, ...], about: tuple[str, str], ids: tuple[int, ...]) -> Example:
    """From a row in the order of EXAMPLE, its document's name and use, and its text."""
    feature, kind, part, rank, doc, start, length, *numbers, act_index, act_value = row
    values = [0.0] * length
    for index, value in zip(act_index, act_value, strict=True):
        values[index] = value
    return Example(feature, kind, part, rank, doc, *about, start, *numbers, ids, tuple(values))
