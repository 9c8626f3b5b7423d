"""Every page through Streamlit's own test harness, on whole, empty, partial and broken input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import WorkerError
from data.records import LiveCode, LiveToken
from tests.ui.small_store import DEAD, DENSE, EMOJI, SINGLE, write_metrics, write_sae

PAGES = ("overview", "features", "feature", "prompt")
REPOSITORY = Path(__file__).resolve().parents[2]


def html_of(test) -> str:
    return "\n".join(element.value for element in test.get("html"))


def words_of(test) -> str:
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.error)
    return "\n".join(unescaped(element.value) for kind in kinds for element in kind)


def unescaped(text: str) -> str:
    """Markdown's escapes undone."""
    return re.sub(r"\\(.)", r"\1", str(text))


def error_of(test) -> str:
    return unescaped(test.error[0].value)


class FakeLive:
    """A model worker whose state the test decides."""

    now = {"state": "ready", "detail": "", "seconds": 0.0}
    after_start = {"state": "loading", "detail": "loading weights", "seconds": 0.5}
    started = 0
    code = LiveCode(
        (
            LiveToken(b"<bos>", True, False, ()),
            LiveToken(b"def", False, True, ((SINGLE, 3.0), (DENSE, 0.4))),
            LiveToken("🎉".encode()[:2], False, True, ((EMOJI, 2.0),)),
            LiveToken("🎉".encode()[2:], False, True, ((EMOJI, 4.0),)),
        ),
        False,
        12.0,
    )

    def __init__(self, workspace, sae):
        self.sae = sae

    def state(self):
        return dict(type(self).now)

    def start(self):
        type(self).started += 1
        type(self).now = dict(self.after_start)

    def encode(self, text, top=20):
        if self.now["state"] != "ready":
            raise WorkerError("the model worker is not running: start it first")
        return self.code


@pytest.fixture
def live(monkeypatch):
    """A ready model worker in place of the real one."""
    fake = type("Fake", (FakeLive,), {"started": 0, "now": dict(FakeLive.now)})
    monkeypatch.setattr("interp.live.LiveModel", fake)
    return fake


# ------------------------------------------------------------------ all pages


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_a_complete_workspace(built, open_page, live, page):
    test = open_page(built, page)
    assert not test.exception and not test.error
    assert test.title[0].value
    assert test.query_params["sae"] == "small"


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_workspace_says_what_to_run(tmp_path, open_page, live, page):
    test = open_page(tmp_path / "new", page)
    assert not test.exception and not test.error
    assert "make demo" in [code.value for code in test.code]


@pytest.mark.parametrize("page", PAGES)
def test_an_sae_without_store_or_metrics_opens(tmp_path, open_page, live, page):
    write_sae(tmp_path, "bare")
    test = open_page(tmp_path, page)
    assert not test.exception and not test.error
    if page != "prompt":
        assert "python run.py harvest bare" in words_of(test)
    if page == "overview":
        assert "python run.py evaluate bare" in words_of(test)


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_sae_is_refused_by_name(built, open_page, live, page):
    test = open_page(built, page, sae="nosuch")
    assert not test.exception
    assert "nosuch" in error_of(test) and "small" in error_of(test)


@pytest.mark.parametrize("page", ["overview", "features", "feature"])
def test_a_damaged_store_is_shown_as_an_error(workspace, open_page, live, page):
    (workspace / "saes" / "small" / "features.duckdb").write_bytes(b"no database")
    test = open_page(workspace, page)
    assert not test.exception
    assert "features.duckdb" in error_of(test)


def test_a_wrong_argument_is_refused_in_place(built, open_page, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--wrokspace", str(built)])
    from streamlit.testing.v1 import AppTest

    test = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=30).run()
    assert not test.exception and "--wrokspace" in error_of(test)


def test_the_pages_load_no_torch():
    """In a fresh process, imports followed to the end."""
    code = (
        "import sys; import interp.live, ui.shell; "
        "from ui.pages import overview, features, feature, prompt; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ Overview


def test_overview_shows_the_metrics_with_their_definitions(built, open_page):
    test = open_page(built)
    shown = {metric.label: metric.value for metric in test.metric}
    assert shown["L0"] == "31.6" and shown["FVE"] == "0.861" and shown["Δ loss"] == "+0.124"
    assert shown["Loss recovered"] == "97.2 %" and shown["Dead"] == "1.56 %"
    assert all(metric.help for metric in test.metric)
    assert "64 features on `resid_post.2` of `embedded-demo`" in words_of(test)
    assert "target 31.6" in "".join(chart.proto.spec for chart in test.get("plotly_chart"))


def test_overview_shows_absent_metrics_as_absent(workspace, open_page):
    path = workspace / "saes" / "small" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics.update(delta_loss=None, dead=None)
    path.write_text(json.dumps(metrics))
    shown = {metric.label: metric.value for metric in open_page(workspace).metric}
    assert shown["Δ loss"] == "–" and shown["Dead"] == "–" and shown["L0"] == "31.6"


def test_overview_compares_the_saes_of_the_workspace(workspace, open_page):
    write_metrics(write_sae(workspace, "other"), l0=64.0)
    write_sae(workspace, "unfinished-business")
    test = open_page(workspace, sae="small")
    table = test.dataframe[0].value
    assert list(table["name"]) == ["other", "small", "unfinished-business"]
    assert table["l0"].isna().tolist() == [False, False, True]


# ------------------------------------------------------------------ Features


def test_features_sorts_and_filters_from_the_address(built, open_page):
    test = open_page(built, "features", sort="density", dir="desc", alive="yes", size="25")
    table = test.dataframe[0].value
    assert len(table) == 25 and table["feature"][0] == DENSE
    assert DEAD not in list(table["feature"])


def test_features_shows_what_is_absent_as_absent(built, open_page):
    shown = "feature,label,fires,max,mean,score,peak_token"
    table = open_page(built, "features", alive="no", cols=shown).dataframe[0].value
    row = table.iloc[0]
    assert row["feature"] == DEAD and row["fires"] == 0
    absent = row[["label", "max", "mean", "score", "peak_token"]].isna()
    assert absent.all()


@pytest.mark.parametrize(
    ("params", "word"),
    [({"den_lo": "abc"}, "den_lo='abc'"), ({"sort": "beauty"}, "beauty"), ({"page": "0"}, "page")],
)
def test_features_refuses_a_bad_address_and_offers_a_way_out(built, open_page, params, word):
    test = open_page(built, "features", **params)
    assert not test.exception and word in error_of(test)
    test.button[0].click().run()
    assert not test.error and test.dataframe


def test_features_says_when_nothing_fits(built, open_page):
    test = open_page(built, "features", q="zzzz-no-such")
    assert "No feature fits" in words_of(test) and "**0** of 64" in words_of(test)


def test_features_keeps_the_address_in_step_with_the_widgets(built, open_page):
    test = open_page(built, "features")
    test.selectbox(key="features.sort").select("max").run()
    test.text_input(key="features.q").set_value("#7").run()
    assert not test.exception
    assert test.query_params["sort"] == "max" and test.query_params["id"] == "7"
    assert list(test.dataframe[0].value["feature"]) == [7]
    test.text_input(key="features.q").set_value("").run()
    assert "id" not in test.query_params and "sort" in test.query_params


def test_a_click_on_a_row_opens_the_feature(built, open_page):
    test = open_page(built, "features", sort="density", dir="desc")
    feature = int(test.dataframe[0].value["feature"][3])
    test.session_state["features.table.density.True.1"] = {
        "selection": {"rows": [], "columns": [], "cells": [(3, "label")]}
    }
    test.run()
    assert not test.exception
    assert test.title[0].value == f"Feature {feature}"
    assert test.query_params["f"] == str(feature) and test.query_params["sort"] == "density"


def test_a_click_on_a_heading_sorts_by_it(built, open_page):
    test = open_page(built, "features")
    test.session_state["features.table.feature.False.1"] = {
        "selection": {"rows": [], "columns": ["max"], "cells": []}
    }
    test.run()
    assert test.query_params["sort"] == "max" and test.query_params["dir"] == "desc"
    largest = test.dataframe[0].value["max"]
    assert largest.dropna().is_monotonic_decreasing


def test_an_empty_address_on_the_same_page_is_taken_at_its_word(built, open_page):
    """As after the browser's Back; the remembered address is for coming from another page."""
    test = open_page(built, "features", page="2", size="25")
    assert test.dataframe[0].value["feature"][0] == 25
    del test.query_params["page"], test.query_params["size"]
    test.run()
    assert test.dataframe[0].value["feature"][0] == 0
    assert set(test.query_params) == {"sae"}


# ------------------------------------------------------------------ Feature


def test_feature_shows_its_panels(built, open_page):
    test = open_page(built, "feature", f=str(SINGLE))
    assert test.title[0].value == f"Feature {SINGLE}"
    drawn = html_of(test)
    assert drawn.count("<mark") >= 2 and ">def</mark>" in drawn
    assert "single token" in drawn and "lexical baseline, not a language model" in drawn
    assert "r = " in words_of(test) and drawn.count('class="hist') == 3
    assert "raises" in drawn and "lowers" in drawn


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("99999", "no feature 99999 in this SAE: it has 0 to 63"),
        ("-1", "f='-1'"),
        ("seven", "f='seven'"),
    ],
)
def test_a_bad_permalink_is_refused(built, open_page, bad, message):
    test = open_page(built, "feature", f=bad)
    assert not test.exception and message in error_of(test)
    assert not test.metric


def test_a_dead_feature_is_shown_as_dead(built, open_page):
    test = open_page(built, "feature", f=str(DEAD))
    assert not test.exception and "dead" in html_of(test)
    shown = {metric.label: metric.value for metric in test.metric}
    assert shown["Max"] == "–" and shown["Mean"] == "–" and shown["Fires"] == "0"
    assert "no label" in html_of(test)


def test_a_dense_feature_is_flagged(built, open_page):
    assert "more than 10 %" in html_of(open_page(built, "feature", f=str(DENSE)))


def test_a_split_emoji_is_one_highlighted_token(built, open_page):
    drawn = html_of(open_page(built, "feature", f=str(EMOJI)))
    assert set(re.findall(r"<mark[^>]*>(.*?)</mark>", drawn)) == {"🎉"}


def test_markup_in_documents_stays_text(built, open_page):
    drawn = "".join(
        html_of(open_page(built, "feature", f=str(DENSE), ctx=context))
        for context in ("16", "full")
    )
    assert "&lt;" in drawn and "<script" not in drawn


def test_previous_and_next_follow_the_list(built, open_page):
    listed = open_page(built, "features", sort="max", dir="desc").dataframe[0].value["feature"]
    test = open_page(built, "feature", f=str(listed[1]), sort="max", dir="desc")
    buttons = {button.label: button for button in test.button}
    buttons["Next"].click().run()
    assert test.title[0].value == f"Feature {listed[2]}"
    buttons = {button.label: button for button in test.button}
    buttons["Previous"].click().run()
    assert test.query_params["f"] == str(listed[1]) and test.query_params["sort"] == "max"
    first = open_page(built, "feature", f=str(listed[0]), sort="max", dir="desc")
    assert {b.label: b.disabled for b in first.button}["Previous"]


def test_example_options_change_the_strips_and_the_address(built, open_page):
    test = open_page(built, "feature", f=str(SINGLE))
    narrow = len(html_of(test))
    test.segmented_control(key="feature.context").set_value("full").run()
    assert test.query_params["ctx"] == "full" and len(html_of(test)) > narrow
    test.toggle(key="feature.centre").set_value(True).run()
    assert 'class="kwic"' in html_of(test) and test.query_params["centre"] == "yes"
    test.segmented_control(key="feature.kind").set_value("random").run()
    assert not test.exception and test.query_params["kind"] == "random"


# ------------------------------------------------------------------ Prompt
