"""features.duckdb: what one harvest found out about every feature of an SAE.

In:  Arrow tables of tokens, documents, features and examples (from the harvest); for readers the
     process's `Root` and the path, with the path of a results.duckdb if there is one.
Out: a file with a content hash; the records FeatureRow, FeatureStats, Example, Explanation, Score.

Columns: data/schema.py. Bulk loads go through Arrow: row-wise inserts are a hundred times slower.
A store that is written anew is seen by the next call; nothing is kept of a replaced file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data import runs_store, schema
from data.errors import StoreError
from data.records import (
    Example,
    Explanation,
    FeatureFilter,
    FeatureRow,
    FeatureStats,
    Score,
)
from data.schema import USES, Root
from data.workspace import publish

KINDS = ("top", "active", "random")
WRITER_MEMORY = "2GB"

# What the feature list sorts by: FeatureRow's names, in SQL.
COLUMNS = {
    "feature": "f.feature", "label": "label", "density": "f.density", "fires": "f.fires",
    "mean": "f.mean", "max": "f.max", "theta": "f.theta", "score": "s.value",
    "score_low": "s.low", "score_high": "s.high", "peak_token": "peak.bytes",
    "peak_share": "f.peak_share", "top_logit_token": "raised.bytes",
}  # fmt: skip
LABEL = "CASE WHEN x.status = 'ok' THEN x.text END"
STATS = """feature, fires, density, total, mean, max, theta, peak_token, peak_share, hist_counts,
    pre_counts, pre_unit, top_ids, top_logits, bottom_ids, bottom_logits"""
EXAMPLE = """feature, kind, rank, e.doc, document, "use", start, length, peak, max, inclusion,
    act_index, act_value, d.ids[start + 1 : start + length]"""


def write_features(
    path: str | Path,
    meta: dict,
    tokens: pa.Table,
    docs: pa.Table,
    features: pa.Table,
    examples: pa.Table,
) -> str:
    """Writes features.duckdb whole or not at all; returns its content hash (64 hex digits).

    Each table has exactly the columns of data/schema.py, in any order; rows are sorted here.
    `meta` is any JSON; `schema` and `content_hash` are added.
    """
    tables = {"token": tokens, "doc": docs, "feature": features, "example": examples}
    with publish(path) as part:
        con = schema.connect(part, memory_limit=WRITER_MEMORY)
        try:
            schema.create_features(con)
            schema.load(con, tables)
            digest = schema.content_hash(con)
            schema.write_meta(con, {**meta, "content_hash": digest})
            con.execute("CHECKPOINT")
        finally:
            con.close()
    return digest


class FeatureStore:
    """Named queries over one features.duckdb, joined with one results.duckdb if there is one.

    Holds no handle: each call reads the file that is at `path` then. Safe between threads. Every
    call raises StoreError or StoreBusy when a file cannot be read.
    """

    def __init__(self, root: Root, path: str | Path, results: str | Path | None = None):
        self.root = root
        self.path = Path(path)
        self.results = Path(results) if results is not None else None

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

        Sorted by any field of FeatureRow, absent values last, ties by feature. Raises StoreError
        for an unknown sort column.
        """
        order = _order(filter)
        with self._joined() as (cursor, store, tables):
            where, values = self._where(filter, cursor, store)
            total = cursor.execute(f"SELECT count(*) FROM {tables} {where}", values).fetchone()[0]
            page = cursor.execute(
                f"""SELECT f.feature, {LABEL} AS label, f.density, f.fires, f.mean, f.max, f.theta,
                           s.value, s.low, s.high, peak.bytes, f.peak_share, raised.bytes
                    FROM {tables} {where} ORDER BY {order} LIMIT ? OFFSET ?""",
                [*values, filter.page_size, max(filter.page - 1, 0) * filter.page_size],
            ).fetchall()
        return [FeatureRow(*row) for row in page], total
