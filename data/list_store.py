"""The feature list: filter, sort and page over features.duckdb and results.duckdb.

In:  a `Root`, the paths of the two stores, a FeatureFilter.
Out: FeatureRows of one page with the total count; the neighbours of a feature in that list.

A column is read when it is first asked for and kept as long as its file is attached, a megabyte at
131,072 features: numpy filters and sorts it in a few milliseconds, where SQL took up to a hundred.
Only the rows of the page are read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import StoreError
from data.records import FLAGS, FeatureFilter, FeatureRow
from data.schema import KEYS, Root

LABEL = "CASE WHEN status = 'ok' THEN text END"  # a failed explanation is no label
SCORES = {"score": "value", "score_low": "low", "score_high": "high"}
TOKENS = {"peak_token": "peak_token", "top_logit_token": "top_logit"}  # ids, shown as bytes
SORTS = tuple(field.name for field in fields(FeatureRow))
# What stands in table `feature` as it is shown, and the ids of the tokens.
STATS = tuple(name for name in SORTS if name not in {"label", *SCORES, *TOKENS})


def rows(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter
) -> tuple[list[FeatureRow], int]:
    """One page of the list, and how many features the filter lets through. Raises StoreError."""
    with _listing(root, path, results, filter) as (columns, places):
        first = max(filter.page - 1, 0) * filter.page_size
        return columns.rows(places[first : first + filter.page_size]), len(places)


def neighbours(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter, feature: int
) -> tuple[int | None, int | None]:
    """The features before and after `feature` in the list; None at an end or outside the filter."""
    with _listing(root, path, results, filter) as (columns, places):
        found = columns.number("feature")[places].astype(int).tolist()
    if feature not in found:
        return None, None
    at = found.index(feature)
    return (found[at - 1] if at else None), (found[at + 1] if at + 1 < len(found) else None)


def tokens(root: Root, cursor: Any, store: str) -> dict[int, tuple[bytes, bool]]:
    """(bytes, special) of every token of the store attached as `store`, by id."""

    def read() -> dict[int, tuple[bytes, bool]]:
        rows = cursor.execute(f"SELECT id, bytes, special FROM {store}.token").fetchall()
        return {token: (text, special) for token, text, special in rows}

    return root.remember(store, "tokens", read)


@contextmanager
def _listing(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter
) -> Iterator[tuple[_Columns, np.ndarray]]:
    """The columns, and where in them the features of the list stand, in its order."""
    if filter.sort not in SORTS:
        raise StoreError(f"cannot sort by {filter.sort!r}: choose from {', '.join(SORTS)}")
    with root.reading(*([path] if results is None else [path, results])) as (cursor, store, *runs):
        columns = _Columns(root, cursor, store, runs[0] if runs else None)
        kept, order = _kept(columns, filter), columns.order(filter.sort, filter.descending)
        yield columns, order[kept[order]]


def _kept(columns: _Columns, filter: FeatureFilter) -> np.ndarray:
    """Whether the filter lets each feature through; what is absent meets no bound."""
    kept = np.ones(columns.n, dtype=bool)
    for name, low, high in (
        ("feature", filter.feature, filter.feature),
        ("density", filter.density_min, filter.density_max),
        ("max", filter.max_min, None),
        ("score", filter.score_min, None),
    ):
        if low is not None:
            kept &= columns.number(name) >= low
        if high is not None:
            kept &= columns.number(name) <= high
    for name in FLAGS:
        wanted = getattr(filter, name)
        if wanted is not None:
            kept &= columns.number(name) == wanted
    if filter.alive is not None:
        kept &= columns.number("dead") != filter.alive
    if filter.text:
        kept &= columns.containing(filter.text.lower())
    return kept


@dataclass(frozen=True)
class _Columns:
    """Columns of the list, one value a feature, in the order of the features."""

    root: Root
    cursor: Any
    store: str  # alias of features.duckdb
    run: str | None  # alias of results.duckdb

    @property
    def n(self) -> int:
        return len(self.number("feature"))

    def number(self, name: str) -> np.ndarray:
        """float64 [n], NaN where absent; flags as 0 and 1, tokens as their ids."""
        if name in SCORES:
            return self._of_run(_floats, "score", SCORES[name], np.nan)
        return self._read(_floats, self.store, "feature", TOKENS.get(name, name))

    def order(self, name: str, descending: bool) -> np.ndarray:
        """int32 [n], where the features stand in a list sorted by that column."""

        def sort() -> np.ndarray:
            values = self._sortable(name)
            # Stable, and NaN comes last: absent values are at the end and ties stand by feature.
            return np.argsort(-values if descending else values, kind="stable").astype(np.int32)

        of_run = name == "label" or name in SCORES
        owner = self.run if of_run and self.run is not None else self.store
        return self.root.remember(owner, f"order {self.store} {name} {descending}", sort)

    def _sortable(self, name: str) -> np.ndarray:
        """float64 [n], NaN where absent; texts and bytes as their places in the alphabet."""
        if name == "label":
            return self._of_run(_alphabetic, "explanation", LABEL, np.nan)
        if name not in TOKENS:
            return self.number(name)
        return self._of_tokens(self._read(_alphabetic, self.store, "token", "bytes"), name, np.nan)

    def containing(self, wanted: str) -> np.ndarray:
        """bool [n]: label or peak token contain `wanted`, which is lower-case."""
        in_token = pc.match_substring(self._read(_lower, self.store, "token", "bytes"), wanted)
        in_token = in_token.to_numpy(zero_copy_only=False)
        found = self._of_tokens(in_token, "peak_token", False)
        if self.run is not None:
            labels = self._read(_lower, self.run, "explanation", LABEL)
            in_label = pc.match_substring(labels, wanted).fill_null(False)
            found |= self._aligned("explanation", in_label.to_numpy(zero_copy_only=False), False)
        return found

    def rows(self, places: np.ndarray) -> list[FeatureRow]:
        """The rows at those places, in their order."""
        features = self.number("feature")[places].astype(int).tolist()
        if not features:
            return []
        which = f"WHERE feature IN ({', '.join(map(str, features))})"
        names = (*STATS, *TOKENS.values())
        found = self._by_feature("feature", names, self.store, which)
        labels = self._by_feature("explanation", (LABEL,), self.run, which)
        scores = self._by_feature("score", tuple(SCORES.values()), self.run, which)
        texts = tokens(self.root, self.cursor, self.store)
        listed = []
        for i in features:
            *numbers, peak, raised = found[i]
            peak, raised = (texts.get(token, (None,))[0] for token in (peak, raised))
            about = dict(zip(STATS, numbers, strict=True))
            about |= dict(zip(SCORES, scores.get(i, (None, None, None)), strict=True))
            (label,) = labels.get(i, (None,))
            listed.append(FeatureRow(label=label, peak_token=peak, top_logit_token=raised, **about))
        return listed

    def _by_feature(
        self, table: str, columns: tuple[str, ...], store: str | None, which: str
    ) -> dict[int, tuple[Any, ...]]:
        if store is None:
            return {}
        sql = f"SELECT feature, {', '.join(columns)} FROM {store}.{table} {which}"
        return {row[0]: row[1:] for row in self.cursor.execute(sql).fetchall()}

    def _read(self, make: Callable[[pa.Array], Any], store: str, table: str, column: str) -> Any:
        """`make` of a whole column, in the order of the table's key; kept with the store."""

        def read() -> Any:
            sql = f"SELECT {column} AS value FROM {store}.{table} ORDER BY {KEYS[table]}"
            return make(self.cursor.sql(sql).to_arrow_table()["value"].combine_chunks())

        return self.root.remember(store, f"{make.__name__} {table} {column}", read)

    def _of_run(self, make: Callable, table: str, column: str, absent: Any) -> np.ndarray:
        """A column of the run [n]; `absent` for a feature it does not have, or without a run."""
        if self.run is None:
            return np.full(self.n, absent)
        return self._aligned(table, self._read(make, self.run, table, column), absent)

    def _aligned(self, table: str, values: np.ndarray, absent: Any) -> np.ndarray:
        theirs = self._read(_floats, self.run, table, "feature")
        return _looked_up(self.number("feature"), theirs, values, absent)

    def _of_tokens(self, values: np.ndarray, name: str, absent: Any) -> np.ndarray:
        """The one of `values`, which has one for each token, of each feature's token [n]."""
        ids = self._read(_floats, self.store, "token", "id")
        return _looked_up(self.number(name), ids, values, absent)


def _looked_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray, absent: Any) -> np.ndarray:
    """values[i] where known[i] is the key, `absent` where none is; `known` is sorted."""
    found = np.full(len(keys), absent)
    if len(known) == known[-1:].sum() + 1:  # 0, 1, 2, ...: a search would take five times as long
        hit = keys < len(known)
        at = keys[hit].astype(np.int64)
    else:
        at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        hit = known[at] == keys if len(known) else np.zeros(len(keys), dtype=bool)
        at = at[hit]
    found[hit] = values[at]
    return found


def _floats(column: pa.Array) -> np.ndarray:
    """float64, NaN for NULL; whole numbers up to 2^53 are exact."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _alphabetic(column: pa.Array) -> np.ndarray:
    """Places in the alphabet of texts or bytes, equal for equal ones; NaN for NULL."""
    place = pc.rank(column, tiebreaker="dense").cast(pa.float64())
    return pc.if_else(column.is_null(), np.nan, place).to_numpy(zero_copy_only=False)


def _lower(column: pa.Array) -> pa.Array:
    """Lower-case texts; bytes that are no UTF-8 become the replacement mark."""
    texts = (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for value in column.to_pylist()
    )
    return pa.array([None if text is None else text.lower() for text in texts], pa.string())
