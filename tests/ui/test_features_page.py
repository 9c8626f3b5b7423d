"""The Features page: its filter bar, table, scatter, saved filters, files and marks."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet
import pytest

from data.features_store import FeatureStore
from data.lab import Lab, open_lab
from data.records import FeatureFilter
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import DEAD, DENSE, SINGLE, write_sae, write_store
from tests.ui.test_pages import error_of, unescaped, words_of
from ui.figures import densities
from ui.pages.panels import feature_actions


@pytest.fixture
def root():
    opened = open_root()
    yield opened
    opened.close()


@pytest.fixture
def lab(root, workspace) -> Lab:
    """Another process's eyes on what the page wrote."""
    return open_lab(root, Workspace.open(workspace), own=False)


@pytest.fixture
def store(root, built) -> FeatureStore:
    folder = built / "saes" / "small"
    return FeatureStore(root, folder / "features.duckdb", Workspace.open(built).results("small"))


def listed(test) -> list[int]:
    return [int(feature) for feature in test.dataframe[0].value["feature"]]


def chips(test) -> list[str]:
    found = [pills for pills in test.pills if (pills.key or "").startswith("features.chips")]
    return [unescaped(text) for text in found[0].options] if found else []


def click(test, label: str):
    return next(button for button in test.button if button.label == label).click().run()


def typed(test, key: str, text: str) -> None:
    """Types a new option into a select box; AppTest knows no other way."""
    box = test.selectbox(key=key)
    box.options.append(text)
    box.set_value(text)


# ------------------------------------------------------------------ the filter bar


@pytest.mark.parametrize(
    ("params", "bounds"),
    [
        ({"den_lo": "0.01", "den_hi": "0.2"}, {"density_min": 0.01, "density_max": 0.2}),
        ({"max_lo": "2", "max_hi": "5"}, {"max_min": 2.0, "max_max": 5.0}),
        ({"score_lo": "0.2", "score_hi": "0.7"}, {"score_min": 0.2, "score_max": 0.7}),
        ({"only": "single_token", "alive": "yes"}, {"single_token": True, "alive": True}),
        ({"not": "dense_1"}, {"dense_1": False}),
        ({"words": "garden"}, {"example": "garden"}),
        ({"peak": '" the"'}, {"peak": '" the"'}),
        ({"up": "return"}, {"raised": "return"}),
        ({"q": "def", "sort": "max", "dir": "desc"},
         {"text": "def", "sort": "max", "descending": True}),
    ],
)  # fmt: skip
def test_the_address_is_the_filter(built, open_page, store, params, bounds):
    test = open_page(built, "features", size="100", **params)
    assert not test.exception and not test.error
    expected = store.features(FeatureFilter(**bounds)).tolist()
    assert 0 < len(expected) < 64 and listed(test) == expected
    assert f"**{len(expected):,}** of 64" in words_of(test)


def test_the_bar_writes_the_address_and_begins_at_the_first_page(built, open_page, store):
    test = open_page(built, "features", size="25", page="2")
    test.text_input(key="features.words").set_value("garden").run()
    assert test.query_params["words"] == "garden" and "page" not in test.query_params
    test.number_input(key="features.max").set_value(1.5).run()
    test.pills(key="features.only").set_value(["alive", "single_token"]).run()
    assert test.query_params["only"] == "single_token" and test.query_params["alive"] == "yes"
    test.pills(key="features.not").set_value(["rare", "single_token"]).run()
    assert test.query_params["not"] == "rare,single_token", "what was chosen last wins"
    assert "only" not in test.query_params and "max_lo" in test.query_params
    test.text_input(key="features.q").set_value("#7").run()
    assert test.query_params["id"] == "7" and test.text_input(key="features.q").value == "#7"


def test_the_density_slider_leaves_no_bound_at_its_ends(built, open_page):
    test = open_page(built, "features")
    slider = next(one for one in test.select_slider if one.label == "Density")
    slider.set_range(0.01, 1.0).run()
    assert test.query_params["den_lo"] == "0.01" and "den_hi" not in test.query_params
    slider = next(one for one in test.select_slider if one.label == "Density")
    assert tuple(slider.value) == (0.01, 1.0)


def test_alive_and_dead_are_not_both(built, open_page):
    test = open_page(built, "features", alive="yes")
    test.pills(key="features.only").set_value(["alive", "dead"]).run()
    assert test.query_params["alive"] == "no" and listed(test) == [DEAD]


def test_what_is_asked_for_stands_above_the_list_and_goes_one_by_one(built, open_page):
    test = open_page(built, "features", den_lo="0.01", only="single_token", sort="max")
    assert [text.split(" ✕")[0] for text in chips(test)] == ["density at least 1 %", "single token"]
    bar = next(pills for pills in test.pills if (pills.key or "").startswith("features.chips"))
    bar.set_value(["single_token"]).run()
    assert "den_lo" not in test.query_params and test.query_params["only"] == "single_token"
    click(test, "Clear")
    assert set(test.query_params) == {"sae", "sort"} and not chips(test)


def test_words_too_short_to_search_for_leave_the_bar_usable(built, open_page):
    test = open_page(built, "features", words="e")
    assert not test.exception and "at least two" in error_of(test)
    test.text_input(key="features.words").set_value("").run()
    assert not test.error and len(listed(test)) == 50


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"only": "nice"}, "only='nice'"),
        ({"only": "rare", "not": "rare"}, "only and not both name rare"),
        ({"cols": "beauty"}, "cols='beauty'"),
        ({"plot": "pie", "score_lo": "7"}, "plot='pie'"),
    ],
)
def test_a_bad_address_is_refused_with_a_way_out(built, open_page, params, words):
    test = open_page(built, "features", **params)
    assert not test.exception and words in error_of(test)
    for key in params:
        assert key in error_of(test)
    click(test, "Clear the filter")
    assert not test.error and test.dataframe


def test_a_page_beyond_the_list_offers_the_first(built, open_page):
    test = open_page(built, "features", page="99", alive="yes")
    assert "There is no page 99: this list has 2." in words_of(test)
    click(test, "First page")
    assert test.query_params["alive"] == "yes" and listed(test)


def test_an_sae_without_scores_says_so(workspace, open_page):
    write_store(write_sae(workspace, "bare") / "features.duckdb")
    test = open_page(workspace, "features", sae="bare", plot="score")
    assert not test.exception and "no feature of this list has a score" in words_of(test)
    assert next(one for one in test.slider if one.label == "Score").disabled


# ------------------------------------------------------------------ the table


def test_the_reader_chooses_the_columns(built, open_page):
    test = open_page(built, "features", cols="feature,kurtosis,q50,dead", sort="q50", dir="desc")
    assert list(test.dataframe[0].value) == ["feature", "kurtosis", "q50", "dead"]
    assert test.dataframe[0].value["kurtosis"].isna().all(), "absent, not 0"
    test.multiselect(key="features.columns").set_value(["feature", "label"]).run()
    assert test.query_params["cols"] == "feature,label" and test.query_params["sort"] == "q50"
    click(test, "Usual columns")
    assert "cols" not in test.query_params and "flags" in test.dataframe[0].value


def test_flags_marks_and_labels_of_people_are_shown(workspace, open_page, root):
    own = Lab(root, workspace / "lab.jsonl")
    own.bookmark("small", [SINGLE], True, who="ada")
    own.tag("small", [SINGLE], "keyword", who="ada")
    own.label("small", SINGLE, "Python's <b>def</b>", who="ada")
    table = open_page(workspace, "features", size="100").dataframe[0].value.set_index("feature")
    single = table.loc[SINGLE]
    assert single["bookmarked"] == "★" and single["tags"] == ["keyword"]
    assert single["label"] == "✎ Python's <b>def</b>" and "single token" in single["flags"]
    assert table.loc[DEAD]["flags"] == ["dead"] and table.loc[DENSE]["flags"] == ["dense > 10 %"]
    test = open_page(workspace, "features", tag="keyword", star="yes", q="python's")
    assert listed(test) == [SINGLE]


def test_a_tag_nobody_gave_is_an_empty_list(built, open_page):
    test = open_page(built, "features", tag="no-such")
    assert not test.exception and "No feature fits this filter" in words_of(test)
    assert chips(test) == ["tagged no-such ✕"]


def test_what_people_typed_is_no_markup(workspace, open_page, root):
    own, evil = Lab(root, workspace / "lab.jsonl"), "![x](http://evil.test/x.png) **b** :red[c]"
    own.tag("small", [SINGLE], evil, who="ada")
    own.save_filter(evil, {"tag": evil}, who="ada")
    own.create_list(evil, who="ada")
    test = open_page(workspace, "features", tag=evil, q="![y](http://evil.test/y.png)")
    raw = [pills.options[0] for pills in test.pills if (pills.key or "").startswith("features.chi")]
    raw += [test.button(key="features.apply.0").label, test.button(key="features.apply.0").help]
    assert not test.exception and all("\\[" in text and "![" not in text for text in raw)
    test = open_page(workspace, "lists")
    raw = [button.label for button in test.button if "evil" in button.label]
    raw += [test.subheader[0].value, *(one.value for one in test.caption if "evil" in one.value)]
    assert len(raw) == 2 and not [text for text in raw if "![" in text or "**b" in text]


def test_a_click_on_a_heading_of_text_sorts_from_a_to_z(built, open_page):
    test = open_page(built, "features")
    test.session_state["features.table.feature.False.1"] = {
        "selection": {"rows": [], "columns": ["label"], "cells": []}
    }
    test.run()
    assert test.query_params["sort"] == "label" and "dir" not in test.query_params


def test_a_random_feature_is_one_of_the_list(built, open_page):
    test = open_page(built, "features", only="single_token")
    inside = set(listed(test))
    click(test, "Random feature")
    assert test.title[0].value == f"Feature {test.query_params['f']}"
    assert int(test.query_params["f"]) in inside and test.query_params["only"] == "single_token"


# ------------------------------------------------------------------ the scatter


def plots(test) -> list:
    return list(test.get("plotly_chart"))


def test_the_scatter_can_be_put_away_and_counts_on_the_filter(built, open_page):
    test = open_page(built, "features", words="garden")
    assert len(plots(test)) == 1
    test.segmented_control(key="features.plot").set_value("none").run()
    assert test.query_params["plot"] == "none" and not plots(test)
    assert test.query_params["words"] == "garden"


def test_points_are_coloured_by_flag_and_faint_outside(store):
    filter = FeatureFilter(max_min=3.0)
    points = store.points(filter, "max", 1_000)
    figure = densities.linked(points, "max", (None, None, 3.0, None))
    names = {trace.name: len(trace.x) for trace in figure.data}
    assert names["outside the filter"] == (~points.inside).sum()
    assert names["dense > 1 %"] > 0 and sum(names.values()) == len(points.feature)
    assert figure.layout.shapes[0].y0 == 3.0
    assert figure.layout.dragmode == "select"


def test_one_point_and_scores_below_zero_have_a_place(store):
    one = store.points(FeatureFilter(feature=SINGLE), "max", 10)
    low, high = densities.linked(one, "max", (None,) * 4).layout.xaxis.range
    assert low < high
    scored = store.points(FeatureFilter(), "score", 1_000)
    figure = densities.linked(scored, "score", (None, None, -1.0, 0.5))
    assert figure.layout.yaxis.range[0] < -1.0 and figure.layout.yaxis.type != "log"


# ------------------------------------------------------------------ saved filters


def test_a_filter_is_saved_applied_and_deleted(workspace, open_page, lab):
    test = open_page(workspace, "features", only="rare", sort="max", page="1")
    test.text_input(key="features.save.name").set_value("to *look* at")
    click(test, "Save the current filter")
    assert [(one.name, one.query) for one in lab.filters()] == [
        ("to *look* at", {"only": "rare", "sort": "max"})
    ]
    click(test, "Clear")
    test.button(key="features.apply.0").click().run()
    assert test.query_params["only"] == "rare" and test.query_params["sort"] == "max"
    test.button(key="features.forget.0").click().run()
    assert not test.exception and not lab.filters()


def test_a_filter_needs_a_name(workspace, open_page, lab):
    test = open_page(workspace, "features", only="rare")
    click(test, "Save the current filter")
    assert "name" in error_of(test) and not lab.filters()


# ------------------------------------------------------------------ all of them at once


def test_all_of_a_list_are_tagged_bookmarked_and_put_in_a_list(workspace, open_page, lab):
    test = open_page(workspace, "features", only="single_token", sort="max", dir="desc")
    expected = listed(test)
    typed(test, "features.new_tag", "one token")
    click(test, "Tag all")
    assert lab.tagged("small", "one token") == set(expected)
    click(test, "Bookmark all")
    assert {mark.feature for mark in lab.bookmarks("small")} == set(expected)
    for _ in range(2):
        typed(test, "features.new_list", "To do")
        click(test, "Add all to the list")
    (one,) = lab.lists()
    assert one.name == "To do" and one.entries == tuple(("small", f) for f in expected)
    assert not test.exception and not test.error
    assert list(test.dataframe[0].value["tags"])[0] == ["one token"], "seen at once"


def test_nothing_is_marked_without_a_name_or_beyond_the_limit(
    workspace, open_page, lab, monkeypatch
):
    test = open_page(workspace, "features")
    click(test, "Tag all")
    assert "no tag was given" in error_of(test)
    monkeypatch.setattr(feature_actions, "AT_ONCE", 10)
    test = open_page(workspace, "features")
    assert "at most 10 can be marked at once" in words_of(test)
    assert "Tag all" not in [button.label for button in test.button] and not lab.changes()


def test_the_file_is_the_list(built, open_page, store, tmp_path: Path):
    test = open_page(built, "features", only="single_token")
    buttons = [button.label for button in test.get("download_button")]
    assert buttons == ["CSV", "Parquet"]
    raw = store.exported(FeatureFilter(single_token=True), "parquet")
    table = pyarrow.parquet.read_table(io.BytesIO(raw))
    assert table["feature"].to_pylist() == listed(test)
