"""The lab as one JSON text, and back: to keep a copy, or to hand to somebody else.

In:  a lab; such a text. Out: the text; the items of an import, which are what the lab lacks.

    {"format": "sae-workbench-lab", "version": 1,
     "features": [{"sae", "feature", "bookmark": {"who", "time"} | null,
                   "tags": [{"tag", "who", "time"}],
                   "notes": [{"text", "who", "time"}], "labels": [the same]}],
     "lists": [{"list", "name", "who", "time", "entries": [{"sae", "feature", "who", "time"}]}],
     "filters": [{"name", "query", "who", "time"}]}

Notes and labels are given with all their versions, the shown one last; an empty text is one that
was taken away. An export taken into an empty lab exports as the same text again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data import lab_events
from data.errors import WorkbenchError
from data.lab_events import an_sae, number, place_between, words
from data.records import Written

if TYPE_CHECKING:
    from data.lab_store import LabAnswers

FORMAT, VERSION = "sae-workbench-lab", 1
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
TEXTS = {"notes": "note", "labels": "label"}


def exported(lab: LabAnswers) -> str:
    """Everything the lab holds. Two labs that hold the same export the same text."""
    features: dict[tuple[str, int], dict[str, Any]] = {}

    def of(sae: str, feature: int) -> dict[str, Any]:
        empty = {"bookmark": None, "tags": [], "notes": [], "labels": []}
        return features.setdefault((sae, feature), {"sae": sae, "feature": feature, **empty})

    for sae, feature, _, _, who, time in lab.registers("bookmark"):
        of(sae, feature)["bookmark"] = {"who": who, "time": time}
    for sae, feature, tag, _, who, time in lab.registers("tag"):
        of(sae, feature)["tags"].append({"tag": tag, "who": who, "time": time})
    for field, kind in TEXTS.items():
        for (sae, feature), versions in lab.versions(kind).items():
            of(sae, feature)[field] = [vars(version) for version in versions]
    entries: dict[str, list] = {}
    for sae, feature, id, _, who, time in lab.registers("entry"):
        entry = {"sae": sae, "feature": feature, "who": who, "time": time}
        entries.setdefault(id, []).append(entry)
    lists = [
        {"list": id, "name": name, "who": who, "time": time, "entries": entries.get(id, [])}
        for _, _, id, name, who, time in lab.registers("list")
    ]
    whole = {
        "format": FORMAT, "version": VERSION,
        "features": [features[key] for key in sorted(features)],
        "lists": lists, "filters": [vars(one) for one in lab.filters()],
    }  # fmt: skip
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


# ---------------------------------------------------------------- reading one


def parsed(text: str | bytes) -> dict:
    """The export, checked throughout. Raises WorkbenchError naming the place that is wrong."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkbenchError(f"this is no export of a lab: it is not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise WorkbenchError(
            f'this is no export of a lab: it does not begin with "format": "{FORMAT}"'
        )
    if found.get("version") != VERSION:
        raise WorkbenchError(
            f"this export has version {found.get('version')!r:.20}, this program reads {VERSION}: "
            "update the program"
        )
    whole = _fields("the export", found, _shape())
    _refuse_twice("features", [(one["sae"], one["feature"]) for one in whole["features"]])
    _refuse_twice("lists", [one["list"] for one in whole["lists"]])
    _refuse_twice("filters", [one["name"] for one in whole["filters"]])
    for i, one in enumerate(whole["features"]):
        _refuse_twice(f"features[{i}].tags", [tag["tag"] for tag in one["tags"]])
    for i, one in enumerate(whole["lists"]):
        entries = [(entry["sae"], entry["feature"]) for entry in one["entries"]]
        _refuse_twice(f"lists[{i}].entries", entries)
    return whole


def _shape() -> dict[str, Callable[[str, Any], Any]]:
    """The fields of an export, each with what checks it."""
    by = {"who": _as(lambda who: lab_events.line("name of a person", who, "who")), "time": _time}
    feature = {"sae": _as(an_sae), "feature": _as(number)}

    def versions(kind: str) -> Callable[[str, Any], Any]:
        return _many({"text": _as(lambda text: words(kind, text).strip()), **by})

    def bookmark(place: str, given: Any) -> dict | None:
        return None if given is None else _fields(place, given, by)

    return {
        "format": _anything, "version": _anything,
        "features": _many({
            **feature, "bookmark": bookmark,
            "tags": _many({"tag": _as(lambda tag: lab_events.line("tag", tag, "tag")), **by}),
            "notes": versions("note"), "labels": versions("label"),
        }),
        "lists": _many({
            "list": _as(lab_events.a_list),
            "name": _as(lambda name: lab_events.named("none", name)["name"]), **by,
            "entries": _many({**feature, **by}),
        }),
        "filters": _many({
            "name": _as(lambda name: lab_events.saved(name, None)["name"]),
            "query": _as(lambda query: lab_events.saved("none", _object(query))["query"]), **by,
        }),
    }  # fmt: skip


def _fields(place: str, given: Any, expected: dict[str, Callable[[str, Any], Any]]) -> dict:
    """`given` as a dict with exactly the expected fields, each checked."""
    if not isinstance(given, dict):
        raise WorkbenchError(f"{place} must be an object with {', '.join(expected)}")
    odd = sorted(set(given) ^ set(expected))
    if odd:
        what = "lacks" if odd[0] in expected else "has an unknown field"
        raise WorkbenchError(f"{place} {what} {odd[0]!r:.60}")
    return {name: check(f"{place}.{name}", given[name]) for name, check in expected.items()}


def _many(expected: dict[str, Callable]) -> Callable[[str, Any], list]:
    def check(place: str, given: Any) -> list:
        if not isinstance(given, list):
            raise WorkbenchError(f"{place} must be a list")
        return [_fields(f"{place}[{i}]", one, expected) for i, one in enumerate(given)]

    return check


def _as(check: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    def checked(place: str, given: Any) -> Any:
        try:
            found = check(given)
        except WorkbenchError as error:
            raise WorkbenchError(f"{place}: {error}") from None
        if found != given or type(found) is not type(given):  # ours are written as they are kept
            raise WorkbenchError(f"{place}: {given!r:.60} is not as an export has it")
        return found

    return checked


def _time(place: str, given: Any) -> str:
    if not isinstance(given, str) or TIME.fullmatch(given) is None:
        raise WorkbenchError(
            f"{place}: {given!r:.60} is no time such as 2026-11-21T10:00:00.000000Z"
        )
    return given


def _object(given: Any) -> dict:
    if not isinstance(given, dict):
        raise WorkbenchError("it must be an object")
    return given


def _anything(place: str, given: Any) -> Any:
    return given


def _refuse_twice(place: str, keys: list) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise WorkbenchError(f"{place} has {key!r:.80} twice")
        seen.add(key)


# ---------------------------------------------------------------- what of it is new


def lacking(lab: LabAnswers, whole: dict) -> list[dict]:
    """The items of an import event: what a checked export holds and the lab lacks.

    Each is an event with its own author and time. shown: whether it stands above what is there.
    """
    bookmarked = {(sae, feature) for sae, feature, *_ in lab.registers("bookmark")}
    tagged = {(sae, feature, tag) for sae, feature, tag, *_ in lab.registers("tag")}
    versions = {kind: lab.versions(kind) for kind in TEXTS.values()}
    items: list[dict] = []
    for one in whole["features"]:
        sae, feature = key = one["sae"], one["feature"]
        if one["bookmark"] is not None and key not in bookmarked:
            items.append({**lab_events.bookmark(*key, True), **one["bookmark"]})
        for tag in one["tags"]:
            if (*key, tag["tag"]) not in tagged:
                by = {"who": tag["who"], "time": tag["time"]}
                items.append({**lab_events.tag(*key, tag["tag"], True), **by})
        for field, kind in TEXTS.items():
            there = versions[kind].get(key, [])
            for version in _new_versions(one[field], there):
                items.append({"kind": kind, "sae": sae, "feature": feature, **version})
    return items + _new_lists(lab, whole["lists"]) + _new_filters(lab, whole["filters"])


def _new_versions(given: list[dict], there: list[Written]) -> list[dict]:
    """Versions that are not there; those older than what is shown, or that would empty it, are kept
    below it."""
    now = there[-1] if there and there[-1].text else None
    return [
        {**one, "shown": now is None or (one["text"] != "" and one["time"] > now.time)}
        for one in given
        if Written(**one) not in there
    ]


def _new_lists(lab: LabAnswers, given: list[dict]) -> list[dict]:
    """Lists that are not there, and at the end of those that are, the entries they lack."""
    names = {id for _, _, id, *_ in lab.registers("list")}
    places: dict[str, dict[tuple[str, int], str]] = {}
    for sae, feature, id, place, _, _ in lab.registers("entry"):
        places.setdefault(id, {})[sae, feature] = place
    items = []
    for one in given:
        by = {"who": one["who"], "time": one["time"]}
        if one["list"] not in names:
            items.append({**lab_events.named(one["list"], one["name"]), **by})
        there = places.get(one["list"], {})
        last = max(there.values(), default=None)
        for entry in one["entries"]:
            if (entry["sae"], entry["feature"]) not in there:
                last = place_between(last, None)
                by = {"who": entry["who"], "time": entry["time"]}
                placed = [(entry["sae"], entry["feature"], last)]
                items.append({**lab_events.placed(one["list"], placed), **by})
    return items


def _new_filters(lab: LabAnswers, given: list[dict]) -> list[dict]:
    """Filters that are not there, or are there with an older and different query."""
    there = {one.name: one for one in lab.filters()}
    items = []
    for one in given:
        old = there.get(one["name"])
        if old is None or (one["query"] != old.query and one["time"] > old.time):
            by = {"who": one["who"], "time": one["time"]}
            items.append({**lab_events.saved(one["name"], one["query"]), **by})
    return items
