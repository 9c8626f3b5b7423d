"""What people write about features, as events of the journal: checked on the way in, read back.

In:  arguments as they come from a page or a file. Out: events (without who and time); the registers
     an event sets, as rows of the index.

A register holds one thing: whether a feature is bookmarked, whether it has a certain tag, its note,
a list's name, an entry's place in a list, a saved filter. Later lines win, and a line that was
undone counts as never written, so nobody's undo can take away what somebody else wrote since.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from data.errors import WorkbenchError
from data.journal import Entry

LONGEST = {"tag": 60, "note": 20_000, "label": 2_000, "name": 120, "who": 120, "filter": 4_000}
LARGEST_FEATURE = 2**31 - 1
SAE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._@-]{0,139}")  # a name of the workspace, or an earlier's
LIST_ID = re.compile(r"[a-z0-9]{4,32}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # but for tab and line feed

Register = tuple[str, str | None, int | None, str | None, str | None]


# ---------------------------------------------------------------- events


def bookmark(sae: str, features: int | Iterable[int], on: bool) -> dict:
    return {"kind": "bookmark", "sae": an_sae(sae), "features": numbers(features), "on": bool(on)}


def tag(sae: str, features: int | Iterable[int], tag: str, on: bool) -> dict:
    tagged = {"kind": "tag", "sae": an_sae(sae), "features": numbers(features)}
    return {**tagged, "tag": line("tag", tag, "tag"), "on": bool(on)}


def written(kind: str, sae: str, feature: int, text: str) -> dict:
    """kind: note or label. An empty text takes it away."""
    return {
        "kind": kind, "sae": an_sae(sae), "feature": number(feature),
        "text": words(kind, text).strip(),
    }  # fmt: skip


def named(list_id: str, name: str | None) -> dict:
    """A list under a name; None deletes it."""
    checked = None if name is None else line("list's name", name, "name")
    return {"kind": "list", "list": a_list(list_id), "name": checked}


def placed(list_id: str, places: Iterable[tuple[str, int, str | None]]) -> dict:
    """Entries (sae, feature, place) of a list; the place None takes one out."""
    items = [{"sae": an_sae(s), "feature": number(f), "place": p} for s, f, p in places]
    return {"kind": "entry", "list": a_list(list_id), "items": items}


def saved(name: str, query: Mapping[str, str] | None) -> dict:
    """A filter of the feature list under a name; None deletes it."""
    if query is not None:
        if not all(isinstance(text, str) for pair in query.items() for text in pair):
            raise WorkbenchError("a filter is a list of keys and values that are texts")
        query = {words("filter", key): words("filter", value) for key, value in query.items()}
    return {"kind": "filter", "name": line("filter's name", name, "name"), "query": query}


# ---------------------------------------------------------------- what may be written


def an_sae(name: Any) -> str:
    if not isinstance(name, str) or SAE.fullmatch(name) is None:
        raise WorkbenchError(f"{name!r:.60} cannot be the name of an SAE")
    return name


def a_list(list_id: Any) -> str:
    if not isinstance(list_id, str) or LIST_ID.fullmatch(list_id) is None:
        raise WorkbenchError(f"{list_id!r:.60} cannot be the id of a list")
    return list_id


def number(feature: Any) -> int:
    """A feature's number."""
    try:
        found = -1 if isinstance(feature, bool) else operator.index(feature)
    except TypeError:
        found = -1
    if not 0 <= found <= LARGEST_FEATURE:
        raise WorkbenchError(f"{feature!r:.60} is no feature: give a whole number from 0 on")
    return found


def numbers(features: Any) -> list[int]:
    """One feature or several; each once, in the order given."""
    several = isinstance(features, Iterable) and not isinstance(features, (str, bytes))
    found = list(dict.fromkeys(number(f) for f in (features if several else [features])))
    if not found:
        raise WorkbenchError("no feature was given: choose at least one")
    return found


def words(what: str, text: Any) -> str:
    """Text of several lines, as it was written but for the ends of lines."""
    if not isinstance(text, str):
        raise WorkbenchError(f"a {what} must be text, not {type(text).__name__}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    longest = LONGEST.get(what, LONGEST["name"])
    if len(text) > longest:
        raise WorkbenchError(
            f"this {what} has {len(text):,} characters: shorten it to {longest:,} at most"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WorkbenchError(f"this {what} holds half a character: type it again") from None
    if CONTROL.search(text):
        raise WorkbenchError(f"this {what} holds a control character: take it out")
    return text


def line(what: str, text: Any, longest: str) -> str:
    """Text of one line that is not empty; white space in a row becomes one space."""
    text = " ".join(words(longest, text).split())
    if not text:
        raise WorkbenchError(f"an empty {what}: type at least one character")
    return text


# ---------------------------------------------------------------- registers


def rows(entry: Entry) -> list[dict]:
    """The registers that a line sets, as rows of the index's table `change`.

    None for a kind of event that this program does not know.
    """
    event, found = entry.event, []
    own = {
        "line": entry.line, "action": event["kind"], "writer": event["who"],
        "written": event["time"],
    }  # fmt: skip
    for part in event["items"] if event["kind"] == "import" else [event]:
        words = {"who": part["who"], "time": part["time"], "shown": part.get("shown", True)}
        for kind, sae, feature, name, value in registers(part):
            register = {"kind": kind, "sae": sae, "feature": feature, "name": name, "value": value}
            found.append({**own, "item": len(found), **register, **words})
    return found


def registers(part: dict) -> list[Register]:
    """(kind, sae, feature, name, value) of each register that an event sets; value None: empty."""
    kind = part["kind"]
    if kind in ("bookmark", "tag"):
        value = "1" if part["on"] else None
        return [(kind, part["sae"], f, part.get("tag"), value) for f in part["features"]]
    if kind in ("note", "label"):
        return [(kind, part["sae"], part["feature"], None, part["text"] or None)]
    if kind == "list":
        return [(kind, None, None, part["list"], part["name"])]
    if kind == "entry":
        return [(kind, i["sae"], i["feature"], part["list"], i["place"]) for i in part["items"]]
    if kind == "filter":
        query = part["query"]
        text = None if query is None else json.dumps(query, ensure_ascii=False)
        return [(kind, None, None, part["name"], text)]
    return []


def earlier(sae: str, weights: str) -> str:
    """The name under which marks of an SAE stand once other weights have taken its name."""
    return f"{sae}@{weights[:8]}"


def place_between(before: str | None, after: str | None) -> str:
    """A place after one and before the other, None for an end; places sort as texts.

    They are decimal numbers with ten digits before the point. The shortest that fits is taken, so
    a place stays short however often a list is put in another order.
    """
    if before is None or after is None:
        whole = 5 * 10**9
        if before is not None:
            whole = math.floor(Fraction(before)) + 1
        elif after is not None:
            whole = math.ceil(Fraction(after)) - 1
        return f"{whole:010d}"
    low, high = Fraction(before), Fraction(after)
    for digits in itertools.count():
        steps = math.floor((low + high) / 2 * 10**digits)
        if low < Fraction(steps, 10**digits) < high:
            whole, rest = divmod(steps, 10**digits)
            return f"{whole:010d}" + (f".{rest:0{digits}d}".rstrip("0") if rest else "")
    raise AssertionError("there is a number between any two")
