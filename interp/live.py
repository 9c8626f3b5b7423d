"""The model worker's client: live prompts without a language model in this process.

In:  a workspace and the name of an SAE. Out: `LiveCode`, `LiveEffect`, `FeatureEffect`s and
     `Steering` of a prompt, and what the worker is doing.

One worker process serves every browser session; it is started on first need and listens on
localhost only, behind a token that lies in the workspace.
"""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from data.errors import WorkbenchError, WorkerError
from data.processes import identity, runs, send
from data.records import (
    FeatureEffect,
    LiveChange,
    LiveCode,
    LiveEffect,
    LiveToken,
    SteeredText,
    SteeredToken,
    Steering,
)

ASK_TIMEOUT_S = 0.05  # asking for the state must not stall a page
START_TIMEOUT_S = 60.0
# From one line of the answer to the next: a slow model may work so long on one step.
ENCODE_TIMEOUT_S, WORK_TIMEOUT_S = 120.0, 600.0
LONGEST_TEXT = 8_000_000  # characters
Tell = Callable[[dict], None]


class LiveModel:
    """A handle on the worker for one SAE. Holds no connection; safe in any thread.

    `tell` is given how far long work has come, several times a second: {"what": str} with "before"
    (requests whose turn comes first) or "done" and "total". What it raises ends the work, in the
    worker too: a page that is left, or asked to stop, need do no more than that.
    """

    def __init__(self, workspace: Path, sae: str) -> None:
        self.workspace, self.sae = Path(workspace), sae
        self.address_file = self.workspace / "jobs" / "model_worker.json"
        self.starting_file = self.workspace / "jobs" / "model_worker.starting.json"
        self.log = self.workspace / "jobs" / "model_worker.log"
        self.last: tuple[float, int, dict] | None = None  # when, worker, and what it said

    # ------------------------------------------------------------ the worker

    def state(self) -> dict:
        """{"state": stopped | loading | ready | failed, "detail": str, "seconds": float}.

        Also "worker": the number of its process, None without one; "again": True if the SAE may be
        loaded again unasked; "step" and "steps" of loading. Takes 50 ms at most.
        """
        address = self._address()
        if address is None:
            return {"worker": None, **self._starting()}
        try:
            reply = self._ask({"op": "state", "saes": [self.sae]}, ASK_TIMEOUT_S)
            state = {**reply["states"][0], "worker": address["pid"]}
            self.last = (time.monotonic(), address["pid"], state)
            return state
        except TimeoutError:  # it has its hands full
            return self._as_before(address["pid"])
        except (OSError, WorkerError):
            ended = "the model worker has ended"
            return {"state": "stopped", "detail": ended, "seconds": 0.0, "worker": None}

    def start(self, saes: Sequence[str] = ()) -> None:
        """Starts the worker, or asks the running one to load this SAE; returns at once.

        saes: others of the same language model, wanted beside it.
        """
        wanted = [self.sae, *(sae for sae in saes if sae != self.sae)]
        if self._address() is not None:
            try:
                self._ask({"op": "load", "saes": wanted}, 1.0)
                return
            except TimeoutError:
                return  # it has the request, and will come to it
            except OSError:
                pass  # it died: start another
        elif self._starting()["state"] == "loading":
            return
        self.address_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent.parent / "run.py"), "serve-model",
                 ",".join(wanted), "--workspace", str(self.workspace)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=worker.wait, daemon=True).start()  # leaves no zombie behind
        started = {**identity(worker.pid), "since": time.time()}
        self.starting_file.write_text(json.dumps(started), encoding="utf-8")

    def cancel(self, saes: Sequence[str] = ()) -> None:
        """Gives up loading; a worker that holds nothing else ends."""
        starting = _read(self.starting_file)
        if self._address() is not None:
            with suppress(OSError, WorkerError):
                self._ask({"op": "cancel", "saes": [self.sae, *saes]}, 1.0)
        elif starting is not None:
            send(starting, signal.SIGKILL)
            self.starting_file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the worker, if one runs."""
        with suppress(OSError, WorkerError):
            self._ask({"op": "stop"}, 1.0)

    # ------------------------------------------------------------ its work

    def encode(self, text: str, top: int = 20) -> LiveCode:
        """Features of each token of `text`; WorkerError if the worker is not ready or died."""
        return self.encode_many(text, (self.sae,), top)[self.sae]

    def encode_many(
        self, text: str, saes: Sequence[str], top: int = 20, tell: Tell | None = None
    ) -> dict[str, LiveCode]:
        """The same for several SAEs of one language model, which runs once; each must be ready."""
        request = {"op": "encode", "saes": list(saes), "text": text, "top": top}
        replies = self._work(request, tell, ENCODE_TIMEOUT_S)
        return {
            sae: LiveCode(**{**one, "tokens": tuple(LiveToken(**t) for t in one["tokens"])})
            for sae, one in zip(saes, replies, strict=True)
        }

    def ablate(self, text: str, feature: int, seed: int = 0) -> LiveEffect:
        """What changes in `text` when the feature is taken away; errors as in `encode`."""
        reply = self._work({"op": "ablate", "text": text, "feature": feature, "seed": seed})
        tokens = tuple(LiveChange(**token) for token in reply.pop("tokens"))
        return LiveEffect(tokens=tokens, **reply)

    def effects(
        self, text: str, features: Sequence[int], seed: int = 0, tell: Tell | None = None
    ) -> dict[int, FeatureEffect]:
        """What ablating each feature alone changes, over the whole text; errors as in `encode`."""
        request = {"op": "effects", "text": text, "features": list(features), "seed": seed}
        return {one["feature"]: FeatureEffect(**one) for one in self._work(request, tell)}

    def steer(self, text: str, feature: int, *, tell: Tell | None = None, **plan) -> Steering:
        """Continues `text` in the ways of interp.steering.Plan; errors as in `encode`.

        plan: mode, strengths, max_act, n_tokens, temperature, top_p, seed; absent ones as there.
        """
        given = {"feature": feature, "strengths": (), **plan}
        reply = self._work({"op": "steer", "text": text, "plan": given}, tell)
        texts = tuple(
            SteeredText(
                one["strength"], tuple(SteeredToken(**t) for t in one["tokens"]), one["ended"]
            )
            for one in reply.pop("texts")
        )
        return Steering(texts=texts, **reply)

    # ------------------------------------------------------------ the wire

    def _address(self) -> dict | None:
        """What the worker wrote of itself once it listened; None if there is none alive."""
        record = _read(self.address_file)
        return record if record is not None and runs(record) else None

    def _starting(self) -> dict:
        """Before the worker listens; it removes the starting file once it does."""
        starting = _read(self.starting_file)
        if starting is None:
            return {"state": "stopped", "detail": "the model worker is not running", "seconds": 0.0}
        seconds = time.time() - starting["since"]
        if runs(starting) and seconds < START_TIMEOUT_S:
            return {"state": "loading", "detail": "starting the model worker", "seconds": seconds}
        detail = "the model worker did not start: see jobs/model_worker.log in the workspace"
        return {"state": "failed", "detail": detail, "seconds": seconds}

    def _as_before(self, worker: int) -> dict:
        """What it said last, if that was the same process and still holds."""
        if self.last is None or self.last[1] != worker or self.last[2]["state"] == "stopped":
            busy = "the model worker is busy"
            return {"state": "loading", "detail": busy, "seconds": 0.0, "worker": worker}
        when, _, state = self.last
        more = time.monotonic() - when if state["state"] == "loading" else 0.0
        return {**state, "seconds": state["seconds"] + more}

    def _work(
        self, request: dict, tell: Tell | None = None, timeout: float = WORK_TIMEOUT_S
    ) -> Any:
        """The fields of the record that the worker answers with, or of each of several."""
        if len(request["text"]) > LONGEST_TEXT:
            raise WorkbenchError(
                f"the text has {len(request['text']):,} characters, {LONGEST_TEXT:,} are accepted: "
                "a model reads one context of it, so give a part"
            )
        try:
            reply = self._ask({"saes": [self.sae], **request}, timeout, tell)
        except OSError as error:
            raise WorkerError(
                f"the model worker does not answer ({error}): start it again; its log is "
                "jobs/model_worker.log in the workspace"
            ) from None
        return unpack(reply["record"])

    def _ask(self, request: dict, timeout: float, tell: Tell | None = None) -> dict:
        address = self._address()
        if address is None:
            raise WorkerError("the model worker is not running: start it first")
        with socket.create_connection(("127.0.0.1", address["port"]), timeout) as connection:
            connection.settimeout(timeout)
            message = json.dumps(request | {"token": address["token"]}) + "\n"
            connection.sendall(message.encode())
            with connection.makefile("rb") as stream:
                for line in stream:
                    reply = _parsed(line)
                    if "progress" not in reply:
                        break
                    if tell is not None:
                        tell(reply["progress"])
                else:
                    raise ConnectionError("it closed the connection")
        if "error" in reply:
            kind = WorkbenchError if reply.get("ready", True) else WorkerError
            raise kind(reply["error"])
        return reply


def _parsed(line: bytes) -> dict:
    try:
        return json.loads(line)
    except json.JSONDecodeError:  # it was killed while it wrote
        raise ConnectionError("it stopped in the middle of its answer") from None


def pack(value: Any) -> Any:
    """A record of data/records.py as JSON can say it; bytes as {"base64": ...}."""
    if is_dataclass(value):
        return {field.name: pack(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return [pack(part) for part in value] if isinstance(value, tuple) else value


def unpack(value: Any) -> Any:
    """What `pack` made back again, records as dicts."""
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {name: unpack(part) for name, part in value.items()}
    return tuple(unpack(part) for part in value) if isinstance(value, list) else value


def _read(file: Path) -> dict | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
