"""What a judge was asked in an auto-interp run, what it said, and what that is worth.

In:  rows of the tables candidate, result and asked, as dicts; of a results.duckdb its path.
Out: Arrow tables for `write_results`; records `ResultRow`, `AskedRow` and `CandidateRow` of one
     feature, and the results of all features by one method.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

from data.judged import AskedRow, CandidateRow, ResultRow
from data.schema import Root

NUMBERS = {"value": pa.float64(), "low": pa.float64(), "high": pa.float64()}
LISTS = {
    "ids": pa.list_(pa.int32()), "real": pa.list_(pa.float32()), "said": pa.list_(pa.float32()),
    "calls": pa.list_(pa.string()),
}  # fmt: skip
WHOLE = {"feature", "place", "n_ok", "n", "wanted", "item", "doc", "start", "peak"}
AS_JSON = {"reasons", "details"}


def tables(
    candidates: Iterable[CandidateRow], results: Iterable[ResultRow], asked: Iterable[AskedRow]
) -> dict[str, pa.Table]:
    """The three tables of a run, for `write_results`."""
    return {
        "candidate": _table(CandidateRow, candidates),
        "result": _table(ResultRow, results),
        "asked": _table(AskedRow, asked),
    }


def results_of(root: Root, path: str | Path, feature: int) -> list[ResultRow]:
    """All results of one feature, by method and arm."""
    return _read(root, path, "result", ResultRow, "WHERE feature = ? ORDER BY method, arm", feature)


def results_by(root: Root, path: str | Path, method: str) -> list[ResultRow]:
    """The results of all features by one method, by feature and arm."""
    return _read(root, path, "result", ResultRow, "WHERE method = ? ORDER BY feature, arm", method)


def asked_of(
    root: Root, path: str | Path, feature: int, method: str = "simulate", arm: str = "own"
) -> list[AskedRow]:
    """The windows of one feature as they were judged, in their order."""
    which = "WHERE feature = ? AND method = ? AND arm = ? ORDER BY item"
    return _read(root, path, "asked", AskedRow, which, feature, method, arm)


def candidates_of(root: Root, path: str | Path, feature: int) -> list[CandidateRow]:
    return _read(root, path, "candidate", CandidateRow, "WHERE feature = ? ORDER BY place", feature)


def read_all(root: Root, path: str | Path) -> tuple[list, list, list]:
    """(candidates, results, asked) of a whole run, as `tables` takes them."""
    return (
        _read(root, path, "candidate", CandidateRow, "ORDER BY feature, place"),
        _read(root, path, "result", ResultRow, "ORDER BY feature, method, arm"),
        _read(root, path, "asked", AskedRow, "ORDER BY feature, method, arm, item"),
    )


def _read(root: Root, path: str | Path, table: str, record: type, which: str, *values) -> list:
    names = [field.name for field in fields(record)]
    with root.reading(path) as (cursor, run):
        rows = cursor.execute(
            f"SELECT {', '.join(names)} FROM {run}.{table} {which}", list(values)
        ).fetchall()
    return [record(**_said(dict(zip(names, row, strict=True)))) for row in rows]


def _said(row: dict) -> dict:
    """A row as its record has it: JSON parsed, lists as tuples."""
    for name, value in row.items():
        if name in AS_JSON:
            row[name] = json.loads(value)
        elif name in LISTS and value is not None:
            row[name] = tuple(value)
    return row


def _table(record: type, rows: Iterable) -> pa.Table:
    names = [field.name for field in fields(record)]
    types = {
        name: NUMBERS.get(name) or LISTS.get(name)
        or (pa.int32() if name in WHOLE else pa.string())
        for name in names
    }  # fmt: skip
    columns = {name: [_kept(name, getattr(row, name)) for row in rows] for name in names}
    return pa.table({name: pa.array(columns[name], types[name]) for name in names})


def _kept(name: str, value: Mapping | object) -> object:
    return json.dumps(value) if name in AS_JSON else value
