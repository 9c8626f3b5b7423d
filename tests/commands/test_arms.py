"""A study from the command line: frozen before it runs, resumed at no cost, reported alike."""

from __future__ import annotations

import json

import pytest

import run
from data.arms import StudyFolder
from data.judged_store import results_by
from data.schema import open_root
from data.workspace import Workspace
from tests.commands.test_autointerp import Model, model, name_of  # noqa: F401
from tests.ui.small_store import write_sae, write_store, write_workspace

SAES = "--arms small=JumpReLU other=TopK"


@pytest.fixture
def where(tmp_path):
    root = write_workspace(tmp_path / "w")
    write_store(write_sae(root, "other") / "features.duckdb", seed=3)
    return root


def door(where, words: str, *more: str) -> int:
    return run.main(["arms", *words.split(), *more, "--workspace", str(where)])


def folder(where, name: str = "s") -> StudyFolder:
    return StudyFolder.of(Workspace.open(where), name)


def report(where, name: str = "s") -> dict:
    return json.loads((folder(where, name).path / "report.json").read_text())


def test_planned_run_and_reported(where, capsys):
    words = f"new s {SAES} --n 12 --least-fires 3 --strata 2 --method simulate,detect"
    assert door(where, words) == 0
    told = capsys.readouterr().out
    assert "small (JumpReLU): 12 of" in told and "sha256" in told
    assert door(where, "report s") == 2 and "0 of 2 arms" in capsys.readouterr().err
    assert door(where, "run s") == 0
    assert door(where, "report s") == 0
    told = capsys.readouterr().out
    assert "# Study s" in told and "| JumpReLU | TopK |" in told
    found = report(where)
    assert set(found["methods"]) == {"simulate", "detect"} and found["not_run"] == []
    one = found["methods"]["simulate"]["arms"][0]
    assert one["sae"] == "small" and one["mean"]["n"] + sum(
        n for status, n in one["statuses"].items() if status not in ("ok", "constant")
    ) == 12  # fmt: skip
    assert Workspace.open(where).runs("small") == ["lexical-1"], "pages go on to show that"
    page = (folder(where).path / "report.html").read_text()
    assert "<svg" in page and "<script" not in page


def test_the_numbers_are_those_of_the_results(where):
    door(where, f"new s {SAES} --n 12 --least-fires 3")
    door(where, "run s")
    door(where, "report s")
    one = report(where)["methods"]["simulate"]["arms"][0]
    path = folder(where).run("small") / "results.duckdb"
    rows = [r for r in results_by(open_root(), path, "simulate") if r.arm == "own"]
    values = [0.0 if r.status == "constant" else r.value for r in rows
              if r.status in ("ok", "constant")]  # fmt: skip
    assert len(rows) == 12 and one["mean"]["value"] == pytest.approx(sum(values) / len(values))


def test_the_same_study_gives_the_same_bytes(where, tmp_path):
    for name in ("s", "t"):
        door(where, f"new {name} {SAES} --n 8 --least-fires 3 --seed 4")
        door(where, f"run {name}")
        door(where, f"report {name}")
    kept = {p.name: p.read_bytes() for p in folder(where).path.glob("report.*")}
    assert len(kept) == 3
    door(where, "report s")
    assert kept == {p.name: p.read_bytes() for p in folder(where).path.glob("report.*")}
    assert report(where, "s")["methods"] == report(where, "t")["methods"]


def test_a_changed_plan_is_refused(where, capsys):
    door(where, f"new s {SAES} --n 8 --least-fires 3")
    plan = folder(where).path / "plan.json"
    text = plan.read_text()
    plan.write_text(text.replace('"seed": 0', '"seed": 1'))
    assert door(where, "run s") == 2
    assert "was changed after it was frozen" in capsys.readouterr().err
    plan.write_text(text)
    assert door(where, "run s") == 0
    # Changed together with its seal: what ran knows better.
    changed = text.replace('"wanted": 8', '"wanted": 9')
    other = StudyFolder(where / "arms" / "x")
    plan.write_text(changed)
    (plan.parent / "plan.sha256").write_text(other.freeze(changed) + "\n")
    assert door(where, "report s") == 2
    assert "was changed after it was frozen" in capsys.readouterr().err


def test_a_new_harvest_is_refused(where, capsys):
    door(where, f"new s {SAES} --n 8 --least-fires 3")
    write_store(where / "saes/other/features.duckdb", seed=9)
    assert door(where, "run s") == 2
    assert "other was harvested anew" in capsys.readouterr().err


def test_an_estimate_asks_nobody_and_a_capped_study_goes_on(where, model, capsys):  # noqa: F811
    words = f"new s {SAES} --n 3 --least-fires 6 --judge {name_of(model)}"
    assert door(where, words) == 0
    assert door(where, "run s --estimate") == 0
    assert capsys.readouterr().out.count(" calls") >= 2 and model.asked == 0
    assert door(where, "run s --max-calls 5") == 0
    assert 0 < model.asked <= 5, "the cap is of the whole study"
    told = capsys.readouterr().out
    assert "calls are without an answer: run it again" in told
    assert door(where, "report s") == 0
    assert "Calls without an answer" in capsys.readouterr().out
    assert door(where, "run s") == 0
    whole = model.asked
    assert set(report_of_unanswered(where).values()) == {0}
    for name in ("small", "other"):
        (folder(where).run(name) / "results.duckdb").unlink()
    (folder(where).path / "ran.json").unlink()
    assert door(where, "run s") == 0 and model.asked == whole, "all of it was in the cache"
    door(where, "report s")
    lift = report(where)["methods"]["simulate"]["arms"][0]["lift"]
    assert set(lift) == {"lexical", "shuffled", "empty"}


def report_of_unanswered(where) -> dict[str, int]:
    return {sae: one["unanswered"] for sae, one in folder(where).ran().items()}


def test_a_killed_study_goes_on_at_no_cost(where, model, monkeypatch):  # noqa: F811
    assert door(where, f"new s {SAES} --n 3 --least-fires 6 --judge {name_of(model)}") == 0
    note = StudyFolder.note

    def killed(self, sae, about):
        if sae == "other":
            raise KeyboardInterrupt
        note(self, sae, about)

    monkeypatch.setattr(StudyFolder, "note", killed)
    assert door(where, "run s") == 130
    assert list(folder(where).ran()) == ["small"]
    asked = model.asked
    monkeypatch.setattr(StudyFolder, "note", note)
    assert door(where, "report s") == 2, "one arm is no comparison"
    assert door(where, "run s") == 0 and model.asked == asked
    assert set(report_of_unanswered(where).values()) == {0}


def test_candidates_are_counted_as_answered(where, model):  # noqa: F811
    words = f"new s {SAES} --n 3 --least-fires 6 --candidates 2 --judge {name_of(model)}"
    assert door(where, words) == 0 and door(where, "run s") == 0
    assert set(report_of_unanswered(where).values()) == {0}
    asked = model.asked
    assert door(where, "run s") == 0 and model.asked == asked


def test_what_is_wrong_is_one_sentence(where, capsys):
    for words, why in (
        ("new s --arms small --n 5", "one SAE"),
        ("new s --arms small small --n 5", "small twice"),
        ("new s --arms small gone --n 5", "no SAE 'gone'"),
        (f"new s {SAES} --n 5000", "5000 are wanted"),
        (f"new s {SAES} --method x", "no method 'x'"),
        (f"new s {SAES} --judge people", "no judge 'people' for a study"),
        (f"new s {SAES} --method ,", "no method to score by"),
        ("new ../s --arms small other", "cannot be a name"),
        ("run nothing", "no study 'nothing'"),
        ("report nothing", "no study 'nothing'"),
    ):
        assert door(where, words) == 2, words
        assert why in capsys.readouterr().err, words
    assert door(where, f"new s {SAES} --n 5 --least-fires 3") == 0
    assert door(where, f"new s {SAES} --n 5 --least-fires 3") == 2
    assert "choose another name" in capsys.readouterr().err
    assert door(where, f"new t {SAES} --n 5 --max-calls 3") == 2
    assert "--max-calls is for arms run" in capsys.readouterr().err
    assert door(where, "run s --temperature 1") == 2
    assert "--temperature is frozen in the plan" in capsys.readouterr().err
