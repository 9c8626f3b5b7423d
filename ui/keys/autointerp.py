"""The address of the Auto-interp page: which runs, which part, what order; and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

KEYS = ("run", "with", "part", "method", "arm", "f", "call", "only", "sort", "dir", "page", "for",
        "judge")  # fmt: skip
PARTS = ("results", "calls", "new")
METHODS = ("simulate", "estimate", "detect", "fuzz", "intruder")
ASKED = ("explain", *METHODS)  # what a judge was asked for, on the page of prompts and replies
ARMS = ("own", "lexical", "shuffled", "empty")
SORTS = ("feature", "label", "score", "lift", "failed")
STATUSES = ("ok", "constant", "withheld", "failed", "not_run")
PAGE_SIZE = 50
SIDE_BY_SIDE = 6  # runs
LONGEST = 4000  # characters of a list of features


@dataclass(frozen=True)
class RunView:
    """What the page shows. run: None is the newest; method: None is the run's headline."""

    run: str | None = None
    others: tuple[str, ...] = ()  # runs beside it
    part: str = "results"
    method: str | None = None  # one of ASKED
    arm: str = "own"
    feature: int | None = None  # whose prompts and replies
    call: int = 1  # which of them
    only: str = ""  # rows of that status; "" for all
    sort: str = "score"
    descending: bool = True
    page: int = 1
    features: str = ""  # that a new run begins with
    judge: str = ""  # and by whom


def read_view(params: Mapping[str, str]) -> RunView:
    """The view in an address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    return read.done(
        RunView(
            run=params.get("run"),
            others=read.value("with", (), _names, f"at most {SIDE_BY_SIDE - 1} names of runs"),
            part=read.choice("part", "results", PARTS),
            method=read.value(
                "method", None, reading.one_of({m: m for m in ASKED}), "one of " + ", ".join(ASKED)
            ),
            arm=read.choice("arm", "own", ARMS),
            feature=read.value("f", None, reading.whole(0), "a feature number, 0 or more"),
            call=read.value("call", 1, reading.whole(1), "a call's number, 1 or more"),
            only=read.choice("only", "", STATUSES),
            sort=read.choice("sort", "score", SORTS),
            descending=read.value(
                "dir", True, reading.one_of({"asc": False, "desc": True}), "asc or desc"
            ),
            page=read.value("page", 1, reading.whole(1), "a page number, 1 or more"),
            features=read.value("for", "", _features, "features as 0:100,205"),
            judge=params.get("judge", "")[:200],
        )
    )


def write_view(view: RunView) -> dict[str, str]:
    """The address of a view, defaults left out."""
    plain = RunView()
    given = {
        "run": view.run or "",
        "with": ",".join(view.others),
        "part": "" if view.part == plain.part else view.part,
        "method": view.method or "",
        "arm": "" if view.arm == plain.arm else view.arm,
        "f": "" if view.feature is None else str(view.feature),
        "call": "" if view.call == plain.call else str(view.call),
        "only": view.only,
        "sort": "" if view.sort == plain.sort else view.sort,
        "dir": "" if view.descending else "asc",
        "page": "" if view.page == plain.page else str(view.page),
        "for": view.features,
        "judge": view.judge,
    }
    return {key: value for key, value in given.items() if value}


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if len(names) >= SIDE_BY_SIDE or not all(names):
        raise ValueError(text)
    return names


def _features(text: str) -> str:
    if len(text) > LONGEST or not re.fullmatch(
        r"(all|\d{1,9}(:\d{1,9})?)(,\d{1,9}(:\d{1,9})?)*", text
    ):
        raise ValueError(text)
    return text
