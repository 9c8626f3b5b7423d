"""The address of the Features page: a FeatureFilter, and back; defaults are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields

from data.list_store import SORTS
from data.records import FLAGS, FeatureFilter
from ui.cards import percent
from ui.keys import reading

PAGE_SIZES = (25, 50, 100)
COLUMNS = (*SORTS, "flags")  # that the table can show
PLOTS = ("max", "score", "none")
LONGEST = 200  # characters of a text or a tag
SHARE = "a share from 0 to 1, such as 0.001"
SIZE = "a number, 0 or more"
SCORE = "a correlation from -1 to 1"
# Key -> field.
BOUNDS = {
    "id": "feature", "den_lo": "density_min", "den_hi": "density_max", "max_lo": "max_min",
    "max_hi": "max_max", "score_lo": "score_min", "score_hi": "score_max",
}  # fmt: skip
TEXTS = {"q": "text", "words": "example", "peak": "peak", "up": "raised", "tag": "tag"}
RANGES = (("den_lo", "den_hi"), ("max_lo", "max_hi"), ("score_lo", "score_hi"))
FILTER_KEYS = (
    *TEXTS, *BOUNDS, "alive", "only", "not", "star", "sort", "dir", "page", "size", "cols", "plot",
)  # fmt: skip


def read_filter(params: Mapping[str, str]) -> FeatureFilter:
    """The filter in an address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    sizes = {str(size): size for size in PAGE_SIZES}
    flags = "some of " + ", ".join(FLAGS)
    only = read.value("only", (), several(FLAGS), flags)
    others = read.value("not", (), several(FLAGS), flags)
    both = sorted({*only} & {*others})
    if both:
        read.faults.append(f"only and not both name {', '.join(both)}")
    values = {field: _bound(read, key) for key, field in BOUNDS.items()}
    for low, high in RANGES:
        a, b = (values[BOUNDS[key]] for key in (low, high))
        if a is not None and b is not None and a > b:
            read.faults.append(f"{low}={a:g} is larger than {high}={b:g}")
    return read.done(
        FeatureFilter(
            **values,
            **{
                field: read.value(key, "", _short, f"a text of at most {LONGEST} characters")
                for key, field in TEXTS.items()
            },
            **(dict.fromkeys(others, False) | dict.fromkeys(only, True)),
            alive=read.value("alive", None, reading.YES_NO, "yes or no"),
            bookmarked=read.value("star", None, reading.YES_NO, "yes or no"),
            sort=read.choice("sort", "feature", SORTS),
            descending=read.value(
                "dir", False, reading.one_of({"asc": False, "desc": True}), "asc or desc"
            ),
            page=read.value("page", 1, reading.whole(1), "a page number, 1 or more"),
            page_size=read.value("size", 50, reading.one_of(sizes), "one of " + ", ".join(sizes)),
            columns=read.value("cols", (), several(COLUMNS), "some of " + ", ".join(COLUMNS)),
            plot=read.choice("plot", "max", PLOTS),
        )
    )


def write_filter(filter: FeatureFilter) -> dict[str, str]:
    """The address of a filter, defaults left out."""
    plain, out = FeatureFilter(), {}
    for key, field in TEXTS.items():
        if getattr(filter, field):
            out[key] = getattr(filter, field)
    for key, field in BOUNDS.items():
        if getattr(filter, field) is not None:
            out[key] = repr(getattr(filter, field))
    for key, value in (("alive", filter.alive), ("star", filter.bookmarked)):
        if value is not None:
            out[key] = "yes" if value else "no"
    for key, wanted in (("only", True), ("not", False)):
        found = [flag for flag in FLAGS if getattr(filter, flag) is wanted]
        if found:
            out[key] = ",".join(found)
    if filter.sort != plain.sort:
        out["sort"] = filter.sort
    if filter.descending:
        out["dir"] = "desc"
    for key, field in (("page", "page"), ("size", "page_size"), ("plot", "plot")):
        if getattr(filter, field) != getattr(plain, field):
            out[key] = str(getattr(filter, field))
    if filter.columns:
        out["cols"] = ",".join(filter.columns)
    return out


def _bound(read: reading.Reader, key: str) -> float | None:
    if key == "id":
        return read.value(key, None, reading.whole(0), "a feature number, 0 or more")
    if key.startswith("den"):
        return read.value(key, None, reading.number(0, 1), SHARE)
    if key.startswith("max"):
        return read.value(key, None, reading.number(0), SIZE)
    return read.value(key, None, reading.number(-1, 1), SCORE)


def several(names: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads names with commas between them, each at most once."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if not {*found} <= {*names} or len({*found}) < len(found):
            raise ValueError(text)
        return found

    return parse


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(text)
    return text


def search_words(text: str) -> tuple[int | None, str]:
    """What is typed into the search box: `#12 rest` -> (12, "rest"), `rest` -> (None, "rest")."""
    match = re.match(r"#(\d+)\b\s*", text)
    return (int(match[1]), text[match.end() :]) if match else (None, text)


FLAG_WORDS = {
    "rare": "rare",
    "dense_1": "dense > 1 %",
    "dense_10": "dense > 10 %",
    "single_token": "single token",
    "position_bound": "position-bound",
    "outlier_bound": "outlier-bound",
}
TEXT_WORDS = {
    "text": "with “{}”",
    "example": "“{}” in its examples",
    "peak": "peaks on “{}”",
    "raised": "promotes “{}”",
    "tag": "tagged {}",
}
BOUND_WORDS = {
    "feature": "number {:d}",
    "density_min": "density at least {}",
    "density_max": "density at most {}",
    "max_min": "max at least {:g}",
    "max_max": "max at most {:g}",
    "score_min": "score at least {:g}",
    "score_max": "score at most {:g}",
}


def parts(filter: FeatureFilter) -> dict[str, str]:
    """What the filter asks for, by field, as people say it."""
    found = {}
    for field, said in (TEXT_WORDS | BOUND_WORDS).items():
        value = getattr(filter, field)
        if value not in (None, ""):
            found[field] = said.format(percent(value) if "density" in field else value)
    if filter.alive is not None:
        found["alive"] = "alive" if filter.alive else "dead"
    if filter.bookmarked is not None:
        found["bookmarked"] = "bookmarked" if filter.bookmarked else "not bookmarked"
    for flag, said in FLAG_WORDS.items():
        wanted = getattr(filter, flag)
        if wanted is not None:
            found[flag] = said if wanted else f"not {said}"
    return {f.name: found[f.name] for f in fields(FeatureFilter) if f.name in found}


def in_words(filter: FeatureFilter) -> str:
    """A filter as people say it, for the Feature page's previous and next."""
    order = f"by {filter.sort.replace('_', ' ')}, {'falling' if filter.descending else 'rising'}"
    return f"{', '.join(parts(filter).values()) or 'all features'}; {order}"
