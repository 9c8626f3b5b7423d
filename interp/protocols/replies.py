"""What every reply must be before it is read: finished, and of the structure that was asked for.

In:  a `Reply`. Out: its JSON object; or `Unreadable` with a reason, which makes the task failed.
Nothing is guessed, mended or filled in: a reply that lacks something says nothing.
"""

from __future__ import annotations

from typing import Any

from interp.judges.client import Reply


class Unreadable(Exception):
    """A reply that cannot be read; the message says why."""


def structure(reply: Reply) -> dict:
    """The JSON object of a reply that ended by itself."""
    if reply.finish_reason != "stop":
        raise Unreadable(f"the reply ended early: {reply.finish_reason} ({reply.detail})")
    if not isinstance(reply.parsed, dict):
        what = "empty" if not reply.text.strip() else "not the JSON object that was asked for"
        raise Unreadable(f"the reply is {what}")
    return reply.parsed


def entry(found: dict, name: str) -> Any:
    if name not in found:
        raise Unreadable(f"the reply has no {name!r}")
    return found[name]


def whole(value: Any, low: int, high: int, what: str) -> int:
    """A whole number in [low, high]; JSON's 3.0 is 3, True is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable(f"{what} is {value!r}, not a whole number")
    if not low <= value <= high:
        raise Unreadable(f"{what} is {value}, not from {low} to {high}")
    return value


def by_number(found: dict, n: int, what: str = "text") -> dict[int, dict]:
    """The entries of `texts`, each with its number, by number from 1 to n.

    A number out of range or given twice spoils the whole reply, since nobody knows which text was
    meant; a number that is absent spoils only that text.
    """
    listed = entry(found, "texts")
    if not isinstance(listed, list):
        raise Unreadable("'texts' is no list")
    out: dict[int, dict] = {}
    for one in listed:
        if not isinstance(one, dict):
            raise Unreadable("'texts' holds something that is no object")
        number = whole(entry(one, what), 1, n, f"the number of a {what}")
        if number in out:
            raise Unreadable(f"{what} {number} is answered twice")
        out[number] = one
    return out
