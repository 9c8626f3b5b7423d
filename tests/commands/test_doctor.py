"""`doctor`: says what is wrong in words, exits by it, makes nothing and asks nobody."""

from __future__ import annotations

import json

import pytest

from commands import doctor
from data import doctor as facts
from data.errors import WorkspaceError
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import write_sae, write_workspace


def told(capsys, workspace, **more) -> tuple[int, str]:
    code = doctor.run(doctor.Doctor(workspace=workspace, **more))
    return code, capsys.readouterr().out


def kinds(workspace) -> list[tuple[str, str, str]]:
    root = open_root()
    try:
        return [(f.level, f.about, f.kind) for f in facts.findings(Workspace(workspace), root)]
    finally:
        root.close()


def test_a_whole_workspace(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(facts, "hub_is_off", lambda: False)
    write_workspace(tmp_path)
    code, text = told(capsys, tmp_path)
    assert code == 0 and "jumprelu, 64 features, evaluated, harvested" in text
    assert "not asked: --network asks" in text and "torch" in text
    assert "problem" not in text


def test_looking_makes_no_workspace(tmp_path):
    with pytest.raises(WorkspaceError, match="there is no workspace"):
        doctor.run(doctor.Doctor(workspace=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_is_wrong_decides_the_exit_code(tmp_path, capsys):
    write_workspace(tmp_path)
    write_sae(tmp_path, "bare")
    (tmp_path / "saes" / "small" / "sae_weights.safetensors").write_bytes(b"others")
    code, text = told(capsys, tmp_path)
    assert code == 1 and "small: Its features were harvested from older weights" in text
    assert "bare: It was never evaluated" in text and "[python run.py evaluate ...]" in text
    assert kinds(tmp_path) == [
        ("problem", "small", "stale"), ("note", "bare", "metrics"), ("note", "bare", "harvest"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[1]", '{"d_sae": "many"}'])
def test_a_broken_configuration_is_told_and_the_rest_too(tmp_path, capsys, text):
    write_workspace(tmp_path)
    (write_sae(tmp_path, "torn") / "cfg.json").write_text(text)
    code, out = told(capsys, tmp_path)
    assert code == 1 and "torn" in out and "64 features" in out


def test_a_damaged_store_is_told(tmp_path):
    write_workspace(tmp_path)
    (tmp_path / "saes" / "small" / "features.duckdb").write_bytes(b"no database")
    assert ("problem", "small", "damaged") in kinds(tmp_path)


def test_an_empty_workspace_says_how_to_begin(tmp_path):
    assert [finding[:2] for finding in kinds(tmp_path)] == [("note", "workspace")]


def test_left_overs_and_unfinished_runs_are_told(tmp_path, capsys):
    write_workspace(tmp_path)
    (tmp_path / "saes" / ".x.part-99999999").mkdir()
    run = tmp_path / "saes" / ".mine.unfinished"
    (run / "checkpoint").mkdir(parents=True)
    (run / "train.jsonl").write_text('{"step": 3, "tokens": 6144}\n')
    code, text = told(capsys, tmp_path)
    assert code == 0 and "1 half-written results" in text
    assert "training run of mine is not finished: 6,144 tokens" in text


def test_json_is_one_object_without_keys(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    write_workspace(tmp_path)
    _, text = told(capsys, tmp_path, json=True)
    found = json.loads(text)
    assert set(found) == {"installed", "machine", "reachable", "workspace", "findings"}
    assert "sk-secret" not in text and "key set" in text


def test_the_network_is_asked_only_on_demand(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("data.hub.status", lambda path: asked.append(path) or (200, ""))
    monkeypatch.setattr(facts, "hub_is_off", lambda: False)
    write_workspace(tmp_path)
    told(capsys, tmp_path)
    assert asked == []
    _, text = told(capsys, tmp_path, network=True)
    assert asked and "answers (200)" in text


def test_facts_where_the_system_says_nothing():
    assert facts.version("no-such-package-xyz") is None
    services = facts.services({"GOOGLE_API_KEY": "x"})
    assert [one.key_set for one in services] == [True, False, False]
    assert facts.hub_is_off({"HF_HUB_OFFLINE": "1"}) and not facts.hub_is_off({})
