"""results.duckdb: the explanations and scores of one auto-interp run.

In:  records Explanation and Score, one of each a feature.
Out: a file that appears whole; the same records read back, summaries, and pages of the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data import schema
from data.errors import StoreError
from data.records import Explanation, Score
from data.schema import Root
from data.workspace import publish

EXPLANATION = "feature, judge, text, payload, status, reason"
SCORE = "feature, method, value, low, high, n_tokens, n_documents, status, reason, n_ok, n, wanted"

SORTS = {"feature": "feature", "label": "text", "score": "value"}  # of RunRow -> columns


@dataclass(frozen=True)
class RunSummary:
    """One auto-interp run in numbers. Scores are of those that did not fail; None: none."""

    meta: dict
    judge: str | None  # who wrote the labels
    explained: int
    not_explained: int  # the judge failed, or there was nothing to go by
    scored: int
    not_scored: int  # failed, or left out; never counted as a zero
    median: float | None
    q25: float | None
    q75: float | None


@dataclass(frozen=True)
class RunRow:
    """What a run says of one feature."""

    feature: int
    label: str | None  # None: not explained
    score: float | None
    low: float | None
    high: float | None
    n_documents: int | None  # the score rests on
    n_tokens: int | None
    reason: str | None  # why there is no label, or no score


EXPLANATION_ARROW = pa.schema(
    [(c, pa.int32() if c == "feature" else pa.string()) for c in EXPLANATION.split(", ")]
)
SCORE_ARROW = pa.schema(
    [
        ("feature", pa.int32()),
        ("method", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n_tokens", pa.int32()),
        ("n_documents", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("n_ok", pa.int32()),
        ("n", pa.int32()),
        ("wanted", pa.int32()),
    ]
)


def write_results(
    path: str | Path,
    meta: dict,
    explanations: Sequence[Explanation],
    scores: Sequence[Score],
    judged: Mapping[str, pa.Table] | None = None,
) -> None:
    """Writes results.duckdb; `meta` is any JSON. One explanation and one score a feature at most.
    judged: the tables candidate, result and asked (data/judged_store.py).

    A score has a value exactly if its status is ok, so that no failure is read as a number.
    """
    for score in scores:
        assert (score.value is not None) == (score.status == "ok"), score
    told = [{**vars(e), "payload": json.dumps(e.payload)} for e in explanations]
    tables = {
        "explanation": pa.Table.from_pylist(told, schema=EXPLANATION_ARROW),
        "score": pa.Table.from_pylist([vars(s) for s in scores], schema=SCORE_ARROW),
        **(judged or {}),
    }
    with publish(path) as part:
        con = schema.connect(part)
        try:
            schema.create(con, schema.RESULTS)
            schema.load(con, tables)
            schema.write_meta(con, meta, schema.RESULTS_SCHEMA)
            con.execute("CHECKPOINT")
        finally:
            con.close()


def read_results(
    root: Root, path: str | Path
) -> tuple[dict, dict[int, Explanation], dict[int, Score]]:
    """(meta, explanation by feature, score by feature). Raises StoreError, StoreBusy."""
    with root.reading(path) as (cursor, run):
        meta = schema.read_meta(cursor, run)
        explanations = cursor.execute(
            f"SELECT {EXPLANATION} FROM {run}.explanation ORDER BY feature"
        ).fetchall()
        scores = cursor.execute(f"SELECT {SCORE} FROM {run}.score ORDER BY feature").fetchall()
    return (
        meta,
        {row[0]: explanation_of(row) for row in explanations},
        {row[0]: Score(*row) for row in scores},
    )


def read_explanation(root: Root, path: str | Path, feature: int) -> Explanation | None:
    """The explanation of one feature; None if the run has none."""
    with root.reading(path) as (cursor, run):
        row = cursor.execute(
            f"SELECT {EXPLANATION} FROM {run}.explanation WHERE feature = ?", [feature]
        ).fetchone()
    return explanation_of(row) if row else None


def read_score(root: Root, path: str | Path, feature: int) -> Score | None:
    """The score of one feature; None if the run has none."""
    with root.reading(path) as (cursor, run):
        row = cursor.execute(
            f"SELECT {SCORE} FROM {run}.score WHERE feature = ?", [feature]
        ).fetchone()
    return Score(*row) if row else None


def count_results(root: Root, path: str | Path | None) -> dict[str, int | None]:
    """{"explained", "scored"}: features for which neither failed; None without a run."""
    if path is None:
        return {"explained": None, "scored": None}
    with root.reading(path) as (cursor, run):
        row = cursor.execute(f"""
            SELECT (SELECT count(*) FROM {run}.explanation WHERE status = 'ok'),
                   (SELECT count(*) FROM {run}.score WHERE status = 'ok')""").fetchone()
    return {"explained": row[0], "scored": row[1]}


def summary(root: Root, path: str | Path) -> RunSummary:
    """A run in numbers, computed once for each version of its file. Raises StoreError."""
    with root.reading(path) as (cursor, run):

        def read() -> RunSummary:
            told = cursor.execute(f"""
                SELECT max(judge), count(*) FILTER (status = 'ok'),
                       count(*) FILTER (status <> 'ok')
                FROM {run}.explanation""").fetchone()
            scored = cursor.execute(f"""
                SELECT count(*) FILTER (status = 'ok'), count(*) FILTER (status <> 'ok'),
                       median(value), quantile_cont(value, 0.25), quantile_cont(value, 0.75)
                FROM {run}.score""").fetchone()
            return RunSummary(schema.read_meta(cursor, run), *told, *scored)

        return root.remember(run, "summary", read)


def scores_of(root: Root, path: str | Path) -> list[float]:
    """The scores of a run that did not fail, rising; read once for each version of its file."""
    with root.reading(path) as (cursor, run):

        def read() -> list[float]:
            sql = f"SELECT value FROM {run}.score WHERE status = 'ok' ORDER BY value"
            return [row[0] for row in cursor.execute(sql).fetchall()]

        return root.remember(run, "scores", read)


def run_rows(
    root: Root,
    path: str | Path,
    sort: str = "feature",
    descending: bool = False,
    page: int = 1,
    page_size: int = 50,
) -> tuple[list[RunRow], int]:
    """One page of a run's table, and how many rows it has; absent values come last.

    Raises StoreError for a sort that is none of SORTS.
    """
    if sort not in SORTS:
        raise StoreError(f"cannot sort by {sort!r}: choose from {', '.join(SORTS)}")
    order = f"{SORTS[sort]} {'DESC' if descending else 'ASC'} NULLS LAST, feature"
    with root.reading(path) as (cursor, run):
        count = cursor.execute(f"SELECT count(*) FROM {run}.explanation").fetchone()[0]
        rows = cursor.execute(
            f"""SELECT e.feature, CASE WHEN e.status = 'ok' THEN e.text END AS text, s.value, s.low,
                    s.high, s.n_documents, s.n_tokens,
                    CASE WHEN e.status <> 'ok' THEN e.reason WHEN s.status <> 'ok' THEN s.reason END
                FROM {run}.explanation e LEFT JOIN {run}.score s USING (feature)
                ORDER BY {order} LIMIT ? OFFSET ?""",
            [page_size, (max(page, 1) - 1) * page_size],
        ).fetchall()
    return [RunRow(*row) for row in rows], count


def explanation_of(row: tuple[Any, ...]) -> Explanation:
    """An Explanation from a row in the order of EXPLANATION."""
    feature, judge, text, payload, status, reason = row
    return Explanation(feature, judge, text, json.loads(payload), status, reason)
