"""Examples made up by hand, and whole sets of them for one feature."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data.records import Example
from interp.items import BANDS

WIDTH = 8
VOCABULARY = {n: (f" w{n}".encode(), False) for n in range(50)}


def example(
    values: Sequence[float] = (1.0,),
    ids: Sequence[int] | None = None,
    peak: int | None = None,
    kind: str = "top",
    part: str = "",
    rank: int = 0,
    doc: int = 0,
    start: int = 0,
    use: str = "score",
    inclusion: float | None = 1.0,
    feature: int = 0,
) -> Example:
    peak = max(range(len(values)), key=values.__getitem__) if peak is None else peak
    return Example(
        feature, kind, part, rank, doc, f"doc-{doc}", use, start, peak, values[peak], values[peak],
        inclusion, 1, tuple(ids if ids is not None else range(len(values))), tuple(values),
    )  # fmt: skip


def feature_of(
    token: int, seed: int = 0, use: str = "score", each: int = 20, feature: int = 0
) -> list[Example]:
    """A feature that fires on one token, with 6 to 10: all kinds, `each` of each, in documents of
    their own, so that every rule about windows can be met."""
    draw = random.Random(seed)
    doc = 0
    rows = []
    parts = [
        ("top", ""), *(("quantile", band) for band in BANDS), ("active", ""),
        ("near_miss", "token"), ("near_miss", "under"), ("random", ""),
    ]  # fmt: skip
    for kind, part in parts:
        fires = kind in ("top", "quantile", "active")
        for rank in range(each):
            doc += 1
            others = [n for n in VOCABULARY if n != token]
            ids = [draw.choice(others) for _ in range(WIDTH)]
            values = [0.0] * WIDTH
            peak = draw.randrange(WIDTH)
            if fires:
                ids[peak] = token
                values[peak] = 10.0 if (kind, rank) == ("top", 0) else draw.uniform(6, 10)
            inclusion = None if kind == "near_miss" else 0.5
            rows.append(
                example(values, ids, peak, kind, part, rank, doc, 0, use, inclusion, feature)
            )
    return rows
