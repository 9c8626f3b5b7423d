"""The Lists page: lists in order, bookmarks, tags, notes, what was changed, export and import."""

from __future__ import annotations

import json

import pytest

from data.lab import Lab, open_lab
from data.records import Change
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import SINGLE, write_sae, write_store
from tests.ui.test_pages import error_of, unescaped, words_of
from ui.keys.lists import PARTS
from ui.pages.panels import lists_entries, lists_history


@pytest.fixture
def root():
    opened = open_root()
    yield opened
    opened.close()


@pytest.fixture
def lab(root, workspace) -> Lab:
    """Another process's lab on the same journal."""
    return open_lab(root, Workspace.open(workspace), own=False)


@pytest.fixture
def me(workspace, open_page, lab) -> str:
    """The name under which the page writes."""
    test = open_page(workspace, "lists")
    test.text_input(key="lists.new").set_value("who")
    click(test, "Make list")
    (one,) = lab.lists()
    lab.undo(who=one.who)
    return one.who


def click(test, label: str, n: int = 0):
    return [button for button in test.button if button.label == label][n].click().run()


def table(test):
    return test.dataframe[0].value


def tick(test, key: str, rows: list[int]) -> None:
    test.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    test.run()


def told(test) -> str:
    return unescaped(" ".join(toast.value for toast in test.toast))


# ------------------------------------------------------------------ every part, empty and bad


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_part_teaches(built, open_page, part):
    test = open_page(built, "lists", part=part)
    assert not test.exception and not test.error and not test.dataframe
    if part != "copy":
        assert len(test.info) == 1 and len(test.info[0].value) > 80
    undo = next(button for button in test.button if button.label == "Undo")
    assert undo.disabled


@pytest.mark.parametrize("part", PARTS)
def test_the_page_opens_without_any_sae(tmp_path, open_page, root, part):
    workspace = Workspace.open(tmp_path / "empty")
    own = open_lab(root, workspace, own=False)
    own.bookmark("gone", [3], True, who="ada")
    own.note("gone", 3, "once", who="ada")
    test = open_page(workspace.root, "lists", part=part)
    assert not test.exception and not test.error
    if part in ("bookmarks", "notes"):
        assert list(table(test)["sae"]) == ["gone"] and table(test)["density"].isna().all()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"part": "beauty"}, "part='beauty'"),
        ({"list": "<b>"}, "list='<b>'"),
        ({"of": "me", "page": "0"}, "page='0'"),
    ],
)
def test_a_bad_address_is_refused_with_a_way_out(built, open_page, params, words):
    test = open_page(built, "lists", **params)
    assert not test.exception and words in error_of(test)
    click(test, "All lists")
    assert not test.error and set(test.query_params) == {"sae"}


def test_a_list_that_is_gone_is_said_to_be_gone(workspace, open_page, lab):
    lab.create_list("here", who="ada")
    test = open_page(workspace, "lists", list="0a1b2c3d4e5f")
    assert not test.exception and "may have been deleted" in test.warning[0].value
    assert test.subheader[0].value == "here"


def test_the_parts_are_in_the_address(workspace, open_page, lab):
    lab.tag("small", [1], "odd", who="ada")
    test = open_page(workspace, "lists")
    test.segmented_control(key="lists.part").set_value("tags").run()
    assert test.query_params["part"] == "tags" and len(table(test)) == 1


# ------------------------------------------------------------------ lists


def test_a_list_is_made_filled_renamed_and_deleted(workspace, open_page, lab):
    test = open_page(workspace, "lists")
    test.text_input(key="lists.new").set_value("A *story*")
    click(test, "Make list")
    (one,) = lab.lists()
    assert one.name == "A *story*" and test.query_params["list"] == one.id
    assert "is empty" in words_of(test) and "Made the list" in told(test)
    test.text_input(key="lists.add.numbers").set_value("2, 7-9")
    click(test, "Add")
    assert [f for _, f in lab.feature_list(one.id).entries] == [2, 7, 8, 9]
    assert list(table(test)["feature"]) == [2, 7, 8, 9]
    test.text_input(key="lists.add.numbers").set_value("64")
    click(test, "Add")
    assert "from 0 to 63" in error_of(test)
    test.text_input(key=f"lists.name.{one.id}").set_value("A plot")
    click(test, "Rename")
    assert lab.feature_list(one.id).name == "A plot"
    click(test, "Delete this list")
    assert not lab.lists() and "list" not in test.query_params
    assert not test.exception


def test_a_taken_or_empty_name_is_refused(workspace, open_page, lab):
    lab.create_list("here", who="ada")
    test = open_page(workspace, "lists")
    test.text_input(key="lists.new").set_value("here")
    click(test, "Make list")
    assert "already: choose another name" in error_of(test)
    click(test, "Make list")
    assert "empty list's name" in error_of(test) and len(lab.lists()) == 1


def test_entries_move_up_down_and_to_a_number(workspace, open_page, lab, monkeypatch):
    monkeypatch.setattr(lists_entries, "PAGE_SIZE", 4)
    one = lab.create_list("order", who="ada")
    lab.add_to_list(one.id, [("small", feature) for feature in range(6)], who="ada")
    key = f"lists.table.{one.id}.1"

    def order() -> list[int]:
        return [feature for _, feature in lab.feature_list(one.id).entries]

    test = open_page(workspace, "lists")
    up = next(button for button in test.button if button.label == "Up")
    assert up.disabled, "nothing is ticked"
    tick(test, key, [2])
    click(test, "Up")
    assert order() == [0, 2, 1, 3, 4, 5]
    click(test, "Up")
    assert order() == [2, 0, 1, 3, 4, 5], "it stays ticked"
    assert next(button for button in test.button if button.label == "Up").disabled
    click(test, "Down")
    assert order() == [0, 2, 1, 3, 4, 5]
    test.number_input(key="lists.place").set_value(6).run()
    assert order() == [0, 1, 3, 4, 5, 2] and test.query_params["page"] == "2"
    assert list(table(test)["place"]) == [5, 6] and list(table(test)["feature"]) == [5, 2]
    click(test, "Remove")
    assert order() == [0, 1, 3, 4, 5] and not test.exception


def test_a_click_on_an_entry_opens_its_feature_in_its_sae(workspace, open_page, lab):
    write_store(write_sae(workspace, "another") / "features.duckdb")
    one = lab.create_list("both", who="ada")
    lab.add_to_list(one.id, [("small", 4), ("another", 7), ("gone", 1)], who="ada")
    test = open_page(workspace, "lists", sae="small")
    shown = table(test)
    assert list(shown["density"].isna()) == [False, False, True], "of every SAE that is here"
    assert shown["label"].isna().tolist() == [False, True, True]
    key = f"lists.table.{one.id}.1"
    test.session_state[key] = {"selection": {"rows": [], "columns": [], "cells": [(2, "label")]}}
    test.run()
    assert "gone is not in this workspace" in words_of(test) + test.warning[0].value
    test.session_state[key] = {"selection": {"rows": [], "columns": [], "cells": [(1, "label")]}}
    test.run()
    assert not test.exception and test.title[0].value == "Feature 7"
    assert test.query_params["sae"] == "another" and test.query_params["f"] == "7"


# ------------------------------------------------------------------ marks


def test_bookmarks_of_all_saes_or_one_and_away_with_them(workspace, open_page, lab):
    lab.bookmark("small", [SINGLE, 5], True, who="ada")
    lab.bookmark("gone", [9], True, who="ada")
    test = open_page(workspace, "lists", part="bookmarks")
    assert set(table(test)["feature"]) == {SINGLE, 5, 9}
    test.segmented_control(key="lists.scope").set_value("this").run()
    assert test.query_params["of"] == "this" and set(table(test)["feature"]) == {SINGLE, 5}
    cell = {"selection": {"rows": [], "columns": [], "cells": [(1, "label")]}}
    other = open_page(workspace, "lists", part="bookmarks", of="this")
    other.session_state["lists.bookmarks.1"] = cell
    other.run()
    assert other.query_params["star"] == "yes", "previous and next are bookmarks as well"
    tick(test, "lists.bookmarks.1", [0, 1])
    click(test, "Remove bookmark")
    assert not lab.bookmarks("small") and lab.bookmarks("gone")
    assert "No bookmark here yet" in words_of(test)


def test_what_is_ticked_goes_into_a_list(workspace, open_page, lab):
    lab.create_list("kept", who="ada")
    lab.bookmark("small", [1, 2, 3], True, who="ada")
    test = open_page(workspace, "lists", part="bookmarks")
    tick(test, "lists.bookmarks.1", [0, 2])
    test.selectbox(key="lists.bookmarks.target").set_value("kept").run()
    click(test, "Add")
    assert {feature for _, feature in lab.lists()[0].entries} == {1, 3}
    assert "Added 2 to “kept”" in told(test)


def test_tags_one_by_one(workspace, open_page, lab):
    lab.tag("small", [1, 2, 3], "many", who="ada")
    lab.tag("small", [3], "few: *one*", who="bob")
    test = open_page(workspace, "lists", part="tags")
    assert list(table(test)["feature"]) == [1, 2, 3] and set(table(test)["who"]) == {"ada"}
    test.pills(key="lists.tag").set_value("few: *one*").run()
    assert test.query_params["tag"] == "few: *one*" and list(table(test)["feature"]) == [3]
    tick(test, "lists.tags.few: *one*.1", [0])
    click(test, "Take the tag away")
    assert not lab.tagged("small", "few: *one*") and "No feature has the tag" in words_of(test)
    test = open_page(workspace, "lists", part="tags", tag="many")
    click(test, "Open in Features")
    assert test.title[0].value == "Features" and test.query_params["tag"] == "many"


def test_notes_and_labels_are_shown_as_text(workspace, open_page, lab):
    lab.note("small", 4, "<script>alert(1)</script> **bold**", who="ada")
    lab.label("small", 5, "a label", who="bob")
    shown = table(open_page(workspace, "lists", part="notes"))
    assert list(shown["note"]) == ["✎ a label", "<script>alert(1)</script> **bold**"]
    assert list(shown["who"]) == ["bob", "ada"]


# ------------------------------------------------------------------ history, export, import


def test_undo_takes_back_ones_own_last_change_and_says_which(workspace, open_page, lab, me):
    lab.tag("small", [1, 2], "mine", who=me)
    lab.bookmark("small", [7], True, who="somebody else")
    test = open_page(workspace, "lists", part="changes")
    assert list(table(test)["who"]) == ["somebody else", me]
    assert "tagged feature 1 of small and 1 more: “mine”" in words_of(test)
    click(test, "Undo")
    assert "Undone: tagged feature 1 of small and 1 more" in told(test)
    assert not lab.tagged("small", "mine") and lab.bookmarks("small")
    assert next(button for button in test.button if button.label == "Undo").disabled


def test_a_click_on_a_change_opens_its_feature(workspace, open_page, lab):
    lab.bookmark("small", [7], True, who="ada")
    test = open_page(workspace, "lists", part="changes")
    test.session_state["lists.changes"] = {
        "selection": {"rows": [], "columns": [], "cells": [(0, "what")]}
    }
    test.run()
    assert test.title[0].value == "Feature 7"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("bookmark", 1, "bookmark", "s", 3, None, None), "removed the bookmark of feature 3 of s"),
        (("tag", 2, "tag", "s", 3, "t", "1"), "tagged feature 3 of s and 1 more: “t”"),
        (("note", 1, "note", "s", 3, None, "x"), "wrote a note on feature 3 of s"),
        (("label", 1, "label", "s", 3, None, None), "removed the label of feature 3 of s"),
        (("list", 1, "list", None, None, "id1", None), "deleted the list that is deleted now"),
        (("list", 1, "list", None, None, "id2", "old"), "named the list “now”"),
        (("entry", 1, "entry", "s", 3, "id2", "5"), "placed feature 3 of s in the list “now”"),
        (("filter", 1, "filter", None, None, "f", None), "deleted the filter “f”"),
        (("import", 1200, "tag", "s", 3, "t", "1"), "imported 1,200 items"),
    ],
)
def test_changes_in_words(change, words):
    action, items, *rest = change
    made = Change(1, action, "ada", "2026-11-21T10:00:00.000000Z", items, *rest)
    assert lists_history.said(made, {"id2": "now"}) == words


def test_an_export_is_imported_and_a_bad_file_is_refused(workspace, open_page, lab, root, tmp_path):
    other = Lab(root, tmp_path / "other.jsonl")
    other.bookmark("small", [1, 2], True, who="ada")
    other.tag("small", [2], "odd", who="ada")
    test = open_page(workspace, "lists", part="copy")
    assert [button.label for button in test.get("download_button")] == ["Download JSON"]
    upload = test.file_uploader(key="lists.import")
    upload.upload("lab.json", other.export_json().encode(), "application/json").run()
    click(test, "Import")
    assert "Imported 2 bookmarks, 1 tag." in told(test) and lab.tagged("small", "odd") == {2}
    click(test, "Import")
    assert "Nothing in it is new here" in told(test)
    bad = json.dumps({"format": "something else"}).encode()
    test.file_uploader(key="lists.import").upload("lab.json", bad, "application/json").run()
    click(test, "Import")
    assert "this is no export of a lab" in error_of(test) and not test.exception
