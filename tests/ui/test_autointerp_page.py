"""The Auto-interp page on a run by a language model behind a local server: numbers with their
baselines, failures, prompts and replies, a new run, a run under way; hostile text in all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import shutil
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

import run
from data import autointerp_page_store as page_store
from data import judged_store
from data.errors import StoreError, WorkbenchError
from data.jobs import JOB_FOLDER, THEN, Jobs
from data.judged import AskedRow, ResultRow
from data.lab import open_lab
from data.records import Explanation, Score
from data.runs_store import read_results, write_results
from data.schema import open_root
from data.workspace import Workspace
from interp.judges import named
from interp.judges.budget import Spent
from interp.judges.calls import Progress
from tests.commands.test_autointerp import Model, name_of
from tests.ui.small_store import DEAD, SINGLE, write_workspace
from tests.ui.test_jobs_page import button, codes_of, html_of, words_of
from tests.ui.test_overview_page import started  # noqa: F401
from ui import cards, strips
from ui.pages.panels import autointerp_commands as make
from ui.pages.panels import autointerp_estimate, autointerp_features, autointerp_windows
from ui.pages.panels import autointerp_judges as judges

HOSTILE = "<img src=x onerror=alert(1)> **bold** [go](javascript:x) $x^2$ \u202eevil"
FOREVER = "import time; print('here', flush=True); time.sleep(600)"
RUN = "small-model"


class Unreliable(Model):
    """Fails now and then: cut JSON, an empty answer, an explanation that attacks the page."""

    def answer(self, text: str) -> dict:
        self.server.texts.append(text)
        given = super().answer(text)
        key = int(hashlib.sha256(text.encode()).hexdigest(), 16)
        if "explanation" in given:
            if len(self.server.texts) == 5:
                return {"explanation": HOSTILE}
            return {"explanation": ""} if len(self.server.texts) == 7 else given
        if "the word" in text and 'word "def"' not in text and key % 3 == 0:
            return {"answer": f"I cannot {HOSTILE}"}
        return given


@pytest.fixture(scope="module")
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    found.asked, found.texts = 0, []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def judged(tmp_path_factory, server) -> Path:
    """A workspace with a run of the model and one by token lookup; to be read only."""
    where = write_workspace(tmp_path_factory.mktemp("judged") / "w")
    lab = open_lab(open_root(), Workspace.open(where))
    lab.label("small", SINGLE, 'the word "def"', who="Ada")
    lab.close()
    root = ["--workspace", str(where)]
    model = ["--judge", name_of(server), "--run", RUN, "--concurrent", "1"]
    prices = ["--prompt-price", "1", "--reply-price", "2"]
    features = ["--features", f"{DEAD},0:12"]
    assert run.main(["explain", "small", *features, *model, *prices, *root]) == 0
    methods = ["--method", "simulate,detect"]
    assert run.main(["score", "small", *features, *model, *methods, *prices, *root]) == 0
    few = ["--features", "0:6", "--run", "small-few"]
    assert run.main(["explain", "small", *few, *root]) == 0
    assert run.main(["score", "small", *few, *root]) == 0
    return where


@pytest.fixture
def changed(judged, tmp_path) -> Path:
    return Path(shutil.copytree(judged, tmp_path / "w"))


def results(where: Path, name: str = RUN) -> Path:
    return where / "autointerp" / name / "results.duckdb"


def told(test) -> str:
    return html_of(test) + words_of(test)


def harmless(test) -> None:
    """No text of a model is markup, or turns text around."""
    assert not test.exception
    shown = html_of(test)
    assert "<img" not in shown and "<script" not in shown and "\u202e" not in shown
    assert "**bold**" not in "\n".join(c.value for c in test.caption)


# ------------------------------------------------------------------ results


def test_numbers_stand_beside_their_baselines(judged, open_page):
    test = open_page(judged, "autointerp", run=RUN)
    harmless(test)
    assert not test.error
    shown = html_of(test)
    meta, _, scores = read_results(open_root(), results(judged))
    totals = meta["totals"]["simulate"]
    assert f"<b>{totals['uniform']['value']:.2f}</b>" in shown
    assert f"{totals['lift']['shuffled']['value']:+.2f}" in shown
    for words in ("Lift over token lookup", "Without constants", "Frequency-weighted",
                  "another feature’s", "no explanation", "Detection"):  # fmt: skip
        assert words in shown, words
    for status, word in (("ok", "scored"), ("not_run", "not run")):
        n = sum(s.status == status for s in scores.values())
        assert n and f"{n} {word}" in shown, status
    assert "spent" in shown and name_of_server(meta) in html.unescape(shown)


def name_of_server(meta: dict) -> str:
    return meta["judge"]


def test_the_table_sorts_by_lift_and_failures_and_leaves_absent_numbers_out(judged, open_page):
    test = open_page(judged, "autointerp", run=RUN, sort="lift")
    table = test.dataframe[0].value
    lifts = [v for v in table["lift"] if v == v and v is not None]
    assert lifts == sorted(lifts, reverse=True)
    dead = table[table["feature"] == DEAD].iloc[0]
    assert dead.isna()["score"] and dead["reason"].startswith("not run")
    test = open_page(judged, "autointerp", run=RUN, sort="failed", only="not_run")
    assert set(test.dataframe[0].value["feature"]) >= {DEAD}
    assert all(r.startswith("not run") for r in test.dataframe[0].value["reason"])


def test_failures_are_told_by_reason_and_run_again(judged, open_page, started):  # noqa: F811
    test = open_page(judged, "autointerp", run=RUN)
    label = next(e.label for e in test.expander if e.label.startswith("What failed"))
    assert "without an explanation" in label and "without an answer" in label
    button(test, "Run what failed again").click().run()
    words = started[0][0]
    explain, score = words[: words.index(THEN)], words[words.index(THEN) + 1 :]
    root = open_root()
    features, bad = page_store.explained(root, results(judged))
    assert explain[explain.index("--features") + 1] == make.compact(bad)
    assert score[score.index("--features") + 1] == make.compact(features)
    assert score[score.index("--method") + 1] == "detect,simulate"
    for option, value in (("--prompt-price", "1"), ("--concurrent", "1"), ("--run", RUN)):
        assert score[score.index(option) + 1] == value


def test_running_again_asks_only_what_has_no_answer(changed, server):
    meta, _, _ = read_results(open_root(), results(changed))
    features, bad = page_store.explained(open_root(), results(changed))
    before = server.asked
    commands = make.again(meta, RUN, "small", features, bad, ["simulate", "detect"], str(changed))
    for command in commands:
        assert run.main(command) == 0
    assert server.asked == before, "failed replies are replies too: kept, and read again"
    assert read_results(open_root(), results(changed))[2].keys() == set(features.tolist())


def test_unreadable_replies_are_asked_anew_if_that_is_wanted(changed, open_page, started):  # noqa: F811
    keys = page_store.unreadable(open_root(), results(changed))
    kept = {path.stem for path in (changed / "llm_cache").glob("*.json")}
    assert keys and set(keys) <= kept
    test = open_page(changed, "autointerp", run=RUN)
    box = next(box for box in test.checkbox if box.label.startswith("Ask anew"))
    assert f"{len(keys)} calls, paid again" in box.label
    box.check().run()
    button(test, "Run what failed again").click().run()
    assert started and not set(keys) & {p.stem for p in (changed / "llm_cache").glob("*.json")}


def test_runs_beside_each_other_have_paired_differences(judged, open_page):
    test = open_page(judged, "autointerp", **{"run": RUN, "with": "small-few,lexical-1"})
    assert not test.exception and not test.error
    shown = html_of(test)
    assert "First minus this, same features" in shown
    assert "small-few" in shown and "lexical-1" in shown and "n = " in shown


def test_a_run_in_the_papers_mode_says_so(changed, open_page):
    path = results(changed)
    meta, explanations, scores = read_results(open_root(), path)
    meta["score_plan"]["mode"] = "paper"
    rows = judged_store.tables(*judged_store.read_all(open_root(), path))
    meta.pop("schema")
    write_results(path, meta, list(explanations.values()), list(scores.values()), rows)
    test = open_page(changed, "autointerp", run=RUN)
    assert "known from memory only" in words_of(test)


# ------------------------------------------------------------------ prompts and replies


def calls_page(open_page, where, **params):
    return open_page(where, "autointerp", run=RUN, part="calls", **params)


def test_a_call_is_shown_whole_with_its_windows(judged, open_page):
    test = calls_page(open_page, judged, f=str(SINGLE), method="simulate")
    harmless(test)
    assert not test.error
    codes = codes_of(test)
    row = judged_store.asked_of(open_root(), results(judged), SINGLE)[0]
    key = row.calls[0]
    entry = json.loads((judged / "llm_cache" / f"{key}.json").read_text())
    assert entry["request"]["messages"][-1]["text"] in codes and entry["reply"]["text"] in codes
    shown = html_of(test)
    assert "hf r" in shown and "above: real" in shown and "below: predicted" in shown
    assert "fake-1" in shown and "10 of prompt, 5 of reply" in shown and key in shown
    assert "r = " in shown and "n = " in shown


def test_an_explanation_that_attacks_the_page_is_text(judged, open_page):
    _, explanations, _ = read_results(open_root(), results(judged))
    evil = next(e.feature for e in explanations.values() if "onerror" in e.text)
    for method in ("explain", "simulate", "detect"):
        test = calls_page(open_page, judged, f=str(evil), method=method)
        harmless(test)
        assert "onerror" in html_of(test)
    test = open_page(judged, "feature", f=str(evil), panel="predicted")
    harmless(test)


def test_a_reply_that_cannot_be_read_is_shown_as_it_came(judged, open_page):
    root = open_root()
    rows = [row for f in range(12) for row in judged_store.asked_of(root, results(judged), f)]
    bad = next(row for row in rows if row.status == "failed")
    calls = list(dict.fromkeys(
        k for r in judged_store.asked_of(root, results(judged), bad.feature) for k in r.calls
    ))  # fmt: skip
    test = calls_page(open_page, judged, f=str(bad.feature), method="simulate",
                      call=str(calls.index(bad.calls[0]) + 1))  # fmt: skip
    harmless(test)
    assert "I cannot" in codes_of(test) and html.escape(bad.reason) in html_of(test)


def test_an_emptied_cache_and_a_damaged_one_say_so(changed, open_page):
    row = judged_store.asked_of(open_root(), results(changed), SINGLE)[0]
    kept = changed / "llm_cache" / f"{row.calls[0]}.json"
    whole = kept.read_text()
    kept.write_text(whole.replace("fake-1", "fake-2"))
    test = calls_page(open_page, changed, f=str(SINGLE), method="simulate")
    assert not test.exception and "damaged" in words_of(test)
    kept.unlink()
    record = changed / "autointerp" / RUN / "calls.jsonl"
    with record.open("a") as file:
        file.write(json.dumps({"event": "failed", "key": row.calls[0], "attempt": 3, "time": "now",
                               "reason": HOSTILE, "usage": {}, "guessed": False, "factor": 1.0,
                               }) + "\n")  # fmt: skip
    test = calls_page(open_page, changed, f=str(SINGLE), method="simulate")
    harmless(test)
    assert "No reply is kept" in words_of(test) and "Attempt 3" in words_of(test)


def test_the_table_leads_to_what_was_asked(judged, open_page):
    test = open_page(judged, "autointerp", run=RUN, sort="feature", dir="asc")
    test.session_state[f"autointerp.table.{RUN}.simulate.feature.False..1"] = {
        "selection": {"rows": [], "columns": [], "cells": [(SINGLE, "calls")]}
    }
    test.run()
    assert not test.exception and test.query_params["part"] == "calls"
    assert test.query_params["f"] == str(SINGLE) and "reply" in html_of(test)


def test_token_lookup_asked_nobody(judged, open_page):
    test = calls_page(open_page, judged, f=str(SINGLE), method="simulate", arm="lexical")
    assert "Nobody was asked" in words_of(test) and "hf r" in html_of(test)
    test = open_page(judged, "autointerp", run="small-few", part="calls", f="2", method="explain")
    assert not test.exception and "asked nobody" in words_of(test)


def test_a_feature_the_run_does_not_know(judged, open_page):
    test = calls_page(open_page, judged, f="60")
    assert not test.exception and "says nothing of feature 60" in words_of(test)


# ------------------------------------------------------------------ a new run


def new_page(open_page, where, **params):
    return open_page(where, "autointerp", part="new", **params)


def chosen(test, label: str, value):
    box = next(box for box in test.selectbox if box.label == label)
    return box.set_value(value).run()


def test_without_a_key_the_page_says_what_to_set(built, open_page, monkeypatch):
    for name in (*named.GEMINI_KEYS, *named.OPENAI_KEYS):
        monkeypatch.delenv(name, raising=False)
    test = chosen(new_page(open_page, built), "Who explains", "gemini")
    said = words_of(test)
    assert not test.exception and "GEMINI_API_KEY" in said and "any OpenAI-compatible" in said
    assert "gemini needs the name of a model" in said and button(test, "Start").disabled


@pytest.mark.parametrize("kind", ["gemini-legacy", "openai", "hf", "scripted"])
def test_every_kind_of_judge_can_be_named(built, open_page, kind):
    test = chosen(new_page(open_page, built), "Who explains", kind)
    assert not test.exception and button(test, "Start").disabled
    model = next(box for box in test.text_input if box.key == f"autointerp.new.judge.model.{kind}")
    model.set_value("/models/one").run()
    assert not test.exception and f"{kind}:/models/one" in codes_of(test)


def test_a_link_fills_the_form_also_when_it_was_filled_before(judged, open_page):
    test = new_page(open_page, judged, **{"for": "0:4", "judge": "hf:/a"})
    assert "hf:/a" in codes_of(test) and "--features 0:4" in codes_of(test)
    test.query_params["for"], test.query_params["judge"] = "7", "openai:m@http://h/v1"
    test.run()
    assert "openai:m@http://h/v1" in codes_of(test) and "--features 7" in codes_of(test)


def test_a_key_is_never_shown(built, open_page, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "very-secret-1234")
    test = chosen(new_page(open_page, built), "Who explains", "gemini")
    everything = told(test) + codes_of(test) + str([w.value for w in test.text_input])
    assert "very-secret" not in everything


def test_token_lookup_starts_at_once(built, open_page, started):  # noqa: F811
    test = new_page(open_page, built, **{"for": "0:4,7"})
    assert "5 features" in button(test, "Explain and score 5 features").label
    button(test, "Explain and score 5 features").click().run()
    root = ["--workspace", str(built)]
    about = ["--judge", "lexical", "--run", "small-lexical", "--features", "0:4,7", *root]
    assert started[0][0] == ["explain", "small", *about, THEN, "score", "small", *about]
    assert "python run.py explain small" in codes_of(test)


def test_a_priced_judge_is_estimated_first(judged, server, open_page, started):  # noqa: F811
    judge = name_of(server)
    test = new_page(open_page, judged, **{"for": "0:4", "judge": judge})
    assert not test.exception, test.exception
    assert button(test, "Explain and score 4 features").disabled
    button(test, "Estimate what it takes").click().run()
    words = started[0][0]
    assert words.count("--estimate") == 2 and words.count("--json") == 2
    first, second = words[: words.index(THEN)], words[words.index(THEN) + 1 :]
    assert first[0] == "explain" and second[0] == "score"
    folder = judged / "jobs" / "20261121-100000-abcd"
    folder.mkdir(parents=True)
    about = {"id": folder.name, "title": "Estimate", "arguments": words, "state": "done",
             "began": 1e9, "ended": 1e9 + 1}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(about))
    lines = []
    for command in (first, second):  # by the commands themselves: nothing needs to be explained
        lines.append(printed(command))
    (folder / "log.txt").write_text("noise\n" + "\n".join(lines) + "\n")
    try:
        test = new_page(open_page, judged, **{"for": "0:4", "judge": judge})
        shown = html_of(test)
        calls = sum(json.loads(line)["calls"] for line in lines)
        assert f"<b>{calls:,}</b> calls" in shown and "no prices given" in shown
        assert not button(test, "Explain and score 4 features").disabled
    finally:
        shutil.rmtree(judged / "jobs")


def printed(command: list[str]) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run.main(command) == 0
    return out.getvalue().strip().splitlines()[-1]


def test_peoples_words_need_a_language_model_to_predict(built, open_page):
    test = chosen(new_page(open_page, built), "Who explains", "people")
    assert not test.exception
    assert any(box.label == "Who predicts from it" for box in test.selectbox)


def test_features_of_a_filter_a_list_or_a_tag(workspace, open_page):
    lab = open_lab(open_root(), Workspace.open(workspace))
    made = lab.create_list("mine", who="ada")
    lab.add_to_list(made.id, [("small", 3), ("small", 5), ("other", 9)], who="ada")
    lab.tag("small", [7, 8], "odd", who="ada")
    lab.save_filter("some", {"id": "4"}, who="ada")
    lab.close()
    for way, label in (("list", "2 features"), ("tag", "2 features"), ("filter", "1 features")):
        test = new_page(open_page, workspace)
        test.session_state["autointerp.new.way"] = way
        test.run()
        assert not test.exception and not test.error, way
        assert any(f"Explain and score {label}" == b.label for b in test.button), (
            way, [b.label for b in test.button])  # fmt: skip


def test_what_is_typed_wrongly_is_told(built, open_page):
    test = new_page(open_page, built, **{"for": "0:9999"})
    assert not test.exception and "is not among the features" in words_of(test)
    assert button(test, "Start").disabled


# ------------------------------------------------------------------ under way


def test_a_running_job_shows_calls_failures_and_cost(judged, open_page, tmp_path):
    where = Path(shutil.copytree(judged, tmp_path / "copy"))
    jobs = Jobs(where / "jobs", 3, (sys.executable, "-c"), grace_s=(0.3, 0.3))
    job = jobs.start([FOREVER], f"Explain {HOSTILE}", who="ada")
    path = jobs.folder / job.id / "job.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "arguments": ["explain", "small", "--judge", "x"]}))
    note = f"3 from the cache; 2 failed (2 {HOSTILE}); 10 calls, 150 tokens; 0.01 spent"
    line = {"phase": "scoring", "done": 12, "total": 40, "note": note, "first": 0,
            "time": time.time(), "began": time.time() - 10}  # fmt: skip
    (jobs.folder / job.id / "progress.jsonl").write_text(json.dumps(line) + "\n")
    try:
        test = open_page(where, "autointerp")
        harmless(test)
        shown = html_of(test)
        for words in ("12 of 40", "3 from the cache", "10 calls, 150 tokens", "0.01 spent"):
            assert words in shown, words
        button(test, "Yes, stop it").click().run()
        now = jobs.get(job.id)
        assert not test.exception and (now.cancelling or now.state == "cancelled")
    finally:
        jobs.cancel(job.id, now=True)


def test_a_run_that_was_stopped_can_go_on(changed, open_page, started):  # noqa: F811
    folder = changed / "jobs" / "20261121-100000-abcd"
    folder.mkdir(parents=True)
    words = ["score", "small", "--judge", "lexical"]
    about = {"id": folder.name, "title": "Score small", "arguments": words, "state": "failed",
             "reason": "killed by SIGKILL", "began": 1e9, "ended": 1e9 + 1}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(about))
    test = open_page(changed, "autointerp")
    assert "killed by SIGKILL" in words_of(test)
    button(test, "Go on").click().run()
    assert started == [(words, "Score small")]


def test_progress_adds_up_over_batches(tmp_path, monkeypatch):
    from commands.judging_progress import Calls

    monkeypatch.setenv(JOB_FOLDER, str(tmp_path))
    calls = Calls("scoring")
    calls.expected = 5
    spent = Spent(calls=2, prompt=10, reply=5)
    calls.came(Progress(1, 2, 1, {}, {}, spent))
    calls.came(Progress(2, 2, 1, {"timed out": 1}, {}, spent))
    calls.came(Progress(1, 3, 0, {"timed out": 1}, {}, spent))
    assert calls.position() == (3, 5)
    assert "1 from the cache" in calls.note() and "2 failed (2 timed out)" in calls.note()
    assert json.loads((tmp_path / "progress.jsonl").read_text().splitlines()[0])["total"] == 5


# ------------------------------------------------------------------ the feature's page


def test_predicted_and_real_on_one_strip_worst_first(judged, open_page):
    test = open_page(judged, "feature", f=str(SINGLE), panel="predicted")
    harmless(test)
    assert not test.error
    state = test.session_state
    state["feature.predicted.small.run"] = RUN
    test.run()
    shown = html_of(test)
    assert "hf r" in shown and "above: real" in shown and "off by" in shown
    assert "n = " in words_of(test) and "failed" in words_of(test)
    state["feature.predicted.small.arm"] = "empty"
    test.run()
    assert not test.exception and "undefined" in words_of(test)
    state["feature.predicted.small.method"] = "detect"
    test.run()
    assert not test.exception and "said to fire" in html_of(test)
    button(test, "Prompts and replies").click().run()
    assert not test.exception and test.query_params["part"] == "calls"


def test_a_feature_that_nobody_scored_teaches(judged, open_page):
    test = open_page(judged, "feature", f="60", panel="predicted")
    assert not test.exception and "Nothing was predicted" in words_of(test)


def test_explanations_of_several_runs_are_compared(judged, open_page):
    test = open_page(judged, "feature", f=str(SINGLE))
    next(t for t in test.toggle if t.label.startswith("Explanations of")).set_value(True).run()
    harmless(test)
    shown = html_of(test)
    assert RUN in shown and "lexical-1" in shown and "Over token lookup" in shown


def test_a_label_of_an_older_run_is_not_lost(judged, open_page):
    """The newest run explains a few features; the others keep what an older one says."""
    test = open_page(judged, "feature", f="40")
    assert not test.exception and "From the run lexical-1" in words_of(test)
    assert "r = " in words_of(test) or "score failed" in words_of(test)


def test_peoples_words_are_no_automatic_label(changed, open_page, server):
    root = ["--workspace", str(changed)]
    assert run.main(["explain", "small", "--judge", "people", *root]) == 0
    scored = ["--run", "small-people", "--judge", name_of(server)]
    assert run.main(["score", "small", *scored, *root]) == 0
    test = open_page(changed, "feature", f=str(SINGLE))
    assert not test.exception and "no automatic label of this feature" not in words_of(test)
    assert "lexical" in html_of(test), "the label of the run before stays"
    next(t for t in test.toggle if t.label.startswith("Explanations of")).set_value(True).run()
    assert "small-people" in html_of(test)


def test_peoples_words_are_scored_from_the_feature(judged, server, open_page, started):  # noqa: F811
    test = open_page(judged, "feature", f=str(SINGLE))
    button(test, "Score these words").click().run()
    words = started[0][0]
    explain, score = words[: words.index(THEN)], words[words.index(THEN) + 1 :]
    assert explain[explain.index("--judge") + 1] == "people"
    assert score[score.index("--judge") + 1] == name_of(server)
    assert score[score.index("--run") + 1] == "small-people"


def test_a_feature_is_explained_again_into_the_run_of_that_judge(judged, open_page, started):  # noqa: F811
    test = open_page(judged, "feature", f=str(SINGLE))
    button(test, "Explain and score").click().run()
    words = started[0][0]
    assert words[words.index("--run") + 1] == RUN
    assert words[words.index("--features") + 1] == str(SINGLE)
    score = words[words.index(THEN) + 1 :]
    assert score[score.index("--features") + 1] == "0:12", "baselines need the others"


# ------------------------------------------------------------------ parts


def test_a_score_in_one_line():
    good = Score(1, "simulate", 0.61, 0.48, 0.71, 900, 20, "ok", "", 40, 40, 40)
    assert cards.score_text(good) == "r = 0.61 [0.48, 0.71], n = 40/40, failed 0"
    constant = Score(1, "simulate", None, None, None, 0, 0, "constant", "constant prediction", 38,
                     40, 40)  # fmt: skip
    assert cards.score_text(constant) == (
        "r is undefined: constant prediction; 0 in means, n = 38/40, failed 2"
    )
    held = Score(1, "simulate", None, None, None, 0, 0, "withheld", "12 of 40 failed", 28, 40, 40)
    assert cards.score_text(held) == "withheld: 12 of 40 failed, n = 28/40, failed 12"
    for status in ("constant", "withheld", "failed", "not_run"):
        said = cards.score_text(dataclasses.replace(constant, status=status, reason="why"))
        assert "= 0." not in said and "why" in said


def test_two_halves_have_their_own_scales():
    row = strips.pieces([(b"a", False), (b"<b>", False), (b"c", False)], [10.0, 0.0, 0.0])
    shown = strips.halves(row, 10.0, (0.0, 5.0, 0.0), 10.0, 0)
    assert 'class="hf r10 p0 pk"' in shown and 'class="hf r0 p5"' in shown
    assert "&lt;b&gt;" in shown and shown.endswith("c")
    assert "predicted 5" in shown
    assert [strips.shade_evenly(v, 10) for v in (-1, 0, 0.1, 10, 99)] == [0, 0, 1, 10, 10]
    assert "no activation" in strips.legend_of_halves(None, "<10>")
    assert "<10>" not in strips.legend_of_halves(None, "<10>")


def asked(item: int, doc: int, real, said, status="ok") -> AskedRow:
    return AskedRow(1, "simulate", "own", item, "top", doc, 0, 0, tuple(range(len(real))),
                    tuple(real), said, status, "", ())  # fmt: skip


def test_worst_documents_first_and_failures_last():
    from ui.pages.panels.feature_predicted import worst_first

    rows = [
        asked(0, 1, (10.0, 0.0), (10.0, 0.0)),
        asked(1, 2, (10.0, 0.0), (0.0, 10.0)),
        asked(2, 3, (10.0, 0.0), None, "failed"),
        asked(3, 2, (0.0, 0.0), (0.0, 0.0)),
    ]
    assert [r.item for r in worst_first(rows, 10.0, False)] == [1, 3, 0, 2]
    assert autointerp_windows.correlation(rows[0]) == pytest.approx(1.0)
    assert autointerp_windows.correlation(rows[3]) is None
    assert autointerp_windows.error(rows[2], 10.0, False) is None
    assert autointerp_windows.in_levels(asked(0, 1, (5.0,), (5.0,)), 10.0, True) == (5.0,)


def test_numbers_and_ranges():
    assert make.compact([3, 1, 2, 9, 9]) == "1:4,9" and make.compact([]) == ""
    assert make.chosen("1:4, 9", 10) == [1, 2, 3, 9] and make.chosen("all", 3) == [0, 1, 2]
    for bad in ("", "x", "4:2", "5:99", "-1", "1;2"):
        with pytest.raises(WorkbenchError):
            make.chosen(bad, 10)


def wanted(**more) -> make.Wanted:
    return make.Wanted(**{"sae": "small", "features": "0:3", "judge": "hf:/m", "scorer": "hf:/m",
                          "run": "r", **more})  # fmt: skip


def test_commands_name_only_what_differs_and_several_protocols_are_several_runs():
    one = wanted(protocols=("activations", "marked"), candidates=3, mode="paper",
                 methods=("simulate", "fuzz"), baselines=("lexical",), service={"together": 5,
                 "max_calls": 7, "temperature": None}, mixed={"top": 10, "seed": 4})  # fmt: skip
    words = make.commands(one, "/w")
    assert [w[0] for w in words] == ["explain", "score"] * 2
    assert words[0] == ["explain", "small", "--judge", "hf:/m", "--run", "r-activations",
                        "--features", "0:3", "--candidates", "3", "--max-calls", "7",
                        "--workspace", "/w"]  # fmt: skip
    assert words[3] == ["score", "small", "--judge", "hf:/m", "--run", "r-marked", "--features",
                        "0:3", "--method", "simulate,fuzz", "--mode", "paper", "--seed", "4",
                        "--baselines", "lexical", "--max-calls", "7", "--workspace",
                        "/w"]  # fmt: skip
    assert all("--estimate" in w for w in make.estimates(one, "/w"))
    assert make.estimates(wanted(judge="lexical", scorer="lexical"), "/w") == []


@pytest.mark.parametrize(
    ("more", "why"),
    [({"run": "-x y"}, "run’s name"), ({"judge": "gemini:"}, "name of a model"),
     ({"judge": "rm -rf"}, "needs"), ({"methods": ()}, "one way to score"),
     ({"protocols": ()}, "one way to explain"), ({"features": ""}, "No feature"),
     ({"service": {"prompt_price": 1.0}}, "both prices"),
     ({"service": {"max_money": 1.0}}, "needs both prices"),
     ({"judge": "people", "scorer": "lexical"}, "cannot read")],
)  # fmt: skip
def test_what_cannot_be_is_said(more, why):
    assert any(why in fault for fault in make.faults(wanted(**more)))
    assert make.faults(wanted()) == []


def test_estimates_add_up_and_what_is_not_known_stays_so():
    part = {"requests": 4, "cached": 1, "repeated": 0, "calls": 3, "prompt": 10.0,
            "prompt_most": 90, "reply": None, "reply_most": 50, "money": None, "money_most": 0.5,
            "unit": "USD"}  # fmt: skip
    both = autointerp_estimate.added([part, {**part, "reply": 5.0}])
    assert (both["calls"], both["reply"], both["money_most"]) == (6, None, 1.0)
    assert autointerp_estimate.added([]) is None


def test_a_list_of_models_never_blocks(server):
    began = time.monotonic()
    found, why = judges.in_time(lambda: time.sleep(5), 0.2)
    assert found is None and "no answer within" in why and time.monotonic() - began < 2
    assert judges.in_time(lambda: ["a"]) == (["a"], "")


def test_store_answers_by_page(judged, tmp_path):
    root = open_root()
    rows, count = page_store.page_rows(root, results(judged), "simulate", page_size=3)
    assert count == 12 and len(rows) == 3 and rows[0].value is not None
    with pytest.raises(StoreError):
        page_store.page_rows(root, results(judged), "simulate", sort="value; drop")
    assert set(page_store.methods(root, results(judged))) == {"simulate", "detect"}
    arms = page_store.arms(root, results(judged), "simulate")
    assert set(arms) == {"own", "lexical", "shuffled", "empty"}
    path = tmp_path / "results.duckdb"
    result = ResultRow(0, "simulate", "own", None, None, None, 1, 2, 2, "constant", "why",
                       {"x": 1}, {})  # fmt: skip
    write_results(path, {"judge": "j"}, [Explanation(0, "j", "a", {})], [],
                  judged_store.tables([], [result], []))  # fmt: skip
    (row,), _ = page_store.page_rows(root, path, "simulate")
    assert row.value is None and row.status == "constant" and row.failed == 1
    assert page_store.arms(root, path, "simulate")["own"].values.tolist() == [0.0]
    assert page_store.failures(root, path).windows == [("x", 1)]


def test_ways_to_choose_features_are_known():
    assert set(autointerp_features.WAYS) == {"random", "these", "all", "filter", "list", "tag"}
