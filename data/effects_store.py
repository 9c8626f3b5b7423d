"""extra/effects-<hash>.duckdb: what ablating features does, example by example.

In:  a features.duckdb (its examples as `Stretch`es, for whoever ablates); records ExampleEffect
     and FeatureEffect, block by block.
Out: a file that appears whole; for readers the same records and the CausalScore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from data import schema
from data.documents_store import Documents
from data.errors import StoreError
from data.features_store import KINDS
from data.records import CausalScore, ExampleEffect, FeatureEffect, Stretch
from data.schema import Root

ARROW = {
    "int": pa.int32(), "int | None": pa.int32(), "str": pa.string(), "float | None": pa.float64(),
    "tuple[int, ...]": pa.list_(pa.int32()), "tuple[float, ...]": pa.list_(pa.float32()),
}  # fmt: skip


def kinds_named(text: str) -> tuple[str, ...]:
    """`top,active` -> the kinds of examples meant; StoreError for one there is not."""
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise StoreError(f"no examples of kind {kind!r}: choose from {', '.join(KINDS)}")
    return kinds


def stretches(
    root: Root, path: str | Path, features: Sequence[int], kinds: Sequence[str], per_feature: int
) -> list[Stretch]:
    """Examples of `features` in features.duckdb, in the order of (feature, kind, part, rank).

    Of each feature and kind the first `per_feature` by rank; the parts of a kind take turns. Raises
    StoreError when the store cannot be read.
    """
    if not features:
        return []
    with root.reading(path) as (cursor, store):
        rows = cursor.execute(
            f"""SELECT feature, kind, part, rank, doc, start, peak, length FROM {store}.example
                WHERE feature BETWEEN ? AND ? AND list_contains(?::INTEGER[], feature)
                AND list_contains(?::VARCHAR[], kind)
                QUALIFY row_number() OVER (PARTITION BY feature, kind ORDER BY rank, part) <= ?
                ORDER BY feature, kind, part, rank""",
            [min(features), max(features), list(features), list(kinds), per_feature],
        ).fetchall()
        places = [(doc, start, length) for *_, doc, start, _peak, length in rows]
        texts = Documents.of(root, cursor, store).texts(cursor, places)
    return [Stretch(*row, ids) for (*row, _length), ids in zip(rows, texts, strict=True)]


def write_effects(
    path: str | Path,
    blocks: Iterable[tuple[Sequence[ExampleEffect], Sequence[FeatureEffect]]],
    meta: Callable[[], dict],
) -> str:
    """Writes an effects store whole or not at all; returns its content hash (64 hex digits).

    Blocks come in the order of their features, examples in that of `stretches`; each is written
    before the next is asked for. `meta()`, called after the last, is any JSON; `schema` and
    `content_hash` are added.
    """
    features: list[FeatureEffect] = []

    def examples() -> Iterator[pa.Table]:
        for some, of_features in blocks:
            features.extend(of_features)
            yield _table(ExampleEffect, some)

    def means() -> Iterator[pa.Table]:  # asked for when the examples are all written
        yield _table(FeatureEffect, features)

    with schema.writing(path) as con:
        schema.create(con, schema.EFFECTS)
        schema.load(con, {"example_effect": examples(), "feature_effect": means()})
        digest = schema.content_hash(con, schema.EFFECTS)
        schema.write_meta(con, {**meta(), "content_hash": digest})
    return digest


class EffectsStore:
    """Named queries over one effects store. Holds no handle; safe between threads.

    Every call raises StoreError or StoreBusy when the file cannot be read.
    """

    def __init__(self, root: Root, path: str | Path):
        self.root, self.path = root, Path(path)

    @property
    def meta(self) -> dict:
        """What it was made from (features_content, weights_sha256, arguments, ...), by key."""
        with self.root.reading(self.path) as (cursor, store):
            return self.root.remember(store, "meta", lambda: schema.read_meta(cursor, store))

    @property
    def causal(self) -> CausalScore:
        """The SAE's causal score over the features measured here."""
        return CausalScore(**self.meta["causal"])

    def feature(self, i: int) -> FeatureEffect | None:
        """Means over the feature's examples; None if it was not asked for."""
        found = self._records(FeatureEffect, "feature_effect", "WHERE feature = ?", [i])
        return found[0] if found else None

    def features(self) -> list[FeatureEffect]:
        """Of every feature that was asked for, by number."""
        return self._records(FeatureEffect, "feature_effect", "ORDER BY feature", [])

    def examples(self, i: int) -> list[ExampleEffect]:
        """The feature's ablated examples by kind, part and rank; [] if it was not asked for."""
        where = "WHERE feature = ? ORDER BY kind, part, rank"
        return self._records(ExampleEffect, "example_effect", where, [i])

    def _records(self, record: type, table: str, where: str, values: list[Any]) -> list[Any]:
        columns = ", ".join(field.name for field in fields(record))
        with self.root.reading(self.path) as (cursor, store):
            rows = cursor.execute(f"SELECT {columns} FROM {store}.{table} {where}", values)
            return [
                record(*(tuple(v) if isinstance(v, list) else v for v in row))
                for row in rows.fetchall()
            ]


def newest_of(root: Root, paths: Iterable[Path], features_content: str) -> Path | None:
    """The first of `paths` (Workspace.extra: newest first) that was made from the features.duckdb
    with that content hash; None if none was, so that no page shows an older harvest's effects.

    A file that cannot be read, or is of other weights, is none.
    """
    for path in paths:
        try:
            if EffectsStore(root, path).meta.get("features_content") == features_content:
                return path
        except StoreError:  # of an older program, or of the SAE that was trained here before
            continue
    return None


def _table(record: type, rows: Sequence[Any]) -> pa.Table:
    """Rows of a record as Arrow, typed by the record's own annotations."""
    columns = [(field.name, ARROW[field.type]) for field in fields(record)]
    return pa.Table.from_pylist([vars(row) for row in rows], schema=pa.schema(columns))
