"""What a judge was asked in an auto-interp run and what it said, as rows of its tables.

Out: records; data/judged_store.py writes and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CandidateRow:
    """One of several explanations; the first was chosen, by its value on the calibrate split."""

    feature: int
    place: int
    text: str
    value: float | None
    status: str
    reason: str


@dataclass(frozen=True)
class ResultRow:
    """One method on one feature; arm: own, or the baseline that was judged on the same windows."""

    feature: int
    method: str
    arm: str
    value: float | None
    low: float | None
    high: float | None
    n_ok: int
    n: int
    wanted: int
    status: str
    reason: str
    reasons: dict[str, int]  # why items failed, and how many
    details: dict  # further measures, by name


@dataclass(frozen=True)
class AskedRow:
    """One window as it was judged."""

    feature: int
    method: str
    arm: str
    item: int
    stratum: str
    doc: int
    start: int
    peak: int
    ids: tuple[int, ...]
    real: tuple[float, ...]
    said: tuple[float, ...] | None  # a level each, or one number; None unless status is ok
    status: str
    reason: str
    calls: tuple[str, ...]  # keys of the replies (data/llm_cache.py)
