"""Auto-interp, Rate and Study results: what there is, and honest words for what there is not."""

from __future__ import annotations

import pytest

from data import runs_store
from data.errors import StoreError
from data.jobs import THEN
from data.records import Explanation, Score
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import write_sae
from tests.ui.test_jobs_page import button, html_of, words_of
from tests.ui.test_overview_page import started  # noqa: F401
from ui.figures import scores
from ui.keys import autointerp as keys


def test_a_run_of_numbers_alone_is_shown_with_its_median(built, open_page):
    """As token lookup's first runs were kept: one score a feature, no methods, no baselines."""
    test = open_page(built, "autointerp")
    assert not test.exception and not test.error
    told = runs_store.summary(open_root(), Workspace(built).results("small"))
    assert f"<b>{told.median:.2f}</b>" in html_of(test) and "token lookup" in html_of(test)
    assert f"{told.scored} scored" in html_of(test)
    assert f"{told.not_scored} failed" in html_of(test)
    table = test.dataframe[0].value
    values = [float(text.split()[0]) for text in table["score"].dropna()]
    assert values == sorted(values, reverse=True) and "[" in table["score"][0]


def test_failures_are_reasons_and_never_zeros(built, open_page):
    test = open_page(built, "autointerp", sort="score", dir="desc", page="2")
    table = test.dataframe[0].value
    last = table.iloc[-1]
    assert any("2 texts" in text for text in table["reason"].dropna()) and last.isna()["score"]


def test_a_click_opens_the_feature(built, open_page):
    test = open_page(built, "autointerp", sort="feature", dir="asc")
    test.session_state["autointerp.table.lexical-1.simulate.feature.False..1"] = {
        "selection": {"rows": [], "columns": [], "cells": [(3, "label")]}
    }
    test.run()
    assert not test.exception and test.query_params["f"] == "3"


def test_no_run_and_no_harvest_teach(workspace, tmp_path, open_page, started):  # noqa: F811
    for path in (workspace / "autointerp").glob("*/*"):
        path.unlink()
    test = open_page(workspace, "autointerp")
    assert "No feature of this SAE has a label yet" in words_of(test)
    button(test, "Explain and score all by token lookup").click().run()
    root = ["--workspace", str(workspace)]
    assert started[0][0] == ["explain", "small", *root, THEN, "score", "small", *root]
    write_sae(tmp_path / "w", "bare")
    test = open_page(tmp_path / "w", "autointerp")
    assert not test.exception and "python run.py harvest bare" in words_of(test)


def test_a_run_of_an_older_harvest_is_told(workspace, open_page):
    path = Workspace(workspace).results("small")
    told = [Explanation(1, "lexical", "<b>x</b>", {})]
    runs_store.write_results(path, {"judge": "gpt", "store_content": "older"}, told, [])
    test = open_page(workspace, "autointerp")
    assert not test.exception and "older harvest" in words_of(test)
    assert "none is scored yet" in words_of(test)


@pytest.mark.parametrize(
    "params",
    [{"run": "../x"}, {"sort": "beauty"}, {"page": "0"}, {"with": "a,b,c,d,e,f,g"},
     {"with": "nothing"}, {"part": "x"}, {"method": "guess"}, {"arm": "leg"}, {"f": "-1"},
     {"for": "--features"}, {"only": "good"}, {"call": "no"}],
)  # fmt: skip
def test_a_bad_address_is_refused(built, open_page, params):
    test = open_page(built, "autointerp", **params)
    assert not test.exception and test.error
    button(test, "Show the newest run").click().run()
    assert not test.error and test.dataframe


@pytest.mark.parametrize(("page", "word"), [("rate", "nothing to rate"), ("study", "no results")])
def test_studies_say_that_there_is_none(built, tmp_path, open_page, page, word):
    for root in (built, tmp_path / "new"):
        test = open_page(root, page)
        assert not test.exception and not test.error and word in words_of(test)
        assert "no study in this workspace" in words_of(test)


def test_pages_of_a_run(tmp_path):
    root, path = open_root(), tmp_path / "results.duckdb"
    told = [Explanation(i, "j", f"label {i}", {}) for i in range(5)]
    told.append(Explanation(5, "j", "", {}, "failed", "nothing to go by"))
    scored = [Score(i, "simulate", i / 10, None, None, 9, 3) for i in range(3)]
    scored.append(Score(3, "simulate", None, None, None, 0, 0, "failed", "too short"))
    runs_store.write_results(path, {"judge": "j"}, told, scored)
    rows, count = runs_store.run_rows(root, path, "score", True, 1, 4)
    assert count == 6 and [row.feature for row in rows] == [2, 1, 0, 3]
    assert (rows[3].score, rows[3].reason) == (None, "too short")
    rows, _ = runs_store.run_rows(root, path, "score", True, 2, 4)
    assert [(row.feature, row.label, row.reason) for row in rows] == [
        (4, "label 4", None), (5, None, "nothing to go by"),
    ]  # fmt: skip
    assert runs_store.scores_of(root, path) == [0.0, 0.1, 0.2]
    summary = runs_store.summary(root, path)
    assert (summary.explained, summary.not_explained) == (5, 1)
    assert (summary.scored, summary.not_scored, summary.median) == (3, 1, 0.1)
    with pytest.raises(StoreError, match="cannot sort by"):
        runs_store.run_rows(root, path, "text; drop")
    root.close()


def test_the_address_goes_there_and_back():
    view = keys.RunView("a", ("b", "c"), "calls", "detect", "shuffled", 7, 2, "withheld", "lift",
                        False, 3, "0:4,9", "hf:x")  # fmt: skip
    assert keys.read_view(keys.write_view(view)) == view
    assert keys.write_view(keys.RunView()) == {}


def test_the_histogram_of_scores():
    assert scores.score_histogram([]) is None
    figure = scores.score_histogram([0.5, -0.2, 1.0])
    assert sum(figure.data[0].y) == 3


def test_the_spread_by_arm_leaves_out_arms_without_values():
    assert scores.by_arm({"own": []}, "r") is None
    figure = scores.by_arm({"own": [0.5, 0.7], "lexical": [0.4], "empty": []}, "r", 0.0)
    assert [trace.name for trace in figure.data] == ["lexical", "own"]
