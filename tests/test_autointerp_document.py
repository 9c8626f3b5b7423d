"""docs/AUTOINTERP.md against the program: its Python runs, its commands parse, and those that need
neither a key nor hours run on a tiny workspace, in their order."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import tyro

import run
from interp import control_sae
from interp.autointerp import METHODS
from interp.judges.named import KINDS
from interp.protocols.explain import PROTOCOLS
from tests.commands import untrained

TEXT = (Path(__file__).resolve().parents[1] / "docs/AUTOINTERP.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, re.S | re.M)
COMMANDS = [
    line.removeprefix("python run.py ").split()
    for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()
]  # fmt: skip
CODE = [block for kind, block in BLOCKS if kind == "python"]
ELSEWHERE = {"--judge", "train"}  # needs a service or people's labels; takes minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The workspace of the document: `demo` and `demo-topk`, harvested."""
    path = tmp_path_factory.mktemp("document")
    made = untrained.workspace(path, {"demo": "resid_post.1", "demo-topk": "resid_post.0"})
    for name in ("demo", "demo-topk"):
        assert run.main(["harvest", name, "--workspace", str(made.root)]) == 0
    return path


def argument_class(words: list[str]):
    """(dataclass, the words that are left for it)."""
    name = next(n for n in run.COMMANDS if words[: len(n.split())] == n.split())
    module, dataclass_name, _ = run.COMMANDS[name]
    return getattr(importlib.import_module(module), dataclass_name), words[len(name.split()) :]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one(words):
    dataclass, left = argument_class(words)
    tyro.cli(dataclass, args=left, config=(tyro.conf.PositionalRequiredArgs,))


def test_the_commands_run_in_their_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    ran = [words for words in COMMANDS if not ELSEWHERE & set(words)]
    for words in ran:
        assert run.main(words) == 0, (words, capsys.readouterr().err)
    assert {words[0] for words in ran} >= {"explain", "score", "control", "control-lm", "arms"}
    assert (folder / "workspace/arms/first/report.html").is_file()


def test_the_python_runs_in_five_lines(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = CODE
    body = [line for line in code.splitlines() if line and not line.startswith("from ")]
    assert len(body) == 5
    exec(compile(code, "AUTOINTERP.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all(line.split()[0] == str(n) for n, line in enumerate(lines))


def test_nothing_that_can_be_chosen_is_left_out():
    for name in METHODS:
        assert f"| `{name}` |" in TEXT
    for name in PROTOCOLS:
        assert re.search(rf"^- `{name}`", TEXT, re.M), name
    for kind in KINDS:
        assert f"| `{kind}:" in TEXT
    for name in (*control_sae.DIRECTIONS, *control_sae.THRESHOLDS):
        assert f"`{name}`" in TEXT


def test_options_in_prose_exist():
    """Every --option that the text names belongs to one of these commands."""
    known = {"--help"}
    for name in ("explain", "score", "harvest", "control", "control-lm", "arms new", "arms run"):
        module, dataclass_name, _ = run.COMMANDS[name]
        dataclass = getattr(importlib.import_module(module), dataclass_name)
        known |= {f"--{f.replace('_', '-')}" for f in dataclass.__dataclass_fields__}
    service = importlib.import_module("interp.judges.service").Service
    known |= {f"--{f.replace('_', '-')}" for f in service.__dataclass_fields__}
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    assert set(re.findall(r"`?(--[a-z][a-z-]+)", prose)) <= known
