"""Data and settings: provenance, sizes, exports, keys that stay unseen, one careful delete."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from data import contents
from data.access import Person
from data.errors import WorkbenchError, WorkspaceError
from data.workspace import Workspace
from tests.ui.small_store import write_sae
from tests.ui.test_jobs_page import a_record, button, html_of, words_of
from ui.keys import settings as keys
from ui.pages.panels import settings_exports, settings_workspace

PARTS = keys.PARTS
UNUSED = "0123456789abcdef"
SECRET = "AIza-very-secret-value"


def a_cache(root, hash: str, **spec) -> None:
    """An activation cache of no content."""
    folder = root / "activations" / hash
    folder.mkdir(parents=True)
    made = {"lm": "demo", "site": "resid_post.2", "text": "python:stdlib", "text_field": "text",
            "dtype": "float32", "rule": {"context": 128}}  # fmt: skip
    manifest = {"spec": {**made, **spec}, "n_rows": 1000}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "activations.f32").write_bytes(b"\0" * 4000)


def joined(root, name: str) -> None:
    """Makes that SAE one of such activations."""
    path = root / "saes" / name / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["workbench"] |= {
        "lm": "demo", "text": "python:stdlib", "text_field": "text", "dtype": "float32",
        "rule": {"context": 128},
    }  # fmt: skip
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_opens_on_a_complete_workspace(built, open_page, part):
    test = open_page(built, "settings", part=part)
    assert not test.exception and not test.error


@pytest.mark.parametrize("part", PARTS)
def test_every_part_opens_on_an_empty_workspace(tmp_path, open_page, part):
    test = open_page(tmp_path / "new", "settings", part=part)
    assert not test.exception and not test.error


@pytest.mark.parametrize("part", PARTS)
def test_an_sae_that_was_never_harvested(tmp_path, open_page, part):
    write_sae(tmp_path, "bare")
    test = open_page(tmp_path, "settings", part=part)
    assert not test.exception and not test.error
    if part == "sae":
        assert "python run.py harvest bare" in words_of(test)


def test_a_bad_address_is_refused(built, open_page):
    test = open_page(built, "settings", part="passwords")
    assert not test.exception and "passwords" in words_of(test)
    button(test, "Show this SAE").click().run()
    assert not test.error


# ------------------------------------------------------------------ this SAE


def test_files_are_listed_with_their_sizes_and_no_folder_of_the_server(built, open_page):
    test = open_page(built, "settings")
    table = test.dataframe[0].value
    assert "saes/small/features.duckdb" in list(table["name"])
    assert "autointerp/lexical-1" in list(table["name"])
    drawn = words_of(test) + html_of(test) + "".join(str(j.value) for j in test.json)
    assert str(built) not in drawn


def test_texts_from_elsewhere_on_the_server_keep_their_last_name_only(workspace, open_page):
    path = workspace / "saes" / "small" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["workbench"]["text"] = "/home/ada/private/stories.jsonl"
    path.write_text(json.dumps(config))
    test = open_page(workspace, "settings")
    drawn = html_of(test) + "".join(str(j.value) for j in test.json)
    assert "stories.jsonl" in drawn and "/home/ada" not in drawn


def test_a_damaged_store_is_told_and_the_rest_is_shown(workspace, open_page):
    (workspace / "saes" / "small" / "features.duckdb").write_bytes(b"no database")
    test = open_page(workspace, "settings")
    assert not test.exception and "features.duckdb" in words_of(test) and test.dataframe
    assert str(workspace) not in words_of(test)


@pytest.mark.parametrize(
    ("end", "log", "word"),
    [
        ({}, "a  1  2\nno difference\n", "no difference"),
        ({"state": "failed", "exit_code": 1, "reason": "exit code 1: 3 differences"},
         "x\n3 differences\n", "3 differences"),
        ({"state": "failed", "exit_code": 2, "reason": "exit code 2: no model"}, "no model\n",
         "no model"),
    ],
)  # fmt: skip
def test_the_last_verification_is_shown(workspace, open_page, end, log, word):
    a_record(workspace, arguments=["verify", "small"], log=log, **end)
    test = open_page(workspace, "settings")
    assert not test.exception and word in words_of(test)


# ------------------------------------------------------------------ activation caches


def test_only_a_cache_that_nobody_uses_can_be_deleted(workspace, open_page):
    a_cache(workspace, UNUSED, text="other.txt")
    a_cache(workspace, "f" * 16)
    joined(workspace, "small")
    test = open_page(workspace, "settings", part="workspace")
    assert not test.exception
    listed = next(frame.value for frame in test.dataframe if "used" in frame.value)
    used = dict(zip(listed["cache"], listed["used"].isna(), strict=True))
    assert used == {UNUSED: True, "f" * 16: False}
    assert test.selectbox(key="settings.cache").options == [f"{UNUSED}  (4.2 kB)"]
    button(test, "Yes, delete it").click().run()
    assert not test.exception and not test.error
    assert not (workspace / "activations" / UNUSED).exists()
    assert (workspace / "activations" / ("f" * 16) / "activations.f32").exists()
    assert (workspace / "saes" / "small" / "features.duckdb").exists()


@pytest.mark.parametrize("name", ["", "..", "../saes", "small", "0" * 16])
def test_nothing_else_is_ever_deleted(workspace, name):
    with pytest.raises(WorkspaceError, match="no activation cache"):
        contents.delete_cache(Workspace(workspace), name)
    assert (workspace / "saes" / "small" / "features.duckdb").exists()


def test_a_used_cache_and_raters_are_refused(workspace):
    from types import SimpleNamespace

    a_cache(workspace, "f" * 16)
    joined(workspace, "small")
    with pytest.raises(WorkspaceError, match="belongs to small"):
        contents.delete_cache(Workspace(workspace), "f" * 16)
    shell = SimpleNamespace(person=Person("eve", "rater"))
    with pytest.raises(WorkbenchError, match="Only researchers"):
        settings_workspace.delete(shell, UNUSED)


# ------------------------------------------------------------------ exports, system


def test_exports_are_listed_and_fetched(workspace, open_page):
    folder = workspace / "exports" / "small-csv"
    folder.mkdir(parents=True)
    (folder / "feature.csv").write_text("a,b\n")
    (folder / "link").symlink_to("/etc/passwd")
    test = open_page(workspace, "settings", part="exports")
    assert not test.exception and "exports/small-csv" in words_of(test)
    assert test.get("download_button")
    with zipfile.ZipFile(io.BytesIO(settings_exports.zipped(folder))) as archive:
        assert archive.namelist() == ["small-csv/feature.csv"], "nothing through links"


def test_keys_are_told_as_set_and_never_shown(built, open_page, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    test = open_page(built, "settings", part="system")
    drawn = html_of(test)
    assert "key set" in drawn and "no key (set OPENAI_API_KEY)" in drawn
    assert SECRET not in drawn + words_of(test) and SECRET[:6] not in drawn


def test_the_health_of_the_workspace_is_doctors(workspace, open_page):
    (workspace / "saes" / "small" / "sae_weights.safetensors").write_bytes(b"others")
    test = open_page(workspace, "settings", part="workspace")
    assert "harvested from older weights" in html_of(test)
