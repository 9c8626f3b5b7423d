"""features.duckdb as `verify` reads it: whole columns, and the rules that its rows must keep.

In:  the process's `Root` and the path of a store.
Out: documents, feature and example columns as numpy arrays; the content hash of what is there; for
     each rule how many rows it was asked of, how many break it, and where the first stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data import schema
from data.features_store import BANDS, KINDS, MISSES
from data.schema import PIECE, USES, Root

SCALARS = (
    "fires", "density", "total", "total_squares", "mean", "sd", "skew", "kurtosis", "max", "q10",
    "q50", "q90", "q99", "quantile_error", "theta", "first_doc", "last_doc", "peak_token",
    "peak_share", "outlier_share", "hist_first", "pre_unit",
)  # fmt: skip
FLAGS = ("dead", "rare", "dense_1", "dense_10", "single_token", "position_bound", "outlier_bound")

# NULL where a feature never fires, and nowhere else.
ABSENT = (
    "mean", "sd", "max", "q10", "q50", "q90", "q99", "quantile_error", "first_doc", "last_doc",
    "outlier_share",
)  # fmt: skip

PLACE = "concat('feature ', feature, ' ', kind, ' ', part, ' ', rank)"
PARTS = f"""CASE kind WHEN 'quantile' THEN list_contains({list(BANDS)}, part)
    WHEN 'near_miss' THEN list_contains({list(MISSES)}, part) ELSE part = '' END"""
# name -> (what it is asked of, when a row keeps it, where a row stands)
RULES = {
    "examples lie inside their documents": (
        "{s}.example LEFT JOIN {s}.document USING (doc)",
        "n_tokens IS NOT NULL AND start >= 0 AND length >= 1 AND start + length <= n_tokens "
        "AND peak >= 0 AND peak < length",
        PLACE,
    ),
    "activations lie inside their examples": (
        "{s}.example",
        """len(act_index) = len(act_value) AND coalesce(list_max(act_index), 0) < length
        AND coalesce(list_min(act_value), 1) > 0 AND act_index = list_sort(list_distinct(act_index))
        """,
        PLACE,
    ),
    "kinds, parts, copies and probabilities are possible": (
        "{s}.example",
        f"""list_contains({list(KINDS)}, kind) AND {PARTS} AND copies >= 1 AND CASE kind
        WHEN 'top' THEN inclusion = 1 WHEN 'near_miss' THEN inclusion IS NULL
        ELSE inclusion > 0 AND inclusion <= 1 END""",
        PLACE,
    ),
    "fires and silent examples are told apart": (
        "{s}.example",
        "CASE WHEN kind IN ('random', 'near_miss') THEN max = 0 ELSE max > 0 END",
        PLACE,
    ),
    "one top example a document": (
        """(SELECT feature, kind, part, min(rank) AS rank, count(*) AS n FROM {s}.example
            WHERE kind = 'top' GROUP BY feature, kind, part, doc)""",
        "n = 1",
        PLACE,
    ),
    "top examples begin with the maximum and descend": (
        """(SELECT e.feature, kind, part, rank, e.max, f.max AS whole,
            lag(e.max) OVER (PARTITION BY e.feature ORDER BY rank) AS above
            FROM {s}.example e JOIN {s}.feature f USING (feature) WHERE kind = 'top')""",
        "max <= coalesce(above, whole) AND (above IS NOT NULL OR max = whole)",
        PLACE,
    ),
    "ranks count from 0": (
        """(SELECT feature, kind, part, max(rank) AS rank, min(rank) AS least, count(*) AS n
            FROM {s}.example GROUP BY feature, kind, part)""",
        "least = 0 AND rank = n - 1",
        PLACE,
    ),
    "documents have the tokens they say": (
        """(SELECT doc, n_tokens, first_piece, coalesce(sum(len(ids)), 0) AS n,
            count(text.doc) AS pieces, min(piece) AS first, max(piece) AS last,
            max(len(ids)) AS longest
            FROM {s}.document LEFT JOIN {s}.text USING (doc) GROUP BY ALL)""",
        f"""n_tokens = n AND pieces = ceil(n_tokens / {PIECE}) AND coalesce(longest, 0) <= {PIECE}
        AND coalesce(first, first_piece) = first_piece
        AND coalesce(last - first + 1, 0) = pieces""",
        "concat('document ', doc)",
    ),
    "features are numbered from 0 and absent where silent": (
        f"""(SELECT feature, row_number() OVER (ORDER BY feature) - 1 AS number, fires = 0 AS none,
            dead, {" + ".join(f"({name} IS NULL)::INTEGER" for name in ABSENT)} AS absent
            FROM {{s}}.feature)""",
        f"feature = number AND dead = none AND absent = if(none, {len(ABSENT)}, 0)",
        "concat('feature ', feature)",
    ),
    "histograms sum to the fires": (
        "{s}.feature",
        "coalesce(list_sum(hist_counts), 0) = fires AND coalesce(list_sum(positions), 0) = fires",
        "concat('feature ', feature)",
    ),
    "bands follow one another and hold all fires": (
        """(SELECT f.feature, f.fires, count(b.part) AS n, coalesce(sum(b.fires), 0) AS held,
            coalesce(min(b.fires), 0) AS least, min(b.low) AS first,
            list(b.part ORDER BY b.low, b.part) AS ascending, list(b.part ORDER BY b.part) AS parts
            FROM {s}.feature f LEFT JOIN {s}.band b USING (feature) GROUP BY ALL)""",
        f"""held = fires AND least >= 0 AND CASE WHEN fires = 0 THEN n = 0
        ELSE parts = {sorted(BANDS)} AND ascending = parts AND first = 0 END""",
        "concat('feature ', feature)",
    ),
    "quantile examples lie in their bands": (
        """(SELECT e.*, low, high FROM {s}.example e LEFT JOIN (SELECT feature, part, low,
                lead(low) OVER (PARTITION BY feature ORDER BY part) AS high FROM {s}.band) b
            USING (feature, part) WHERE kind = 'quantile')""",
        "max >= low AND max < coalesce(high, 'infinity'::DOUBLE)",
        PLACE,
    ),
}  # fmt: skip


class Rule(NamedTuple):
    """A rule held against rows."""

    name: str
    asked: int
    broken: int
    where: str


class VerifyStore:
    """One features.duckdb. Every call raises StoreError where the file cannot be read."""

    def __init__(self, root: Root, path: str | Path) -> None:
        self.root, self.path = root, Path(path)

    @property
    def meta(self) -> dict:
        with self.root.reading(self.path) as (cursor, store):
            return schema.read_meta(cursor, store)

    def content_hash(self) -> str:
        """Computed from the rows that are there."""
        with self.root.reading(self.path) as (cursor, store):
            cursor.execute(f"USE {store}")
            return schema.content_hash(cursor)

    def documents(self) -> dict[str, np.ndarray]:
        """doc, name, split, use, min_hash, n_tokens of all documents, in their order."""
        with self.root.reading(self.path) as (cursor, store):
            columns = cursor.execute(f"""
                SELECT doc, name, split, "use", min_hash, n_tokens FROM {store}.document
                ORDER BY doc""").fetchnumpy()
        return {name: np.asarray(column) for name, column in columns.items()}

    def ids(self, docs: Sequence[int]) -> dict[int, np.ndarray]:
        """Token ids int32 of each of those documents."""
        listed = ", ".join(str(int(doc)) for doc in docs)
        with self.root.reading(self.path) as (cursor, store):
            table = cursor.sql(f"""
                SELECT doc, ids FROM {store}.text WHERE doc IN ({listed}) ORDER BY piece
                """).to_arrow_table()
        values, ends = _flat(table["ids"])
        owner = np.repeat(np.asarray(table["doc"]), np.diff(ends))
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.sort(docs), side="left")
        parts = np.split(values[order], bounds[1:])
        return dict(zip(sorted(int(doc) for doc in docs), parts, strict=True))

    def features(self, which: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Columns of `feature` of those features (None: all), in their order.

        Numbers as float64 with NaN for NULL, flags as bool; `hist` [n, bins], `pre_counts` and
        `positions` [n, ...] as whole tables.
        """
        names = ", ".join(("feature", *SCALARS, *FLAGS, "hist_counts", "pre_counts", "positions"))
        with self.root.reading(self.path) as (cursor, store):
            table = cursor.sql(
                f"SELECT {names} FROM {store}.feature WHERE {_among(which)} ORDER BY feature"
            ).to_arrow_table()
            bins = len(schema.read_meta(cursor, store)["hist_edges"]) + 1
        found = {name: _numbers(table[name]) for name in SCALARS}
        found |= {name: np.asarray(table[name]).astype(bool) for name in FLAGS}
        found["feature"] = np.asarray(table["feature"]).astype(np.int64)
        found["hist"] = _spread(table["hist_counts"], found["hist_first"].astype(np.int64), bins)
        nowhere = np.zeros(len(table), dtype=np.int64)
        for name in ("pre_counts", "positions"):
            width = int(np.diff(_flat(table[name])[1]).max(initial=0))
            found[name] = _spread(table[name], nowhere, width)
        return found

    def examples(self, which: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Columns of `example` of those features (None: all), in the order of the key.

        The lists end to end, those of row i between ends[i] and ends[i + 1].
        """
        names = """feature, kind, part, rank, doc, start, length, peak, max, pre, inclusion, copies,
            act_index, act_value"""
        with self.root.reading(self.path) as (cursor, store):
            table = cursor.sql(f"""
                SELECT {names} FROM {store}.example WHERE {_among(which)}
                ORDER BY {schema.KEYS["example"]}""").to_arrow_table()
        found = {}
        for name in ("feature", "rank", "doc", "start", "length", "peak", "copies"):
            found[name] = np.asarray(table[name]).astype(np.int64)
        for name in ("max", "pre", "inclusion"):
            found[name] = _numbers(table[name])
        for name in ("kind", "part"):  # a few words, shared by all rows
            words = table[name].combine_chunks().dictionary_encode()
            known = np.array([*words.dictionary.to_pylist(), ""], dtype=object)
            found[name] = known[words.indices.to_numpy()]
        found["act_index"], found["ends"] = _flat(table["act_index"])
        found["act_value"], ends = _flat(table["act_value"])
        if not np.array_equal(ends, found["ends"]):  # one of the rules says so too
            found["act_value"] = np.resize(found["act_value"], len(found["act_index"]))
        return found

    def bands(self, which: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """feature, part, low, fires of the bands of those features (None: all), in the order of
        the key."""
        with self.root.reading(self.path) as (cursor, store):
            columns = cursor.execute(f"""
                SELECT feature, part, low, fires FROM {store}.band WHERE {_among(which)}
                ORDER BY {schema.KEYS["band"]}""").fetchnumpy()
        return {name: np.asarray(column) for name, column in columns.items()}

    def rules(self) -> list[Rule]:
        """Every rule that rows must keep, over all rows."""
        found = [self._rule(name, *parts) for name, parts in RULES.items()]
        return [*found, *self._kept_counts(), self._leaks()]

    def _rule(self, name: str, source: str, good: str, place: str) -> Rule:
        with self.root.reading(self.path) as (cursor, store):
            asked, broken, where = cursor.execute(f"""
                SELECT count(*), count(*) FILTER (NOT coalesce({good}, false)),
                    min({place}) FILTER (NOT coalesce({good}, false))
                FROM {source.format(s=store)}""").fetchone()
        return Rule(name, asked, broken, where or "")

    def _kept_counts(self) -> list[Rule]:
        """No feature has more examples of a kind (or a band of it) than the harvest kept; of fires
        it has fewer only where those are all there are."""
        kept = self.meta.get("examples", {})
        limits = " ".join(f"WHEN '{kind}' THEN {int(kept.get(kind, 0))}" for kind in KINDS)
        source = """(SELECT feature, kind, CASE kind WHEN 'quantile' THEN part ELSE '' END AS part,
            max(rank) AS rank, count(*) AS n, min(inclusion) AS least, max(inclusion) AS most
            FROM {s}.example GROUP BY 1, 2, 3)"""
        most = f"n <= CASE kind {limits} END"
        whole = f"""kind NOT IN ('active', 'quantile')
            OR least = most AND (n >= CASE kind {limits} END OR least = 1)"""
        return [
            self._rule("no more examples of a kind than were asked for", source, most, PLACE),
            self._rule("samples are whole, or everything there is", source, whole, PLACE),
        ]

    def _leaks(self) -> Rule:
        """Each view gives only documents of its own use, and together they give every example."""
        with self.root.reading(self.path) as (cursor, store):
            n = cursor.execute(f"SELECT count(*) FROM {store}.example").fetchone()[0]
            seen, leaked, where = 0, 0, ""
            for use in USES:
                rows, foreign, first = cursor.execute(f"""
                    SELECT count(*), count(*) FILTER (d."use" IS DISTINCT FROM '{use}'),
                        min({PLACE}) FILTER (d."use" IS DISTINCT FROM '{use}')
                    FROM {store}.example_{use} e 
                    LEFT JOIN (SELECT doc, "use" FROM {store}.document) d USING (doc)""").fetchone()
                seen, leaked, where = seen + rows, leaked + foreign, where or first or ""
        if seen != n and not where:
            where = f"the views give {seen} of {n} examples"
        return Rule("views give only their own use", n, leaked + abs(seen - n), where)


def _among(features: np.ndarray | None) -> str:
    if features is None:
        return "true"
    return f"feature IN ({', '.join(str(int(i)) for i in features)})" if len(features) else "false"


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64, NaN for NULL."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists end to end, and where each row's ends [rows + 1]."""
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = np.concatenate([*lengths, np.empty(0, np.int64)]).astype(np.int64)
    kind = column.type.value_type.to_pandas_dtype()
    return np.concatenate([*values, np.empty(0, kind)]), np.concatenate([[0], np.cumsum(lengths)])


def _spread(column: pa.ChunkedArray, first: np.ndarray, width: int) -> np.ndarray:
    """Lists as rows of a table [n, width], each beginning at its own column."""
    values, ends = _flat(column)
    table = np.zeros((len(first), width), dtype=values.dtype)
    row = np.repeat(np.arange(len(first)), np.diff(ends))
    place = first[row] + np.arange(len(values)) - ends[:-1][row]
    inside = (place >= 0) & (place < width)
    table[row[inside], place[inside]] = values[inside]
    return table
