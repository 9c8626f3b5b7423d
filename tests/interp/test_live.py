"""The model worker as a real process: it starts, answers like the engine, refuses, and ends."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from data import lm as language_models
from data.errors import WorkbenchError, WorkerError
from data.tokens import ContextRule
from data.workspace import Workspace
from interp.engine import open_engine
from interp.live import LiveModel
from sae import formats
from tests import tiny

PATIENCE_S = 240.0  # a machine may be very busy; a test ends as soon as the state is there


def _wait(live: LiveModel, wanted: str) -> dict:
    """The first state that is not one of the expected ones before `wanted`."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        state = live.state()
        if state["state"] == wanted:
            return state
        assert state["state"] in ("loading", "ready", "stopped"), state
        time.sleep(0.05)
    raise AssertionError(f"{wanted} not reached: {live.state()}; {live.log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def root(tmp_path_factory, cache):
    """A workspace with the SAEs `one` and `two`, and `lost`, whose model is not there."""
    root = tmp_path_factory.mktemp("live")
    model = tiny.save(root / "model")
    made = {
        "lm": str(model),
        "lm_weights": language_models.load(str(model), "cpu").fingerprint,
        "dtype": "float32",
        "site": "resid_post.1",
        "text": "t",
        "text_field": "text",
        "corpus_tokens": 1000,
        "rule": dataclasses.asdict(ContextRule(16)),
        "mask": dataclasses.asdict(cache.mask),
    }
    workspace = Workspace.open(root / "workspace")
    for seed, name in enumerate(("one", "two", "lost")):
        with workspace.new_sae(name) as folder:
            record = made if name != "lost" else {**made, "lm": str(root / "gone")}
            sae = tiny.random_sae(cache.x, 20, share=0.2, seed=seed)
            formats.save(sae, folder, {"workbench": record})
    return workspace.root


@pytest.fixture(scope="module")
def live(root):
    """A running worker with `one` loaded."""
    live = LiveModel(root, "one")
    assert live.state()["state"] == "stopped"
    began = time.monotonic()
    live.start()
    try:
        assert time.monotonic() - began < 5, "starting must not wait for the model"
        assert live.state()["state"] == "loading"
        _wait(live, "ready")
        yield live
    finally:
        live.stop()


def _ask(live, message: bytes) -> dict:
    address = json.loads(live.address_file.read_text())
    with socket.create_connection(("127.0.0.1", address["port"]), 10) as connection:
        connection.sendall(message)
        return json.loads(connection.makefile("rb").readline())


def test_before_the_worker_runs_nothing_is_asked_of_it(tmp_path):
    live = LiveModel(tmp_path, "one")
    assert live.state()["state"] == "stopped"
    with pytest.raises(WorkerError, match="start it first"):
        live.encode("text")
    live.stop()  # harmless


def test_a_prompt_through_the_worker_is_the_engines(live, root):
    engine = open_engine(root / "saes" / "one", "cpu")
    for text in (
        "def read(file): return key",
        "caf\u00e9 \U0001f469\u200d\U0001f467 \x00",
        "x" * 300_000,
    ):
        found, expected = live.encode(text, top=4), engine.encode(text, top=4)
        assert found.truncated == expected.truncated and found.ms > 0
        for a, b in zip(found.tokens, expected.tokens, strict=True):
            assert (a.bytes, a.special, a.kept) == (b.bytes, b.special, b.kept)
            assert [i for i, _ in a.features] == [i for i, _ in b.features]
            assert [v for _, v in a.features] == pytest.approx([v for _, v in b.features], rel=1e-4)
        assert sum(len(t.features) for t in found.tokens) > 0


def test_bad_prompts_are_told_and_the_worker_lives_on(live):
    with pytest.raises(WorkbenchError, match="type some text"):
        live.encode("   ")
    assert live.state()["state"] == "ready"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b'{"op": "state", "token": "guess"}\n', "wrong token"),
        (b'{"op": "stop"}\n', "wrong token"),
        (b'{"op": "stop", "token": null}\n', "wrong token"),
        (b"not json\n", "not a request"),
        (b"[1, 2]\n", "not a request"),
        (b"\n", "not a request"),
    ],
)
def test_strangers_are_refused(live, message, says):
    assert says in _ask(live, message)["error"]
    assert live.state()["state"] == "ready"


def test_the_address_is_for_its_owner_only(live):
    assert live.address_file.stat().st_mode & 0o777 == 0o600


def test_asking_for_the_state_is_quick(live):
    began = time.monotonic()
    for _ in range(10):
        live.state()
    assert time.monotonic() - began < 10 * 0.5


def test_an_sae_that_is_not_there_and_one_whose_model_is_gone_fail_with_the_reason(live, root):
    for name, reason in [("nobody", "there is lost, one, two"), ("lost", "no model folder at")]:
        other = LiveModel(root, name)
        with pytest.raises(WorkerError, match="not loaded yet"):
            other.encode("text")
        other.start()
        assert reason in _wait(other, "failed")["detail"]
    assert live.state()["state"] == "ready", "the one before stays loaded"


def test_one_process_serves_all_and_changes_its_sae_when_asked(live, root):
    pid = json.loads(live.address_file.read_text())["pid"]
    two = LiveModel(root, "two")
    two.start()
    _wait(two, "ready")
    assert two.encode("def read").tokens != live_tokens(root, "one")
    assert live.state()["state"] == "stopped"
    live.start()
    _wait(live, "ready")
    assert json.loads(live.address_file.read_text())["pid"] == pid


def live_tokens(root, name):
    return open_engine(root / "saes" / name, "cpu").encode("def read").tokens


def test_a_worker_that_was_killed_is_noticed_and_another_one_started(tmp_path, monkeypatch):
    """A process of ours stands for the worker; what start() starts is only written down."""
    live = LiveModel(tmp_path, "one")
    process = subprocess.Popen(["sleep", "600"])
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # bound but not listening: it refuses
            address = {"pid": process.pid, "port": probe.getsockname()[1], "token": "t", "since": 0}
            live.address_file.parent.mkdir()
            live.address_file.write_text(json.dumps(address))
            assert live.state()["state"] == "stopped", "it runs but does not listen"
            with pytest.raises(WorkerError, match="does not answer"):
                live.encode("text")
    finally:
        process.kill()
        process.wait()
    assert live.state()["state"] == "stopped"
    with pytest.raises(WorkerError, match="start it first"):
        live.encode("text")
    started = []

    class Started:
        pid = os.getpid()

        def __init__(self, command, **options):
            started.append(command)

        def wait(self):
            pass

    monkeypatch.setattr("interp.live.subprocess.Popen", Started)
    live.start()
    live.start()
    assert len(started) == 1 and started[0][2:] == [
        "serve-model",
        "one",
        "--workspace",
        str(tmp_path),
    ]
    assert live.state()["state"] == "loading"


def test_it_ends_when_told(live):
    """Last: the worker of this module ends here."""
    pid = json.loads(live.address_file.read_text())["pid"]
    live.stop()
    _wait(live, "stopped")
    end = time.monotonic() + PATIENCE_S
    while live.address_file.exists() or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
