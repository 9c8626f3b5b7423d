"""The address of a page: query parameters in, dataclasses out, and back.

In:  the query parameters of a page, all strings.
Out: `FeatureFilter`, `FeatureView`, `PromptView`; dictionaries of strings that leave defaults out.

An address is input like any other: a value it cannot hold is refused with what was seen and what
is accepted, all faults at once, and never replaced by a default in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from data.errors import WorkbenchError
from data.records import FeatureFilter, FeatureRow

T = TypeVar("T")

PAGE_SIZES = (25, 50, 100)
SORTS = tuple(field.name for field in fields(FeatureRow))
# Tabs of the examples: kind and part in the store.
KINDS = {
    "top": ("top", ""), "q99": ("quantile", "0.99-1"), "q90": ("quantile", "0.9-0.99"),
    "q50": ("quantile", "0.5-0.9"), "q0": ("quantile", "0-0.5"), "active": ("active", ""),
    "under": ("near_miss", "under"), "token": ("near_miss", "token"), "random": ("random", ""),
}  # fmt: skip
CONTEXTS = {"5": 5, "16": 16, "64": 64, "full": None}  # tokens around the peak; None: all
PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class FeatureView:
    """How the Feature page shows its examples."""

    feature: int | None = None  # None: no feature named in the address
    kind: str = "top"  # one of KINDS
    context: str = "16"  # a key of CONTEXTS
    centre: bool = False  # one line an example, the peak token in the middle
    breaks: bool = False  # line breaks as breaks


@dataclass(frozen=True)
class PromptView:
    """What the Prompt page shows."""

    text: str = ""
    token: int | None = None  # position of the chosen token
    feature: int | None = None  # colour by this feature; None: by the strongest
    hide_dense: bool = False


class _Reader:
    """Reads values one by one and keeps the faults for one message."""

    def __init__(self, params: Mapping[str, str]):
        self.params = params
        self.faults: list[str] = []

    def value(self, key: str, default: T, parse: Callable[[str], T], accepted: str) -> T:
        text = self.params.get(key)
        if text is None:
            return default
        try:
            return parse(text)
        except (ValueError, KeyError):
            self.faults.append(f"{key}={text!r} is not {accepted}")
            return default

    def done(self, result: T) -> T:
        if self.faults:
            raise WorkbenchError("The address does not fit this page: " + "; ".join(self.faults))
        return result


def _number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high or value == float("inf"):
            raise ValueError(text)
        return value

    return parse


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError(text)
        return value

    return parse


def _one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    return lambda text: values[text]


_YES_NO = {"yes": True, "no": False}.__getitem__


def read_filter(params: Mapping[str, str]) -> FeatureFilter:
    """The filter in an address; WorkbenchError listing every value that does not fit."""
    read = _Reader(params)
    share = "a share from 0 to 1, such as 0.001"
    sizes = {str(size): size for size in PAGE_SIZES}
    result = FeatureFilter(
        text=params.get("q", ""),
        feature=read.value("id", None, _whole(0), "a feature number, 0 or more"),
        density_min=read.value("den_lo", None, _number(0, 1), share),
        density_max=read.value("den_hi", None, _number(0, 1), share),
        max_min=read.value("max_lo", None, _number(0), "a number, 0 or more"),
        score_min=read.value("score_lo", None, _number(-1, 1), "a correlation from -1 to 1"),
        alive=read.value("alive", None, _YES_NO, "yes or no"),
        sort=read.value(
            "sort", "feature", _one_of({s: s for s in SORTS}), "one of " + ", ".join(SORTS)
        ),
        descending=read.value("dir", False, _one_of({"asc": False, "desc": True}), "asc or desc"),
        page=read.value("page", 1, _whole(1), "a page number, 1 or more"),
        page_size=read.value("size", 50, _one_of(sizes), "one of " + ", ".join(sizes)),
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


VIEW_KEYS = ("f", "kind", "ctx", "centre", "breaks")


def read_view(params: Mapping[str, str]) -> FeatureView:
    """The Feature page's address; WorkbenchError listing every value that does not fit."""
    read = _Reader(params)
    return read.done(
        FeatureView(
            feature=read.value("f", None, _whole(0), "a feature number, 0 or more"),
            kind=read.value(
                "kind", "top", _one_of({k: k for k in KINDS}), "one of " + ", ".join(KINDS)
            ),
            context=read.value(
                "ctx", "16", _one_of({c: c for c in CONTEXTS}), "one of " + ", ".join(CONTEXTS)
            ),
            centre=read.value("centre", False, _YES_NO, "yes or no"),
            breaks=read.value("breaks", False, _YES_NO, "yes or no"),
        )
    )


def write_view(view: FeatureView) -> dict[str, str]:
    """The address of a FeatureView, defaults left out."""
    out = {} if view.feature is None else {"f": str(view.feature)}
    plain = FeatureView()
    if view.kind != plain.kind:
        out["kind"] = view.kind
    if view.context != plain.context:
        out["ctx"] = view.context
    for key, value in (("centre", view.centre), ("breaks", view.breaks)):
        if value:
            out[key] = "yes"
    return out


PROMPT_KEYS = ("text", "tok", "f", "dense")


def read_prompt(params: Mapping[str, str]) -> PromptView:
    """The Prompt page's address; WorkbenchError listing every value that does not fit."""
    read = _Reader(params)
    text = params.get("text", "")
    if len(text) > PROMPT_CHARACTERS:
        read.faults.append(f"text has {len(text):,} characters, {PROMPT_CHARACTERS:,} are accepted")
    dense = _one_of({"show": False, "hide": True})
    return read.done(
        PromptView(
            text=text,
            token=read.value("tok", None, _whole(0), "a token position, 0 or more"),
            feature=read.value("f", None, _whole(0), "a feature number, 0 or more"),
            hide_dense=read.value("dense", False, dense, "show or hide"),
        )
    )


def write_prompt(view: PromptView) -> dict[str, str]:
    """The address of a PromptView, defaults left out."""
    out = {"text": view.text} if view.text else {}
    if view.token is not None:
        out["tok"] = str(view.token)
    if view.feature is not None:
        out["f"] = str(view.feature)
    if view.hide_dense:
        out["dense"] = "hide"
    return out
