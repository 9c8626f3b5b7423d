"""Several sites' caches out of one pass: what is there is opened, the rest appears whole or not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands.capture import capture, capture_all
from data.activations import ActivationSpec
from data.errors import SiteError, WorkbenchError, WorkspaceError
from data.tokens import ContextRule
from data.workspace import Workspace
from tests import tiny

REPOSITORY = Path(__file__).parents[2]
SITES = ["resid_post.2", "attn_z.0", "mlp_out.1"]


@pytest.fixture
def lm(monkeypatch):
    """A model that remembers, in `lm.asked`, the sites of every pass over a batch."""
    made = tiny.language_model("llama")
    made.asked, read = [], made.capture

    def counted(ids, sites):
        made.asked.append(list(sites))
        return read(ids, sites)

    monkeypatch.setattr(made, "capture", counted)
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    return str(tiny.write_jsonl(path, tiny.sentences(80, words=12)))


def _specs(text, sites=SITES):
    return [ActivationSpec("tiny", site, text, "text", 10**9, ContextRule(16)) for site in sites]


def _names(workspace):
    """All that lies in activations/, unfinished work included."""
    folder = workspace.root / "activations"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_pass_for_all_that_are_missing_and_none_for_those_that_are_there(lm, text, workspace):
    specs = _specs(text)
    first = capture(workspace, lm, specs[1])
    made, passes = (first.folder / "manifest.json").stat().st_mtime_ns, len(lm.asked)
    assert passes > 3 and lm.asked == [[SITES[1]]] * passes
    lm.asked.clear()
    caches = capture_all(workspace, lm, specs)
    assert lm.asked == [[SITES[0], SITES[2]]] * passes
    assert [cache.manifest["spec"]["site"] for cache in caches] == SITES, "in the order asked for"
    assert (caches[1].folder / "manifest.json").stat().st_mtime_ns == made
    assert _names(workspace) == sorted(spec.key(lm) for spec in specs)
    lm.asked.clear()
    again = capture_all(workspace, lm, [specs[2], specs[0], specs[2]])
    assert [cache.folder for cache in again] == [caches[n].folder for n in (2, 0, 2)]
    assert capture(workspace, lm, specs[0]).folder == caches[0].folder
    assert lm.asked == [] and capture_all(workspace, lm, []) == []


def test_caches_made_together_are_those_made_one_by_one(lm, text, tmp_path):
    together = capture_all(Workspace.open(tmp_path / "together"), lm, _specs(text))
    apart = Workspace.open(tmp_path / "apart")
    for spec, cache in zip(_specs(text), together, strict=True):
        alone = capture(apart, lm, spec).folder
        assert alone.name == cache.folder.name and _bytes(alone) == _bytes(cache.folder)


def test_a_site_asked_for_twice_is_captured_once(lm, text, workspace):
    one, other = capture_all(workspace, lm, _specs(text, ["mlp_out.1", "mlp_out.1"]))
    assert one.folder == other.folder and {tuple(sites) for sites in lm.asked} == {("mlp_out.1",)}


@pytest.mark.parametrize(
    "change",
    [
        {"lm": "other"},
        {"text": "python:stdlib"},
        {"text_field": "body"},
        {"tokens": 7},
        {"rule": ContextRule(16, pack=True)},
        {"dtype": "bfloat16"},
    ],
)
def test_specs_that_differ_in_more_than_the_site_are_refused(change, lm, text, workspace):
    specs = _specs(text)
    capture(workspace, lm, specs[0])
    lm.asked.clear()
    specs[2] = dataclasses.replace(specs[2], **change)
    with pytest.raises(WorkbenchError, match=f"cannot serve {next(iter(change))} .*apart"):
        capture_all(workspace, lm, specs)
    assert lm.asked == [] and _names(workspace) == [specs[0].key(lm)]


def test_a_damaged_cache_is_refused_before_the_model_runs(lm, text, workspace):
    specs = _specs(text)
    (capture(workspace, lm, specs[1]).folder / "rows.i32").write_bytes(b"")
    lm.asked.clear()
    with pytest.raises(WorkspaceError, match="rows.i32 is damaged"):
        capture_all(workspace, lm, specs)
    assert lm.asked == [] and _names(workspace) == [specs[1].key(lm)]


def test_an_error_in_the_pass_publishes_nothing(lm, text, workspace, monkeypatch):
    with pytest.raises(SiteError, match="no layer 9"):
        capture_all(workspace, lm, _specs(text, ["resid_post.0", "resid_post.9"]))
    assert lm.asked == [] and _names(workspace) == []
    read = lm.capture

    def failing(ids, sites):
        if len(lm.asked) == 3:
            assert len(_names(workspace)) == 3 and all(n[0] == "." for n in _names(workspace))
            raise KeyboardInterrupt
        return read(ids, sites)

    monkeypatch.setattr(lm, "capture", failing)
    with pytest.raises(KeyboardInterrupt):
        capture_all(workspace, lm, _specs(text))
    assert len(lm.asked) == 3 and _names(workspace) == []


def test_progress_names_the_sites_that_are_captured(lm, text, workspace, capsys):
    capture(workspace, lm, _specs(text)[0])
    (alone,) = capsys.readouterr().err.splitlines()
    capture_all(workspace, lm, _specs(text))
    (told,) = capsys.readouterr().err.splitlines()
    assert alone.startswith("activations: done") and alone.endswith("tokens of resid_post.2")
    assert told.endswith("tokens of attn_z.0, mlp_out.1")
    capture_all(workspace, lm, _specs(text))
    assert capsys.readouterr().err == ""


# A child for every k dies right before its k-th pass of the model or change of the disk; the last
# child lives. Forked before anything has run, so that the imports are paid once.
DIE_AT_STEP = """
import os, signal, sys
from commands.capture import capture_all
from data.workspace import Workspace
from tests import tiny
from tests.commands.test_capture import SITES, _specs
import torch

torch.set_num_threads(1)
root, text = sys.argv[1:]
lm, left = tiny.language_model("llama"), 0

def dying(call):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

step, status = 0, None
while status != 0:
    child = os.fork()
    if child == 0:
        left = step
        lm.capture = dying(lm.capture)
        for name in ("rename", "replace", "fsync", "mkdir", "rmdir", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        capture_all(Workspace.open(f"{root}/{step}"), lm, _specs(text, SITES[:2]))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    step += 1
"""


def test_a_kill_at_any_moment_leaves_whole_caches_or_none(lm, text, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.run(
        [sys.executable, "-c", DIE_AT_STEP, str(tmp_path), text],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    statuses = [int(line) for line in process.stdout.split()]
    assert process.returncode == 0 and set(statuses[:-1]) == {-signal.SIGKILL}, process.stderr
    assert len(statuses) > 20 and statuses[-1] == 0
    specs = _specs(text, SITES[:2])
    whole = {spec.key(lm): tmp_path / str(len(statuses) - 1) / "activations" for spec in specs}
    whole = {name: _bytes(folder / name) for name, folder in whole.items()}
    left = []
    for step in range(len(statuses)):
        workspace = Workspace.open(tmp_path / str(step))
        final = [name for name in _names(workspace) if not name.startswith(".")]
        for name in final:
            assert _bytes(workspace.activations(name)) == whole[name]
        left.append(len(final))
        shutil.rmtree(tmp_path / str(step))
    assert left == sorted(left) and set(left) == {0, 1, 2}


def test_after_a_kill_only_what_is_missing_is_captured(lm, text, workspace):
    specs = _specs(text)
    kept = capture(workspace, lm, specs[2]).folder.name
    dead = subprocess.Popen(["true"])
    dead.wait()
    for spec in specs[:2]:  # unfinished work of a process that is no more
        (workspace.root / "activations" / f".{spec.key(lm)}.part-{dead.pid}").mkdir()
    lm.asked.clear()
    capture_all(workspace, lm, specs)
    assert {tuple(sites) for sites in lm.asked} == {(SITES[0], SITES[1])}
    assert _names(workspace) == sorted(spec.key(lm) for spec in specs) and kept in _names(workspace)
