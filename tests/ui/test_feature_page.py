"""The Feature page, panel by panel: whole, absent, hostile and failing input; what people write."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from bench.browser import CHROMIUM, opened
from bench.wire import ROOT, served
from data.effects_store import write_effects
from data.errors import WorkerError
from data.features_store import FeatureStore
from data.jobs import Jobs
from data.lab import open_lab
from data.neighbours_store import write_neighbours
from data.records import (
    ExampleEffect,
    Explanation,
    FeatureEffect,
    LiveCode,
    LiveToken,
    Score,
    SteeredText,
    SteeredToken,
    Steering,
)
from data.runs_store import write_results
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import DEAD, EMOJI, SINGLE, WEIGHTS, write_sae, write_store
from tests.ui.test_pages import error_of, html_of, unescaped, words_of
from ui.keys import feature as keys
from ui.keys import features as filters
from ui.pages.feature import PANELS

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))",
    "**bold** `code` $x$ :red[y]", "a\u202egnp.exe", "x" * 3000,
)  # fmt: skip


def everything(test) -> str:
    """All that the page shows, as text."""
    return html_of(test) + words_of(test) + "".join(button.label for button in test.button)


def press(test, label: str):
    """Presses the button of that label."""
    found = [button for button in test.button if button.label == label]
    assert found, f"no button {label!r}: {[button.label for button in test.button]}"
    return found[0].click().run()


def lab_of(workspace: Path):
    return open_lab(open_root(), Workspace.open(workspace), own=False)


class FakeLive:
    """A model worker whose state the test decides. Tokens: the text's words."""

    now = {"state": "ready", "detail": "", "seconds": 0.0}
    seconds = 0.0  # that an answer takes
    error: Exception | None = None
    asked: list = []
    values = {"def": 3.0}  # word -> activation of feature SINGLE

    def __init__(self, workspace, sae):
        self.sae = sae

    def state(self):
        return dict(type(self).now)

    def start(self, saes=()):
        type(self).asked.append("start")
        type(self).now = {"state": "loading", "detail": "loading weights", "seconds": 3.0}

    def cancel(self, saes=()):
        type(self).asked.append("cancel")
        type(self).now = {"state": "stopped", "detail": "", "seconds": 0.0}

    def encode(self, text, top=20):
        self._work(("encode", text))
        tokens = [LiveToken(b"<bos>", True, False, ())]
        for match in re.finditer(r" ?\w+|\n| +|\t|.", text, re.DOTALL):
            value = self.values.get(match[0].strip(), 0.0)
            active = ((SINGLE, value),) if value else ()
            tokens.append(LiveToken(match[0].encode(), False, True, active))
        return LiveCode(tuple(tokens), False, 12.0)

    def steer(self, text, feature, *, tell=None, **plan):
        tell({"what": "writing tokens", "done": 1, "total": 40})
        self._work(("steer", feature, plan))
        ways = (0.0, None) if plan["mode"] == "ablate" else (0.0, *plan["strengths"])
        texts = []
        for n, strength in enumerate(ways):
            words = [b" and", b" <b>so</b>", f" way{n}".encode()]
            tokens = tuple(SteeredToken(hash(w), w, False, 0.5) for w in words)
            texts.append(SteeredText(strength, tokens, n == 1))
        return Steering(feature, ((b"<bos>", True), (text.encode(), False)), tuple(texts), False, 9)

    def _work(self, request):
        type(self).asked.append(request)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error


@pytest.fixture
def live(monkeypatch):
    fake = type("Fake", (FakeLive,), {"asked": [], "now": dict(FakeLive.now)})
    monkeypatch.setattr("interp.live.LiveModel", fake)
    return fake


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that were started, none of which runs."""
    started = []

    def start(self, arguments, title, *, who=""):
        started.append((list(arguments), title, who))
        raise_now = jobs_full and jobs_full.pop()
        if raise_now:
            raise raise_now
        return type("Job", (), {"id": "20260101-000000-abcd"})()

    jobs_full: list = []
    monkeypatch.setattr(Jobs, "start", start)
    return started


def effects_for(workspace: Path, features: range, name: str = "a", status: str = "ok") -> None:
    """An effects file of those features, each with one ablated example."""
    ws, root = Workspace.open(workspace), open_root()
    store = FeatureStore(root, ws.feature_store("small"))

    def block():
        examples = [e for f in features for e in store.examples(f, kind="top")[:1]]
        rows = [
            ExampleEffect(
                e.feature, "top", "", 0, e.doc, e.start, "ok", e.peak, e.peak, 0.25, 0.5, 0.7, 0.2,
                0.01, (e.peak,), (0.25,), (0.5,), (1, 2), (1.5, 1.0), (3,), (-2.0,),
            )
            for e in examples
        ]  # fmt: skip
        n = None if status != "ok" else 0.25
        means = [
            FeatureEffect(f, status, 1, n, n, n, n, None if n is None else 1.0) for f in features
        ]
        yield rows, means

    meta = {"features_content": store.meta["content_hash"], "weights_sha256": WEIGHTS}
    write_effects(ws.new_extra("small", "effects", name * 16), block(), lambda: meta)


def neighbours_for(workspace: Path, sae: str = "small", other: str | None = None) -> None:
    """A neighbours file in which each feature's nearest are the next two."""
    n = 64
    columns = {
        "feature": np.repeat(np.arange(n), 2), "rank": np.tile([0, 1], n),
        "other": np.concatenate([[(f + 1) % n, (f + 2) % n] for f in range(n)]),
        "value": np.tile([0.9, 0.5], n).astype(np.float32),
    }  # fmt: skip
    together = {
        **columns, "together": np.tile([40, 7], n), "given_this": np.tile([0.5, 0.25], n),
        "given_other": np.tile([0.1, 0.2], n), "r": np.tile([0.3, np.nan], n),
    }  # fmt: skip
    meta = {"sae": sae, "weights_sha256": WEIGHTS, "other": other, "arguments": {"tokens": 1e6}}
    path = Workspace.open(workspace).new_extra(sae, "neighbours", ("b" if other else "a") * 16)
    write_neighbours(path, meta, {"decoder": columns, "encoder": columns, "coactivation": together})


# ------------------------------------------------------------------ the page as a whole


def test_the_panels_stand_in_their_order(built, open_page):
    drawn = everything(open_page(built, "feature", f=str(SINGLE)))
    titles = ("Automatic label", "Activations", "Around the threshold", "Effect on the next token")
    assert [drawn.index(t) for t in titles] == sorted(drawn.index(t) for t in titles)
    assert list(PANELS) == list(keys.PANELS)


@pytest.mark.parametrize("panel", list(PANELS))
@pytest.mark.parametrize("feature", [DEAD, SINGLE])
def test_every_panel_opens_with_nothing_computed(built, open_page, live, panel, feature):
    test = open_page(built, "feature", f=str(feature), panel=panel)
    assert not test.exception and not test.error


def test_the_address_keeps_every_option(built, open_page):
    params = {
        "kind": "random", "ctx": "64", "centre": "yes", "breaks": "yes", "scale": "row",
        "norm": "without", "panel": "provenance", "sort": "max", "dir": "desc",
    }  # fmt: skip
    test = open_page(built, "feature", f="5", **params)
    assert not test.exception and not test.error
    test.toggle(key="feature.centre").set_value(False).run()
    kept = {key: test.query_params[key] for key in params if key != "centre"}
    assert kept == {key: value for key, value in params.items() if key != "centre"}
    assert "centre" not in test.query_params


def test_the_address_of_the_page_and_of_its_list_do_not_meet():
    assert not set(keys.VIEW_KEYS) & set(filters.FILTER_KEYS)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"panel": "magic"}, "panel='magic'"), ({"ex": "0"}, "ex='0'"), ({"norm": "x"}, "norm='x'"),
        ({"scale": "x"}, "scale='x'"), ({"colour": "red"}, "colour='red'"),
        ({"text": "x" * 4001}, "4,001 characters"),
    ],
)  # fmt: skip
def test_a_bad_address_is_refused_by_name(built, open_page, params, word):
    test = open_page(built, "feature", f="5", **params)
    assert not test.exception and word in error_of(test)


def test_a_feature_outside_the_list_says_so(built, open_page):
    test = open_page(built, "feature", f=str(DEAD), alive="yes")
    assert "Not in the list" in words_of(test)
    inside = open_page(built, "feature", f=str(SINGLE), alive="yes")
    assert re.search(r"\d+ of 63 in the list", words_of(inside))


def test_random_stays_in_the_list(built, open_page):
    test = open_page(built, "feature", f="5", q="zzz-nothing")
    assert "zzz" in press(test, "Random").query_params["q"] and not test.exception
    assert test.query_params["f"] == "5"
    dense = press(open_page(built, "feature", f="5", den_lo="0.5"), "Random")
    assert not dense.exception and dense.query_params["f"] == "1"


def test_the_link_holds_the_whole_address(built, open_page):
    test = open_page(built, "feature", f="5", ctx="64", sort="max")
    link = next(code.value for code in test.code if "feature" in code.value and "f=5" in code.value)
    assert "ctx=64" in link and "sort=max" in link and "sae=small" in link


# ------------------------------------------------------------------ what people write


def test_a_bookmark_is_written_at_once_and_confirmed(workspace, open_page):
    test = open_page(workspace, "feature", f="5")
    test = press(test, "Bookmark")
    assert lab_of(workspace).mark("small", 5).bookmarked
    assert "bookmarked" in unescaped(test.toast[0].value)
    test = press(test, "Bookmarked")
    assert not lab_of(workspace).mark("small", 5).bookmarked
    assert [button.label for button in test.button].count("Bookmark") == 1


def test_a_note_is_saved_and_shown(workspace, open_page):
    test = press(open_page(workspace, "feature", f="5"), "Note")
    test.text_area[-1].set_value("seen in <b>tests</b>")
    test = press(test, "Save note")
    assert lab_of(workspace).mark("small", 5).note == "seen in <b>tests</b>"
    assert not test.exception and "seen in &lt;b&gt;tests&lt;/b&gt;" in html_of(test)
    assert unescaped(test.toast[0].value) == "Note saved"


def test_tags_are_chosen_from_those_there_are_and_saved_with_every_change(workspace, open_page):
    lab_of(workspace).tag("small", 9, "syntax", who="ada")
    test = press(open_page(workspace, "feature", f="5"), "Tags")
    chooser = test.multiselect(key="feature.tags.small.5")
    assert chooser.options == ["syntax"]
    chooser.set_value(["syntax"]).run()
    assert lab_of(workspace).mark("small", 5).tags == ("syntax",)
    assert "syntax" in html_of(open_page(workspace, "feature", f="5"))


def test_a_label_of_ones_own_keeps_its_history(workspace, open_page):
    lab = lab_of(workspace)
    lab.label("small", 5, "first words", who="ada")
    lab.label("small", 5, "better words", who="grace")
    test = open_page(workspace, "feature", f="5")
    drawn = html_of(test)
    assert "better words" in drawn and "grace" in drawn and "first words" in drawn
    test = press(test, "Edit label")
    test.text_area[-1].set_value("the best words")
    press(test, "Save label")
    assert [w.text for w in lab_of(workspace).labels("small", 5)][:2] == [
        "the best words", "better words",
    ]  # fmt: skip


def test_what_cannot_be_written_is_refused_with_the_reason(workspace, open_page):
    test = press(open_page(workspace, "feature", f="5"), "Note")
    test.text_area[-1].set_value("bell \x07")
    test = press(test, "Save note")
    assert "control character" in unescaped(test.toast[0].value)
    assert lab_of(workspace).mark("small", 5).note is None


def test_hostile_words_stay_text(workspace, open_page, live):
    lab = lab_of(workspace)
    for n, text in enumerate(HOSTILE):
        lab.note("small", n + 4, text, who="<i>eve</i>")
        lab.label("small", n + 4, text[:2000], who="<i>eve</i>")
        lab.tag("small", n + 4, text[:60], who="<i>eve</i>")
    explanations = [Explanation(n + 4, text, text, {}) for n, text in enumerate(HOSTILE)]
    scores = [
        Score(n + 4, "detect", None, None, None, 0, 0, "failed", HOSTILE[0]) for n in range(6)
    ]
    write_results(
        workspace / "autointerp" / "lexical-1" / "results.duckdb", {"sae": "small"}, explanations,
        scores,
    )  # fmt: skip
    for n in range(len(HOSTILE)):
        test = open_page(workspace, "feature", f=str(n + 4))
        assert not test.exception
        drawn = html_of(test)
        assert "<script" not in drawn and "<img" not in drawn and "<i>eve" not in drawn


def test_hostile_tokens_stay_text(tmp_path, open_page, live):
    folder = write_sae(tmp_path, "small")
    documents = tuple((f"{text[:40]}.txt", f"{text} def {text}\n" * 2) for text in HOSTILE)
    write_store(folder / "features.duckdb", documents)
    for feature in (1, 2, 7):
        for more in ({}, {"ctx": "full", "breaks": "yes"}, {"centre": "yes", "kind": "active"}):
            test = open_page(tmp_path, "feature", f=str(feature), **more)
            assert not test.exception
            assert not re.search(r"<(script|img)", html_of(test))


# ------------------------------------------------------------------ label, distribution, logits


def test_without_a_label_a_job_can_be_started(tmp_path, open_page, jobs):
    write_store(write_sae(tmp_path, "small") / "features.duckdb")
    test = open_page(tmp_path, "feature", f="5")
    assert "No label yet" in words_of(test)
    press(test, "Explain")
    argv, title, who = jobs[0]
    assert argv[:6] == ["explain", "small", "--features", "5", "--judge", "lexical"]
    assert argv[-2:] == ["--workspace", str(tmp_path)] and "feature 5" in title and who


def test_a_failed_score_is_told_by_its_reason(built, open_page):
    test = open_page(built, "feature", f="3")
    assert "score failed: 2 texts" in words_of(test)


def test_the_histogram_shows_what_was_counted(built, open_page):
    store = FeatureStore(open_root(), built / "saes" / "small" / "features.duckdb")
    stats = store.feature(SINGLE)
    drawn = html_of(open_page(built, "feature", f=str(SINGLE)))
    counts = [int(n) for n in re.findall(r'class="hb on"[^>]*data-t="[^"]*: (\d+) tokens"', drawn)]
    assert sum(counts[: sum(1 for c in stats.hist_counts if c)]) == stats.fires
    assert f"θ = {stats.theta:.3g}" in drawn and "never fires" not in drawn


def test_logit_effects_with_and_without_the_norm(built, open_page):
    test = open_page(built, "feature", f="5")
    assert test.toggle(key="feature.norm").value is True and "skew" in html_of(test)
    test.toggle(key="feature.norm").set_value(False).run()
    assert test.query_params["norm"] == "without" and not test.exception


# ------------------------------------------------------------------ examples


def test_tabs_tell_how_many_there_are(built, open_page):
    test = open_page(built, "feature", f=str(SINGLE))
    options = test.segmented_control(key="feature.kind").options
    shown = [re.sub(r":gray\[(\d+)\]", r"\1", option) for option in options]
    assert shown[0] == "Top 3" and shown[-1] == "Silent 5" and shown[1] == ".99–1 0"
    empty = open_page(built, "feature", f=str(SINGLE), kind="q99")
    assert "No example of this kind" in words_of(empty)


def test_an_active_token_tells_its_value_and_percentile(built, open_page):
    drawn = html_of(open_page(built, "feature", f=str(SINGLE)))
    assert re.search(r'<mark[^>]*data-t="def · [\d.]+ · the corpus maximum"', drawn)
    assert re.search(r'<mark[^>]*data-t="def · [\d.]+ · percentile \d', drawn)


def test_an_example_links_to_its_text_on_the_prompt_page(built, open_page):
    drawn = html_of(open_page(built, "feature", f=str(SINGLE)))
    links = re.findall(r'<a class="ex-go" data-go href="([^"]*)"', drawn)
    assert len(links) == 3
    assert all(one.startswith("prompt?sae=small&amp;text=") and "&amp;f=2" in one for one in links)


def test_a_sample_tells_its_probability_and_the_own_scale_is_said(built, open_page):
    test = open_page(built, "feature", f=str(EMOJI), kind="active", scale="row")
    assert "each taken with probability 1" in words_of(test)
    assert "each row’s own maximum" in html_of(test)


def test_an_example_is_computed_again_and_compared(built, open_page, live):
    test = open_page(built, "feature", f=str(SINGLE), ex="1")
    assert not test.exception and live.asked[0][0] == "encode"
    drawn = html_of(test)
    assert "<dt>stored</dt>" in drawn and "<dt>live</dt>" in drawn
    assert "Largest difference over" in drawn


def test_an_example_of_which_the_text_gives_other_tokens_is_not_compared(built, open_page, live):
    test = open_page(built, "feature", f=str(EMOJI), ex="1")  # its emoji are halves in the store
    assert not test.exception and "gives other tokens" in test.warning[0].value


def test_a_number_of_an_example_there_is_not_is_refused(built, open_page, live):
    assert "no example 99" in error_of(open_page(built, "feature", f=str(SINGLE), ex="99"))


# ------------------------------------------------------------------ causal, neighbours


def test_effects_that_are_absent_can_be_computed(built, open_page, jobs):
    test = open_page(built, "feature", f="5")
    assert "Not computed for this feature" in words_of(test)
    assert "python run.py effects small --features 5" in [code.value for code in test.code]
    press(test, "Compute")
    assert jobs[0][0][:4] == ["effects", "small", "--features", "5"]


def test_effects_are_shown_beside_those_of_a_random_direction(workspace, open_page):
    effects_for(workspace, range(1, 10))
    test = open_page(workspace, "feature", f="5")
    drawn = html_of(test)
    assert "KL of a random direction" in drawn and "raises" in drawn and "+0.25" in drawn
    test.toggle(key="feature.losses").set_value(True).run()
    assert test.query_params["colour"] == "loss" and "nats of loss at the next token" in html_of(
        test
    )


def test_a_newer_file_of_other_features_hides_nothing(workspace, open_page):
    """Effects of one feature, computed from its page, leave those of the others in sight."""
    effects_for(workspace, range(1, 10), "a")
    time.sleep(0.02)
    effects_for(workspace, range(20, 21), "c")
    for feature in (5, 20):
        assert "Means over its examples" in html_of(open_page(workspace, "feature", f=str(feature)))
    assert "Not computed" in words_of(open_page(workspace, "feature", f="30"))


def test_a_silent_feature_has_nothing_to_measure(workspace, open_page):
    effects_for(workspace, range(5, 6), status="silent")
    test = open_page(workspace, "feature", f="5")
    assert "Nothing to measure" in words_of(test) and "Means over" not in html_of(test)


def test_effects_of_an_older_harvest_are_not_shown(workspace, open_page):
    effects_for(workspace, range(1, 10))
    (workspace / "saes" / "small" / "features.duckdb").unlink()
    write_store(workspace / "saes" / "small" / "features.duckdb", seed=4)
    assert "Not computed" in words_of(open_page(workspace, "feature", f="5"))


def test_neighbours_lead_to_the_feature_and_to_the_comparison(workspace, open_page):
    neighbours_for(workspace)
    drawn = html_of(open_page(workspace, "feature", f="5", panel="neighbours", sort="max"))
    assert 'href="feature?sae=small&amp;sort=max&amp;f=6&amp;panel=neighbours"' in drawn
    assert "compare?sae=small&amp;a=small%3A5&amp;b=small%3A6" in drawn
    assert "together 40" in drawn and "50 %" in drawn and drawn.count("0.900") == 3


def test_neighbours_in_another_sae(workspace, open_page, jobs):
    write_store(write_sae(workspace, "other") / "features.duckdb", seed=3)
    test = open_page(workspace, "feature", sae="small", f="5", panel="neighbours", other="other")
    assert "Not computed in other" in words_of(test)
    press(test, "Compute")
    assert jobs[0][0][:4] == ["neighbours", "small", "--other", "other"]
    neighbours_for(workspace, other="other")
    test = open_page(workspace, "feature", sae="small", f="5", panel="neighbours", other="other")
    assert "b=other%3A6" in html_of(test) and not test.exception
    test = open_page(workspace, "feature", sae="small", f="5", panel="neighbours", other="nosuch")
    assert "'nosuch'" in error_of(test) and "other" in error_of(test)


def test_a_full_list_of_jobs_is_told(built, open_page, monkeypatch):
    def start(self, arguments, title, *, who=""):
        raise WorkerError("2 jobs are running already: wait until one ends")

    monkeypatch.setattr(Jobs, "start", start)
    test = press(open_page(built, "feature", f="5"), "Compute")
    assert not test.exception and "2 jobs are running" in unescaped(test.toast[0].value)


# ------------------------------------------------------------------ test a text, steer


@pytest.mark.parametrize("panel", ["test", "steer"])
def test_the_worker_is_started_by_hand_and_never_blocks(built, open_page, live, panel):
    live.now = {"state": "stopped", "detail": "", "seconds": 0.0}
    test = open_page(built, "feature", f=str(SINGLE), panel=panel, text="def")
    assert not test.exception and not live.asked
    test = press(test, "Start the model")
    assert live.asked == ["start"] and "loading weights (3 s)" in unescaped(test.status[0].label)
    assert "Examples" in words_of(test)
    live.now = {"state": "failed", "detail": "no such model: <b>", "seconds": 1.0}
    test = open_page(built, "feature", f=str(SINGLE), panel=panel, text="def")
    assert "no such model: <b>" in error_of(test)
    press(test, "Try again")
    assert live.asked == ["start", "start"]


def test_loading_can_be_given_up(built, open_page, live):
    live.now = {"state": "loading", "detail": "loading weights", "seconds": 2.0}
    test = press(open_page(built, "feature", f=str(SINGLE), panel="test"), "Cancel")
    assert live.asked == ["cancel"] and not test.exception


def test_a_text_is_tested_and_marked_in_the_histogram(built, open_page, live):
    test = open_page(built, "feature", f=str(SINGLE), panel="test", text="def f\n")
    test.run()
    assert not test.exception and not test.error
    drawn = html_of(test)
    assert 'data-t="def · 3' in drawn and "your text 3" in drawn and "percentile" in words_of(test)
    assert "It fires on 1 of" in words_of(test)
    other = press(test, "Next")
    assert "silent on this text" in words_of(other), "the same text, without asking again"
    assert len(live.asked) == 1


def test_a_typed_text_goes_into_the_address(built, open_page, live):
    test = open_page(built, "feature", f=str(SINGLE), panel="test")
    test.text_area[0].set_value("def <script>alert(1)</script>")
    test = press(test, "Test").run()
    assert test.query_params["text"] == "def <script>alert(1)</script>"
    assert "<script" not in html_of(test) and "&lt;" in html_of(test)


def test_a_slow_answer_shows_progress_and_can_be_stopped(built, open_page, live):
    live.seconds = 1.5
    test = open_page(built, "feature", f=str(SINGLE), panel="test", text="def f")
    assert "(0 s)" in unescaped(test.status[0].label) and "Examples" in words_of(test)
    test = press(test, "Stop")
    assert "Stopped" in words_of(test) and not test.exception
    assert len(live.asked) == 1
    test.run()
    assert len(live.asked) == 1, "it is not asked again by itself"


def test_a_worker_that_dies_meanwhile_is_told_and_can_be_asked_again(built, open_page, live):
    live.error = WorkerError("the model worker does not answer: start it again")
    test = open_page(built, "feature", f=str(SINGLE), panel="test", text="def f")
    assert "does not answer" in error_of(test)
    live.error = None
    test = press(test, "Try again").run()
    assert not test.error and "It fires on 1 of" in words_of(test)


def test_steering_shows_the_texts_side_by_side(built, open_page, live):
    test = press(open_page(built, "feature", f=str(SINGLE), panel="steer"), "Write")
    assert not test.exception and not test.error
    drawn = html_of(test)
    titles = re.findall(r"<h4>([^<]*) <small>", drawn)
    assert titles == ["Unsteered", "-2 × maximum", "+1 × maximum", "+2 × maximum", "+4 × maximum",
                      "Clamped to zero"]  # fmt: skip
    assert "differs from token 3" in drawn and "&lt;b&gt;so" in drawn and "<b>so" not in drawn
    modes = [plan["mode"] for _, feature, plan in live.asked]
    assert modes == ["add", "ablate"] and live.asked[0][2]["max_act"] > 0
    assert live.asked[0][2]["seed"] == live.asked[1][2]["seed"] == 0


def test_steering_shows_its_progress_and_can_be_stopped(built, open_page, live):
    live.seconds = 1.2
    test = press(open_page(built, "feature", f=str(SINGLE), panel="steer"), "Write")
    assert not test.exception and "steer" == live.asked[0][0]
    test = press(test, "Stop")
    assert "Stopped" in words_of(test)
    time.sleep(1.6)
    assert len(live.asked) == 1, "the second request is never made"


def test_a_strength_that_is_no_number_is_refused(built, open_page, live):
    test = open_page(built, "feature", f=str(SINGLE), panel="steer")
    test.multiselect(key="feature.steer.strengths").set_value([1.0, "much"])
    test = press(test, "Write")
    assert "'much' is no strength" in error_of(test) and not live.asked


def test_a_dead_feature_can_only_be_taken_away(built, open_page, live):
    test = open_page(built, "feature", f=str(DEAD), panel="steer")
    assert "never fired" in words_of(test)
    test = press(test, "Write")
    assert [plan["mode"] for _, _, plan in live.asked] == ["ablate"] and not test.exception


# ------------------------------------------------------------------ in a real browser


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_tokens_links_and_dialogs_in_a_browser(workspace, tmp_path):
    from playwright.sync_api import expect

    neighbours_for(workspace)
    here = ("--workspace", str(workspace))
    with served(ROOT / "app.py", tmp_path / "log.txt", *here) as address, opened() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        loads: list[str] = []
        page.on("request", lambda r: loads.append(r.url) if r.is_navigation_request() else None)
        page.goto(f"{address}/feature?sae=small&f={SINGLE}&panel=neighbours")
        token = page.locator(".exs mark").first
        expect(token).to_be_visible(timeout=90_000)
        page.wait_for_timeout(1000)
        shown = "e => getComputedStyle(e, '::after').content"
        assert token.evaluate(shown) == "none"
        token.hover()
        assert "def · " in token.evaluate(shown), "under the mouse"
        page.mouse.move(1, 1)
        page.locator(".exs a").first.focus()
        page.keyboard.press("Tab")
        assert "def · " in page.evaluate(f"() => ({shown})(document.activeElement)"), "by Tab"

        heading = page.locator("h1")
        page.locator(".near a").first.click()
        expect(heading).to_have_text("Feature 3", timeout=90_000)
        page.go_back()
        expect(heading).to_have_text(f"Feature {SINGLE}", timeout=90_000)
        assert len(loads) == 1, "links inside the page load nothing anew"

        heading.click()
        page.keyboard.press("t")
        expect(page.get_by_role("dialog")).to_be_visible(timeout=90_000)
        page.wait_for_timeout(1000)
        page.keyboard.type("syntax")  # s and t are shortcuts, but the cursor is in the field
        page.keyboard.press("Enter")
        expect(page.get_by_text("Tags saved")).to_be_visible(timeout=90_000)
        expect(page.locator(".hist").first).to_have_css("position", "relative")
    assert lab_of(workspace).mark("small", SINGLE).tags == ("syntax",)
