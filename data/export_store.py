"""A feature store as plain files that need no DuckDB: one file a table, and meta.json.

In:  the process's `Root`, the path of a features.duckdb, some features, a folder.
Out: token, doc, feature, logit, band and example as .parquet, .csv or .jsonl, rows in the order of
     the store's keys, and the store's meta as JSON.

What a format cannot hold is written so: lists stay lists in Parquet and JSON lines and are JSON
text in CSV; bytes (token.bytes) stay bytes in Parquet and are hexadecimal text elsewhere; NULL is
null, and nothing between two commas in CSV. min_hash has 64 bits: JSON readers that keep numbers as
doubles round it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from data import schema
from data.errors import StoreError, WorkspaceError
from data.schema import Root

FORMATS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER true",
    "jsonl": "FORMAT json, ARRAY false",
}
# Which rows belong to the chosen features. All tokens always do: ids everywhere refer to them.
ROWS = {
    "token": "",
    # A view, which has no order of its own.
    "doc": "WHERE doc IN (SELECT doc FROM {store}.example WHERE {chosen}) ORDER BY doc",
    "feature": "WHERE {chosen}",
    "logit": "WHERE {chosen}",
    "band": "WHERE {chosen}",
    "example": "WHERE {chosen}",
}


def write_tables(
    root: Root, path: str | Path, folder: Path, format: str, features: Sequence[int] | None
) -> dict[str, int]:
    """Writes one file a table into `folder`, and meta.json; returns the rows of each table.

    features: those whose rows to write, with the documents their examples are from; None: all.
    Raises StoreError for a store that cannot be read, WorkspaceError for a folder that cannot be
    written.
    """
    with root.reading(path) as (cursor, store):
        chosen = "true" if features is None else _within(features)
        counts = {}
        for table, rows in ROWS.items():
            target = folder / f"{table}.{format}"
            where = rows.format(store=store, chosen=chosen)
            source = f"SELECT {_columns(cursor, store, table, format)} FROM {store}.{table} {where}"
            # Tables lie in the order of their keys, and DuckDB keeps it (preserve_insertion_order).
            counts[table] = _copy(cursor, source, target, FORMATS[format])
        about = {
            **schema.read_meta(cursor, store),
            "export": {
                "format": format,
                "bytes": "as they are" if format == "parquet" else "hexadecimal",
                "features": "all" if features is None else len(features),
                "rows": counts,
            },
        }
    text = json.dumps(about, indent=1, ensure_ascii=False)
    (folder / "meta.json").write_text(text + "\n", encoding="utf-8")
    return counts


def _within(features: Sequence[int]) -> str:
    """A condition on `feature`, as few ranges as there are gaps: a thousand numbers one by one
    would hide from zone maps that they lie together."""
    numbers = sorted({int(feature) for feature in features})
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return "(" + " OR ".join(f"feature BETWEEN {low} AND {high}" for low, high in ranges) + ")"


def _columns(cursor: Any, store: str, table: str, format: str) -> str:
    """The SELECT list of a table: its columns, rewritten where the format has no such type."""
    found = []
    for name, kind, *_ in cursor.execute(f"DESCRIBE {store}.{table}").fetchall():
        quoted = f'"{name}"'
        if format != "parquet" and kind == "BLOB":
            found.append(f"hex({quoted}) AS {quoted}")
        elif format == "csv" and kind.endswith("[]"):  # a list of numbers as text is JSON
            found.append(f"CAST({quoted} AS VARCHAR) AS {quoted}")
        else:
            found.append(quoted)
    return ", ".join(found)


def _copy(cursor: Any, source: str, target: Path, options: str) -> int:
    """Runs a COPY; returns its rows. Tells a full disk from a damaged store."""
    quoted = str(target).replace("'", "''")
    try:
        return cursor.execute(f"COPY ({source}) TO '{quoted}' ({options})").fetchone()[0]
    except duckdb.IOException as error:
        reason = str(error).splitlines()[0]
        if str(target) in reason or "o space left" in reason:
            raise WorkspaceError(f"{target} cannot be written ({reason})") from None
        raise
    except duckdb.OutOfMemoryException as error:
        raise StoreError(
            f"{target.name} does not fit in memory ({str(error).splitlines()[0]}): "
            "export fewer features at once"
        ) from None
