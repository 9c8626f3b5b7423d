"""The Compare page through Streamlit's own harness: pairs and SAEs, whole, partial and hostile."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import parse_qs

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from data import compare_store
from data.errors import WorkbenchError
from data.neighbours_store import NeighboursStore, write_neighbours
from data.records import Explanation
from data.runs_store import write_results
from data.schema import open_root
from tests.ui.small_store import (
    DEAD,
    DENSE,
    SINGLE,
    WEIGHTS,
    write_metrics,
    write_sae,
    write_store,
)
from tests.ui.test_prompt_page import button, html_of, with_model, words_of
from ui.keys import compare as keys
from ui.keys.compare import CompareView, Side

N = 64


def lists(kinds=("decoder", "correlation"), seed=0, n=N, keep=4) -> dict:
    """Made-up neighbours: feature f's nearest is n - 1 - f, the less like it the larger f."""
    feature = np.repeat(np.arange(n), keep).astype(np.int32)
    rank = np.tile(np.arange(keep), n).astype(np.int32)
    other = (n - 1 - feature + rank) % n
    value = np.clip(0.99 - 0.015 * feature - 0.01 * rank, -1, 1).astype(np.float32)
    columns = {"feature": feature, "rank": rank, "other": other.astype(np.int32), "value": value,
               "together": np.full(n * keep, 12, np.int64),
               "given_this": np.full(n * keep, 0.5, np.float32),
               "given_other": np.full(n * keep, 0.25, np.float32), "r": value}  # fmt: skip
    return {kind: columns for kind in kinds}


def relate(workspace, a: str, b: str | None, kinds=("decoder", "correlation"), **meta) -> None:
    """Neighbours of `a` in `b`, or in itself."""
    about = {"sae": a, "weights_sha256": WEIGHTS, "other": b, "tokens": 1000,
             "other_weights_sha256": WEIGHTS if b else None} | meta  # fmt: skip
    path = workspace / "saes" / a / "extra" / f"neighbours-{b or 'own'}.duckdb"
    write_neighbours(path, about, lists(kinds))


@pytest.fixture
def two(workspace):
    """`small` and `deep`, of one model, harvested on the same documents, not matched yet."""
    folder = write_sae(workspace, "deep")
    write_metrics(folder, l0=20.0, fve=0.9, dead=3)
    write_store(folder / "features.duckdb", seed=3)
    for name in ("small", "deep"):
        with_model(workspace, name)
    return workspace


@pytest.fixture
def matched(two):
    relate(two, "small", "deep")
    relate(two, "deep", "small")
    relate(two, "small", None)
    return two


def configure(workspace, name: str, **changes) -> None:
    path = workspace / "saes" / name / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------ the address

sides = some.builds(
    Side, some.sampled_from(["a", "b-2", "c.x"]), some.none() | some.integers(0, 10**6)
)


@given(
    some.builds(
        CompareView,
        mode=some.sampled_from(["feature", "sae"]),
        a=sides,
        b=sides,
        context=some.sampled_from(list(keys.CONTEXTS)),
        kind=some.sampled_from(keys.KINDS),
        below=some.floats(-1, 1),
        page=some.integers(1, 10**6),
    )
)
def test_a_view_survives_its_address(view):
    params = keys.write_compare(view)
    assert keys.read_compare(params) == view and set(params) <= set(keys.COMPARE_KEYS)


def test_all_faults_of_an_address_are_named_at_once():
    assert keys.write_compare(CompareView()) == {}
    bad = {"mode": "x", "a": "small:-1", "b": "small:", "ctx": "7", "kind": "taste",
           "below": "2", "page": "0"}  # fmt: skip
    with pytest.raises(WorkbenchError) as caught:
        keys.read_compare(bad)
    for key in bad:
        assert f"{key}=" in str(caught.value)


@pytest.mark.parametrize(
    ("params", "word"),
    [({"a": "nosuch:1"}, "no SAE 'nosuch'"), ({"a": "../x:1"}, "cannot be a name"),
     ({"mode": "both"}, "mode='both'")],
)  # fmt: skip
def test_a_bad_address_is_refused_with_a_way_out(built, open_page, params, word):
    test = open_page(built, "compare", **params)
    assert not test.exception and word in words_of(test)
    button(test, "Start afresh").click().run()
    assert not test.error


# ------------------------------------------------------------------ two features


def test_nothing_chosen_says_what_the_page_shows(built, open_page):
    test = open_page(built, "compare")
    assert not test.exception and not test.error
    assert "Set two features beside each other" in words_of(test)
    assert "python run.py neighbours small" in [code.value for code in test.code]


def test_the_closest_pairs_are_offered(matched, open_page):
    test = open_page(matched, "compare", sae="small")
    assert "Closest pairs" in words_of(test)
    links = re.findall(r'href="compare\?([^"]*)"', html_of(test))
    assert len(links) == 8
    assert parse_qs(unescape(links[0])) == {"sae": ["small"], "a": ["small:0"], "b": ["small:63"]}
    test = open_page(matched, "compare", sae="small", a="small:5")
    assert "Nearest to feature 5" in words_of(test)


def test_two_features_of_one_sae(matched, open_page):
    test = open_page(matched, "compare", sae="small", a=f"small:{SINGLE}", b=f"small:{DENSE}")
    assert not test.exception and not test.error
    drawn = html_of(test)
    assert f"Feature {SINGLE}</a>" in drawn and f"Feature {DENSE}</a>" in drawn
    for words in ("Density", "B against A", "Decoder cosine", "raises", "A’s corpus maximum"):
        assert words in drawn
    assert "Documents in common" in words_of(test) and 'class="common"' in drawn
    assert len(test.get("plotly_chart")) == 1
    assert "lexical baseline" in drawn


def test_features_of_two_saes_with_their_measures(matched, open_page):
    test = open_page(matched, "compare", sae="small", a="small:3", b="deep:60")
    drawn = html_of(test)
    assert not test.exception and not test.error
    assert "0.945" in drawn and "both fire on" in drawn
    assert "not computed" in drawn, "no encoder cosines in this file"
    assert "Match 4 of 64 by decoder" in words_of(test)
    button(test, "Next match").click().run()
    assert (test.query_params["a"], test.query_params["b"]) == ("small:4", "deep:59")
    button(test, "Previous match").click().run()
    button(test, "Swap").click().run()
    assert (test.query_params["a"], test.query_params["b"]) == ("deep:60", "small:3")
    assert "Match 61 of 64" in words_of(test), "of the features of deep"


def test_a_pair_that_is_not_listed_says_what_is_known(matched, open_page):
    test = open_page(matched, "compare", sae="small", a="small:3", b="deep:10")
    assert "below 0.915" in html_of(test) and "Neither is among" in html_of(test)
    button(test, "Next match").click().run()
    assert test.query_params["b"] == "deep:60"


def test_neighbours_within_one_sae_are_walked(matched, open_page):
    test = open_page(matched, "compare", sae="small", a="small:3", b="small:60")
    assert "B is the 1 of 4 nearest" in words_of(test)
    button(test, "Next match").click().run()
    assert test.query_params["b"] == "small:61" and test.query_params["a"] == "small:3"


def test_what_is_not_computed_has_its_button_and_command(two, open_page, monkeypatch):
    started = []
    monkeypatch.setattr(
        "data.jobs.Jobs.start",
        lambda self, argv, title, *, who="": started.append((argv, title, who)) or Stub(),
    )
    test = open_page(two, "compare", sae="small", a="small:3", b="deep:3")
    assert not test.exception
    assert "python run.py neighbours small --other deep" in [code.value for code in test.code]
    button(test, "Compute").click().run()
    argv, title, who = started[0]
    assert argv[:4] == ["neighbours", "small", "--other", "deep"] and who
    assert "--workspace" in argv and "small" in title


class Stub:
    id = "20261121-000000-abcd"


def test_a_file_older_than_the_other_sae_is_not_shown(two, open_page):
    relate(two, "small", "deep", other_weights_sha256="of another training")
    test = open_page(two, "compare", sae="small", a="small:3", b="deep:60")
    assert not test.exception and "not computed" in words_of(test)


def test_a_dead_feature_is_absent_and_never_zero(matched, open_page):
    test = open_page(matched, "compare", sae="small", a=f"small:{DEAD}", b=f"small:{SINGLE}")
    drawn = html_of(test)
    assert not test.exception and "never fires" in drawn
    assert "No example: it never fires" in words_of(test)
    assert "None: no document holds" in words_of(test)
    test = open_page(matched, "compare", sae="small", a=f"small:{DEAD}", b=f"small:{DEAD}")
    assert not test.exception and "Neither fires" in words_of(test)


def test_a_feature_that_is_not_there_and_an_sae_without_harvest(two, open_page):
    write_sae(two, "bare")
    test = open_page(two, "compare", sae="small", a="small:64", b="bare:1")
    assert not test.exception
    assert "no feature 64 in this SAE" in words_of(test)
    assert "python run.py harvest bare" in words_of(test)
    test = open_page(two, "compare", sae="bare")
    assert "python run.py harvest bare" in words_of(test)


def test_features_are_chosen_by_number_and_by_words(matched, open_page):
    test = open_page(matched, "compare", sae="small")
    test.number_input(key="compare.a.number").set_value(7).run()
    assert test.query_params["a"] == "small:7"
    test.text_input(key="compare.b.search.small").set_value("def").run()
    offers = [b for b in test.button if str(b.key or "").startswith("compare.b.found.")]
    assert offers and not test.exception
    offers[0].click().run()
    assert re.fullmatch(r"small:\d+", test.query_params["b"]) and "Density" in html_of(test)
    test.text_input(key="compare.b.search.small").set_value("zzz*none*").run()
    assert "holds “zzz*none*”" in words_of(test)
    test.selectbox(key="compare.feature.b.sae").select("deep").run()
    assert test.query_params["b"] == "deep" and not test.exception


def test_different_sites_and_texts_are_told(matched, open_page):
    with_model(matched, "deep", site="mlp_out.1")
    write_store(matched / "saes" / "deep" / "features.duckdb", seed=3, text="other documents")
    test = open_page(matched, "compare", sae="small", a="small:3", b="deep:60")
    assert "different sites" in html_of(test) and "different text" in html_of(test)


def test_hostile_labels_stay_text(matched, open_page):
    nasty = "<img src=x onerror=alert(1)> **bold** [x](javascript:alert(1))"
    told = [Explanation(f, "<b>judge</b>", nasty, {}) for f in range(N)]
    folder = matched / "autointerp" / "hostile"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"sae": "small", "judge": "x"}))
    write_results(folder / "results.duckdb", {"sae": "small"}, told, [])
    for params in ({"a": "small:3", "b": "small:60"}, {"mode": "sae", "a": "small", "b": "deep"}):
        test = open_page(matched, "compare", sae="small", **params)
        assert not test.exception
        assert "&lt;img" in html_of(test) and "<img" not in html_of(test)
        assert "<b>judge" not in html_of(test) and "<script" not in html_of(test)


# ------------------------------------------------------------------ two SAEs


def test_two_saes(matched, open_page):
    test = open_page(matched, "compare", sae="small", mode="sae")
    assert not test.exception and not test.error
    drawn = html_of(test)
    assert "−11.6" in drawn and "+0.039 · B better" in drawn, "L0 and FVE"
    assert "A better" in drawn, "more dead ones in B"
    assert len(test.get("plotly_chart")) == 2
    assert drawn.count("Compare the two") == 25
    assert "64 features of small, the closest first" in words_of(test)
    assert "have no match in" in drawn and "Compare with its best match" in drawn


def test_the_limit_kind_and_page_are_kept_in_the_address(matched, open_page):
    test = open_page(matched, "compare", sae="small", mode="sae", page="2", below="0.3")
    assert test.slider(key="compare.below").value == 0.3
    first = re.findall(r'<tr><td class="n"><a[^>]*>(\d+)</a>', html_of(test))
    assert first[:2] == ["25", "26"]
    few = html_of(test)
    test.slider(key="compare.below").set_value(0.8).run()
    assert test.query_params["below"] == "0.8" and "page" not in test.query_params
    assert html_of(test) != few
    test.segmented_control(key="compare.kind").set_value("correlation").run()
    assert test.query_params["kind"] == "correlation" and not test.exception


def test_only_features_that_fire_are_missed(matched, open_page):
    """The dead one is no feature that the other SAE lacks."""
    test = open_page(matched, "compare", sae="small", mode="sae", below="1")
    alive = re.findall(r"<b>(\d+)</b> features of (\w+) have no match", html_of(test))
    assert alive == [("63", "small"), ("63", "deep")]


def test_swapping_two_saes(matched, open_page):
    test = open_page(matched, "compare", sae="small", mode="sae", a="small", b="deep")
    button(test, "Swap").click().run()
    assert (test.query_params["a"], test.query_params["b"]) == ("deep", "small")
    test.selectbox(key="compare.sae.a.sae").select("small").run()
    assert "same SAE twice" in words_of(test)


def test_matches_that_are_not_computed(two, open_page):
    test = open_page(two, "compare", sae="small", mode="sae")
    assert not test.exception
    assert "python run.py neighbours small --other deep" in [code.value for code in test.code]
    relate(two, "small", "deep", kinds=("decoder",))
    relate(two, "deep", "small", kinds=("decoder",))
    test = open_page(two, "compare", sae="small", mode="sae", kind="correlation")
    assert "correlations are not computed" in words_of(test) and not test.exception


def test_one_sae_alone_and_saes_without_metrics_or_harvest(built, tmp_path, open_page):
    assert "There is one SAE" in words_of(open_page(built, "compare", mode="sae"))
    for name in ("bare", "naked"):
        write_sae(tmp_path, name)
    test = open_page(tmp_path, "compare", sae="bare", mode="sae")
    commands = [code.value for code in test.code]
    assert not test.exception
    for command in ("evaluate bare", "harvest naked"):
        assert f"python run.py {command}" in commands
    assert "once both are harvested" in words_of(test)


@pytest.mark.parametrize(
    ("weights", "width", "words"),
    [("other", 64, "different language models"), ("w", 96, "different widths (64 and 96)")],
)
def test_what_cannot_be_compared_is_told(two, open_page, weights, width, words):
    with_model(two, "deep", weights)
    configure(two, "deep", d_in=width)
    test = open_page(two, "compare", sae="small", mode="sae")
    assert not test.exception and words in html_of(test)
    assert "cannot be matched" in words_of(test) and not [
        b for b in test.button if b.label == "Compute"
    ]
    test = open_page(two, "compare", sae="small", a="small:3", b="deep:3")
    assert not test.exception and words in html_of(test)


def test_a_damaged_neighbours_file_is_as_good_as_none(matched, open_page):
    (matched / "saes" / "small" / "extra" / "neighbours-deep.duckdb").write_bytes(b"no database")
    for params in ({"mode": "sae"}, {"a": "small:3", "b": "deep:3"}):
        test = open_page(matched, "compare", sae="small", **params)
        assert not test.exception and "not computed" in words_of(test).lower()


# ------------------------------------------------------------------ the store


def test_matches_and_pairs_of_the_store(matched):
    root = open_root()
    path = matched / "saes" / "small" / "extra" / "neighbours-deep.duckdb"
    store = NeighboursStore(root, path, WEIGHTS)
    found = compare_store.matches(store, "decoder")
    assert compare_store.matches(store, "decoder") is found, "read once"
    assert found.feature.tolist() == list(range(N))
    assert found.place(3, 60) == 3 and found.place(3, 61) is None
    pair = compare_store.pair(store, 3, 61)
    assert set(pair) == {"decoder", "correlation"} and pair["decoder"].rank == 1
    assert compare_store.pair(store, 3, 10) == {}
    assert compare_store.farthest(store, 3)["decoder"] == pytest.approx(0.915)
    root.close()
