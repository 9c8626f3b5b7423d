"""The workspace: names; results appear whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import WorkspaceError
from data.workspace import Workspace, publish
from tests.data import handmade

REPOSITORY = Path(__file__).resolve().parents[2]
NO_PROCESS = 2**22 + 1  # above the largest process number Linux gives


def fill(folder: Path, mark: str) -> None:
    (folder / "cfg.json").write_text(json.dumps({"mark": mark}))
    (folder / "sae_weights.safetensors").write_bytes(b"")


def make(workspace: Workspace, name: str, mark: str = "first", replace: bool = False) -> None:
    with workspace.new_sae(name, replace) as part:
        fill(part, mark)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- names and files


def test_open_creates_a_folder_and_refuses_a_file(tmp_path):
    assert Workspace.open(tmp_path / "a" / "b").root.is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WorkspaceError, match="a file is in the way"):
            Workspace.open(path)


def test_finished_saes_are_listed(workspace):
    assert workspace.saes == []
    make(workspace, "zeta")
    make(workspace, "alpha-1.2_b")
    (workspace.root / "saes" / "half").mkdir()
    assert workspace.saes == ["alpha-1.2_b", "zeta"]
    assert workspace.config("zeta") == {"mark": "first"}


def test_unknown_sae_names_the_known(workspace):
    with pytest.raises(WorkspaceError, match="no SAE 'x' in .*: there is none yet"):
        workspace.sae("x")
    make(workspace, "known")
    with pytest.raises(WorkspaceError, match="there is known"):
        workspace.sae("x")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "a b", "é", "x" * 121])
def test_names_that_could_leave_the_folder_are_refused(workspace, name):
    for ask in (workspace.sae, workspace.run, workspace.activations):
        with pytest.raises(WorkspaceError, match="cannot be a name"):
            ask(name)
    with pytest.raises(WorkspaceError, match="cannot be a name"):
        make(workspace, name)


def test_metrics_are_absent_until_evaluated(workspace):
    make(workspace, "a")
    assert workspace.metrics("a") is None
    with publish(workspace.sae("a") / "metrics.json") as part:
        part.write_text('{"l0": 3.5}')
    assert workspace.metrics("a") == {"l0": 3.5}


def test_training_log_leaves_out_a_torn_last_line_only(workspace):
    make(workspace, "a")
    assert workspace.training("a") == []
    log = workspace.sae("a") / "train.jsonl"
    log.write_text('{"step": 1, "loss": null}\n{"step": 2}\n{"step": 3, "lo')
    assert workspace.training("a") == [{"step": 1, "loss": None}, {"step": 2}]
    log.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(WorkspaceError, match="line 2 is not JSON"):
        workspace.training("a")


def test_damaged_json_is_named(workspace):
    make(workspace, "a")
    (workspace.sae("a") / "metrics.json").write_text('{"l0": ')
    with pytest.raises(WorkspaceError, match=r"metrics\.json is not JSON"):
        workspace.metrics("a")


def test_results_are_those_of_the_newest_run_of_that_sae(workspace):
    assert workspace.runs("a") == [] and workspace.results("a") is None
    times = {"old": 100, "new": 300, "other": 400, "unfinished": 200}
    for name, at in times.items():
        folder = workspace.run(name)
        folder.mkdir(parents=True)
        about = {"sae": "b" if name == "other" else "a", "judge": "lexical"}
        (folder / "run.json").write_text(json.dumps(about))
        told = folder / "run.json"
        if name != "unfinished":
            told = folder / "results.duckdb"
            told.write_bytes(b"")
        os.utime(told, (at, at))
    assert workspace.runs("a") == ["new", "unfinished", "old"]
    assert workspace.results("a") == workspace.run("new") / "results.duckdb"
    assert workspace.results("b") == workspace.run("other") / "results.duckdb"


# -- whole or not at all


def test_taken_name_needs_replace(workspace):
    make(workspace, "a")
    with pytest.raises(WorkspaceError, match="saes/a exists already.*--replace"):
        make(workspace, "a", "second")
    assert workspace.config("a") == {"mark": "first"}
    make(workspace, "a", "second", replace=True)
    assert workspace.config("a") == {"mark": "second"}
    assert names(workspace.root / "saes") == ["a"]


def test_old_result_stays_while_its_successor_is_made(workspace):
    make(workspace, "a")
    with workspace.new_sae("a", replace=True) as part:
        fill(part, "second")
        assert workspace.config("a") == {"mark": "first"}
        assert workspace.saes == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(workspace, error):
    for first in (False, True):
        if first:
            make(workspace, "a")
        with pytest.raises(error), workspace.new_sae("a", replace=True) as part:
            fill(part, "second")
            raise error
        assert names(workspace.root / "saes") == (["a"] if first else [])
    assert workspace.config("a") == {"mark": "first"}


def test_two_makers_of_one_name(workspace):
    with workspace.new_sae("a") as part:
        fill(part, "first")
        with pytest.raises(WorkspaceError, match=f"being made by process {os.getpid()}"):
            make(workspace, "a", "second")
        make(workspace, "b")
    assert workspace.config("a") == {"mark": "first"}


def test_activations_are_published_alike(workspace):
    with workspace.new_activations("abc123") as part:
        (part / "shard-0").mkdir()
        (part / "shard-0" / "data").write_bytes(b"x")
        assert not workspace.activations("abc123").exists()
    assert (workspace.activations("abc123") / "shard-0" / "data").read_bytes() == b"x"


def test_left_overs_of_dead_processes_go_and_others_stay(workspace):
    saes = workspace.root / "saes"
    make(workspace, "kept")
    gone = [f".a.part-{NO_PROCESS}", f".kept.old-{NO_PROCESS}"]
    stay = [f".b.part-{os.getpid()}", ".gitkeep"]
    for name in [*gone, *stay]:
        (saes / name).mkdir()
    make(workspace, "new")
    assert names(saes) == sorted([*stay, "kept", "new"])


def test_old_result_comes_back_if_its_successor_never_came(workspace):
    saes = workspace.root / "saes"
    make(workspace, "a")
    os.rename(saes / "a", saes / f".a.old-{NO_PROCESS}")  # killed between the two renames
    make(workspace, "b")
    assert workspace.config("a") == {"mark": "first"}


def test_publish_replaces_in_one_step(tmp_path):
    path = tmp_path / "below" / "metrics.json"
    for text in ("one", "two"):
        with publish(path) as part:
            part.write_text(text)
            part.with_name(part.name + ".wal").write_text("beside")
            assert text == "one" or path.read_text() == "one"
        assert path.read_text() == text
        assert names(path.parent) == ["metrics.json"]
    with pytest.raises(ValueError), publish(path) as part:
        part.write_text("three")
        raise ValueError
    assert path.read_text() == "two" and names(path.parent) == ["metrics.json"]


# -- kill -9

MAKE_SAES = """
import json, sys
from data.workspace import Workspace
workspace = Workspace.open(sys.argv[1])
for n in range(1000000):
    with workspace.new_sae("a", replace=True) as part:
        (part / "cfg.json").write_text(json.dumps({"n": n}))
        for k in range(5):
            (part / f"{k}.bin").write_bytes(bytes([n % 256]) * 50000)
        (part / "sae_weights.safetensors").write_bytes(bytes([n % 256]) * 50000)
    print(n, flush=True)
"""
MAKE_STORES = """
import sys
from pathlib import Path
from tests.data import handmade
for n in range(1000000):
    handmade.write(Path(sys.argv[1]), meta={"n": n})
    print(n, flush=True)
"""


# Dies right before its k-th call that changes what is on the disk, or lives if there are fewer.
DIE_AT_STEP = """
import os, signal, sys
from data.workspace import Workspace
workspace, left = Workspace.open(sys.argv[1]), int(sys.argv[2])

def dying(call):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

for name in ("rename", "replace", "fsync", "mkdir", "rmdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
with workspace.new_sae("a", replace=True) as part:
    (part / "cfg.json").write_text('{"mark": "second"}')
    (part / "sae_weights.safetensors").write_bytes(b"")
"""


def test_kill_at_every_step_leaves_the_old_the_new_or_nothing(tmp_path):
    seen, step = [], 0
    while not seen or seen[-1] != "lived":
        workspace = Workspace.open(tmp_path / str(step))
        make(workspace, "a")
        command = [sys.executable, "-c", DIE_AT_STEP, str(workspace.root), str(step)]
        status = subprocess.run(command, cwd=REPOSITORY).returncode
        assert status in (0, -signal.SIGKILL)
        mark = workspace.config("a")["mark"] if workspace.saes else "nothing"
        seen.append(mark if status else "lived")
        make(workspace, "b")
        assert names(workspace.root / "saes") == ["a", "b"], "left-overs gone, the result there"
        assert workspace.config("a")["mark"] == ("first" if mark == "nothing" else mark)
        step += 1
    assert seen[-1] == "lived" and set(seen[:-1]) == {"first", "nothing", "second"}
    assert seen == sorted(seen, key=["first", "nothing", "second", "lived"].index)


def killed_after(code: str, path: Path, rounds: int, delay: float) -> int:
    """Runs `code`, kills it `delay` seconds after its n-th line; returns the last number told."""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    told = [int(writer.stdout.readline()) for _ in range(rounds)]
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    return [*told, *map(int, rest.split())][-1]


@pytest.mark.parametrize("delay", [0.0, 0.007])
def test_kill_in_the_middle_of_a_folder(workspace, delay):
    last = killed_after(MAKE_SAES, workspace.root, rounds=2, delay=delay)
    if workspace.saes == ["a"]:
        check_folder(workspace, last)
    make(workspace, "b")
    assert names(workspace.root / "saes") == ["a", "b"], "left-overs gone, the result there"
    check_folder(workspace, last)


def check_folder(workspace: Workspace, last: int) -> None:
    n = workspace.config("a")["n"]
    assert n in (last, last + 1)
    contents = {path.read_bytes() for path in workspace.sae("a").glob("*[0-9s]") if path.is_file()}
    assert contents == {bytes([n % 256]) * 50000}
    assert len(list(workspace.sae("a").iterdir())) == 7


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_kill_in_the_middle_of_a_store(tmp_path, delay):
    from data.features_store import FeatureStore
    from data.schema import open_root

    path = tmp_path / "features.duckdb"
    last = killed_after(MAKE_STORES, path, rounds=1, delay=delay)
    store = FeatureStore(open_root(), path)
    assert store.meta["n"] in (last, last + 1) and store.n_features == 6
    handmade.write(path)
    assert names(tmp_path) == ["features.duckdb"]


def test_labels_in_lists_are_a_judges_and_of_many_features(tmp_path):
    """A run of one feature, or of people's own words, does not take the labels of all others."""
    workspace = Workspace.open(tmp_path / "w")
    runs = (("whole", "lexical", 100), ("one", "gemini:m", 1), ("people", "people", 300))
    for age, (name, judge, features) in enumerate(runs):
        folder = workspace.run(name)
        folder.mkdir(parents=True)
        about = {"sae": "a", "judge": judge, "features": features}
        (folder / "run.json").write_text(json.dumps(about))
        (folder / "results.duckdb").write_bytes(b"")
        os.utime(folder / "results.duckdb", (age, age))
    assert workspace.runs("a")[0] == "people"
    assert workspace.results("a") == workspace.run("whole") / "results.duckdb"
    os.utime(workspace.run("one") / "results.duckdb", (9, 9))
    (workspace.run("one") / "run.json").write_text('{"sae": "a", "judge": "m", "features": 60}')
    assert workspace.results("a") == workspace.run("one") / "results.duckdb"
