"""The model worker as a real process: it starts, answers like the engine, refuses, and ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from data import lm as language_models
from data.errors import WorkbenchError, WorkerError
from data.processes import identity
from data.records import LiveCode, LiveToken
from data.tokens import ContextRule
from data.workspace import Workspace
from interp.engine import open_engine
from interp.live import LiveModel, pack, unpack
from interp.steering import Plan
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
    """A workspace with the SAEs `one`, `two`, `fresh` and (at another site) `deep` of one model,
    `elsewhere` of another, and `lost`, whose model is not there."""
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
    second = tiny.save(root / "second", seed=3)
    changes = {
        "lost": {"lm": str(root / "gone"), "lm_weights": "0"},
        "deep": {"site": "mlp_out.2"},
        "elsewhere": {
            "lm": str(second),
            "lm_weights": language_models.load(str(second), "cpu").fingerprint,
        },
    }
    names = ("one", "two", "lost", "deep", "fresh", "elsewhere")
    for seed, name in enumerate(names):
        with workspace.new_sae(name) as folder:
            record = {**made, **changes.get(name, {})}
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
    for ask in (
        lambda: live.encode("text"),
        lambda: live.ablate("text", 3),
        lambda: live.steer("text", 3, mode="ablate"),
    ):
        with pytest.raises(WorkerError, match="start it first"):
            ask()
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


def _alike(found, expected) -> None:
    """Two records are equal, numbers but for the last digits; how long they took aside."""
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            if field.name != "ms":
                _alike(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(found, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _alike(one, other)
    else:
        same = pytest.approx(expected, rel=1e-3, abs=1e-6) if type(found) is float else expected
        assert found == same


def test_an_ablation_through_the_worker_is_the_engines(live, root):
    engine = open_engine(root / "saes" / "one", "cpu")
    statuses = set()
    for feature in range(8):
        found = live.ablate("def read(file): \U0001f467 return key", feature, seed=3)
        _alike(found, engine.ablate("def read(file): \U0001f467 return key", feature, seed=3))
        statuses.add(found.status)
        assert found.ms > 0
    assert {"ok", "silent"} <= statuses


def test_steered_text_through_the_worker_is_the_engines(live, root):
    engine = open_engine(root / "saes" / "one", "cpu")
    options = {"strengths": (1.0, -2.0), "max_act": 1.5, "n_tokens": 6, "seed": 4, "top_p": 0.9}
    for given in (options, {"mode": "ablate", "n_tokens": 6, "temperature": 0.0}):
        found = live.steer("def read(", 3, **given)
        _alike(found, engine.steer("def read(", Plan(3, **given)))
        assert [text.strength for text in found.texts][0] == 0 and len(found.texts) > 1


def test_bad_requests_for_ablation_and_steering_are_told_and_the_worker_lives_on(live):
    with pytest.raises(WorkbenchError, match="no feature 20 in this SAE: it has 0 to 19"):
        live.ablate("text", 20)
    with pytest.raises(WorkbenchError, match="type some text"):
        live.ablate(" ", 3)
    with pytest.raises(WorkbenchError, match="0 strengths: give 1 to 4"):
        live.steer("text", 3)
    with pytest.raises(WorkbenchError, match="no mode 'push'"):
        live.steer("text", 3, mode="push")
    with pytest.raises(WorkbenchError, match="not a request: .*colour"):
        live.steer("text", 3, colour="red")
    with pytest.raises(WorkbenchError, match="not a request"):
        live.steer("text", "three", mode="ablate")
    other = LiveModel(live.workspace, "nobody")
    for ask in (lambda: other.ablate("text", 3), lambda: other.steer("text", 3, mode="ablate")):
        with pytest.raises(WorkerError, match="not loaded yet"):
            ask()
    assert live.state()["state"] == "ready"


def test_records_survive_the_wire():
    token = LiveToken(b"\xf0\x9f\x00", False, True, ((3, 0.5), (4, 0.25)))
    sent = json.loads(json.dumps(pack(LiveCode((token,), False, 1.0))))
    back = unpack(sent)
    assert LiveToken(**back["tokens"][0]) == token and back["truncated"] is False
    assert unpack(pack((None, b"", ()))) == (None, b"", ())


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
    for name, reason in [
        ("nobody", "there is deep, elsewhere, fresh, lost, one, two"),
        ("lost", "no model folder at"),
    ]:
        other = LiveModel(root, name)
        with pytest.raises(WorkerError, match="not loaded yet"):
            other.encode("text")
        other.start()
        assert reason in _wait(other, "failed")["detail"]
    assert live.state()["state"] == "ready", "the one before stays loaded"


def test_one_process_holds_several_saes_and_runs_their_model_once(live, root):
    pid = json.loads(live.address_file.read_text())["pid"]
    two, deep = LiveModel(root, "two"), LiveModel(root, "deep")
    live.start(["two", "deep"])
    _wait(two, "ready")
    _wait(deep, "ready")
    assert live.state()["state"] == "ready" and live.state()["worker"] == pid
    text = "def read(file): return key"
    together = live.encode_many(text, ("one", "two", "deep"), top=4)
    assert list(together) == ["one", "two", "deep"]
    for name, found in together.items():
        _alike(found, open_engine(root / "saes" / name, "cpu").encode(text, top=4))
    assert together["one"].ms == together["two"].ms, "one run"
    assert together["one"].tokens != together["two"].tokens
    with pytest.raises(WorkerError, match="nobody is not loaded yet"):
        live.encode_many(text, ("one", "nobody"))


def test_effects_of_many_features_are_those_of_each_alone(live):
    text, told = "def read(file): return key", []
    features = list(range(19, -1, -1))
    found = live.effects(text, features, seed=3, tell=told.append)
    assert list(found) == features
    for feature in (0, 7, 19):
        alone = live.ablate(text, feature, seed=3)
        effect = found[feature]
        assert effect.status == alone.status and effect.n_examples == (alone.status == "ok")
        for name in ("kl", "delta_loss", "random_kl"):
            expected = getattr(alone, name)
            assert getattr(effect, name) == (
                expected if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-6)
            )
    assert {effect.status for effect in found.values()} >= {"ok", "silent"}
    assert told and told[0] == {"what": "ablating features", "done": 0, "total": 20}
    assert live.effects(text, []) == {}
    with pytest.raises(WorkbenchError, match="no feature 20"):
        live.effects(text, [3, 20])


class Enough(Exception):
    pass


def test_steering_tells_its_tokens_and_ends_when_nobody_listens(live):
    told = []

    def tell(progress):
        raise Enough(progress)

    plan = {"mode": "ablate", "n_tokens": 48, "seed": 1}
    live.steer("def", 3, tell=told.append, **plan)
    assert told[0] == {"what": "writing tokens", "done": 0, "total": 48}
    with pytest.raises(Enough):
        live.steer("def", 3, tell=tell, **plan)
    assert live.encode("text").tokens and live.state()["state"] == "ready"


def test_requests_take_turns_and_tell_who_waits(live):
    told, found = [], []
    steer = threading.Thread(
        target=lambda: found.append(live.steer("def", 3, mode="ablate", n_tokens=40))
    )
    steer.start()
    while steer.is_alive():
        live.encode_many("def read", ("one",), tell=told.append)
    steer.join()
    assert len(found[0].texts) == 2
    assert all(t == {"what": "waiting for a turn", "before": 1} for t in told)


def test_an_sae_that_was_trained_anew_is_loaded_again_and_never_mixed_up(live, root, cache):
    """The file is replaced under the worker, as `train --replace` does."""
    other = LiveModel(root, "fresh")
    other.start()
    _wait(other, "ready")
    before = other.encode("def read return")
    weights = root / "saes" / "fresh" / "sae_weights.safetensors"
    config = root / "saes" / "fresh" / "cfg.json"
    metadata = json.loads(config.read_text())["metadata"]
    formats.save(tiny.random_sae(cache.x, 20, share=0.2, seed=77), weights.parent, metadata)
    state = other.state()
    assert state["state"] == "stopped" and "was changed" in state["detail"] and state["again"]
    with pytest.raises(WorkerError, match="was changed since it was loaded"):
        other.encode("def read return")
    other.start()
    _wait(other, "ready")
    assert other.encode("def read return").tokens != before.tokens
    weights.unlink()
    assert other.state()["state"] == "stopped"
    other.start()
    assert "no SAE 'fresh'" in _wait(other, "failed")["detail"]
    assert live.state()["state"] == "ready"


def test_an_sae_of_another_model_takes_the_place_of_the_first_ones(live, root):
    pid = json.loads(live.address_file.read_text())["pid"]
    elsewhere = LiveModel(root, "elsewhere")
    elsewhere.start()
    _wait(elsewhere, "ready")
    assert elsewhere.encode("def read").tokens
    gone = live.state()
    assert gone["state"] == "stopped" and "gave way to elsewhere" in gone["detail"]
    assert not gone["again"], "two people with two models must not chase each other"
    with pytest.raises(WorkerError, match="not loaded yet"):
        live.encode_many("def", ("one", "elsewhere"))
    live.start()
    _wait(live, "ready")
    assert json.loads(live.address_file.read_text())["pid"] == pid


def test_a_text_too_long_to_send_is_refused_here(live):
    with pytest.raises(WorkbenchError, match="9,000,000 characters, 8,000,000 are accepted"):
        live.encode("x" * 9_000_000)


def test_a_worker_that_is_busy_is_what_it_was_before(live, monkeypatch):
    assert live.state()["state"] == "ready"

    def late(*_):
        raise TimeoutError

    monkeypatch.setattr(live, "_ask", late)
    assert live.state()["state"] == "ready"
    stranger = LiveModel(live.workspace, "two")
    monkeypatch.setattr(stranger, "_ask", late)
    assert stranger.state() == {
        "state": "loading", "detail": "the model worker is busy", "seconds": 0.0,
        "worker": live.state()["worker"],
    }  # fmt: skip


def test_a_worker_that_was_killed_is_noticed_and_another_one_started(tmp_path, monkeypatch):
    """A process of ours stands for the worker; what start() starts is only written down."""
    live = LiveModel(tmp_path, "one")
    process = subprocess.Popen(["sleep", "600"])
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # bound but not listening: it refuses
            address = {**identity(process.pid), "port": probe.getsockname()[1], "token": "t"}
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


def test_a_worker_that_is_killed_in_the_middle_of_a_request(live):
    """It is held still first, so that the request is surely under way."""
    live.start()
    _wait(live, "ready")
    pid = json.loads(live.address_file.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    errors = []

    def ask() -> None:
        try:
            live.encode("def read")
        except WorkerError as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    began = time.monotonic()
    for _ in range(5):
        assert live.state()["state"] == "ready", "as it was before"
    assert time.monotonic() - began < 5 * 0.3, "a state is asked for 50 ms at most"
    os.kill(pid, signal.SIGKILL)
    asking.join(PATIENCE_S)
    assert "does not answer" in errors[0] and str(live.workspace) not in errors[0]
    _wait(live, "stopped")
    live.start()
    _wait(live, "ready")
    assert live.encode("def read").tokens


def test_loading_can_be_given_up(live):
    """The worker holds other SAEs, so it stays; a load that was given up is told as such."""
    pid = json.loads(live.address_file.read_text())["pid"]
    other = LiveModel(live.workspace, "elsewhere")
    other.start()
    other.cancel()
    state = other.state()
    assert state["state"] in ("stopped", "ready") and state["worker"] == pid
    live.start()
    _wait(live, "ready")


def test_it_ends_when_told(live):
    """Last: the worker of this module ends here."""
    pid = json.loads(live.address_file.read_text())["pid"]
    live.stop()
    _wait(live, "stopped")
    end = time.monotonic() + PATIENCE_S
    while live.address_file.exists() or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
