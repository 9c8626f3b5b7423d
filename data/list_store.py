"""The feature list: filter, sort and page over features.duckdb, results.duckdb and the lab.

In:  a `Root`, the paths of the two stores, where the marks of the lab are, a FeatureFilter.
Out: FeatureRows of one page with the total count; the neighbours of a feature in that list; all
     features of the list; points of a scatter.

What a filter lets through, in its order, is kept for the last few filters, so that going from
feature to feature in a list costs a look-up. Columns: data/columns_store.py. Only the rows of the
page are read anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from data.columns_store import COLUMNS, MARKED, Columns
from data.errors import StoreError
from data.marks_store import Marks
from data.recent import Recent
from data.records import FLAGS, FeatureFilter, FeatureRow, Mark
from data.schema import Root
from data.text_search_store import example_text

SORTS = (*COLUMNS, *MARKED)
BOUNDED = ("density", "max", "score")  # between <name>_min and <name>_max of the filter
# Fields of FeatureFilter that do not change which features the list holds, or their order.
OF_THE_PAGE = ("page", "page_size", "columns", "plot")
LISTS, MASKS = 16, 32  # kept of each store: half a megabyte and an eighth, at 131,072 features
# The first that holds of a feature; the rest are "other".
GROUPS = ("outlier_bound", "position_bound", "single_token", "dense_1", "rare")


class MarksSource(Protocol):
    """Where marks come from (data/marks_store.py). version: another one after every change."""

    sae: str

    def version(self) -> Hashable: ...

    def read(self) -> Marks: ...


@dataclass(frozen=True)
class Source:
    """The files a list is made of, and who knows the marks."""

    root: Root
    path: Path
    results: Path | None
    marks: MarksSource | None = None


@dataclass(frozen=True)
class Points:
    """Features as points of density against another number; all arrays one value a point."""

    feature: np.ndarray  # int32
    density: np.ndarray  # float64, as `value`
    value: np.ndarray
    group: np.ndarray  # uint8, place in GROUPS; len(GROUPS): none of them
    inside: np.ndarray  # bool, within the filter's own bounds
    total: int  # features that have both numbers; more than there are points: some were left out


def rows(source: Source, filter: FeatureFilter) -> tuple[list[FeatureRow], int]:
    """One page of the list, and how many features the filter lets through. Raises StoreError."""
    with listing(source, filter) as (columns, places):
        first = max(filter.page - 1, 0) * filter.page_size
        return columns.rows(places[first : first + filter.page_size]), len(places)


def rows_of(source: Source, features: list[int]) -> list[FeatureRow]:
    """The rows of these features in their order; what is not there is left out."""
    with _columns(source) as columns:
        return columns.rows(columns.places(np.array(features, dtype=np.int64)))


def marks_of(source: Source, features: list[int]) -> dict[int, Mark]:
    """What people wrote about these features; those of which nothing is written are left out."""
    with _columns(source) as columns:
        return {} if columns.marks is None else columns.marks.of(features)


def features(source: Source, filter: FeatureFilter) -> np.ndarray:
    """All features that the filter lets through, in the order of the list; int64."""
    with listing(source, filter) as (columns, places):
        return columns.number("feature")[places].astype(np.int64)


def neighbours(
    source: Source, filter: FeatureFilter, feature: int
) -> tuple[int | None, int | None]:
    """The features before and after `feature` in the list; None at an end or outside the filter."""
    with listing(source, filter) as (columns, places):
        numbers = columns.number("feature")
        here = columns.places(np.array([feature]))
        at = np.flatnonzero(places == here[0]) if len(here) else here
        if not len(at):
            return None, None
        before, after = int(at[0]) - 1, int(at[0]) + 1
        return (
            int(numbers[places[before]]) if before >= 0 else None,
            int(numbers[places[after]]) if after < len(places) else None,
        )


def random_feature(source: Source, filter: FeatureFilter, seed: int) -> int:
    """One of the list drawn evenly from those that fire; of a list of dead ones, from all."""
    with listing(source, filter) as (columns, drawn):
        if filter.alive is not False:
            drawn = drawn[columns.number("fires")[drawn] > 0]
        if not len(drawn):
            raise StoreError(
                f"no feature of {source.path} fires: harvest over more text"
                if replace(filter, alive=None, sort="feature") == FeatureFilter()
                else "no feature that fires fits this filter: widen it"
            )
        return int(columns.number("feature")[np.random.default_rng(seed).choice(drawn)])


def points(source: Source, filter: FeatureFilter, against: str, limit: int) -> Points:
    """Features as points of density against `against` (max or score), on log axes where they are
    positive: those that the filter lets through but for its bounds on density, max and score, and
    whether they are within these. Of more than `limit` every n-th, those inside first."""
    unbounded = {f"{name}_{end}": None for name in BOUNDED for end in ("min", "max")}
    with listing(source, replace(filter, **unbounded, sort="feature", descending=False)) as (
        columns, places,
    ):  # fmt: skip
        density, value = (columns.number(name) for name in ("density", against))
        shown = (density[places] > 0) & ((value[places] > 0) | (against == "score"))
        places = places[shown & ~np.isnan(value[places])]
        inside = _bounded(columns, filter)[places]
        chosen = [_thinned(places[inside], limit)]
        chosen.append(_thinned(places[~inside], limit - len(chosen[0])))
        drawn = np.concatenate(chosen)
        group = np.full(len(drawn), len(GROUPS), np.uint8)
        for at, flag in reversed([*enumerate(GROUPS)]):
            group[columns.number(flag)[drawn] == 1] = at
        return Points(
            columns.number("feature")[drawn].astype(np.int32), density[drawn], value[drawn], group,
            np.arange(len(drawn)) < len(chosen[0]), len(places),
        )  # fmt: skip


def _thinned(places: np.ndarray, limit: int) -> np.ndarray:
    """Every n-th, so that `limit` are left at most."""
    return places[:: -(-len(places) // limit)] if limit > 0 and len(places) else places[:0]


@contextmanager
def listing(source: Source, filter: FeatureFilter) -> Iterator[tuple[Columns, np.ndarray]]:
    """The columns, and where in them the features of the list stand, in its order."""
    with _columns(source) as columns:
        yield columns, _listed(columns, filter)


@contextmanager
def _columns(source: Source) -> Iterator[Columns]:
    paths = [source.path] if source.results is None else [source.path, source.results]
    with source.root.reading(*paths) as (cursor, store, *runs):
        marks = None if source.marks is None else _marks(source.root, store, source.marks)
        yield Columns(source.root, cursor, store, runs[0] if runs else None, marks)


def _marks(root: Root, store: str, source: MarksSource) -> Marks:
    """The marks as they are now; read again only after a change of the lab."""
    recent = root.remember(store, f"marks {source.sae}", lambda: Recent(1))
    return recent.get(source.version(), source.read)


def _listed(columns: Columns, filter: FeatureFilter) -> np.ndarray:
    """int32, where in the columns the features of the list stand, in its order."""
    if filter.sort not in SORTS:
        raise StoreError(f"cannot sort by {filter.sort!r}: choose from {', '.join(SORTS)}")

    def make() -> np.ndarray:
        order = columns.order(filter.sort, filter.descending)
        return order[_kept(columns, filter)[order]]

    recent = columns.root.remember(columns.store, "lists", lambda: Recent(LISTS))
    asked = tuple((k, v) for k, v in vars(filter).items() if k not in OF_THE_PAGE)
    return recent.get((asked, columns.run, _written(columns, filter)), make)


def _written(columns: Columns, filter: FeatureFilter) -> tuple[str, ...]:
    """Digests of what people wrote, as far as the filter depends on it."""
    if columns.marks is None:
        return ()
    asked = {
        "label": filter.text or filter.sort == "label",
        "tags": filter.tag or filter.sort == "tags",
        "bookmarked": filter.bookmarked is not None or filter.sort == "bookmarked",
    }
    used = [columns.marks.digests[name] for name, does in asked.items() if does]
    return (columns.marks.sae, *used) if used else ()


def _kept(columns: Columns, filter: FeatureFilter) -> np.ndarray:
    """bool [n]: whether the filter lets each feature through; what is absent meets no bound."""
    kept = _bounded(columns, filter)
    if filter.feature is not None:
        kept &= columns.number("feature") == filter.feature
    for name in FLAGS:
        wanted = getattr(filter, name)
        if wanted is not None:
            kept &= columns.number(name) == wanted
    if filter.alive is not None:
        kept &= columns.number("dead") != filter.alive
    if filter.tag:
        kept &= columns.having(_tagged(columns, filter.tag))
    if filter.bookmarked is not None:
        kept &= columns.having(_bookmarked(columns)) == filter.bookmarked
    if filter.text:
        kept &= columns.containing(filter.text.lower())
    if filter.peak:
        kept &= columns.peaking(filter.peak)
    if filter.raised:
        kept &= columns.raising(filter.raised)
    if filter.example:
        kept &= _exemplified(columns, filter.example)
    return kept


def _bounded(columns: Columns, filter: FeatureFilter) -> np.ndarray:
    """bool [n]: whether density, max and score are within the filter's bounds."""
    kept = np.ones(columns.n, dtype=bool)
    for name in BOUNDED:
        low, high = getattr(filter, f"{name}_min"), getattr(filter, f"{name}_max")
        if low is not None:
            kept &= columns.number(name) >= low
        if high is not None:
            kept &= columns.number(name) <= high
    return kept


def _tagged(columns: Columns, tag: str) -> np.ndarray:
    return np.zeros(0, int) if columns.marks is None else columns.marks.with_tag(tag)


def _bookmarked(columns: Columns) -> np.ndarray:
    marks = columns.marks
    return np.zeros(0, int) if marks is None else marks.feature[marks.bookmarked]


def _exemplified(columns: Columns, wanted: str) -> np.ndarray:
    """bool [n]: whether that text stands around the peak of one of its strongest examples."""

    def search() -> np.ndarray:
        text = example_text(columns.root, columns.cursor, columns.store)
        return columns.having(text.features_with(wanted))

    recent = columns.root.remember(columns.store, "examples with", lambda: Recent(MASKS))
    return recent.get(wanted, search)
