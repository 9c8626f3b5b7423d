"""extra/neighbours-<hash>.duckdb and extra/map-<hash>.duckdb: where a feature lies among others.

In:  lists of neighbours by kind, places of features, and what both were made from.
Out: files that appear whole; for readers Neighbour and Place. A file made from other weights than
     the reader's is refused, so that no page shows another SAE's features beside these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data import schema
from data.errors import StoreError
from data.schema import Root

NEIGHBOUR_KINDS = ("coactivation", "correlation", "decoder", "encoder")
FEATURES_AT_ONCE = 4_096  # of a table handed to DuckDB
ROW = "feature, kind, rank, other, value, together, given_this, given_other, r"
COLUMNS = pa.schema(
    [
        ("feature", pa.int32()),
        ("kind", pa.string()),
        ("rank", pa.int32()),
        ("other", pa.int32()),
        ("value", pa.float32()),
        ("together", pa.int64()),
        ("given_this", pa.float32()),
        ("given_other", pa.float32()),
        ("r", pa.float32()),
    ]
)
PLACES = pa.schema([("feature", pa.int32()), ("x", pa.float64()), ("y", pa.float64())])


@dataclass(frozen=True)
class Neighbour:
    """One of the features nearest to a feature, by one measure. None: not measured, or undefined.

    `value` is a cosine (kind decoder, encoder), PMI in nats (coactivation) or Pearson's r
    (correlation). The rest is counted on a sample of tokens: `together`, on how many both fire;
    `given_this` P(other fires | this fires), `given_other` P(this | other); `r` of activations.
    """

    feature: int
    kind: str
    rank: int  # from 0, the nearest
    other: int  # a feature of the same SAE, or of the one that the file compares it with
    value: float
    together: int | None
    given_this: float | None
    given_other: float | None
    r: float | None


@dataclass(frozen=True)
class Place:
    """Where a feature lies on the map."""

    feature: int
    x: float
    y: float


# ---------------------------------------------------------------- writing


def write_neighbours(
    path: str | Path, meta: dict, lists: Mapping[str, Mapping[str, np.ndarray]]
) -> str:
    """Writes a neighbours file whole or not at all; returns its content hash (64 hex digits).

    lists: kind -> columns feature, rank, other, value and, where they were measured, together,
    given_this, given_other, r (NaN: undefined), each sorted by feature, then rank. `meta` is any
    JSON with `weights_sha256`; `kinds`, `schema` and `content_hash` are added.
    """
    meta = {**meta, "kinds": sorted(lists)}
    return _write(path, schema.NEIGHBOURS, meta, {"neighbour": _neighbour_tables(lists)})


def write_map(path: str | Path, meta: dict, features: np.ndarray, places: np.ndarray) -> str:
    """Writes a map of places [n, 2] of features [n], as `write_neighbours` does."""
    columns = {"feature": features, "x": places[:, 0], "y": places[:, 1]}
    table = pa.table({name: np.ascontiguousarray(c) for name, c in columns.items()})
    return _write(path, schema.MAP, meta, {"place": table.cast(PLACES)})


def _write(
    path: str | Path,
    tables: dict[str, str],
    meta: dict,
    rows: Mapping[str, pa.Table | Iterable[pa.Table]],
) -> str:
    assert "weights_sha256" in meta, "a reader could not tell whose features these are"
    with schema.writing(path) as con:
        schema.create(con, tables)
        schema.load(con, rows)
        digest = schema.content_hash(con, tables)
        schema.write_meta(con, {**meta, "content_hash": digest})
    return digest


def _neighbour_tables(lists: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[pa.Table]:
    """The rows by feature, kind and rank, some thousand features at a time."""
    n_features = max((int(c["feature"].max(initial=-1)) for c in lists.values()), default=-1) + 1
    for start in range(0, n_features, FEATURES_AT_ONCE):
        stop = start + FEATURES_AT_ONCE
        tables = []
        for kind in sorted(lists):
            columns = lists[kind]
            part = slice(*np.searchsorted(columns["feature"], [start, stop]))
            some = {name: pa.array(c[part], from_pandas=True) for name, c in columns.items()}
            n = part.stop - part.start
            some |= {c: pa.nulls(n) for c in COLUMNS.names if c not in some}
            some["kind"] = pa.array([kind] * n, pa.string())
            tables.append(pa.table(some).select(COLUMNS.names).cast(COLUMNS))
        order = [("feature", "ascending"), ("kind", "ascending"), ("rank", "ascending")]
        yield pa.concat_tables(tables).sort_by(order)


# ---------------------------------------------------------------- reading


class NeighboursStore:
    """Named queries over one neighbours file. Holds no handle; safe between threads.

    Every call raises StoreError when the file cannot be read, or was made from other weights.
    """

    def __init__(self, root: Root, path: str | Path, weights_sha256: str) -> None:
        """weights_sha256: of the sae_weights.safetensors whose features will be asked for."""
        self.root, self.path, self.weights_sha256 = root, Path(path), weights_sha256

    @property
    def meta(self) -> dict:
        """What it was made from: sae, other (None: itself), weights, tokens, ..., by key."""
        with _reading(self) as (_, _, meta):
            return meta

    def neighbours(
        self, feature: int, kinds: str | Sequence[str] = NEIGHBOUR_KINDS
    ) -> dict[str, tuple[Neighbour, ...]]:
        """The features nearest to `feature`, the nearest first, for each of `kinds`.

        () where it has none: it is dead, or fires too rarely with any other; all of a kind are ()
        in a file that does not have it (`meta["kinds"]`). StoreError for a kind there never is.
        """
        kinds = _known((kinds,) if isinstance(kinds, str) else tuple(kinds))
        with _reading(self) as (cursor, store, _):
            rows = cursor.execute(
                f"SELECT {ROW} FROM {store}.neighbour WHERE feature = ? ORDER BY rank", [feature]
            ).fetchall()
        found = [Neighbour(*row) for row in rows]
        return {kind: tuple(n for n in found if n.kind == kind) for kind in kinds}

    def matches(self, kind: str, page: int = 1, page_size: int = 50) -> list[Neighbour]:
        """Each feature with its nearest by `kind`, the closest pairs first, one page of them."""
        _known((kind,))
        with _reading(self) as (cursor, store, _):
            rows = cursor.execute(
                f"""SELECT {ROW} FROM {store}.neighbour WHERE kind = ? AND rank = 0
                    ORDER BY value DESC, feature LIMIT ? OFFSET ?""",
                [kind, page_size, (page - 1) * page_size],
            ).fetchall()
        return [Neighbour(*row) for row in rows]


class MapStore:
    """Places from one map file; as NeighboursStore."""

    def __init__(self, root: Root, path: str | Path, weights_sha256: str) -> None:
        self.root, self.path, self.weights_sha256 = root, Path(path), weights_sha256

    @property
    def meta(self) -> dict:
        """What it was made from: sae, method, explained (shares of the variance), ..., by key."""
        with _reading(self) as (_, _, meta):
            return meta

    def places(self, features: Sequence[int] | None = None) -> list[Place]:
        """The places of `features` (None: all), by number; those that have none are left out."""
        asked = [] if features is None else [int(f) for f in features]
        chosen = "" if features is None else "WHERE list_contains(?::INTEGER[], feature)"
        with _reading(self) as (cursor, store, _):
            rows = cursor.execute(
                f"SELECT feature, x, y FROM {store}.place {chosen} ORDER BY feature",
                [asked] if chosen else [],
            ).fetchall()
        return [Place(*row) for row in rows]


def newest_of(
    root: Root,
    paths: Iterable[Path],
    weights_sha256: str,
    other: str | None = None,
    other_weights_sha256: str | None = None,
) -> Path | None:
    """The first of `paths` (Workspace.extra: newest first) made from those weights, and of `other`
    (None: of the SAE's own features), if given made from its weights too; None if none was.

    A file that cannot be read, or is of other weights, is none.
    """
    for path in paths:
        try:
            with root.reading(path) as (cursor, store):
                meta = _meta(root, cursor, store)
        except StoreError:  # of an older program, or of the SAE that was trained here before
            continue
        if meta.get("weights_sha256") != weights_sha256 or meta.get("other") != other:
            continue
        if other_weights_sha256 in (None, meta.get("other_weights_sha256")):
            return path
    return None


@contextmanager
def _reading(store: NeighboursStore | MapStore) -> Iterator[tuple[Any, str, dict]]:
    """(cursor, alias, meta) of one snapshot of the file; StoreError if it is of other weights."""
    with store.root.reading(store.path) as (cursor, alias):
        meta = _meta(store.root, cursor, alias)
        if meta.get("weights_sha256") != store.weights_sha256:
            name = meta.get("sae")
            raise StoreError(
                f"{store.path} was made from other weights than {name} has now: "
                f"run: python run.py neighbours {name}"
            )
        yield cursor, alias, meta


def _meta(root: Root, cursor: Any, alias: str) -> dict:
    return root.remember(alias, "meta", lambda: schema.read_meta(cursor, alias))


def _known(kinds: tuple[str, ...]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in NEIGHBOUR_KINDS:
            known = ", ".join(NEIGHBOUR_KINDS)
            raise StoreError(f"no neighbours of kind {kind!r}: choose from {known}")
    return kinds
