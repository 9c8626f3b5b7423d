"""The model worker's client: live prompts without a language model in this process.

In:  a workspace and the name of an SAE. Out: `LiveCode`s, and what the worker is doing.
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
from pathlib import Path

from data.errors import WorkbenchError, WorkerError
from data.records import LiveCode, LiveToken

ASK_TIMEOUT_S = 0.05  # asking for the state must not stall a page
ENCODE_TIMEOUT_S = 60.0
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
        try:
            reply = self._ask(
                {"op": "encode", "sae": self.sae, "text": text, "top": top}, ENCODE_TIMEOUT_S
            )
        except OSError as error:
            raise WorkerError(
                f"the model worker does not answer ({error}): start it again; its log is {self.log}"
            ) from None
        tokens = tuple(
            LiveToken(
                base64.b64decode(token["bytes"]),
                token["special"],
                token["kept"],
                tuple((int(f), float(v)) for f, v in token["features"]),
            )
            for token in reply["tokens"]
        )
        return LiveCode(tokens, reply["truncated"], reply["ms"])

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
