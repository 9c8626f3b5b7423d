"""The feature list: filter, sort and page over features.duckdb and results.duckdb, in SQL.

In:  a `Root`, the paths of the two stores, a FeatureFilter.
Out: FeatureRows of one page with the total count; the neighbours of a feature in that list.

A page takes a few milliseconds because it joins only what the filter or the order names, finds the
page first and reads its rows after; token bytes, labels and scores are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import StoreError
from data.records import FeatureFilter, FeatureRow
from data.schema import Root

# What the feature list sorts by: FeatureRow's names, in SQL.
LABEL = "CASE WHEN x.status = 'ok' THEN x.text END"  # a failed explanation is no label
COLUMNS = {
    "feature": "f.feature", "label": LABEL, "density": "f.density", "fires": "f.fires",
    "mean": "f.mean", "max": "f.max", "theta": "f.theta", "score": "s.value",
    "score_low": "s.low", "score_high": "s.high", "peak_token": "peak.bytes",
    "peak_share": "f.peak_share", "top_logit_token": "raised.bytes",
}  # fmt: skip
JOINS = {
    "peak.": " LEFT JOIN {store}.token peak ON peak.id = f.peak_token",
    "raised.": " LEFT JOIN {store}.token raised ON raised.id = f.top_logit",
    "x.": " LEFT JOIN {run}.explanation x ON x.feature = f.feature",
    "s.": " LEFT JOIN {run}.score s ON s.feature = f.feature",
}
NO_RUN = {
    "x.": " CROSS JOIN (SELECT NULL::VARCHAR AS status, NULL::VARCHAR AS text) x",
    "s.": """ CROSS JOIN
        (SELECT NULL::DOUBLE AS value, NULL::DOUBLE AS low, NULL::DOUBLE AS high) s""",
}
ROW = "feature, density, fires, mean, max, theta, peak_share, peak_token, top_logit"


@dataclass(frozen=True)
class _Listing:
    """What a query over the list is made of."""

    cursor: Any
    store: str  # alias of features.duckdb
    run: str  # alias of results.duckdb; "" without one
    source: str  # FROM and WHERE clause
    values: list[Any]  # for the marks in `source`
    order: str  # ORDER BY clause


def rows(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter
) -> tuple[list[FeatureRow], int]:
    """One page of the list, and how many features the filter lets through. Raises StoreError."""
    with _listing(root, path, results, filter) as at:
        total = at.cursor.execute(f"SELECT count(*) FROM {at.source}", at.values).fetchone()[0]
        page = at.cursor.execute(
            f"SELECT f.feature FROM {at.source} ORDER BY {at.order} LIMIT ? OFFSET ?",
            [*at.values, filter.page_size, max(filter.page - 1, 0) * filter.page_size],
        ).fetchall()
        features = [row[0] for row in page]
        read = at.cursor.execute(
            f"SELECT {ROW} FROM {at.store}.feature WHERE list_contains(?::INTEGER[], feature)",
            [features],
        ).fetchall()
        known = tokens(root, at.cursor, at.store)
        labels = _labels(root, at.cursor, at.run) if at.run else {}
    found = {row[0]: _row(row, known, labels) for row in read}
    return [found[feature] for feature in features], total


def neighbours(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter, feature: int
) -> tuple[int | None, int | None]:
    """The features before and after `feature` in the list; None at an end or outside the filter."""
    with _listing(root, path, results, filter) as at:
        row = at.cursor.execute(
            f"""SELECT before, after FROM (
                    SELECT f.feature, lag(f.feature) OVER list AS before,
                           lead(f.feature) OVER list AS after
                    FROM {at.source} WINDOW list AS (ORDER BY {at.order}))
                WHERE feature = ?""",
            [*at.values, feature],
        ).fetchone()
    return row if row is not None else (None, None)


def tokens(root: Root, cursor: Any, store: str) -> dict[int, tuple[bytes, bool]]:
    """(bytes, special) of every token of the store attached as `store`, by id."""

    def read() -> dict[int, tuple[bytes, bool]]:
        rows = cursor.execute(f"SELECT id, bytes, special FROM {store}.token").fetchall()
        return {token: (text, special) for token, text, special in rows}

    return root.remember(store, "tokens", read)


def _token_texts(root: Root, cursor: Any, store: str) -> list[tuple[int, str]]:
    """(id, lower-case text) of every token; bytes that are no UTF-8 become the replacement mark."""

    def read() -> list[tuple[int, str]]:
        known = tokens(root, cursor, store)
        return [(i, text.decode("utf-8", "replace").lower()) for i, (text, _) in known.items()]

    return root.remember(store, "token texts", read)


def _labels(root: Root, cursor: Any, run: str) -> dict[int, tuple[Any, ...]]:
    """(label, score, low, high) by feature."""

    def read() -> dict[int, tuple[Any, ...]]:
        rows = cursor.execute(f"""
            SELECT coalesce(x.feature, s.feature), {LABEL}, s.value, s.low, s.high
            FROM {run}.explanation x FULL JOIN {run}.score s ON x.feature = s.feature""")
        return {feature: tuple(rest) for feature, *rest in rows.fetchall()}

    return root.remember(run, "labels", read)


@contextmanager
def _listing(
    root: Root, path: Path, results: Path | None, filter: FeatureFilter
) -> Iterator[_Listing]:
    """Joins only the tables that the filter or the order names: each costs milliseconds."""
    if filter.sort not in COLUMNS:
        raise StoreError(f"cannot sort by {filter.sort!r}: choose from {', '.join(COLUMNS)}")
    direction = "DESC" if filter.descending else "ASC"
    order = f"{COLUMNS[filter.sort]} {direction} NULLS LAST, f.feature"
    with root.reading(*([path] if results is None else [path, results])) as (cursor, store, *runs):
        run = runs[0] if runs else ""
        texts = _token_texts(root, cursor, store) if filter.text else []
        where, values = _where(filter, texts)
        joins = JOINS if run else {**JOINS, **NO_RUN}
        joined = "".join(join for name, join in joins.items() if name in where + order)
        source = f"{store}.feature f{joined.format(store=store, run=run)} {where}"
        yield _Listing(cursor, store, run, source, values, order)


def _where(filter: FeatureFilter, texts: list[tuple[int, str]]) -> tuple[str, list[Any]]:
    """(WHERE clause, its values) for the bounds of `filter`."""
    bounds = [
        ("f.feature = ?", filter.feature),
        ("f.density >= ?", filter.density_min),
        ("f.density <= ?", filter.density_max),
        ("f.max >= ?", filter.max_min),
        ("s.value >= ?", filter.score_min),
        ("(f.fires > 0) = ?", filter.alive),
    ]
    terms = [sql for sql, value in bounds if value is not None]
    values = [value for _, value in bounds if value is not None]
    if filter.text:
        wanted = filter.text.lower()
        token = "f.peak_token IN (SELECT unnest(?::INTEGER[]))"
        terms.append(f"(contains(lower({LABEL}), ?) OR {token})")
        values += [wanted, [i for i, text in texts if wanted in text]]
    return (f"WHERE {' AND '.join(terms)}" if terms else ""), values


def _row(
    row: tuple[Any, ...],
    tokens: dict[int, tuple[bytes, bool]],
    labels: dict[int, tuple[Any, ...]],
) -> FeatureRow:
    """A FeatureRow from a row in the order of ROW."""
    feature, density, fires, mean, max, theta, peak_share, peak_token, top_logit_token = row
    label, score, low, high = labels.get(feature, (None, None, None, None))
    return FeatureRow(
        feature=feature, label=label, density=density, fires=fires, mean=mean, max=max, theta=theta,
        score=score, score_low=low, score_high=high, peak_share=peak_share,
        peak_token=tokens.get(peak_token, (None,))[0],
        top_logit_token=tokens.get(top_logit_token, (None,))[0],
    )  # fmt: skip
