"""The lab: what people write is kept, shown as they expect, taken back, handed on and brought home.

The slow, literal reference (`Reference`) reads the journal's lines as plain JSON and knows nothing
of the index.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data import schema
from data.errors import StoreError, WorkbenchError
from data.journal import Journal
from data.lab import Lab, now, open_lab
from data.lab_events import place_between
from data.records import FeatureList, Mark, SavedFilter, Written

REPOSITORY = Path(__file__).resolve().parents[2]


class Clock:
    """Counts microseconds, so that a test knows every time."""

    def __init__(self) -> None:
        self.ticks = itertools.count(1)

    def __call__(self) -> str:
        return f"2026-11-21T10:00:00.{next(self.ticks):06d}Z"


def at(tick: int) -> str:
    return f"2026-11-21T10:00:00.{tick:06d}Z"


@pytest.fixture
def root():
    opened = schema.open_root()
    yield opened
    opened.close()


@pytest.fixture
def lab(root, workspace) -> Lab:
    """With the index in memory, which is quicker."""
    return Lab(root, workspace.lab_journal, clock=Clock())


@pytest.fixture
def kept(root, workspace) -> Lab:
    """With the index in lab.duckdb, as the app has it."""
    return Lab(root, workspace.lab_journal, workspace.lab_index, Clock())


def a_store(path: Path) -> Path:
    """A result store with six features, as a harvest would leave it but for most columns."""
    con = schema.connect(path)
    schema.create(con, {"feature": "feature INTEGER PRIMARY KEY, max FLOAT"})
    con.execute("INSERT INTO feature VALUES (0, NULL), (1, 3), (2, 2.5), (3, 9), (4, 1), (5, NULL)")
    schema.write_meta(con, {})
    con.close()
    return path


def events(lab_or_path) -> list[dict]:
    path = lab_or_path if isinstance(lab_or_path, Path) else lab_or_path._index._journal.path
    return [json.loads(line)["event"] for line in path.read_text("utf-8").splitlines()]


def everything(lab: Lab) -> dict:
    """All answers, to compare two labs."""
    saes = sorted({sae for sae, *_ in lab.versions("note")} | {"demo", "other"})
    return {
        "marks": {sae: lab.marks(sae) for sae in saes},
        "export": lab.export_json(),
        "tags": lab.tags(),
        "lists": lab.lists(),
        "changes": lab.changes(10_000),
        "last": {who: lab.last_change(who) for who in ("ada", "bob", "eve")},
    }


# ---------------------------------------------------------------- by hand


def test_a_morning_in_the_lab(lab):
    assert lab.mark("demo", 17) == Mark("demo", 17)
    assert lab.bookmark("demo", 17, True, who="ada") == 1
    assert lab.bookmark("demo", 17, True, who="bob") == 0, "it is bookmarked already"
    assert lab.tag("demo", [17, 18, 17], "  odd \n one ", who="bob") == 2
    assert lab.note("demo", 17, "first\r\nline ", who="ada") and lab.note(
        "demo", 17, "second", who="bob"
    )
    assert not lab.note("demo", 17, " second", who="ada"), "the same again"
    assert lab.label("demo", 17, "fires on 17", who="ada")
    mark = Mark("demo", 17, True, ("odd one",), "second", "fires on 17", at(5))
    assert lab.mark("demo", 17) == mark and lab.mark("other", 17) == Mark("other", 17)
    assert lab.marks("demo") == {17: mark, 18: Mark("demo", 18, tags=("odd one",), changed=at(2))}
    assert lab.notes("demo", 17) == [
        Written("second", "bob", at(4)), Written("first\nline", "ada", at(3)),
    ]  # fmt: skip
    assert lab.labels("demo", 17) == [Written("fires on 17", "ada", at(5))]
    assert lab.tags() == lab.tags("demo") == {"odd one": 2} and lab.tags("other") == {}
    assert lab.tagged("demo", "odd one") == {17, 18} and lab.tagged("demo", "odd") == set()
    assert [mark.feature for mark in lab.bookmarks()] == [17]
    assert (
        lab.untag("demo", 18, "odd one", who="ada") == 1
        and lab.untag("demo", 18, "odd one", who="ada") == 0
    )
    assert lab.note("demo", 17, "", who="ada") and lab.mark("demo", 17).note is None
    assert lab.notes("demo", 17)[0] == Written("", "ada", at(7))
    assert lab.bookmark("demo", [17, 3], False, who="ada") == 1
    assert lab.marks("demo") == {
        17: Mark("demo", 17, False, ("odd one",), None, "fires on 17", at(5))
    }
    assert len(events(lab)) == 8


def test_lists_keep_their_order(lab):
    made = lab.create_list("Names", who="ada")
    assert made == FeatureList(made.id, "Names", "ada", at(1), ())
    entries = [("demo", 5), ("demo", 3), ("other", 5)]
    assert lab.add_to_list(made.id, [*entries, entries[0]], who="ada") == 3
    assert lab.add_to_list(made.id, [("demo", 3), ("demo", 1)], who="bob") == 1
    assert lab.feature_list(made.id).entries == (*entries, ("demo", 1))
    lab.move_in_list(made.id, "demo", 1, 2, who="bob")
    assert lab.feature_list(made.id).entries == (
        ("demo", 5),
        ("demo", 1),
        ("demo", 3),
        ("other", 5),
    )
    lab.move_in_list(made.id, "other", 5, 1, who="bob")
    lab.move_in_list(made.id, "demo", 5, 99, who="bob")
    assert [f for _, f in lab.feature_list(made.id).entries] == [5, 1, 3, 5]
    assert lab.feature_list(made.id).entries[0] == ("other", 5)
    assert lab.remove_from_list(made.id, [("demo", 1), ("demo", 99)], who="ada") == 1
    lab.rename_list(made.id, "Names of people", who="bob")
    second = lab.create_list("another", who="ada")
    assert [one.name for one in lab.lists()] == ["another", "Names of people"]
    lab.delete_list(made.id, who="ada")
    assert [one.id for one in lab.lists()] == [second.id]
    lab.undo(who="ada")
    assert lab.feature_list(made.id).entries == (("other", 5), ("demo", 3), ("demo", 5))


def test_saved_filters(lab):
    lab.save_filter("rare ones", {"den_hi": "1e-4", "alive": "1"}, who="ada")
    lab.save_filter("rare ones", {"den_hi": "1e-5"}, who="bob")
    lab.save_filter("rare ones", {"den_hi": "1e-5"}, who="eve")
    lab.save_filter("all", {}, who="ada")
    assert lab.filters() == [
        SavedFilter("all", {}, "ada", at(3)),
        SavedFilter("rare ones", {"den_hi": "1e-5"}, "bob", at(2)),
    ]
    lab.delete_filter("all", who="bob")
    assert [one.name for one in lab.filters()] == ["rare ones"]


def test_undo_takes_back_a_persons_own_last_change_only(lab):
    lab.note("demo", 1, "by ada", who="ada")
    lab.tag("demo", [1, 2], "t", who="ada")
    lab.note("demo", 1, "by bob", who="bob")
    assert lab.last_change("ada").action == "tag" and lab.last_change("ada").items == 2
    assert (undone := lab.undo(who="ada")) and (undone.kind, undone.name, undone.who) == (
        "tag",
        "t",
        "ada",
    )
    assert lab.tags() == {} and lab.mark("demo", 1).note == "by bob"
    assert lab.undo(who="ada").action == "note"
    assert lab.mark("demo", 1).note == "by bob", "what somebody else wrote since stays"
    assert [version.who for version in lab.notes("demo", 1)] == ["bob"]
    assert lab.undo(who="ada") is None and lab.last_change("ada") is None
    lab.undo(who="bob")
    assert lab.marks("demo") == {}
    assert lab.tag("demo", 1, "t", who="ada") == 1, "what was undone can be written again"


def test_notes_of_an_sae_that_was_trained_again_do_not_pass_to_the_new_one(lab):
    first, second = "a1" * 32, "b2" * 32
    assert lab.meet("demo", first, who="ada") is None and lab.meet("demo", first, who="ada") is None
    kept = lab.create_list("kept", who="ada")
    lab.note("demo", 1, "of the first", who="ada")
    lab.add_to_list(kept.id, [("demo", 1), ("other", 1)], who="ada")
    assert lab.meet("demo", second, who="ada") == "demo@a1a1a1a1"
    assert lab.marks("demo") == {} and lab.mark("demo@a1a1a1a1", 1).note == "of the first"
    assert lab.feature_list(kept.id).entries == (("demo@a1a1a1a1", 1), ("other", 1))
    lab.note("demo", 1, "of the second", who="ada")
    before = everything(lab)
    rebuilt = Lab(lab._index._root, lab._index._journal.path)
    assert everything(rebuilt) == before
    assert lab.meet("demo", first, who="ada") == "demo@b2b2b2b2"
    assert lab.mark("demo", 1).note == "of the first"
    assert lab.mark("demo@b2b2b2b2", 1).note == "of the second"


HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "**bold** `code` [a](b) $x$ :red[x]",
    "\u202egnirts desrever", "👩‍👩‍👧 e\u0301", "'; DROP TABLE mark; --", '{"a": "\\u0000"}',
    "x" * 20_000, "tab\tand\nline", "a\u2028\u2029b", "NULL", "%_\\",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_is_kept_as_it_was_typed(lab, text):
    assert lab.note("demo", 0, text, who=text[:20].strip() or "ada")
    assert lab.mark("demo", 0).note == text.strip()
    again = Lab(lab._index._root, lab._index._journal.path)
    assert again.mark("demo", 0) == lab.mark("demo", 0)


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda lab: lab.note("demo", -1, "x", who="ada"), "-1 is no feature"),
        (lambda lab: lab.note("demo", True, "x", who="ada"), "True is no feature"),
        (lambda lab: lab.note("demo", 1.0, "x", who="ada"), "1.0 is no feature"),
        (lambda lab: lab.note("demo", 2**31, "x", who="ada"), "is no feature"),
        (lambda lab: lab.note("../x", 1, "x", who="ada"), "cannot be the name of an SAE"),
        (lambda lab: lab.note("demo", 1, "x" * 20_001, who="ada"), "20,001 characters: shorten it"),
        (lambda lab: lab.note("demo", 1, "a\x00b", who="ada"), "control character"),
        (lambda lab: lab.note("demo", 1, "a\ud800", who="ada"), "half a character"),
        (lambda lab: lab.note("demo", 1, None, who="ada"), "must be text, not NoneType"),
        (lambda lab: lab.note("demo", 1, "x", who=" "), "empty name of a person"),
        (lambda lab: lab.label("demo", 1, "x" * 2_001, who="ada"), "2,001 characters"),
        (lambda lab: lab.tag("demo", 1, " ", who="ada"), "an empty tag"),
        (lambda lab: lab.tag("demo", [], "x", who="ada"), "no feature was given"),
        (lambda lab: lab.tag("demo", "12", "x", who="ada"), "'12' is no feature"),
        (lambda lab: lab.tag("demo", 1, "x" * 61, who="ada"), "61 characters"),
        (lambda lab: lab.create_list("", who="ada"), "an empty list's name"),
        (lambda lab: lab.create_list("there", who="ada"), "there is a list 'there' already"),
        (lambda lab: lab.rename_list("0123", "x", who="ada"), "there is no list '0123'"),
        (lambda lab: lab.delete_list("0123", who="ada"), "there is no list"),
        (lambda lab: lab.add_to_list("0123", [("demo", 1)], who="ada"), "there is no list"),
        (lambda lab: lab.add_to_list(lab.lists()[0].id, [("demo", -1)], who="ada"), "no feature"),
        (
            lambda lab: lab.move_in_list(lab.lists()[0].id, "demo", 9, 1, who="ada"),
            "not in this list",
        ),
        (lambda lab: lab.save_filter("x", {"a": 1}, who="ada"), "keys and values that are texts"),
        (lambda lab: lab.delete_filter("x", who="ada"), "there is no filter 'x'"),
    ],
)
def test_what_may_not_be_written_is_refused_and_changes_nothing(lab, act, match):
    lab.create_list("there", who="ada")
    before = events(lab)
    with pytest.raises(WorkbenchError, match=match) as told:
        act(lab)
    assert len(str(told.value)) < 200 and "\n" not in str(told.value)
    assert events(lab) == before


# ---------------------------------------------------------------- against the reference


class Reference:
    """The lab as the lines of its journal say, read one after the other; undone ones left out."""

    def __init__(self, path: Path) -> None:
        lines = events(path)
        undone = {event["line"] for event in lines if event["kind"] == "undo"}
        self.marks: dict[tuple, dict] = {}
        self.names: dict[str, str | None] = {}
        self.places: dict[str, dict] = {}
        for number, event in enumerate(lines, start=1):
            if number not in undone:
                self.take(event)

    def take(self, event: dict) -> None:
        kind = event["kind"]
        for feature in event.get("features", [event.get("feature")]):
            mark = self.marks.setdefault((event.get("sae"), feature), {"tags": set()})
            if kind == "bookmark":
                mark["on"] = event["on"]
            elif kind == "tag":
                (mark["tags"].add if event["on"] else mark["tags"].discard)(event["tag"])
            elif kind in ("note", "label"):
                mark[kind] = event["text"] or None
        if kind == "list":
            self.names[event["list"]] = event["name"]
        elif kind == "entry":
            for item in event["items"]:
                self.places.setdefault(event["list"], {})[item["sae"], item["feature"]] = item[
                    "place"
                ]

    def mark(self, sae: str, feature: int) -> tuple:
        found = self.marks.get((sae, feature), {"tags": set()})
        tags = tuple(sorted(found["tags"]))
        return bool(found.get("on")), tags, found.get("note"), found.get("label")

    def lists(self) -> dict[str, tuple]:
        found = {}
        for id, name in self.names.items():
            if name is not None:
                placed = [(p, e) for e, p in self.places.get(id, {}).items() if p is not None]
                found[id] = (name, tuple(entry for _, entry in sorted(placed)))
        return found


def random_change(lab: Lab, dice: random.Random) -> None:
    who, sae = dice.choice(["ada", "bob", "eve"]), dice.choice(["demo", "other"])
    some = [dice.randrange(6) for _ in range(dice.randint(1, 8))]
    lists = lab.lists()
    id = dice.choice(lists).id if lists else None
    kind = dice.choice(
        ["bookmark", "tag", "tag", "untag", "note", "label", "undo", "list", "entry"]
    )
    if kind == "bookmark":
        lab.bookmark(sae, some, dice.random() < 0.6, who=who)
    elif kind in ("tag", "untag"):
        getattr(lab, kind)(sae, some, dice.choice(["a", "b", "c"]), who=who)
    elif kind in ("note", "label"):
        getattr(lab, kind)(sae, some[0], dice.choice(["", "x", "y", "z"]), who=who)
    elif kind == "undo":
        lab.undo(who=who)
    elif id is None or (kind == "list" and dice.random() < 0.3):
        name = f"list {dice.randrange(1000)}"
        if name not in [one.name for one in lists]:
            lab.create_list(name, who=who)
    elif kind == "list" and dice.random() < 0.3:
        lab.delete_list(id, who=who)
    elif dice.random() < 0.5:
        lab.add_to_list(id, [(sae, feature) for feature in some], who=who)
    elif entries := lab.feature_list(id).entries:
        entry = dice.choice(entries)
        if dice.random() < 0.3:
            lab.remove_from_list(id, [entry], who=who)
        else:
            lab.move_in_list(id, *entry, dice.randint(1, len(entries)), who=who)


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_agree_with_a_literal_reading_of_the_journal(lab, root, seed):
    dice = random.Random(seed)
    for _ in range(50):
        random_change(lab, dice)
    reference = Reference(lab._index._journal.path)
    for sae, feature in itertools.product(("demo", "other"), range(6)):
        mark = lab.mark(sae, feature)
        assert (mark.bookmarked, mark.tags, mark.note, mark.label) == reference.mark(sae, feature)
    assert {one.id: (one.name, one.entries) for one in lab.lists()} == reference.lists()
    bulk = Lab(root, lab._index._journal.path)  # all lines at once, into a new index
    assert everything(bulk) == everything(lab)
    empty = Lab(root, lab._index._journal.path.with_name("copy.jsonl"))
    empty.import_json(lab.export_json(), who="eve")
    assert empty.export_json() == lab.export_json(), "the round trip is exact"


def test_a_list_keeps_short_places_however_often_it_is_moved(lab):
    made = lab.create_list("list", who="ada")
    lab.add_to_list(made.id, [("demo", i) for i in range(10)], who="ada")
    order = [("demo", i) for i in range(10)]
    dice = random.Random(0)
    for _ in range(60):
        entry, to = order[-1], dice.choice([2, 2, 2, 5])
        lab.move_in_list(made.id, *entry, to, who="ada")
        order.remove(entry)
        order.insert(to - 1, entry)
        assert list(lab.feature_list(made.id).entries) == order
    assert max(len(place) for place in lab._places(made.id).values()) < 60


def test_places_lie_between(lab):
    dice, places = random.Random(1), [place_between(None, None)]
    for _ in range(2000):
        at = dice.choice([0, 1, len(places), dice.randint(0, len(places))])
        before = places[at - 1] if at else None
        places.insert(at, place_between(before, places[at] if at < len(places) else None))
    assert places == sorted(places) and len(set(places)) == len(places)
    tight = [place_between(None, None)]
    tight.append(place_between(tight[0], None))
    for _ in range(300):
        tight.insert(1, place_between(tight[0], tight[1]))
    assert tight == sorted(tight) and max(map(len, tight)) < 120


# ---------------------------------------------------------------- handing on


def filled(lab: Lab) -> Lab:
    lab.bookmark("demo", 1, True, who="ada")
    lab.tag("demo", [1, 2], "t", who="bob")
    lab.note("demo", 1, "old", who="ada")
    lab.note("demo", 1, "new", who="bob")
    lab.label("demo", 3, "gone", who="ada")
    lab.label("demo", 3, "", who="ada")
    made = lab.create_list("list", who="ada")
    lab.add_to_list(made.id, [("demo", 2), ("demo", 1)], who="bob")
    lab.save_filter("filter", {"q": "x"}, who="eve")
    return lab


def another(lab: Lab, name: str = "another") -> Lab:
    journal = lab._index._journal.path.with_name(f"{name}.jsonl")
    return Lab(lab._index._root, journal, clock=Clock())


def test_an_export_goes_into_an_empty_lab_and_out_again_the_same(lab):
    text = filled(lab).export_json()
    other = another(lab)
    counts = {"bookmark": 1, "tag": 2, "note": 2, "label": 2, "list": 1, "entry": 2, "filter": 1}
    assert other.import_json(text.encode(), who="eve") == counts
    assert other.export_json() == text
    assert other.marks("demo") == lab.marks("demo") and other.lists() == lab.lists()
    assert other.notes("demo", 1) == lab.notes("demo", 1), "with their authors and times"
    lines = len(events(other))
    assert other.import_json(text, who="eve") == {} and len(events(other)) == lines
    assert other.last_change("eve").action == "import"
    other.undo(who="eve")
    assert json.loads(other.export_json())["features"] == other.lists() == []


def test_an_import_adds_and_never_removes(lab):
    text = filled(lab).export_json()
    other = another(lab)
    for _ in range(3):
        other._clock()
    other.note("demo", 1, "between", who="cyd")  # at 4, as "new" there: not older
    other.tag("demo", 1, "mine", who="cyd")
    other.label("demo", 3, "kept", who="cyd")
    other.label("demo", 4, "", who="cyd")
    other.import_json(text, who="eve")
    assert other.mark("demo", 1).note == "between" and other.mark("demo", 3).label == "kept"
    assert [n.text for n in other.notes("demo", 1)] == ["between", "new", "old"]
    assert other.mark("demo", 1).tags == ("mine", "t") and other.mark("demo", 1).bookmarked
    lab.note("demo", 1, "newest", who="bob")
    lab.remove_from_list(lab.lists()[0].id, [("demo", 2)], who="bob")
    lab.add_to_list(lab.lists()[0].id, [("demo", 7)], who="bob")
    lab.save_filter("filter", {"q": "later"}, who="eve")
    other.import_json(lab.export_json(), who="eve")
    assert other.mark("demo", 1).note == "newest"
    assert other.lists()[0].entries == (("demo", 2), ("demo", 1), ("demo", 7))
    assert other.filters()[0].query == {"q": "later"}
    again = another(lab, "third")
    again.import_json(other.export_json(), who="eve")
    assert again.export_json() == other.export_json()


def test_an_import_brings_back_what_was_deleted(lab):
    text = filled(lab).export_json()
    lab.untag("demo", [1, 2], "t", who="ada")
    lab.note("demo", 1, "", who="ada")
    lab.delete_list(lab.lists()[0].id, who="ada")
    lab.import_json(text, who="ada")
    assert lab.tagged("demo", "t") == {1, 2} and lab.lists()[0].entries == (
        ("demo", 2),
        ("demo", 1),
    )


def spoiled() -> list[tuple[str, str]]:
    def change(*path, **to):
        def spoil(export: dict) -> dict:
            at = export
            for step in path:
                at = at[step]
            at.update(to)
            return export

        return spoil

    first, tags, entries = ("features", 0), ("features", 0, "tags", 0), ("lists", 0, "entries", 0)
    return [
        (lambda e: [], "does not begin with"),
        (change(format="x"), "does not begin with"),
        (change(version=2), "has version 2"),
        (change(extra=1), "the export has an unknown field 'extra'"),
        (lambda e: {k: v for k, v in e.items() if k != "lists"}, "the export lacks 'lists'"),
        (change(features={}), "the export.features must be a list"),
        (change(features=[3]), r"features\[0\] must be an object"),
        (change(*first, feature="1"), r"features\[0\].feature: '1' is no feature"),
        (change(*first, feature=True), "is no feature"),
        (change(*first, sae="a/b"), "cannot be the name of an SAE"),
        (change(*first, bookmark=True), r"features\[0\].bookmark must be an object"),
        (change(*first, notes="x"), r"features\[0\].notes must be a list"),
        (
            change(*first, tags=[{"tag": "t", "who": "a", "time": at(1)}] * 2),
            r"\.tags has 't' twice",
        ),
        (change(*tags, time="yesterday"), r"tags\[0\].time: 'yesterday' is no time"),
        (change(*tags, tag=""), r"tags\[0\].tag: an empty tag"),
        (change(*tags, tag=" t"), "is not as an export has it"),
        (change(*tags, who=3), r"tags\[0\].who: .* must be text"),
        (change("lists", 0, list="../x"), r"lists\[0\].list: .* cannot be the id"),
        (change(*entries, feature=-1), r"lists\[0\].entries\[0\].feature: -1 is no feature"),
        (change(*entries, feature=1), r"lists\[0\].entries has \('demo', 1\) twice"),
        (change("filters", 0, query=[]), r"filters\[0\].query: it must be an object"),
        (change("filters", 0, query={"a": 1}), "keys and values that are texts"),
        (change("filters", 0, name="\x00"), "control character"),
    ]


@pytest.mark.parametrize(("spoil", "match"), spoiled())
def test_a_malformed_import_is_refused_in_one_sentence(lab, spoil, match):
    export = json.loads(filled(lab).export_json())
    other = another(lab)
    with pytest.raises(WorkbenchError, match=match) as told:
        other.import_json(json.dumps(spoil(export)), who="eve")
    assert "\n" not in str(told.value) and len(str(told.value)) < 200
    assert not other._index._journal.path.exists() and other.lists() == []


@pytest.mark.parametrize(
    "text", ["", "x", b"\xff\xfe", "[" * 100_000, "NaN", '{"format": 1e999}', "null"]
)
def test_an_import_that_is_no_json_is_refused(lab, text):
    with pytest.raises(WorkbenchError, match="this is no export of a lab"):
        lab.import_json(text, who="eve")


# ---------------------------------------------------------------- the index


def reopened(lab: Lab) -> Lab:
    """As another start of the app finds it."""
    lab.close()
    index = lab._index
    return Lab(index._root, index._journal.path, index._path, Clock())


def on_disk(lab: Lab) -> bool:
    return lab._index._memory is None


def test_the_index_is_made_again_when_it_is_missing_damaged_or_old(kept):
    lab = kept
    before, path = everything(filled(lab)), lab._index._path
    lab = reopened(lab)
    assert everything(lab) == before and on_disk(lab)
    lab.close()
    whole = path.read_bytes()
    spoil = {
        "missing": lambda: path.unlink(),
        "empty": lambda: path.write_bytes(b""),
        "no database": lambda: path.write_bytes(b"lab" * 9999),
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "with a foreign log": lambda: path.with_name("lab.duckdb.wal").write_bytes(b"x" * 999),
    }
    for at_byte in range(0, len(whole), len(whole) // 12):

        def flip(at_byte: int = at_byte) -> None:
            path.write_bytes(
                whole[:at_byte]
                + bytes(b ^ 255 for b in whole[at_byte : at_byte + 16])
                + whole[at_byte + 16 :]
            )

        spoil[f"flipped at {at_byte}"] = flip
    root, journal = lab._index._root, lab._index._journal.path
    for what, act in spoil.items():
        path.write_bytes(whole)
        act()
        again = Lab(root, journal, path, Clock())
        assert everything(again) == before, what
        assert on_disk(again), what
        again.close()
    assert not list(path.parent.glob("*at-odds*"))


def test_an_index_of_another_schema_is_made_again(kept, monkeypatch):
    lab = kept
    before = everything(filled(lab))
    monkeypatch.setattr(schema, "SCHEMA", schema.SCHEMA + 1)
    lab = reopened(lab)
    assert everything(lab) == before and on_disk(lab)


def test_an_index_that_is_behind_takes_up_the_rest(kept, tmp_path):
    """A process that was killed between journal and index leaves it so."""
    lab = kept
    filled(lab)
    lab.close()
    index = lab._index
    shutil.copy(index._path, tmp_path / "behind")
    later = Lab(index._root, index._journal.path, index._path, Clock())
    later.note("demo", 9, "later", who="ada")
    later.undo(who="eve")
    before = everything(later)
    later.close()
    shutil.copy(tmp_path / "behind", index._path)
    again = Lab(index._root, index._journal.path, index._path, Clock())
    assert everything(again) == before and on_disk(again)


def test_an_index_that_knows_more_than_the_journal_is_put_aside(kept):
    lab = kept
    lab.note("demo", 1, "kept", who="ada")
    kept = lab._index._journal.path.read_bytes()
    filled(lab)
    lab.close()
    index = lab._index
    index._journal.path.write_bytes(kept)  # somebody put an older copy back
    again = Lab(index._root, index._journal.path, index._path, Clock())
    assert {m.note for m in again.marks("demo").values()} == {"kept"} and on_disk(again)
    assert len(list(index._path.parent.glob("lab.duckdb.at-odds-*"))) == 1


def test_a_damaged_journal_is_refused_with_its_line(kept):
    lab = kept
    journal = filled(lab)._index._journal.path
    lab.close()
    journal.write_bytes(journal.read_bytes().replace(b'"old"', b'"odd"'))
    with pytest.raises(StoreError, match="lab.jsonl is damaged in line 3"):
        Lab(lab._index._root, journal, lab._index._path)


HOLDER = """
import sys
sys.path.insert(0, {repository!r})
from data.lab import Lab
from data.schema import open_root
lab = Lab(open_root(), {journal!r}, {index!r})
print(lab.note("demo", 5, "of the other app", who="bob"), flush=True)
for line in sys.stdin:
    print(lab.mark("demo", 6).note, flush=True)
"""


def test_two_apps_on_one_workspace_see_each_others_words(root, workspace):
    paths = {"journal": str(workspace.lab_journal), "index": str(workspace.lab_index)}
    code = HOLDER.format(repository=str(REPOSITORY), **paths)
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "True\n"
    lab = open_lab(root, workspace)
    assert not on_disk(lab) and lab.mark("demo", 5).note == "of the other app"
    lab.note("demo", 6, "of this app", who="ada")
    told, _ = other.communicate("?\n")
    assert told == "of this app\n" and other.returncode == 0
    assert lab.mark("demo", 5).note == "of the other app"


def test_a_command_leaves_the_index_to_the_app(root, workspace, kept):
    lab = kept
    lab.label("demo", 1, "x", who="ada")
    command = open_lab(schema.open_root(), workspace, own=False)
    assert command.mark("demo", 1).label == "x"
    command.label("demo", 1, "y", who="bob")
    assert lab.mark("demo", 1).label == "y" and on_disk(lab)


def test_no_room_for_the_index_loses_nothing(tmp_path):
    """The limit on the size of files stands for a full disk; the journal still has room."""
    code = f"""
import json, resource, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from data.lab import Lab
from data.schema import open_root
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal, index = {str(tmp_path / "lab.jsonl")!r}, {str(tmp_path / "lab.duckdb")!r}
lab = Lab(open_root(), journal, index)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for i in range(60):
    lab.note("demo", i, "x" * 20, who="ada")
    assert lab.mark("demo", i).note
print(lab._index._memory is not None, len(lab.marks("demo")))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
again = Lab(open_root(), journal, index)
print(again._index._memory is None, len(again.marks("demo")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True 60", "True 60"], done.stderr


# ---------------------------------------------------------------- beside the stores; many at once


def test_the_feature_list_can_join_the_lab(kept, tmp_path):
    """One query over a store that is attached READ_ONLY and the lab, in one root."""
    lab = kept
    path = a_store(tmp_path / "features.duckdb")
    lab.tag("hand", [1, 3, 4], "t", who="ada")
    lab.label("hand", 3, "three", who="ada")
    lab.bookmark("hand", 4, True, who="ada")
    lab.label("other", 1, "not this SAE's", who="ada")
    with lab._index._root.reading(path) as (cursor, store):
        rows = cursor.execute(
            f"""SELECT f.feature, coalesce(m.bookmarked, FALSE), m.label FROM {store}.feature f
                LEFT JOIN (SELECT * FROM {lab.view()} WHERE sae = ?) m ON m.feature = f.feature
                WHERE list_contains(m.tags, ?) ORDER BY f.max DESC""",
            ["hand", "t"],
        ).fetchall()
    assert rows == [(3, False, "three"), (1, False, None), (4, True, None)]


def test_twenty_sessions_read_and_write_at_once(kept, tmp_path):
    lab = kept
    path = a_store(tmp_path / "features.duckdb")
    sessions, each, wrong = 20, 4, []

    def session(number: int) -> None:
        who, sae = f"person {number}", f"sae{number % 3}"
        try:
            for turn in range(each):
                feature = number * 100 + turn
                lab.note(sae, feature, f"{who} {turn}", who=who)
                lab.tag(sae, [feature, 7], f"tag {number}", who=who)
                with lab._index._root.reading(path) as (cursor, store):
                    count = cursor.execute(f"SELECT count(*) FROM {store}.feature").fetchone()
                mark = lab.mark(sae, feature)
                if (mark.note, mark.tags, count) != (f"{who} {turn}", (f"tag {number}",), (6,)):
                    wrong.append((mark, count))
            lab.undo(who=who)
            if lab.mark(sae, feature).tags or lab.mark(sae, feature).note != f"{who} {turn}":
                wrong.append(("undo", lab.mark(sae, feature)))
        except Exception as error:  # a thread must not die in silence
            wrong.append(error)

    threads = [threading.Thread(target=session, args=(i,)) for i in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(len(lab.versions("note")[key]) for key in lab.versions("note")) == sessions * each
    rebuilt = Lab(lab._index._root, lab._index._journal.path)
    assert rebuilt.export_json() == lab.export_json() and on_disk(lab)


WRITER = """
import sys
sys.path.insert(0, {repository!r})
from data.lab import Lab
from data.schema import open_root
lab = Lab(open_root(), {journal!r}, {index!r})
acts = [
    lambda: lab.bookmark("demo", 1, True, who="ada"),
    lambda: lab.tag("demo", [1, 2], "t", who="ada"),
    lambda: lab.note("demo", 1, "a note", who="ada"),
    lambda: lab.create_list("list", who="ada"),
    lambda: lab.add_to_list(lab.lists()[0].id, [("demo", 2)], who="ada"),
    lambda: lab.undo(who="ada"),
]
for act in acts[: int(sys.argv[1])]:
    act()
print("returned", flush=True)
sys.stdin.read()
"""


def test_what_was_written_survives_kill_9_straight_after_the_call(root, workspace):
    paths = {"journal": str(workspace.lab_journal), "index": str(workspace.lab_index)}
    code = WRITER.format(repository=str(REPOSITORY), **paths)
    for calls in (1, 3, 6):
        for path in workspace.root.glob("lab.*"):
            path.unlink()
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(calls)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"returned\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        lab = open_lab(root, workspace)
        assert on_disk(lab) and lab.mark("demo", 1).bookmarked
        assert (lab.mark("demo", 1).note, lab.tags()) == (
            ("a note", {"t": 2}) if calls > 1 else (None, {})
        )
        if calls == 6:
            assert (
                lab.lists()[0].entries == () and Journal(workspace.lab_journal).verify().line == 6
            )
        lab.close()


def test_times_sort_as_they_came():
    times = [now() for _ in range(100)]
    assert times == sorted(times) and all(len(time) == 27 for time in times)
