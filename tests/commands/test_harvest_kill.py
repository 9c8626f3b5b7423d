"""A harvest that is killed, or runs out of disk, at any moment: the store under the final name is
the old one or the new one, by the content of its rows, and --resume makes the new one."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run
from data import schema
from data.features_store import FeatureStore
from data.schema import open_root
from data.workspace import Workspace
from tests.commands import untrained

ROOT = Path(__file__).parents[2]
# Several blocks of features and parts of the corpus, so that a kill falls between and inside them.
OLD = ["harvest", "one", "--top", "3", "--device", "cpu"]
NEW = [*OLD[:2], "--top", "4", "--shards", "4", "--block", "9", "--device", "cpu"]
# Does the same elsewhere first: imports and first uses take many times as long as the harvest,
# and the kills should fall into that.
CHILD = """
import sys, torch, run
torch.set_num_threads(1)
elsewhere, here, *words = sys.argv[1:]
print("begins", run.main([*words, "--workspace", elsewhere]), flush=True)
sys.exit(run.main([*words, "--workspace", here]))
"""


@pytest.fixture(scope="module")
def harvested(tmp_path_factory) -> Workspace:
    """An SAE whose store was harvested with the old settings. To be read only."""
    made = untrained.workspace(tmp_path_factory.mktemp("harvested"), {"one": "resid_post.1"})
    assert run.main([*OLD, "--workspace", str(made.root)]) == 0
    return made


@pytest.fixture(scope="module")
def contents(harvested, tmp_path_factory) -> tuple[str, str, float]:
    """Content hashes of the old and the new store, and seconds that the new harvest takes."""
    folder = tmp_path_factory.mktemp("new")
    workspace = Workspace.open(shutil.copytree(harvested.root, folder / "workspace"))
    began = time.monotonic()
    assert run.main([*NEW, "--workspace", str(workspace.root)]) == 0
    return _content(harvested), _content(workspace), time.monotonic() - began


@pytest.fixture
def workspace(harvested, tmp_path) -> Workspace:
    return Workspace.open(shutil.copytree(harvested.root, tmp_path / "workspace"))


def _content(workspace: Workspace) -> str:
    """The content hash of the published store, which its rows must have."""
    path, root = workspace.feature_store("one"), open_root()
    claimed = FeatureStore(root, path).meta["content_hash"]
    with root.reading(path) as (cursor, store):
        cursor.execute(f"USE {store}")
        assert schema.content_hash(cursor) == claimed, "the file proves itself"
    root.close()
    return claimed


def _started(workspace: Workspace, *more: str) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    elsewhere = workspace.root.with_name("elsewhere")
    shutil.copytree(elsewhere.with_name("workspace"), elsewhere, dirs_exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(elsewhere), str(workspace.root), *NEW, *more],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while (line := process.stdout.readline()) != "begins 0\n":
        assert line, "it ended before it began"
    return process


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(s, marks=pytest.mark.soak) for s in range(3, 23))]
)
def test_killed_anywhere_it_leaves_one_of_the_two(seed, workspace, contents):
    """kill -9 once or twice, the second time while it resumes."""
    old, new, seconds = contents
    where, more = random.Random(seed), []
    for _ in range(where.choice((1, 2))):
        process = _started(workspace, *more)
        time.sleep(where.uniform(0, 1.2 * seconds))
        process.kill()
        process.communicate()
        assert _content(workspace) in (old, new)
        more = ["--resume"]
    assert run.main([*NEW, "--resume", "--workspace", str(workspace.root)]) == 0
    assert _content(workspace) == new
    folder = workspace.sae("one")
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    assert sorted(p.name for p in folder.parent.iterdir()) == ["one"], "nor beside it"


def test_killed_between_parts_it_goes_on_from_the_last(workspace, contents, monkeypatch):
    """What an earlier run finished is not read again."""
    from interp import harvest

    scratch = workspace.root / "saes" / ".one.harvest" / "state"
    process = _started(workspace)
    while process.poll() is None and not (scratch / "block-9.npz").exists():
        time.sleep(0.002)
    process.kill()
    process.communicate()
    done = [p.name for p in scratch.glob("block-*.npz")]
    read, real = [], harvest.Block.read
    monkeypatch.setattr(
        harvest.Block,
        "read",
        lambda block, a, b: read.append((block.lo, a)) or real(block, a, b),
    )
    assert run.main([*NEW, "--resume", "--workspace", str(workspace.root)]) == 0
    assert _content(workspace) == contents[1]
    if done:  # else it was faster than we looked, and had published
        assert {"block-0.npz", "block-9.npz"} <= set(done)
        assert not {(lo, a) for lo, a in read if lo in (0, 9)}


@pytest.mark.parametrize("room", [2_000, 50_000, 600_000])
def test_a_full_disk_ends_a_harvest_in_one_sentence(workspace, contents, capsys, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = workspace.feature_store("one").read_bytes()
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        code = run.main([*NEW, "--workspace", str(workspace.root)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines = [x for x in capsys.readouterr().err.splitlines() if "could not be written" in x]
    assert code == 2 and len(lines) == 1 and "free some space" in lines[0]
    assert (
        lines[0].startswith(("StoreError: ", "WorkspaceError: ")) and "File too large" in lines[0]
    )
    assert workspace.feature_store("one").read_bytes() == before
    assert run.main([*NEW, "--resume", "--workspace", str(workspace.root)]) == 0
    assert _content(workspace) == contents[1]
