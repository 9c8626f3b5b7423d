"""The address of the Jobs page: which job is open, which form; and back. Defaults are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ui.keys import reading

KEYS = ("job", "new")
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True)
class JobsView:
    """What the page shows."""

    job: str | None = None  # the job that is open
    new: str | None = None  # the command whose form is open


def read_view(params: Mapping[str, str], commands: Iterable[str]) -> JobsView:
    """The view in an address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    known = {command: command for command in commands}
    return read.done(
        JobsView(
            job=read.value("job", None, _id, "a job’s id, as 20261121-100000-abcd"),
            new=read.value("new", None, reading.one_of(known), "one of " + ", ".join(known)),
        )
    )


def write_view(view: JobsView) -> dict[str, str]:
    """The address of a view."""
    found = {"job": view.job, "new": view.new}
    return {key: value for key, value in found.items() if value is not None}


def _id(text: str) -> str:
    if ID.fullmatch(text) is None:
        raise ValueError(text)
    return text
