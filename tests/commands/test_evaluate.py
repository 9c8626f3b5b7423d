"""`evaluate` through the door: what it prints, what it keeps, what it refuses."""

from __future__ import annotations

import json

import pytest

import run
from commands.evaluate import ATTRIBUTION_LABELS, LABELS
from sae.models import JumpReLUSAE
from tests import tiny
from tests.commands import untrained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return untrained.workspace(tmp_path_factory.mktemp("evaluate"), {"one": "resid_post.1"})


def _run(workspace, words, capsys):
    capsys.readouterr()
    code = run.main(["evaluate", *words.split(), "--workspace", str(workspace.root)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_json_holds_every_measure(workspace, capsys):
    code, out, _ = _run(workspace, "one --json", capsys)
    result = json.loads(out)
    nested = {"l0_distribution", "by_position", "attribution"}
    assert code == 0 and set(result) == set(LABELS) | nested | {"text", "split"}
    assert set(result["l0_distribution"]) == {"min", "p5", "p25", "p50", "p75", "p95", "max"}
    assert set(result["attribution"]) == {*ATTRIBUTION_LABELS, "n_tokens", "n_left_out"}
    rows = result["by_position"]
    keys = {"position_from", "position_to", "n", "mse", "fve", "delta_loss", "n_loss"}
    assert all(set(row) == keys for row in rows) and rows[-1]["position_to"] == 15
    assert sum(row["n"] for row in rows) == result["n_tokens"]
    mse = sum(row["n"] * row["mse"] for row in rows) / result["n_tokens"]
    assert mse == pytest.approx(result["mse"])
    delta = sum(row["n_loss"] * row["delta_loss"] for row in rows if row["n_loss"])
    n_scored = sum(row["n_loss"] for row in rows)
    assert delta / n_scored == pytest.approx(result["delta_loss"])
    low, *_, high = result["l0_distribution"].values()
    assert low <= result["l0"] <= high and all(value is not None for value in result.values())
    kept = json.loads((workspace.sae("one") / "metrics.json").read_text())
    assert kept == result


def test_without_attribution_it_is_absent(workspace, capsys):
    code, out, _ = _run(workspace, "one --json --attribution-tokens 0", capsys)
    assert code == 0 and json.loads(out)["attribution"] is None
    code, out, _ = _run(workspace, "one --attribution-tokens 0", capsys)
    assert code == 0 and "effective_number" not in out


def test_the_table_shows_every_measure(workspace, capsys):
    code, out, _ = _run(workspace, "one", capsys)
    lines = [line.split() for line in out.splitlines()]
    first = [words[0] for words in lines]
    assert code == 0 and all(len(words) > 1 for words in lines)
    for key in [*LABELS, *ATTRIBUTION_LABELS, "l0_distribution", "position", "8-15"]:
        assert first.count(key) == 1, key


def test_another_text_of_a_narrow_distribution(workspace, capsys, tmp_path):
    narrow = tiny.write_jsonl(tmp_path / "narrow.jsonl", ["open file", "read line", "open"] * 9)
    before = (workspace.sae("one") / "cfg.json").read_bytes()
    code, out, _ = _run(workspace, f"one --json --text {narrow}", capsys)
    result = json.loads(out)
    assert code == 0 and result["split"] == "all" and result["text"] == str(narrow)
    assert result["by_position"][-1]["position_to"] < 15, "the texts are short"
    assert (workspace.sae("one") / "cfg.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("one --attribution-tokens -1", "--attribution-tokens -1: give 0 or more"),
        ("one --loss-tokens 0", "--loss-tokens 0: give at least 1"),
        ("one --tokens 100", "--tokens says how much to read of --text"),
    ],
)
def test_refusals(words, says, workspace, capsys):
    code, out, err = _run(workspace, words, capsys)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


def test_a_transcoder_is_refused_before_any_work(workspace, capsys, monkeypatch):
    monkeypatch.setattr("interp.engine.join", lambda *_: (JumpReLUSAE(24, 8, d_out=30), None, None))
    code, out, err = _run(workspace, "one", capsys)
    assert code == 2 and out == "" and "a transcoder cannot be evaluated" in err
    assert len(err.splitlines()) == 1
