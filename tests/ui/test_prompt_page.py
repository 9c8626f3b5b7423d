"""The Prompt page through Streamlit's own harness: every state, with a made-up model worker."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as some
from streamlit.testing.v1 import AppTest

from data.errors import WorkbenchError, WorkerError
from data.records import FeatureEffect, LiveCode, LiveToken
from data.schema import open_root
from tests.ui.small_store import DENSE, EMOJI, SINGLE, write_run, write_sae, write_store
from ui.keys import prompt as keys
from ui.keys.prompt import PromptView

READY = {"state": "ready", "detail": "loaded", "seconds": 0.0, "worker": 7}
STOPPED = {"state": "stopped", "detail": "not running", "seconds": 0.0, "worker": None}
LOADING = {"state": "loading", "detail": "loading weights", "seconds": 0.5, "worker": 7}
CODE = LiveCode(
    (
        LiveToken(b"<bos>", True, False, ()),
        LiveToken(b"def", False, True, ((SINGLE, 3.0), (DENSE, 0.4))),
        LiveToken("🎉".encode()[:2], False, True, ((EMOJI, 2.0),)),
        LiveToken("🎉".encode()[2:], False, True, ((EMOJI, 4.0),)),
    ),
    False,
    12.0,
)


class FakeLive:
    """A model worker whose states and answers the test decides; all sessions see the same."""

    states: dict = {}  # SAE -> state; others are in `now`
    now, after_start = READY, LOADING
    code, error, steps = CODE, None, 3

    def __init__(self, workspace, sae):
        self.sae = sae

    def state(self):
        return dict(type(self).states.get(self.sae, type(self).now))

    def start(self, saes=()):
        cls = type(self)
        cls.started.append((self.sae, *saes))
        cls.now = dict(cls.after_start)

    def cancel(self, saes=()):
        type(self).cancelled.append((self.sae, *saes))
        type(self).now = dict(STOPPED, detail="loading was cancelled", worker=7)

    def encode_many(self, text, saes, top=20, tell=None):
        if self.error is not None:
            raise self.error
        type(self).read.append((text, tuple(saes)))
        return {sae: self.code for sae in saes}

    def effects(self, text, features, seed=0, tell=None):
        for done in range(self.steps):
            tell({"what": "waiting for a turn", "before": 2})
            tell({"what": "ablating features", "done": done, "total": self.steps})
        if self.error is not None:
            raise self.error
        return {
            f: FeatureEffect(f, "silent", 0, None, None, None, None, None)
            if f == DENSE
            else FeatureEffect(f, "ok", 1, -0.01 * f, 0.1 * f, 0.0, 0.02, 1.0)
            for f in features
        }


@pytest.fixture
def live(monkeypatch):
    fresh = {"started": [], "cancelled": [], "read": [], "states": {}}
    fake = type("Fake", (FakeLive,), fresh)
    monkeypatch.setattr("interp.live.LiveModel", fake)
    return fake


def html_of(test) -> str:
    return "\n".join(element.value for element in test.get("html"))


def words_of(test) -> str:
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.warning,
             test.error)  # fmt: skip
    return "\n".join(
        re.sub(r"\\(.)", r"\1", str(element.value)) for kind in kinds for element in kind
    )


def button(test, label: str):
    return next(b for b in test.button if b.label.startswith(label))


def with_model(root, name: str, weights: str = "w", **about) -> None:
    """Records in an SAE's configuration which language model it reads."""
    path = root / "saes" / name / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["workbench"] |= {"lm_weights": weights, "dtype": "float32", **about}
    path.write_text(json.dumps(config))


@pytest.fixture
def two(workspace):
    """`small`, and `deep` of the same model at another site; `stranger` of another model."""
    write_store(write_sae(workspace, "deep") / "features.duckdb", seed=3)
    write_sae(workspace, "stranger")
    with_model(workspace, "small")
    with_model(workspace, "deep", site="mlp_out.1")
    with_model(workspace, "stranger", "other")
    return workspace


# ------------------------------------------------------------------ the address


@given(
    some.builds(
        PromptView,
        text=some.text(max_size=200),
        beside=some.lists(some.sampled_from(["a", "b-2", "c.x"]), unique=True).map(tuple),
        token=some.none() | some.integers(0, 4096),
        feature=some.integers(0, 10**6),
        of=some.sampled_from(["", "a"]),
        rank=some.sampled_from(keys.RANKS),
        dense=some.sampled_from(list(keys.DENSE)),
    )
)
def test_a_view_survives_its_address(view):
    params = keys.write_prompt(view)
    assert keys.read_prompt(params) == view and set(params) <= set(keys.PROMPT_KEYS)


def test_all_faults_of_an_address_are_named_at_once():
    assert keys.write_prompt(PromptView()) == {}
    bad = {"text": "x" * 4001, "tok": "-1", "f": "small:x", "rank": "beauty", "dense": "2",
           "with": "a,b,c,d"}  # fmt: skip
    with pytest.raises(WorkbenchError) as caught:
        keys.read_prompt(bad)
    for word in ("4,001 characters", "tok='-1'", "f='small:x'", "rank='beauty'", "dense='2'",
                 "with names 4 SAEs"):  # fmt: skip
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("params", "word"),
    [({"rank": "beauty"}, "beauty"), ({"with": "stranger"}, "another language model"),
     ({"with": "nosuch"}, "no SAE 'nosuch'"), ({"f": "deep:3"}, "is not on this page")],
)  # fmt: skip
def test_a_bad_address_is_refused_with_a_way_out(two, open_page, live, params, word):
    test = open_page(two, "prompt", sae="small", text="def", **params)
    assert not test.exception and word in words_of(test)
    button(test, "Start afresh").click().run()
    assert not test.error and set(test.query_params) == {"sae"}


# ------------------------------------------------------------------ the empty state


def test_an_empty_page_offers_passages_of_its_own_corpus(built, open_page, live):
    test = open_page(built, "prompt")
    assert not test.exception and not test.error
    passages = re.findall(r'<div class="passage" dir="auto">(.*?)</div>', html_of(test), re.DOTALL)
    assert len(passages) == 3 and len(set(passages)) == 3
    button(test, "Read this").click().run()
    assert test.query_params["text"] and test.dataframe


def test_passages_are_text_and_never_markup(tmp_path, open_page, live):
    documents = [(f"d{i}", f"<script>alert({i})</script> <b onclick=x> and more words {i}. " * 9)
                 for i in range(4)]  # fmt: skip
    write_store(write_sae(tmp_path, "hostile") / "features.duckdb", documents, 8)
    drawn = html_of(open_page(tmp_path, "prompt"))
    assert "&lt;script&gt;" in drawn and "<script>" not in drawn and "<b onclick" not in drawn


def test_the_store_gives_passages_whole_and_always_the_same(built):
    from data import prompt_store

    root, path = open_root(), built / "saes" / "small" / "features.duckdb"
    found = prompt_store.passages(root, path)
    assert found == prompt_store.passages(root, path) and len(found) == 3
    assert all(0 < len(text) <= 200 and text == text.strip() for text in found)
    scales = prompt_store.scales(root, path)
    assert scales.maximum.shape == scales.density.shape == (64,)
    kept = prompt_store.histograms(root, path, [0, SINGLE])
    assert list(kept) == [SINGLE] and sum(kept[SINGLE].counts) > 0
    assert prompt_store.histograms(root, path, []) == {}
    root.close()


def test_without_a_harvest_the_empty_page_says_what_is_missing(tmp_path, open_page, live):
    write_sae(tmp_path, "bare")
    assert "python run.py harvest bare" in words_of(open_page(tmp_path, "prompt"))


# ------------------------------------------------------------------ features of a text


def test_features_of_a_text(built, open_page, live):
    test = open_page(built, "prompt", text="def 🎉")
    assert not test.exception and not test.error
    table = test.dataframe[0].value
    assert set(table["feature"]) == {SINGLE, DENSE, EMOJI} and table["label"].notna().all()
    assert table["share"].is_monotonic_decreasing and (table["share"] <= 100).all()
    assert "masks of training" in words_of(test) and "12 ms" in words_of(test)
    first = table["feature"][0]
    assert f"feature {first}" in html_of(test) and "first of the list" in html_of(test)


def test_the_text_is_sent_by_the_form_and_read_once(built, open_page, live):
    test = open_page(built, "prompt")
    test.text_area[0].set_value("def f")
    button(test, "Show features").click().run()
    assert test.query_params["text"] == "def f" and test.dataframe
    test.segmented_control(key="prompt.rank").set_value("activation").run()
    assert live.read == [("def f", ("small",))] and test.query_params["rank"] == "activation"


def test_a_token_narrows_the_list_and_dense_features_can_be_hidden(built, open_page, live):
    test = open_page(built, "prompt", text="def 🎉", tok="1")
    assert set(test.dataframe[0].value["feature"]) == {SINGLE, DENSE}
    test.segmented_control(key="prompt.dense").set_value("10").run()
    assert list(test.dataframe[0].value["feature"]) == [SINGLE]
    assert test.query_params["dense"] == "10" and test.query_params["tok"] == "1"
    assert "1 dense features are hidden" in words_of(test)
    test.selectbox(key="prompt.token").select(2).run()
    assert list(test.dataframe[0].value["feature"]) == [EMOJI]


def test_tokens_that_share_a_character_go_together(built, open_page, live):
    for token in ("2", "3"):
        test = open_page(built, "prompt", text="def 🎉", tok=token)
        assert not test.exception and "🎉" in html_of(test)
        assert list(test.dataframe[0].value["activation"]) == [4.0]


def test_a_masked_token_and_one_that_is_not_there(built, open_page, live):
    test = open_page(built, "prompt", text="def", tok="0")
    assert "left out by the masks" in words_of(test) and not test.dataframe
    test = open_page(built, "prompt", text="def", tok="99")
    assert not test.exception and "no token 99" in words_of(test) and test.dataframe


@pytest.mark.parametrize("rank", ["share", "activation", "percentile"])
def test_ranks(built, open_page, live, rank):
    table = open_page(built, "prompt", text="def 🎉", rank=rank).dataframe[0].value
    assert table[rank].is_monotonic_decreasing and len(table) == 3
    assert table["percentile"].between(0, 100).all()


def test_a_click_in_a_row_colours_and_one_on_a_number_opens(built, open_page, live):
    test = open_page(built, "prompt", text="def 🎉")
    table = "prompt.table.small.text.share.show.3"
    rows = list(test.dataframe[0].value["feature"])

    def select(column, row=1):
        cells = [(row, column)]
        test.session_state[table] = {"selection": {"rows": [], "columns": [], "cells": cells}}
        test.run()

    select("share")
    assert not test.exception and test.query_params["f"] == str(rows[1])
    assert "first of the list" not in html_of(test)
    test.run()
    button(test, "Follow the list").click().run()
    assert "f" not in test.query_params, "the table's selection does not pin it again"
    select("feature", 2)
    assert test.title[0].value == f"Feature {rows[2]}" or test.query_params["f"] == str(rows[2])


def test_a_colouring_feature_that_is_silent_here_is_told(built, open_page, live):
    test = open_page(built, "prompt", text="def", f="40")
    assert not test.exception and "feature 40" in html_of(test)


def test_before_a_harvest_the_scale_is_the_texts_own(tmp_path, open_page, live):
    write_sae(tmp_path, "bare")
    test = open_page(tmp_path, "prompt", text="def")
    assert not test.exception and "not harvested yet" in html_of(test)
    assert set(test.dataframe[0].value["feature"]) == {SINGLE, DENSE, EMOJI}
    test = open_page(tmp_path, "prompt", text="def", rank="percentile", dense="10")
    assert not test.exception and "Percentiles need a harvest" in words_of(test)
    assert len(test.dataframe[0].value) == 3, "nothing is known to be dense"


def test_a_cut_text_and_a_cut_list_say_so(built, open_page, live):
    many = tuple((f, 1.0 + f) for f in range(2, 60))
    token = LiveToken(b"x", False, True, many)
    live.code = LiveCode((token,), True, 3.0)
    test = open_page(built, "prompt", text="x")
    assert "longer than one context" in words_of(test)
    assert len(test.dataframe[0].value) == 30
    button(test, "All 58 features").click().run()
    assert len(test.dataframe[0].value) == 58


def test_hostile_tokens_and_labels_stay_text(workspace, open_page, live):
    nasty = b"<img src=x onerror=alert(1)>"
    tokens = [LiveToken(nasty, False, True, ((SINGLE, 1.0),)),
              LiveToken("\u202egnp\u200b".encode(), False, True, ((EMOJI, 1.0),)),
              LiveToken(b"\xff" * 400, False, True, ((DENSE, 1.0),))]  # fmt: skip
    live.code = LiveCode(tuple(tokens), False, 1.0)
    for at in ("0", "1", "2"):
        test = open_page(workspace, "prompt", text="**x** <b>", tok=at)
        assert not test.exception and "<img" not in html_of(test) and "\u202e" not in html_of(test)


# ------------------------------------------------------------------ effects


def test_effects_are_measured_on_demand_and_kept(built, open_page, live):
    test = open_page(built, "prompt", text="def 🎉", rank="effect")
    assert test.dataframe[0].value["kl"].isna().all(), "nothing before it is asked for"
    button(test, "Measure the effects of 3").click().run()
    assert not test.exception and not test.error
    table = test.dataframe[0].value
    assert list(table["feature"]) == [EMOJI, SINGLE, DENSE]
    assert table["kl"][:2].is_monotonic_decreasing
    silent = table.iloc[2]
    assert silent["note"] == "silent" and silent[["kl", "loss", "random"]].isna().all()
    assert not [b for b in test.button if b.label.startswith("Measure")]
    test.text_area[0].set_value("another")
    button(test, "Show features").click().run()
    assert test.dataframe[0].value["kl"].isna().all(), "of another text"


@pytest.mark.parametrize(
    "error", [WorkerError("the model worker does not answer"),
              WorkbenchError("a transcoder’s features cannot be ablated")],
)  # fmt: skip
def test_effects_that_fail_say_why(built, open_page, live, error):
    test = open_page(built, "prompt", text="def", rank="effect")
    live.error = error
    button(test, "Measure").click().run()
    assert not test.exception and str(error) in words_of(test) and test.dataframe


# ------------------------------------------------------------------ several SAEs


def test_several_saes_side_by_side(two, open_page, live):
    test = open_page(two, "prompt", sae="small", text="def 🎉", **{"with": "deep"})
    assert not test.exception and not test.error
    assert live.read == [("def 🎉", ("small", "deep"))] and len(test.dataframe) == 2
    assert "mlp_out.1" in html_of(test)
    chooser = test.multiselect(key="prompt.beside")
    assert chooser.value == ["deep"] and len(chooser.options) == 1, "a stranger is not offered"
    test.selectbox(key="prompt.token").select(1).run()
    assert [set(t.value["feature"]) for t in test.dataframe] == [{SINGLE, DENSE}] * 2
    test.multiselect(key="prompt.beside").set_value([]).run()
    assert "with" not in test.query_params and len(test.dataframe) == 1


def test_a_feature_of_another_column_colours_that_one(two, open_page, live):
    test = open_page(two, "prompt", sae="small", text="def", f=f"deep:{EMOJI}",
                     **{"with": "deep"})  # fmt: skip
    assert not test.exception and html_of(test).count("first of the list") == 1
    test.multiselect(key="prompt.beside").set_value([]).run()
    assert "f" not in test.query_params and not test.error


# ------------------------------------------------------------------ the worker


def test_the_page_does_not_wait_for_the_model(built, open_page, live):
    live.now = dict(STOPPED)
    test = open_page(built, "prompt", text="def")
    assert not test.exception and live.started == [("small",)]
    assert "loading weights" in test.status[0].label and not test.dataframe and not test.error
    live.now = dict(READY)
    assert test.run().dataframe


def test_loading_can_be_cancelled_and_stays_so(built, open_page, live):
    live.now = dict(LOADING, step=2, steps=3)
    test = open_page(built, "prompt", text="def")
    button(test, "Cancel").click().run()
    assert live.cancelled == [("small",)] and live.started == []
    test.run()
    assert live.started == [] and "was cancelled" in words_of(test)
    button(test, "Load the model").click().run()
    assert live.started == [("small",)]


def test_a_worker_that_died_is_not_started_unasked(built, open_page, live):
    live.now = live.after_start = dict(STOPPED, detail="the model worker has ended")
    test = open_page(built, "prompt", text="def")
    test.run()
    assert live.started == [("small",)] and "has ended" in words_of(test)


def test_an_sae_that_gave_way_comes_back_unasked(built, open_page, live):
    live.now = dict(STOPPED, worker=7, again=True)
    live.after_start = READY
    assert open_page(built, "prompt", text="def").dataframe
    live.now = dict(STOPPED, worker=7, again=True)
    assert open_page(built, "prompt", text="def").dataframe


def test_why_the_model_did_not_load(built, open_page, live):
    live.now = dict(STOPPED, state="failed", detail="no model folder at [x](y) <b>")
    test = open_page(built, "prompt", text="def")
    assert "no model folder at [x](y) <b>" in words_of(test) and live.started == []
    button(test, "Try again").click().run()
    assert live.started == [("small",)]


def test_a_worker_that_dies_while_it_reads(built, open_page, live):
    live.error = WorkerError("the model worker does not answer: start it again")
    test = open_page(built, "prompt", text="def")
    assert not test.exception and "does not answer" in words_of(test)
    live.error = None
    assert test.run().dataframe


def test_several_saes_load_together(two, open_page, live):
    live.states = {"small": READY, "deep": dict(STOPPED, worker=7)}
    test = open_page(two, "prompt", sae="small", text="def", **{"with": "deep"})
    assert live.started == [("small", "deep")] and "not loaded" in words_of(test)
    live.states = {"small": READY, "deep": dict(LOADING, step=1, steps=3)}
    test.run()
    assert "1 of 2 SAEs ready" in test.status[0].label


def _panel():
    """What any page does that asks the model only when somebody wants to."""
    from types import SimpleNamespace

    import streamlit as st

    from ui.pages.panels import worker

    client = st.session_state["client"]
    shell = SimpleNamespace(live=lambda root, sae: client, workspace=SimpleNamespace(root="x"))
    st.title("yes" if worker.ready(shell, "small", "here") is client else "no")


def test_elsewhere_the_model_loads_when_asked_to(live):
    live.now = dict(STOPPED)
    test = AppTest.from_function(_panel)
    test.session_state["client"] = live(None, "small")
    test.run()
    assert test.title[0].value == "no" and live.started == []
    button(test, "Load the model").click().run()
    assert live.started == [("small",)] and "loading weights" in test.status[0].label
    live.now = dict(READY)
    test.run()
    assert test.title[0].value == "yes" and not test.button


def test_an_sae_trained_anew_is_read_anew(workspace, open_page, live):
    test = open_page(workspace, "prompt", text="def")
    weights = workspace / "saes" / "small" / "sae_weights.safetensors"
    os.utime(weights, ns=(1, 1))
    test.run()
    assert len(live.read) == 2


def test_a_damaged_store_is_told(workspace, open_page, live):
    (workspace / "saes" / "small" / "features.duckdb").write_bytes(b"no database")
    for params in ({"text": "def"}, {}):
        test = open_page(workspace, "prompt", **params)
        assert not test.exception and "features.duckdb" in words_of(test)


def test_labels_of_a_run_stand_beside_features(workspace, open_page, live):
    corpus = write_store(workspace / "saes" / "small" / "features.duckdb")
    write_run(workspace, "small", corpus, "newer")
    table = open_page(workspace, "prompt", text="def").dataframe[0].value
    assert table["label"].str.len().gt(0).all()


def test_a_reading_ranks_unmeasured_effects_last():
    from ui.pages.panels.prompt_reading import Reading

    reading = Reading(None, None, CODE, {SINGLE: 3.0, DENSE: 4.0, EMOJI: 8.0}, {}, frozenset(), {})
    assert reading.rows() == [(SINGLE, 3.0), (EMOJI, 4.0), (DENSE, 0.4)]
    effect = FeatureEffect(DENSE, "ok", 1, 0.0, 0.0, 0.0, 0.0, 0.0)
    measured = dataclasses.replace(reading, effects={DENSE: effect})
    assert measured.ranked(reading.rows(), "effect")[0] == (DENSE, 0.4)
