"""Runs that are stopped or killed go on as if nothing had happened; grids as well."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run
from commands.recipe import parsed
from data.workspace import Workspace
from sae.config import Refused
from tests import tiny

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--d-sae 40 --l0 4 --tokens 64000 --batch 64 --corpus-tokens 3000 --context 16 "
    "--site resid_post.1 --device cpu"
).split()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return [
        "--lm", str(tiny.save(folder / "model")),
        "--text", str(tiny.write_jsonl(folder / "text.jsonl", tiny.sentences(150))),
    ]  # fmt: skip


def _words(name, inputs, workspace, *more):
    return ["train", name, *OPTIONS, *inputs, "--workspace", str(workspace), *more]


def _weights(workspace, name):
    return (Path(workspace) / "saes" / name / "sae_weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """An uninterrupted run, 1,000 steps."""
    workspace = tmp_path_factory.mktemp("whole")
    assert run.main(_words("a", inputs, workspace)) == 0
    return workspace


def _started(words):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # The same thread count as the uninterrupted run's: part of what makes bytes alike.
    code = (
        "import sys, torch; torch.set_num_threads(1); import run; sys.exit(run.main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _wait_for_records(workspace, name, n):
    log = Workspace.open(workspace).unfinished(name) / "train.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < n:
        assert time.monotonic() < deadline, "no records"
        time.sleep(0.01)


def _checkpoint_step(workspace, name):
    folder = Workspace.open(workspace).unfinished(name) / "checkpoint"
    return json.loads((folder / "state.json").read_text())["done"]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.soak) for s in range(1, 12))]
)
def test_killed_at_a_random_step_and_resumed_is_byte_identical(seed, inputs, whole, tmp_path):
    """kill -9 once or more, at any moment after the first checkpoint."""
    where = random.Random(seed)
    options: list[str] = []
    for _ in range(where.choice((1, 2))):
        process = _started(_words("a", inputs, tmp_path, *options))
        _wait_for_records(tmp_path, "a", where.randrange(8, 60))
        process.kill()
        process.communicate()
        assert 0 < _checkpoint_step(tmp_path, "a") < 1000
        assert Workspace.open(tmp_path).saes == [], "nothing under the final name"
        options = ["--resume"]
    assert run.main(_words("a", inputs, tmp_path, "--resume")) == 0
    assert _weights(tmp_path, "a") == _weights(whole, "a")
    rows = [Workspace.open(p).training("a") for p in (tmp_path, whole)]
    for row in (*rows[0], *rows[1]):
        row.pop("tokens_per_s")
    assert rows[0] == rows[1] and len(rows[0]) == 100
    assert not Workspace.open(tmp_path).unfinished("a").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(inputs, whole, tmp_path):
    process = _started(_words("a", inputs, tmp_path))
    _wait_for_records(tmp_path, "a", 3)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with --resume" in told
    assert "Traceback" not in told and Workspace.open(tmp_path).saes == []
    stopped = _checkpoint_step(tmp_path, "a")
    assert f"stopped at step {stopped:,} of 1,000" in told
    assert run.main(_words("a", inputs, tmp_path, "--resume")) == 0
    assert _weights(tmp_path, "a") == _weights(whole, "a")


def test_a_stopped_run_is_not_lost_by_mistake(inputs, tmp_path, capsys):
    process = _started(_words("a", inputs, tmp_path))
    _wait_for_records(tmp_path, "a", 10)
    process.kill()
    process.communicate()
    for more, says in (
        ((), "can go on with --resume"),
        (("--resume", "--l0", "6"), "l0 4.0 -> 6.0"),
        (("--resume", "--seed", "1"), "seed 0 -> 1"),
    ):
        assert run.main(_words("a", inputs, tmp_path, *more)) == 2
        assert says in capsys.readouterr().err
    assert _checkpoint_step(tmp_path, "a") > 0
    assert run.main(_words("a", inputs, tmp_path, "--replace")) == 0


def test_nothing_to_resume(inputs, tmp_path, capsys):
    assert run.main(_words("a", inputs, tmp_path, "--resume")) == 2
    assert "no stopped run of a" in capsys.readouterr().err


def test_memory_and_time_are_said_before_the_run(inputs, whole, tmp_path, capsys):
    assert run.main(_words("b", inputs, tmp_path)) == 0
    told = capsys.readouterr().out
    assert "b: about" in told and "MB for 1,000 steps on cpu" in told


def test_fitted_on_a_finished_sae(inputs, tmp_path, capsys):
    words = _words("base", inputs, tmp_path, "--arch", "relu")
    assert run.main(words) == 0
    more = ("--fit", "rescale_shift", "--start-from", "base")
    words = [w for w in _words("fitted", inputs, tmp_path, *more)]
    del words[words.index("--l0") : words.index("--l0") + 2]
    assert run.main(words) == 0
    config = json.loads((tmp_path / "saes" / "fitted" / "cfg.json").read_text())
    assert config["architecture"] == "gated"
    assert run.main(_words("x", inputs, tmp_path, "--fit", "rescale")) == 2
    assert "belong together" in capsys.readouterr().err
    more = ("--fit", "rescale", "--start-from", "base", "--arch", "gated")
    assert run.main(_words("x", inputs, tmp_path, *more)) == 2
    assert "decides the architecture" in capsys.readouterr().err
    made = config["metadata"]["workbench"]
    assert made["start_from"] == "base" and made["training"]["preset"] == "fit"


def test_any_field_can_be_set(inputs, tmp_path, capsys):
    more = ("--set", "kernel=epanechnikov", "betas=(0.9, 0.99)", "penalty=quadratic_frequency")
    assert run.main(_words("k", inputs, tmp_path, *more)) == 0
    config = json.loads((tmp_path / "saes" / "k" / "cfg.json").read_text())
    training = config["metadata"]["workbench"]["training"]
    assert (training["kernel"], training["betas"]) == ("epanechnikov", [0.9, 0.99])
    for setting, says in (
        ("colour=1", "no such field"),
        ("lr", "write FIELD=VALUE"),
        ("architecture=gated", "say it with --arch"),
        ("seed=abc", "must be a whole number"),
    ):
        assert run.main(_words("x", inputs, tmp_path, "--set", setting)) == 2
        assert says in capsys.readouterr().err
    assert parsed(("centre=false", "clip=none")) == {"centre": False, "clip": None}
    with pytest.raises(Refused, match="FIELD=VALUE"):
        parsed(("=3",))


# -- grids


def _sweep(inputs, workspace, *more):
    words = [w for w in OPTIONS if w not in ("--l0", "4", "--site", "resid_post.1")]
    return ["sweep", "grid", *words, *inputs, "--workspace", str(workspace), *more]


GRID = ("--l0s", "3", "5", "--archs", "jumprelu", "gated", "--sites", "resid_post.0", "mlp_out.1")


def test_a_grid_is_trained_and_left_alone_when_finished(inputs, tmp_path, capsys):
    assert run.main(_sweep(inputs, tmp_path, *GRID)) == 0
    workspace = Workspace.open(tmp_path)
    assert len(workspace.saes) == 8
    name = "grid-mlp_out.1-gated-l0_5-seed_0"
    assert name in workspace.saes and len(workspace.training(name)) == 100
    made = workspace.config(name)["metadata"]["workbench"]
    assert (made["site"], made["training"]["l0"]) == ("mlp_out.1", 5.0)
    assert len(list((tmp_path / "activations").iterdir())) == 2
    before = {n: _weights(tmp_path, n) for n in workspace.saes}
    capsys.readouterr()
    assert run.main(_sweep(inputs, tmp_path, *GRID)) == 0
    assert "8 SAEs, 8 of them finished" in capsys.readouterr().out
    assert {n: _weights(tmp_path, n) for n in workspace.saes} == before
    assert not list((tmp_path / "saes").glob(".*"))


def test_a_stopped_grid_publishes_nothing_and_goes_on(inputs, tmp_path):
    more = ("--l0s", "3", "5", "--sites", "resid_post.1")
    process = _started(_sweep(inputs, tmp_path, *more))
    _wait_for_records(tmp_path, "grid-resid_post.1-jumprelu-l0_5-seed_0", 5)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command goes on" in told
    assert Workspace.open(tmp_path).saes == []
    assert run.main(_sweep(inputs, tmp_path, *more)) == 0
    assert len(Workspace.open(tmp_path).saes) == 2


def test_a_killed_grid_goes_on(inputs, tmp_path):
    more = ("--l0s", "3", "5", "--sites", "resid_post.1")
    whole = tmp_path / "whole"
    assert run.main(_sweep(inputs, whole, *more)) == 0
    process = _started(_sweep(inputs, tmp_path / "killed", *more))
    name = "grid-resid_post.1-jumprelu-l0_5-seed_0"
    _wait_for_records(tmp_path / "killed", name, 20)
    process.kill()
    process.communicate()
    assert run.main(_sweep(inputs, tmp_path / "killed", *more)) == 0
    for name in Workspace.open(whole).saes:
        assert _weights(tmp_path / "killed", name) == _weights(whole, name)


def test_a_grid_that_cannot_be_is_refused_before_any_work(inputs, tmp_path, capsys):
    for more, says in (
        (("--l0s", "30"), "more than half"),
        (("--archs", "cubist"), "no recipe for architecture"),
        (("--at-once", "0"), "--at-once 0"),
        (("--preset", "deepmind", "--l0s", "4"), "small_budget preset"),
    ):
        assert run.main(_sweep(inputs, tmp_path, *more)) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "saes").exists() or not list((tmp_path / "saes").iterdir())
