"""The Overview page: nothing here, training under way, one SAE, many, parts that are stale."""

from __future__ import annotations

import json
import sys
import time

import pytest

from data.doctor import of_sae
from data.effects_store import write_effects
from data.jobs import THEN, Jobs
from data.schema import open_root
from data.summaries import summaries, unfinished, unfinished_run
from data.workspace import Workspace
from tests.ui.small_store import write_metrics, write_sae
from tests.ui.test_jobs_page import button, html_of, words_of
from ui.figures import frame, frontier, sparsity, training

FOREVER = "import time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def started(monkeypatch):
    """What pages start, in place of starting it."""
    found = []

    def start(self, arguments, title, *, who=""):
        from data.errors import WorkbenchError

        found.append((list(arguments), title))
        raise WorkbenchError("not in this test")

    monkeypatch.setattr(Jobs, "start", start)
    return found


def specs(test) -> str:
    return "".join(chart.proto.spec for chart in test.get("plotly_chart"))


# ------------------------------------------------------------------ nothing here


def test_an_empty_workspace_is_welcomed_and_offers_the_demo(tmp_path, open_page, started):
    test = open_page(tmp_path / "new")
    assert not test.exception and not test.error
    assert test.title[0].value == "No sparse autoencoder here yet"
    assert "make demo" in [code.value for code in test.code]
    button(test, "Train the demo").click().run()
    assert started == [
        (["demo", "--no-app", "--workspace", str(tmp_path / "new")], "Train the demo")
    ]


def test_the_demo_under_way_shows_its_progress(tmp_path, open_page):
    jobs = Jobs(tmp_path / "jobs", 3, (sys.executable, "-c"), grace_s=(0.3, 0.3))
    job = jobs.start([FOREVER], "Train the demo")
    path = jobs.folder / job.id / "job.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "arguments": ["demo", "--no-app"]}))
    line = {"phase": "activations", "done": 1, "total": 4, "note": "", "first": 0,
            "time": time.time(), "began": time.time() - 9}  # fmt: skip
    (jobs.folder / job.id / "progress.jsonl").write_text(json.dumps(line) + "\n")
    try:
        test = open_page(tmp_path)
        assert not test.exception and 'aria-valuenow="25"' in html_of(test)
        assert button(test, "Train the demo").disabled
        assert "In training: demo" in words_of(test) and "the curves begin after" in words_of(test)
        run = tmp_path / "saes" / ".demo.unfinished"
        run.mkdir(parents=True)
        rows = [{"step": n, "tokens": 100 * n, "l0": 40 - n, "fve": n / 10, "loss": 1 / n}
                for n in range(1, 6)]  # fmt: skip
        text = "\n".join(map(json.dumps, rows)) + '\n{"step": 6, "tok'  # it is being written
        (run / "train.jsonl").write_text(text)
        test.run()
        assert not test.exception and "training tokens" in specs(test)
    finally:
        jobs.cancel(job.id, now=True)


def test_a_run_started_in_a_terminal_is_seen_too(workspace, open_page):
    run = workspace / "saes" / ".mine.unfinished"
    run.mkdir()
    (run / "train.jsonl").write_text('{"step": 1, "tokens": 2048, "l0": 40.0, "fve": 0.5}\n')
    test = open_page(workspace)
    assert not test.exception and "In training: mine" in words_of(test)
    assert "2,048 tokens · L0 40.0 · FVE 0.500" in words_of(test)


def test_a_run_that_stopped_long_ago_is_not_live(workspace, open_page):
    import os

    run = workspace / "saes" / ".mine.unfinished"
    run.mkdir()
    (run / "train.jsonl").write_text('{"step": 1, "tokens": 2048}\n')
    os.utime(run / "train.jsonl", (1e9, 1e9))
    assert "In training" not in words_of(open_page(workspace))
    assert [one.tokens for one in unfinished(Workspace(workspace))] == [2048]
    assert unfinished_run(Workspace(workspace), "other") is None


# ------------------------------------------------------------------ one SAE


def test_what_was_not_done_has_a_button(tmp_path, open_page, started):
    write_sae(tmp_path, "bare")
    test = open_page(tmp_path)
    assert not test.exception and not test.error
    assert "python run.py evaluate bare" in words_of(test)
    button(test, "Evaluate").click().run()
    button(test, "Harvest").click().run()
    root = ["--workspace", str(tmp_path)]
    assert [words for words, _ in started] == [
        ["evaluate", "bare", *root], ["harvest", "bare", *root],
    ]  # fmt: skip
    assert button(test, "Measure effects").disabled, "there is no harvest"


def test_explaining_scores_as_well(workspace, open_page, started):
    for path in (workspace / "autointerp").glob("*/*"):
        path.unlink()
    test = open_page(workspace)
    button(test, "Explain and score").click().run()
    root = ["--workspace", str(workspace)]
    assert started[0][0] == ["explain", "small", *root, THEN, "score", "small", *root]


def test_a_complete_sae_shows_what_was_counted(built, open_page):
    test = open_page(built)
    assert not test.exception and not test.error
    assert {"Evaluated", "Harvested", "Labelled"} <= set(
        word for line in test.markdown for word in line.value.split("**")
    )
    assert "fire on more than 1 %" in words_of(test)
    assert "share of tokens on which a feature is active" in specs(test)
    assert "Not counted in this harvest" in words_of(test), "absent is not zero"
    assert not test.get("dataframe"), "one SAE needs no table"


def test_dead_features_and_a_missed_target_are_told_in_words(workspace, open_page):
    write_metrics(workspace / "saes" / "small", l0=40.0, dead=16)
    told = html_of(open_page(workspace))
    assert "25.0 % of its features never fire" in told
    assert "L0 is 40.0 on held-out text, 27 % above the 31.6" in told


def test_an_empty_window_is_told(workspace, open_page):
    path = workspace / "saes" / "small" / "train.jsonl"
    with path.open("a") as log:
        warning = "almost no pre-activation is inside the straight-through window: ..."
        log.write(json.dumps({"step": 1010, "tokens": 1, "warning": warning}) + "\n")
    assert "thresholds had stopped learning" in html_of(open_page(workspace))


def test_a_harvest_of_older_weights_is_told(workspace, open_page):
    (workspace / "saes" / "small" / "sae_weights.safetensors").write_bytes(b"others")
    test = open_page(workspace)
    assert not test.exception
    assert "harvested from older weights" in words_of(test)
    assert button(test, "Harvest again") and not button(test, "Harvest again").disabled


def test_effects_and_labels_of_an_older_harvest_are_told(workspace, open_page):
    path = Workspace(workspace).new_extra("small", "effects", "0" * 16)
    write_effects(path, [], lambda: {"features_content": "older"})
    told = html_of(open_page(workspace))
    assert "effects were measured on an older harvest" in told


def test_a_harvest_that_counted_no_l0_says_so():
    assert sparsity.l0_histogram([]) is None and sparsity.l0_histogram([0, 0]) is None


def test_hostile_metadata_stays_text(workspace, open_page):
    path = workspace / "saes" / "small" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["workbench"]["site"] = "`<script>alert(1)</script>` **b**"
    config["metadata"]["model_name"] = "[x](javascript:alert(1))"
    path.write_text(json.dumps(config))
    test = open_page(workspace)
    assert not test.exception and "<script" not in html_of(test).split("</style>")[-1]
    caption = str(test.caption[0].value)
    assert "`'<script>alert(1)</script>' **b**`" in caption, "inside a code span"


# ------------------------------------------------------------------ many


def test_many_are_compared(workspace, open_page):
    write_metrics(write_sae(workspace, "other"), l0=64.0)
    write_sae(workspace, "raw")
    (write_sae(workspace, "torn") / "cfg.json").write_text("{")
    test = open_page(workspace, sae="small")
    assert not test.exception
    table = test.dataframe[0].value
    assert list(table["name"]) == ["other", "raw", "small", "torn"]
    assert list(table["harvested"]) == ["no", "no", "yes", "cannot be read"]
    assert table["dead"].isna().tolist() == [False, True, False, True]
    drawn = specs(test)
    assert "rise of the loss" in drawn and "explained variance" in drawn


def test_a_click_on_a_row_opens_that_sae(workspace, open_page):
    write_metrics(write_sae(workspace, "other"), l0=64.0)
    test = open_page(workspace, sae="small")
    test.session_state["overview.table.small"] = {
        "selection": {"rows": [], "columns": [], "cells": [(0, "name")]}
    }
    test.run()
    assert not test.exception and test.title[0].value == "other"
    assert test.query_params["sae"] == "other"


def test_a_configuration_that_cannot_be_read_hides_nobody_else(workspace, open_page):
    """Shown where that SAE is chosen as well."""
    (write_sae(workspace, "torn") / "cfg.json").write_text('{"d_sae": "many", "architecture": 3}')
    found = {one.name: one.fault for one in summaries(Workspace(workspace))}
    assert found["small"] is None and "'many'" in found["torn"] or "3" in found["torn"]
    root = open_root()
    torn = next(one for one in summaries(Workspace(workspace)) if one.name == "torn")
    assert [f.level for f in of_sae(Workspace(workspace), root, torn)] == ["problem"]
    root.close()


# ------------------------------------------------------------------ figures


def test_architectures_differ_in_colour_and_in_shape():
    rows = [{"name": kind, "l0": 10 + n, "fve": 0.5, "architecture": kind}
            for n, kind in enumerate(frontier.KINDS)]  # fmt: skip
    figure = frontier.frontier(rows, "topk")
    assert len({trace.marker.symbol for trace in figure.data}) == len(frontier.KINDS)
    chosen = [trace for trace in figure.data if "chosen" in trace.name]
    assert [trace.marker.color for trace in chosen] == [frame.ORANGE]
    assert figure.layout.xaxis.type == "log" and figure.layout.showlegend
    low, high = figure.layout.xaxis.range
    assert 10**low < 10 and 10**high > 15


def test_one_point_has_ticks_on_both_sides():
    figure = frontier.frontier([{"name": "a", "l0": 32.0, "fve": 0.9}], "a")
    assert list(figure.layout.xaxis.ticktext) == ["20", "50"]


def test_the_l0_histogram_counts_every_token_once():
    counts = [0, 5000, 10_000, 3000] + [0] * 500 + [1]
    figure = sparsity.l0_histogram(counts, target=2.0)
    assert sum(figure.data[0].y) == 18_001 and len(figure.data[0].y) == 3
    assert figure.data[0].customdata[-1].endswith("and more")
    assert {shape.x0 for shape in figure.layout.shapes} >= {2.0}


def test_a_long_curve_is_thinned_and_keeps_its_end():
    rows = [{"tokens": n, "l0": float(n)} for n in range(10_000)]
    line = training.curves(rows, {"l0": "L0"}, "L0").data[0]
    assert len(line.x) <= training.POINTS and line.x[-1] == 9_999
