"""The address of the Lists page: which part of what people wrote, and of which SAEs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

# Part of the page -> its name.
PARTS = {
    "lists": "Lists", "bookmarks": "Bookmarks", "tags": "Tags", "notes": "Notes and labels",
    "changes": "Recent changes", "copy": "Export and import",
}  # fmt: skip
SCOPES = {"all": "all SAEs", "this": "this SAE"}
LONGEST = 120  # characters of a tag


@dataclass(frozen=True)
class ListsView:
    """What the Lists page shows."""

    part: str = "lists"
    list: str = ""  # id of the chosen list; "": the first
    tag: str = ""  # the chosen tag; "": the commonest
    scope: str = "all"
    page: int = 1


VIEW_KEYS = ("part", "list", "tag", "of", "page")


def read_view(params: Mapping[str, str]) -> ListsView:
    """The Lists page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    return read.done(
        ListsView(
            part=read.choice("part", "lists", PARTS),
            list=read.value("list", "", _id, "the id of a list, such as 0a1b2c3d4e5f"),
            tag=read.value("tag", "", _short, f"a tag of at most {LONGEST} characters"),
            scope=read.choice("of", "all", SCOPES),
            page=read.value("page", 1, reading.whole(1), "a page number, 1 or more"),
        )
    )


def write_view(view: ListsView) -> dict[str, str]:
    """The address of a ListsView, defaults left out."""
    plain = ListsView()
    given = {
        "part": view.part if view.part != plain.part else "",
        "list": view.list,
        "tag": view.tag,
        "of": view.scope if view.scope != plain.scope else "",
        "page": str(view.page) if view.page != plain.page else "",
    }
    return {key: value for key, value in given.items() if value}


def numbers(text: str, size: int) -> list[int]:
    """Feature numbers as people type them: `3, 17, 40-45`, each below `size`.

    WorkbenchError naming what is no number, or no feature of the SAE.
    """
    found, faults = [], []
    for word in re.split(r"[,;\s]+", text.strip().replace("#", "")):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < size:
            faults.append(repr(word[:30]))
        else:
            found += range(first, last + 1)
    if faults:
        raise reading.WorkbenchError(
            f"{', '.join(faults[:5])} cannot be added: give numbers from 0 to {size - 1:,}, such "
            "as 3, 17, 40-45"
        )
    return list(dict.fromkeys(found))


def _id(text: str) -> str:
    if re.fullmatch(r"[a-z0-9]{4,32}", text) is None:
        raise ValueError(text)
    return text


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(text)
    return text
