"""The address of the Features page: a FeatureFilter, and back; defaults are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

from data.records import FeatureFilter, FeatureRow
from ui.keys import reading

PAGE_SIZES = (25, 50, 100)
SORTS = tuple(field.name for field in fields(FeatureRow))


def read_filter(params: Mapping[str, str]) -> FeatureFilter:
    """The filter in an address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    share = "a share from 0 to 1, such as 0.001"
    sizes = {str(size): size for size in PAGE_SIZES}
    result = FeatureFilter(
        text=params.get("q", ""),
        feature=read.value("id", None, reading.whole(0), "a feature number, 0 or more"),
        density_min=read.value("den_lo", None, reading.number(0, 1), share),
        density_max=read.value("den_hi", None, reading.number(0, 1), share),
        max_min=read.value("max_lo", None, reading.number(0), "a number, 0 or more"),
        score_min=read.value("score_lo", None, reading.number(-1, 1), "a correlation from -1 to 1"),
        alive=read.value("alive", None, reading.YES_NO, "yes or no"),
        sort=read.choice("sort", "feature", SORTS),
        descending=read.value(
            "dir", False, reading.one_of({"asc": False, "desc": True}), "asc or desc"
        ),
        page=read.value("page", 1, reading.whole(1), "a page number, 1 or more"),
        page_size=read.value("size", 50, reading.one_of(sizes), "one of " + ", ".join(sizes)),
    )
    low, high = result.density_min, result.density_max
    if low is not None and high is not None and low > high:
        read.faults.append(f"den_lo={low:g} is larger than den_hi={high:g}")
    return read.done(result)


FILTER_KEYS = (
    "q", "id", "den_lo", "den_hi", "max_lo", "score_lo", "alive", "sort", "dir", "page", "size",
)  # fmt: skip


def write_filter(filter: FeatureFilter) -> dict[str, str]:
    """The address of a filter, defaults left out."""
    bounds = {
        "id": filter.feature,
        "den_lo": filter.density_min,
        "den_hi": filter.density_max,
        "max_lo": filter.max_min,
        "score_lo": filter.score_min,
    }
    out = {key: repr(value) for key, value in bounds.items() if value is not None}
    plain = FeatureFilter()
    if filter.text:
        out["q"] = filter.text
    if filter.alive is not None:
        out["alive"] = "yes" if filter.alive else "no"
    if filter.sort != plain.sort:
        out["sort"] = filter.sort
    if filter.descending:
        out["dir"] = "desc"
    if filter.page != plain.page:
        out["page"] = str(filter.page)
    if filter.page_size != plain.page_size:
        out["size"] = str(filter.page_size)
    return out


def search_words(text: str) -> tuple[int | None, str]:
    """What is typed into the search box: `#12 rest` -> (12, "rest"), `rest` -> (None, "rest")."""
    match = re.match(r"#(\d+)\b\s*", text)
    return (int(match[1]), text[match.end() :]) if match else (None, text)


def in_words(filter: FeatureFilter) -> str:
    """A filter as people say it, for the Feature page's previous and next."""
    parts = []
    if filter.feature is not None:
        parts.append(f"number {filter.feature}")
    if filter.text:
        parts.append(f"with “{filter.text}”")
    if filter.density_min is not None:
        parts.append(f"density at least {filter.density_min:g}")
    if filter.density_max is not None:
        parts.append(f"density at most {filter.density_max:g}")
    if filter.max_min is not None:
        parts.append(f"max at least {filter.max_min:g}")
    if filter.score_min is not None:
        parts.append(f"score at least {filter.score_min:g}")
    if filter.alive is not None:
        parts.append("alive" if filter.alive else "dead")
    order = f"by {filter.sort.replace('_', ' ')}, {'falling' if filter.descending else 'rising'}"
    return f"{', '.join(parts) or 'all features'}; {order}"
