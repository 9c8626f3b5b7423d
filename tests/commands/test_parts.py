"""The small parts of commands: what is typed, what is told, and the door itself."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

import run
from commands import progress
from commands.app import free_port
from commands.capture import anywhere
from commands.progress import track
from data.errors import WorkbenchError
from interp.judges.opened import open_judge


def test_an_unknown_judge_is_refused():
    with pytest.raises(WorkbenchError, match="no judge 'nobody': there are lexical, people"):
        open_judge("nobody", {}, Path("replies"))


def test_local_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    assert anywhere("texts") == str(tmp_path / "texts")
    Path("demo").mkdir()
    for name in ("demo", "owner/model", "python:stdlib", "", "hf:a/b"):
        assert anywhere(name) == name


def test_progress_goes_to_standard_error_and_passes_every_step_on(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", -1.0)  # a line a step
    steps = list(track(range(5), "counting", lambda s: (s + 1, 5), lambda s: f"at {s}"))
    told = capsys.readouterr()
    assert steps == [0, 1, 2, 3, 4]
    lines = told.err.splitlines()
    assert told.out == "" and lines[:5] == [f"counting: {20 * i}%  at {i - 1}" for i in range(1, 6)]
    assert lines[5].startswith("counting: done in") and lines[5].endswith("at 4")
    assert list(track([], "nothing", lambda s: (0, 1))) == []
    assert capsys.readouterr().err == ""


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 100


def test_help_lists_every_command_and_an_unknown_one_exits_with_2(capsys):
    assert run.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in run.COMMANDS)
    assert run.main(["nothing", "here"]) == 2
    assert "no command 'nothing here'" in capsys.readouterr().err


def test_every_command_named_exists(capsys):
    import importlib

    for module, dataclass_name, _ in run.COMMANDS.values():
        command = importlib.import_module(module)
        assert callable(command.run) and getattr(command, dataclass_name).__doc__


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tokens": float("nan")}, "--tokens nan"),
        ({"tokens": float("inf")}, "--tokens inf"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed 9223372036854775808"),
    ],
)
def test_numbers_that_no_command_can_use_are_refused(values, says):
    @dataclass
    class Args:
        tokens: float | None = None
        seed: int = 0

    run.refuse_odd_numbers(Args())
    with pytest.raises(WorkbenchError, match=says):
        run.refuse_odd_numbers(Args(**values))
