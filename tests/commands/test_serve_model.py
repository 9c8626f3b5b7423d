"""The worker's turns, its callers and what it holds, without a model: made-up engines and loads."""

from __future__ import annotations

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from commands.serve_model import Caller, Gone, ServeModel, Turns, Worker
from interp.loaded import Held, Loaded, Loading
from tests.ui.small_store import write_sae

PATIENCE_S = 60.0


def _until(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------- turns


def test_turns_come_in_the_order_of_asking():
    turns, order, told, release = Turns(), [], [], threading.Event()

    def work(name: str) -> None:
        with turns.taken(told.append):
            if name == "a":
                release.wait(PATIENCE_S)
            order.append(name)

    threads = []
    for place, name in enumerate("abcd", start=1):
        threads.append(threading.Thread(target=work, args=(name,)))
        threads[-1].start()
        _until(lambda place=place: len(turns.waiting) == place)
    _until(lambda: {1, 2, 3} <= set(told))
    release.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["a", "b", "c", "d"] and turns.waiting == []


def test_who_gives_up_waiting_or_fails_leaves_the_queue():
    turns = Turns()

    def leave(before: int) -> None:
        raise Gone

    with turns.taken(leave), pytest.raises(Gone):
        with turns.taken(leave):
            raise AssertionError("it was not its turn")
    with pytest.raises(ZeroDivisionError), turns.taken(leave):
        raise ZeroDivisionError
    with turns.taken(leave):
        assert len(turns.waiting) == 1


# ---------------------------------------------------------------- callers


def test_a_caller_is_told_now_and_then_until_they_hang_up():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        caller = Caller(ours)
        for done in range(50):
            caller.tell(what="writing tokens", done=done, total=50)
        lines = theirs.recv(1 << 16).splitlines()
        assert json.loads(lines[0]) == {
            "progress": {"what": "writing tokens", "done": 0, "total": 50}
        }
        assert len(lines) < 50
        theirs.close()
        with pytest.raises(Gone):
            caller.tell(what="writing tokens", done=0, total=50)
        with pytest.raises(Gone):
            for _ in range(100):
                caller.send({"late": True})


def test_work_nobody_waits_for_any_longer_is_given_up(tmp_path):
    """As when a page is left while text is steered: the engine's own call of `tell` ends it."""
    worker = Worker(ServeModel("one", tmp_path))
    ours, theirs = socket.socketpair()
    steps = []

    def steer(text, plan, tell):
        for step in range(1000):
            tell(step, 1000)
            steps.append(step)
            if step == 2:
                theirs.close()

    worker.loaded.engines = lambda saes: [SimpleNamespace(steer=steer)]
    request = {"op": "steer", "saes": ["one"], "text": "x",
               "plan": {"feature": 1, "mode": "ablate", "strengths": []}}  # fmt: skip
    with ours, pytest.raises(Gone):
        worker.answer(request, Caller(ours))
    assert steps == [0, 1, 2] and worker.turns.waiting == []


# ---------------------------------------------------------------- what is held


class Fake(Loaded):
    """Loads nothing: SAEs are of `size` bytes, models of the name in their cfg.json's place."""

    def __init__(self, workspace, bound, models=None):
        super().__init__(workspace, "cpu", bound)
        self.models, self.gate, self.sizes = models or {}, threading.Event(), {}
        self.gate.set()

    def _load(self, one: Loading):
        self.gate.wait(PATIENCE_S)
        one.stage = 0
        with self.lock:
            key = self.models.get(one.sae, "model")
            self._change_model(key, object(), one.sae)
            size = self.sizes.get(one.sae, 4)
            reason = self._make_room(one, size)
            if reason is None:
                self.held[one.sae] = Held(one.sae, self._version(one.sae), size)
            return reason


@pytest.fixture
def workspace(tmp_path):
    for name in "abcd":
        write_sae(tmp_path, name)
    return tmp_path


def _load(loaded: Loaded, *saes: str) -> dict[str, str]:
    loaded.want(saes)
    _until(lambda: not loaded.queue)
    return {name: loaded.state(name)["state"] for name in "abcd"}


def test_the_least_recently_used_gives_way(workspace):
    loaded = Fake(workspace, bound=8)
    _load(loaded, "a", "b")
    assert loaded.engines(["a"]) == ["a"], "b is now the older one"
    states = _load(loaded, "c")
    assert states == {"a": "ready", "b": "stopped", "c": "ready", "d": "stopped"}
    gone = loaded.state("b")
    assert "gave way to c" in gone["detail"] and gone["again"]
    assert not loaded.state("d")["again"]


def test_what_is_asked_for_together_stays_together_or_is_refused(workspace):
    loaded = Fake(workspace, bound=8)
    _load(loaded, "d")
    states = _load(loaded, "a", "b", "c")
    assert states == {"a": "ready", "b": "ready", "c": "failed", "d": "stopped"}
    assert "does not fit" in loaded.state("c")["detail"]
    loaded.sizes["d"] = 100
    assert _load(loaded, "d")["d"] == "ready", "one is held whatever its size"
    assert list(loaded.held) == ["d"]


def test_another_model_drops_the_saes_of_the_first(workspace):
    loaded = Fake(workspace, bound=100, models={"c": "another"})
    _load(loaded, "a", "b")
    states = _load(loaded, "c")
    assert states == {"a": "stopped", "b": "stopped", "c": "ready", "d": "stopped"}
    assert not loaded.state("a")["again"] and "another model" in loaded.state("a")["detail"]


def test_loading_is_told_and_can_be_cancelled(workspace):
    loaded = Fake(workspace, bound=100)
    loaded.gate.clear()
    loaded.want(["a", "b"])
    loaded.want(["a"])
    assert [one.sae for one in loaded.queue] == ["a", "b"]
    waiting = loaded.state("b")
    assert waiting["state"] == "loading" and waiting["detail"] == "waiting for a"
    assert not loaded.cancel(["b"]), "a is still wanted"
    assert loaded.state("b")["state"] == "stopped"
    loaded.want(["b"])
    assert loaded.state("b")["state"] == "loading", "wanted again"
    loaded.cancel(["b"])
    loaded.gate.set()
    _until(lambda: not loaded.queue)
    assert loaded.state("a")["state"] == "ready"
    assert "cancelled" in loaded.state("b")["detail"]
    assert not loaded.cancel(["a"]), "what is held stays"
    assert Fake(workspace, bound=1).cancel(["a"]), "nothing is held: the process may end"


def test_a_load_that_crashes_is_told_and_the_next_one_goes_on(workspace, monkeypatch, capsys):
    loaded = Fake(workspace, bound=100)
    plain = loaded._load

    def load(one):
        if one.sae == "a":
            raise RuntimeError("out of memory")
        return plain(one)

    monkeypatch.setattr(loaded, "_load", load)
    states = _load(loaded, "a", "b")
    assert states["a"] == "failed" and states["b"] == "ready"
    assert loaded.state("a")["detail"] == "RuntimeError: out of memory"
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_changes_or_goes_is_noticed_by_the_next_question(workspace):
    loaded = Fake(workspace, bound=100)
    _load(loaded, "a", "b")
    (workspace / "saes" / "a" / "sae_weights.safetensors").write_bytes(b"other")
    (workspace / "saes" / "b" / "cfg.json").unlink()
    for name in "ab":
        state = loaded.state(name)
        assert state["state"] == "stopped" and "was changed" in state["detail"]
