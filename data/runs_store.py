"""results.duckdb: the explanations and scores of one auto-interp run.

In:  records Explanation and Score, one of each a feature.
Out: a file that appears whole; the same records read back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data import schema
from data.records import Explanation, Score
from data.schema import Root
from data.workspace import publish

EXPLANATION = "feature, judge, text, payload, status, reason"
SCORE = "feature, method, value, low, high, n_tokens, n_documents, status, reason"

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
    ]
)


def write_results(
    path: str | Path, meta: dict, explanations: Sequence[Explanation], scores: Sequence[Score]
) -> None:
    """Writes results.duckdb; `meta` is any JSON. One explanation and one score a feature at most.

    A score has a value exactly if its status is ok, so that no failure is read as a number.
    """
    for score in scores:
        assert (score.value is not None) == (score.status == "ok"), score
    told = [{**vars(e), "payload": json.dumps(e.payload)} for e in explanations]
    tables = {
        "explanation": pa.Table.from_pylist(told, schema=EXPLANATION_ARROW),
        "score": pa.Table.from_pylist([vars(s) for s in scores], schema=SCORE_ARROW),
    }
    with publish(path) as part:
        con = schema.connect(part)
        try:
            schema.create(con, schema.RESULTS)
            schema.load(con, tables)
            schema.write_meta(con, meta)
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


def explanation_of(row: tuple[Any, ...]) -> Explanation:
    """An Explanation from a row in the order of EXPLANATION."""
    feature, judge, text, payload, status, reason = row
    return Explanation(feature, judge, text, json.loads(payload), status, reason)
