"""The model worker's client: live prompts without a language model in this process.

In:  a workspace and the name of an SAE. Out: `LiveCode`, `LiveEffect` and `Steering` of a prompt,
     and what the worker is doing.
One worker process serves every browser session; it is started on first need and listens on
localhost only, behind a token that lies in the workspace.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from data.errors import WorkbenchError, WorkerError
from data.records import (
    LiveChange,
    LiveCode,
    LiveEffect,
    LiveToken,
    SteeredText,
    SteeredToken,
    Steering,
)

ASK_TIMEOUT_S = 0.05  # asking for the state must not stall a page
ENCODE_TIMEOUT_S = 60.0  # of an ablation too
STEER_TIMEOUT_S = 600.0
START_TIMEOUT_S = 60.0


class LiveModel:
    """A handle on the worker for one SAE. Holds no connection; safe in any thread."""

    def __init__(self, workspace: Path, sae: str) -> None:
        self.workspace, self.sae = Path(workspace), sae
        self.address_file = self.workspace / "jobs" / "model_worker.json"
        self.starting_file = self.workspace / "jobs" / "model_worker.starting.json"
        self.log = self.workspace / "jobs" / "model_worker.log"

    def state(self) -> dict:
        """{"state": stopped | loading | ready | failed, "detail": str, "seconds": float}."""
        address = self._address()
        if address is None:
            return self._starting()
        try:
            return self._ask({"op": "state", "sae": self.sae}, ASK_TIMEOUT_S)
        except TimeoutError:  # it is busy with somebody's prompt
            return {"state": "loading", "detail": "the model worker is busy", "seconds": 0.0}
        except (OSError, WorkerError):
            return {"state": "stopped", "detail": "the model worker has ended", "seconds": 0.0}

    def _starting(self) -> dict:
        """Before the worker listens; it removes the starting file once it does."""
        starting = _read(self.starting_file)
        if starting is None:
            return {"state": "stopped", "detail": "the model worker is not running", "seconds": 0.0}
        seconds = time.time() - starting["since"]
        if _runs(starting["pid"]) and seconds < START_TIMEOUT_S:
            return {"state": "loading", "detail": "starting the model worker", "seconds": seconds}
        detail = f"the model worker did not start: see {self.log}"
        return {"state": "failed", "detail": detail, "seconds": seconds}

    def start(self) -> None:
        """Starts the worker, or asks the running one to load this SAE; returns at once."""
        if self.state()["state"] in ("loading", "ready"):
            return
        if self._address() is not None:
            try:
                self._ask({"op": "load", "sae": self.sae}, 1.0)
                return
            except OSError:
                pass  # it died: start another
        self.address_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent.parent / "run.py"), "serve-model",
                 self.sae, "--workspace", str(self.workspace)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=worker.wait, daemon=True).start()  # leaves no zombie behind
        started = {"pid": worker.pid, "since": time.time()}
        self.starting_file.write_text(json.dumps(started), encoding="utf-8")

    def encode(self, text: str, top: int = 20) -> LiveCode:
        """Features of each token of `text`; WorkerError if the worker is not ready or died."""
        reply = self._work({"op": "encode", "text": text, "top": top}, ENCODE_TIMEOUT_S)
        tokens = tuple(LiveToken(**token) for token in reply.pop("tokens"))
        return LiveCode(tokens, **reply)

    def ablate(self, text: str, feature: int, seed: int = 0) -> LiveEffect:
        """What changes in `text` when the feature is taken away; errors as in `encode`."""
        request = {"op": "ablate", "text": text, "feature": feature, "seed": seed}
        reply = self._work(request, ENCODE_TIMEOUT_S)
        tokens = tuple(LiveChange(**token) for token in reply.pop("tokens"))
        return LiveEffect(tokens=tokens, **reply)

    def steer(self, text: str, feature: int, **plan) -> Steering:
        """Continues `text` in the ways of interp.steering.Plan; errors as in `encode`.

        plan: mode, strengths, max_act, n_tokens, temperature, top_p, seed; absent ones as there.
        """
        given = {"feature": feature, "strengths": (), **plan}
        reply = self._work({"op": "steer", "text": text, "plan": given}, STEER_TIMEOUT_S)
        texts = tuple(
            SteeredText(
                one["strength"], tuple(SteeredToken(**t) for t in one["tokens"]), one["ended"]
            )
            for one in reply.pop("texts")
        )
        return Steering(texts=texts, **reply)

    def stop(self) -> None:
        """Ends the worker, if one runs."""
        try:
            self._ask({"op": "stop"}, 1.0)
        except (OSError, WorkerError):
            pass

    # ------------------------------------------------------------ the wire

    def _address(self) -> dict | None:
        """What the worker wrote of itself once it listened; None if there is none alive."""
        record = _read(self.address_file)
        return record if record is not None and _runs(record["pid"]) else None

    def _work(self, request: dict, timeout: float) -> dict:
        """The fields of the record that the worker answers with."""
        try:
            return unpack(self._ask({**request, "sae": self.sae}, timeout))
        except OSError as error:
            raise WorkerError(
                f"the model worker does not answer ({error}): start it again; its log is {self.log}"
            ) from None

    def _ask(self, request: dict, timeout: float) -> dict:
        address = self._address()
        if address is None:
            raise WorkerError("the model worker is not running: start it first")
        with socket.create_connection(("127.0.0.1", address["port"]), timeout) as connection:
            connection.settimeout(timeout)
            message = json.dumps(request | {"token": address["token"]}) + "\n"
            connection.sendall(message.encode())
            with connection.makefile("rb") as stream:
                line = stream.readline()
        if not line:
            raise ConnectionError("it closed the connection")
        reply = json.loads(line)
        if "error" in reply:
            kind = WorkbenchError if reply.get("ready", True) else WorkerError
            raise kind(reply["error"])
        return reply


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


def _runs(pid: int) -> bool:
    """Whether the process is there; a child that ended but was not waited for is not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc, or not ours: it was there a moment ago
        return True
