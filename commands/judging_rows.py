"""What an auto-interp run keeps and tells, row by row and line by line.

In:  candidates, results and totals. Out: rows for its tables; lines for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def candidate_row(place: int, candidate: Any) -> Any:
    from data.judged import CandidateRow

    e = candidate.explanation
    status = e.status if e.status != "ok" else candidate.status
    return CandidateRow(e.feature, place, e.text, candidate.value, status, e.reason)


def score_of(row: Any) -> Any:
    """The headline of one feature."""
    from data.records import Score

    n_tokens = row.details.get("tokens", 0)
    n_documents = row.details.get("documents", 0)
    return Score(
        row.feature, row.method, row.value, row.low, row.high, n_tokens, n_documents, row.status,
        row.reason, row.n_ok, row.n, row.wanted,
    )  # fmt: skip


def line(judge: str, method: str, found: Any, median: float | None, n: int) -> str:
    """One method in a line, with its lift over each baseline."""
    what = "r" if method == "simulate" else method
    if median is None:
        return f"{judge}: no {what} score over {n:,} features: {_counts(found.statuses)}"
    missing = n - sum(k for status, k in found.statuses.items() if status in ("ok", "constant"))
    line = (
        f"{judge}: median {what} {median:.3f}, mean {found.uniform.value:.3f} "
        f"over {n - missing:,} features ({missing:,} not scored)"
    )
    for arm, lift in found.lift.items():
        if lift.value is not None:
            ends = "" if lift.low is None else f" [{lift.low:+.3f}, {lift.high:+.3f}]"
            line += f"\n  over {arm}: {lift.value:+.3f}{ends}, {lift.n:,} features"
    return line


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {status}" for status, n in statuses.items())


def reasons(explanations: Iterable[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in explanations:
        if one.status != "ok":
            found[one.reason] = found.get(one.reason, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
