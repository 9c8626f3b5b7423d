"""The address of the Auto-interp page: which run, how its table is sorted; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

KEYS = ("run", "sort", "dir", "page")
SORTS = ("feature", "label", "score")
PAGE_SIZE = 50


@dataclass(frozen=True)
class RunView:
    """What the page shows. run: None is the newest."""

    run: str | None = None
    sort: str = "score"
    descending: bool = True
    page: int = 1


def read_view(params: Mapping[str, str]) -> RunView:
    """The view in an address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    return read.done(
        RunView(
            run=params.get("run"),
            sort=read.choice("sort", "score", SORTS),
            descending=read.value(
                "dir", True, reading.one_of({"asc": False, "desc": True}), "asc or desc"
            ),
            page=read.value("page", 1, reading.whole(1), "a page number, 1 or more"),
        )
    )


def write_view(view: RunView) -> dict[str, str]:
    """The address of a view, defaults left out."""
    plain = RunView()
    out = {} if view.run is None else {"run": view.run}
    if view.sort != plain.sort:
        out["sort"] = view.sort
    if not view.descending:
        out["dir"] = "asc"
    if view.page != plain.page:
        out["page"] = str(view.page)
    return out
