"""The address of Data and settings: which part is shown; and back."""

from __future__ import annotations

from collections.abc import Mapping

from ui.keys import reading

KEYS = ("part",)
PARTS = ("sae", "workspace", "exports", "system")


def read_part(params: Mapping[str, str]) -> str:
    """The part in an address; WorkbenchError for one there is not."""
    read = reading.Reader(params)
    return read.done(read.choice("part", PARTS[0], PARTS))


def write_part(part: str) -> dict[str, str]:
    """The address of a part, the first left out."""
    return {} if part == PARTS[0] else {"part": part}
