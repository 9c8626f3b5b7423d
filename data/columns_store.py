"""Columns of the feature list: what features.duckdb, a run and the lab say of every feature.

In:  a cursor on the attached stores, the marks of the lab. Out: numpy columns in the order of the
     features, their orders, where a text is found; the rows of some places.

A column is read when it is first asked for and kept as long as its file is attached, a megabyte at
131,072 features: numpy filters and sorts it in a few milliseconds, where SQL took up to a hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.marks_store import Marks
from data.recent import Recent
from data.records import FeatureRow
from data.schema import KEYS, Root

LABEL = "CASE WHEN status = 'ok' THEN text END"  # a failed explanation is no label
SCORES = {"score": "value", "score_low": "low", "score_high": "high"}
TOKENS = {"peak_token": "peak_token", "top_logit_token": "top_logit"}  # ids, shown as bytes
MARKED = ("bookmarked", "tags")  # what people wrote, to sort by
COLUMNS = tuple(field.name for field in fields(FeatureRow))
# What stands in table `feature` as it is shown, and the ids of the tokens.
STATS = tuple(name for name in COLUMNS if name not in {"label", *SCORES, *TOKENS})
ORDERS = 12  # kept of those that change with what people write


@dataclass(frozen=True)
class Columns:
    """Columns of the list, one value a feature, in the order of the features."""

    root: Root
    cursor: Any
    store: str  # alias of features.duckdb
    run: str | None  # alias of results.duckdb
    marks: Marks | None  # None: nobody wrote anything

    @property
    def n(self) -> int:
        return len(self.number("feature"))

    def number(self, name: str) -> np.ndarray:
        """float64 [n], NaN where absent; flags as 0 and 1, tokens as their ids."""
        if name in SCORES:
            return self._of_run(_floats, "score", SCORES[name], np.nan)
        return self._read(_floats, self.store, "feature", TOKENS.get(name, name))

    def places(self, features: np.ndarray) -> np.ndarray:
        """Where these features stand; those that are not there are left out."""
        known = self.number("feature")
        at = np.searchsorted(known, features)
        there = at < len(known)
        there[there] = known[at[there]] == features[there]
        return at[there]

    def having(self, features: np.ndarray) -> np.ndarray:
        """bool [n]: whether each is among these features."""
        found = np.zeros(self.n, dtype=bool)
        found[self.places(features)] = True
        return found

    # ------------------------------------------------------------ orders

    def order(self, name: str, descending: bool) -> np.ndarray:
        """int32 [n], where the features stand in a list sorted by that column."""

        def sort() -> np.ndarray:
            values = self._sortable(name)
            # Stable, and NaN comes last: absent values are at the end and ties stand by feature.
            return np.argsort(-values if descending else values, kind="stable").astype(np.int32)

        of_run = name == "label" or name in SCORES
        owner = self.run if of_run and self.run is not None else self.store
        key = f"order {self.store} {name} {descending}"
        written = self.marks is not None and (name in MARKED or (name == "label" and self._said))
        if written:
            digest = self.marks.digests[name]
            recent = self.root.remember(owner, "written orders", lambda: Recent(ORDERS))
            return recent.get((key, self.marks.sae, digest), sort)
        return self.root.remember(owner, key, sort)

    @property
    def _said(self) -> bool:
        """Whether anybody said in words of their own what a feature stands for."""
        return self.marks is not None and self.marks.labelled

    def _sortable(self, name: str) -> np.ndarray:
        """float64 [n], NaN where absent; texts and bytes as their places in the alphabet."""
        if name in MARKED:
            return self._marked(name)
        if name == "label":
            if self._said:
                return _alphabetic(self.labels())
            return self._of_run(_alphabetic, "explanation", LABEL, np.nan)
        if name not in TOKENS:
            return self.number(name)
        return self._of_tokens(self._read(_alphabetic, self.store, "token", "bytes"), name, np.nan)

    def _marked(self, name: str) -> np.ndarray:
        """Bookmarks as 1, tags as places in the alphabet; NaN without any."""
        found, marks = np.full(self.n, np.nan), self.marks
        if marks is None or not len(marks.feature):
            return found
        if name == "bookmarked":
            values = np.where(marks.bookmarked, 1.0, np.nan)
        else:
            texts = pc.binary_join(marks.tags, "\n")
            values = _alphabetic(pc.if_else(pc.equal(texts, ""), None, texts))
        return _looked_up(self.number("feature"), marks.feature, values, np.nan)

    def labels(self) -> pa.Array:
        """What each feature stands for: a person's words, else the judge's; NULL without any."""
        texts = pa.nulls(self.n, pa.string())
        if self.run is not None:
            judged = self._read(_as_is, self.run, "explanation", LABEL).cast(pa.string())
            at = self._of_run_places()
            texts = judged.take(pa.array(at, mask=at < 0))
        if self._said:
            mine = self.marks.label
            where = np.full(self.n, -1)
            kept = np.isin(self.marks.feature, self.number("feature"))
            where[self.places(self.marks.feature)] = np.flatnonzero(kept)
            said = mine.take(pa.array(where, mask=where < 0))
            texts = pc.coalesce(said, texts)
        return texts

    # ------------------------------------------------------------ texts

    def containing(self, wanted: str) -> np.ndarray:
        """bool [n]: a label or the peak token contains `wanted`, which is lower-case."""
        found = self._of_tokens(self._in_token(wanted), "peak_token", False)
        if self.run is not None:
            labels = self._read(_lower, self.run, "explanation", LABEL)
            in_label = pc.match_substring(labels, wanted).fill_null(False)
            found |= self._aligned("explanation", in_label.to_numpy(zero_copy_only=False), False)
        if self._said:
            found |= self.having(self.marks.saying(wanted))
        return found

    def peaking(self, wanted: str) -> np.ndarray:
        """bool [n]: the peak token is, or contains, `wanted` (see FeatureFilter)."""
        return self._of_tokens(self._named(wanted), "peak_token", False)

    def raising(self, wanted: str) -> np.ndarray:
        """bool [n]: one of the tokens it promotes most is, or contains, `wanted`."""

        def read() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            table = self.cursor.sql(f"""
                SELECT feature, top_ids FROM {self.store}.logit WHERE scaled ORDER BY feature
                """).to_arrow_table()
            ids = table["top_ids"].combine_chunks()
            return table["feature"].to_numpy(), ids.flatten().to_numpy(), ids.offsets.to_numpy()

        feature, ids, ends = self.root.remember(self.store, "promoted", read)
        known = self._read(_floats, self.store, "token", "id")
        hit = np.append(0, np.cumsum(_looked_up(ids, known, self._named(wanted), False)))
        return self.having(feature[hit[ends[1:]] > hit[ends[:-1]]])

    def _named(self, wanted: str) -> np.ndarray:
        """bool [tokens]: those that a filter by token asks for."""
        if len(wanted) > 2 and wanted[0] == wanted[-1] == '"':
            raw = self._read(_as_is, self.store, "token", "bytes")
            hit = pc.equal(raw, pa.scalar(wanted[1:-1].encode("utf-8", "replace"), raw.type))
            return hit.to_numpy(zero_copy_only=False)
        return self._in_token(wanted.lower())

    def _in_token(self, wanted: str) -> np.ndarray:
        hit = pc.match_substring(self._read(_lower, self.store, "token", "bytes"), wanted)
        return hit.to_numpy(zero_copy_only=False)

    # ------------------------------------------------------------ rows

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
        texts = self.tokens()
        listed = []
        for i in features:
            *numbers, peak, raised = found[i]
            peak, raised = (texts.get(token, (None,))[0] for token in (peak, raised))
            about = dict(zip(STATS, numbers, strict=True))
            about |= dict(zip(SCORES, scores.get(i, (None, None, None)), strict=True))
            (label,) = labels.get(i, (None,))
            listed.append(FeatureRow(label=label, peak_token=peak, top_logit_token=raised, **about))
        return listed

    def tokens(self) -> dict[int, tuple[bytes, bool]]:
        """(bytes, special) of every token, by id."""
        return tokens(self.root, self.cursor, self.store)

    def _by_feature(
        self, table: str, columns: tuple[str, ...], store: str | None, which: str
    ) -> dict[int, tuple[Any, ...]]:
        if store is None:
            return {}
        sql = f"SELECT feature, {', '.join(columns)} FROM {store}.{table} {which}"
        return {row[0]: row[1:] for row in self.cursor.execute(sql).fetchall()}

    # ------------------------------------------------------------ reading

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

    def _of_run_places(self) -> np.ndarray:
        """int64 [n]: the row of each feature's explanation in the run; -1 without one."""
        theirs = self._read(_floats, self.run, "explanation", "feature")
        return _looked_up(self.number("feature"), theirs, np.arange(len(theirs)), -1)

    def _aligned(self, table: str, values: np.ndarray, absent: Any) -> np.ndarray:
        theirs = self._read(_floats, self.run, table, "feature")
        return _looked_up(self.number("feature"), theirs, values, absent)

    def _of_tokens(self, values: np.ndarray, name: str, absent: Any) -> np.ndarray:
        """The one of `values`, which has one for each token, of each feature's token [n]."""
        ids = self._read(_floats, self.store, "token", "id")
        return _looked_up(self.number(name), ids, values, absent)


def tokens(root: Root, cursor: Any, store: str) -> dict[int, tuple[bytes, bool]]:
    """(bytes, special) of every token of the store attached as `store`, by id."""

    def read() -> dict[int, tuple[bytes, bool]]:
        rows = cursor.execute(f"SELECT id, bytes, special FROM {store}.token").fetchall()
        return {token: (text, special) for token, text, special in rows}

    return root.remember(store, "tokens", read)


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


def _as_is(column: pa.Array) -> pa.Array:
    return column


def _lower(column: pa.Array) -> pa.Array:
    """Lower-case texts; bytes that are no UTF-8 become the replacement mark."""
    texts = (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for value in column.to_pylist()
    )
    return pa.array([None if text is None else text.lower() for text in texts], pa.string())
