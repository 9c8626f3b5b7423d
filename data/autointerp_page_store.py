"""What the Auto-interp page asks of a run's results.duckdb, so that it never reads a whole table.

In:  the process's Root, the path of a results.duckdb, a method, how the table is sorted.
Out: one page of rows; numbers of all features by arm; failures by reason. Answers over all features
     are read once for each version of the file.

A run that was scored before methods and baselines were kept has its headline alone; it counts as
the result of its one method, without baselines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import StoreError
from data.schema import Root

OWN = """(SELECT feature, value, low, high, n_ok, n, wanted, status, reason FROM {run}.result
        WHERE method = $method AND arm = 'own'
    UNION ALL SELECT feature, value, low, high, n_ok, n, wanted, status, reason FROM {run}.score
        WHERE method = $method
        AND NOT EXISTS (SELECT 1 FROM {run}.result WHERE method = $method))"""
NUMBER = "CASE WHEN {0}.status = 'constant' THEN 0 ELSE {0}.value END"  # as means count it
SORTS = {  # of PageRow -> columns
    "feature": "feature", "label": "label", "score": "value", "lift": "lift", "failed": "failed",
}  # fmt: skip
STATUSES = ("ok", "constant", "withheld", "failed", "not_run")


@dataclass(frozen=True)
class PageRow:
    """What a run says of one feature by one method. Absent numbers are None, never 0."""

    feature: int
    label: str | None  # None: not explained
    value: float | None
    low: float | None
    high: float | None
    n_ok: int | None
    n: int | None
    wanted: int | None
    status: str  # one of STATUSES
    reason: str
    baseline: float | None  # of the same windows; constant as 0
    lift: float | None  # over it; constant as 0
    failed: int | None  # windows


@dataclass(frozen=True)
class Arm:
    """One arm's results over features, by number of the feature."""

    features: np.ndarray  # int
    values: np.ndarray  # float; constant 0, nan where there is none
    sure: np.ndarray  # bool: has a value
    statuses: dict[str, int]


@dataclass(frozen=True)
class Failures:
    """What failed, in words and numbers, the commonest first."""

    explanations: list[tuple[str, str, int]]  # (status, reason, features)
    windows: list[tuple[str, int]]  # (reason, windows), of all methods and arms
    features: list[tuple[str, str, int]]  # (status, reason, features) without a value, own arm


def methods(root: Root, path: str | Path) -> dict[str, list[str]]:
    """Method -> arms there are results of."""

    def read(cursor: Any, run: str) -> dict[str, list[str]]:
        rows = cursor.execute(
            f"""SELECT DISTINCT method, arm FROM {run}.result
                UNION SELECT DISTINCT method, 'own' FROM {run}.score ORDER BY ALL"""
        ).fetchall()
        out: dict[str, list[str]] = {}
        for method, arm in rows:
            out.setdefault(method, []).append(arm)
        return out

    return _once(root, path, "methods", read)


def arms(root: Root, path: str | Path, method: str) -> dict[str, Arm]:
    """arm -> its results over all features."""

    def read(cursor: Any, run: str) -> dict[str, Arm]:
        found = cursor.execute(
            f"""SELECT arm, feature, value, status FROM {run}.result
                    WHERE method = $method AND arm <> 'own'
                UNION ALL SELECT 'own', feature, value, status FROM {OWN.format(run=run)}
                ORDER BY arm, feature""",
            {"method": method},
        ).fetchnumpy()
        value = np.ma.filled(found["value"].astype(float), np.nan)
        status, arm = np.asarray(found["status"], str), np.asarray(found["arm"], str)
        out = {}
        for name in dict.fromkeys(arm.tolist()):
            own = arm == name
            constant = status[own] == "constant"
            out[name] = Arm(
                np.asarray(found["feature"])[own],
                np.where(constant, 0.0, value[own]),
                np.isfinite(value[own]),
                dict(Counter(status[own].tolist()).most_common()),
            )
        return out

    return _once(root, path, f"arms {method}", read)


def kept(root: Root, path: str | Path, key: str, make: Callable[[], Any]) -> Any:
    """`make()`, once for each version of the file."""
    return _once(root, path, key, lambda cursor, run: make())


def page_rows(
    root: Root,
    path: str | Path,
    method: str,
    baseline: str = "lexical",
    sort: str = "score",
    descending: bool = True,
    page: int = 1,
    page_size: int = 50,
    status: str = "",
) -> tuple[list[PageRow], int]:
    """One page of the table, and how many rows it has; absent values come last.

    status: only those; "" for all. StoreError for a sort that is none of SORTS.
    """
    if sort not in SORTS:
        raise StoreError(f"cannot sort by {sort!r}: choose from {', '.join(SORTS)}")
    order = f"{SORTS[sort]} {'DESC' if descending else 'ASC'} NULLS LAST, feature"
    with root.reading(path) as (cursor, run):
        told = f"""(SELECT e.feature, CASE WHEN e.status = 'ok' THEN e.text END AS label,
                o.value, o.low, o.high, o.n_ok, o.n, o.wanted,
                coalesce(o.status, 'not_run') AS status,
                coalesce(nullif(o.reason, ''), CASE WHEN e.status <> 'ok' THEN e.reason END,
                    CASE WHEN o.status IS NULL THEN 'not scored' ELSE '' END) AS reason,
                {NUMBER.format("b")} AS baseline,
                {NUMBER.format("o")} - {NUMBER.format("b")} AS lift, o.n - o.n_ok AS failed
            FROM {run}.explanation e LEFT JOIN {OWN.format(run=run)} o USING (feature)
            LEFT JOIN (SELECT feature, value, status FROM {run}.result
                WHERE method = $method AND arm = $baseline) b USING (feature))"""
        named = {"method": method, "baseline": baseline, "status": status}
        where = "WHERE $status = '' OR status = $status"
        count = cursor.execute(f"SELECT count(*) FROM {told} {where}", named).fetchone()[0]
        rows = cursor.execute(
            f"SELECT * FROM {told} {where} ORDER BY {order} LIMIT $size OFFSET $first",
            {**named, "size": page_size, "first": (max(page, 1) - 1) * page_size},
        ).fetchall()
    return [PageRow(*row) for row in rows], count


def failures(root: Root, path: str | Path) -> Failures:
    """What failed or was not run, explained features and scored windows apart."""

    def read(cursor: Any, run: str) -> Failures:
        explained = cursor.execute(
            f"""SELECT status, reason, count(*) AS n FROM {run}.explanation WHERE status <> 'ok'
                GROUP BY ALL ORDER BY n DESC, reason"""
        ).fetchall()
        features = cursor.execute(
            f"""SELECT status, CASE WHEN status = 'withheld' THEN 'too many windows failed'
                    ELSE reason END AS reason, count(DISTINCT feature) AS n FROM {run}.result
                WHERE arm = 'own' AND status NOT IN ('ok', 'constant')
                GROUP BY ALL ORDER BY n DESC, reason"""
        ).fetchall()
        windows: Counter[str] = Counter()
        for reasons, n in cursor.execute(
            f"SELECT reasons, count(*) FROM {run}.result WHERE reasons <> '{{}}' GROUP BY ALL"
        ).fetchall():
            for reason, k in json.loads(reasons).items():
                windows[reason] += k * n
        return Failures(explained, windows.most_common(), features)

    return _once(root, path, "failures", read)


def explained(root: Root, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(features the run explains or tried to, which of them have no explanation)."""

    def read(cursor: Any, run: str) -> tuple[np.ndarray, np.ndarray]:
        found = cursor.execute(
            f"SELECT feature, status <> 'ok' AS bad FROM {run}.explanation ORDER BY feature"
        ).fetchnumpy()
        features = np.asarray(found["feature"])
        return features, features[np.asarray(found["bad"], bool)]

    return _once(root, path, "explained", read)


def unreadable(root: Root, path: str | Path) -> list[str]:
    """Keys of the calls whose replies could not be read, of explanations and of windows."""

    def read(cursor: Any, run: str) -> list[str]:
        windows = cursor.execute(
            f"SELECT DISTINCT unnest(calls) FROM {run}.asked WHERE status = 'failed'"
        ).fetchall()
        explanations = cursor.execute(
            f"SELECT payload FROM {run}.explanation WHERE status = 'failed'"
        ).fetchall()
        keys = {key for (key,) in windows}
        for (payload,) in explanations:
            keys.update(json.loads(payload).get("calls", ()))
        return sorted(keys)

    return _once(root, path, "unreadable", read)


def _once(root: Root, path: str | Path, key: str, read: Callable[[Any, str], Any]) -> Any:
    with root.reading(path) as (cursor, run):
        return root.remember(run, f"page {key}", lambda: read(cursor, run))
