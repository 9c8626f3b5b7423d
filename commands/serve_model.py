"""`serve-model`: the one process that holds the language model for the app's live pages.

In:  one JSON line a connection, on localhost. Out: one JSON line. It ends by itself when idle.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socketserver
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from data.records import LiveCode, LiveEffect, Steering

LONGEST_REQUEST = 1 << 26  # bytes; a prompt is cut to one context only after it is tokenised


@dataclass(frozen=True)
class ServeModel:
    """Serve live prompts to the app (the app starts this by itself)."""

    sae: str  # the SAE to load first
    workspace: Path = Path("workspace")
    device: str = "auto"
    idle_minutes: float = 30.0  # end after so long without a request


def _encode(engine, request: dict) -> LiveCode:
    return engine.encode(request["text"], int(request["top"]))


def _ablate(engine, request: dict) -> LiveEffect:
    return engine.ablate(request["text"], int(request["feature"]), int(request["seed"]))


def _steer(engine, request: dict) -> Steering:
    from interp.steering import Plan

    plan = dict(request["plan"])
    plan["strengths"] = tuple(float(strength) for strength in plan["strengths"])
    return engine.steer(request["text"], Plan(**plan))


OPERATIONS = {"encode": _encode, "ablate": _ablate, "steer": _steer}


class Worker:
    """Loads engines in the background and answers requests; one engine is held at a time."""

    def __init__(self, args: ServeModel) -> None:
        self.args = args
        self.engine, self.engine_sae = None, None
        self.loading: str | None = None
        self.failed: dict[str, str] = {}
        self.since = time.monotonic()
        self.last_request = time.monotonic()
        self.lock = threading.Lock()  # one prompt, or one load, at a time
        self.stopping = threading.Event()

    def load(self, sae: str) -> None:
        if self.loading == sae or self.engine_sae == sae:
            return
        self.loading, self.since = sae, time.monotonic()
        self.failed.pop(sae, None)
        threading.Thread(target=self._load, args=(sae,), daemon=True).start()

    def _load(self, sae: str) -> None:
        from data.errors import WorkbenchError
        from data.workspace import Workspace
        from interp.engine import open_engine
        from sae.config import Refused

        with self.lock:
            try:
                self.engine = open_engine(
                    Workspace.open(self.args.workspace).sae(sae), self.args.device
                )
                self.engine_sae = sae
            except (WorkbenchError, Refused) as error:
                self.failed[sae] = str(error)
            except Exception as error:  # a thread must not die in silence
                self.failed[sae] = f"{type(error).__name__}: {error}"
                raise
            finally:
                self.loading = None

    def answer(self, request: dict) -> dict:
        self.last_request = time.monotonic()
        operation, sae = request.get("op"), request.get("sae")
        if operation == "state":
            return self.state(sae)
        if operation == "load":
            self.load(sae)
            return self.state(sae)
        if operation in OPERATIONS:
            return self.work(sae, operation, request)
        if operation == "stop":
            self.stopping.set()
            return {"state": "stopped"}
        return {"error": f"no operation {operation!r}"}

    def state(self, sae: str) -> dict:
        seconds = time.monotonic() - self.since
        if self.engine_sae == sae:
            return {"state": "ready", "detail": f"{sae} is loaded", "seconds": seconds}
        if self.loading == sae:
            return {
                "state": "loading",
                "detail": f"loading {sae} and its model",
                "seconds": seconds,
            }
        if sae in self.failed:
            return {"state": "failed", "detail": self.failed[sae], "seconds": seconds}
        return {"state": "stopped", "detail": f"{sae} is not loaded", "seconds": seconds}

    def work(self, sae: str, operation: str, request: dict) -> dict:
        """The record of one of OPERATIONS; or why there is none, under `error`."""
        from data.errors import WorkbenchError
        from interp.live import pack

        with self.lock:
            if self.engine_sae != sae:
                wait = f"{sae} is not loaded yet: wait until the worker is ready"
                return {"error": wait, "ready": False}
            try:
                return pack(OPERATIONS[operation](self.engine, request))
            except WorkbenchError as error:
                return {"error": str(error)}


def _server(worker: Worker, token: str) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                request = dict(json.loads(self.rfile.readline(LONGEST_REQUEST)))
                allowed = secrets.compare_digest(str(request.get("token")), token)
                reply = worker.answer(request) if allowed else {"error": "wrong token"}
            except (ValueError, KeyError, TypeError) as error:
                reply = {"error": f"not a request: {error}"}
            self.wfile.write((json.dumps(reply) + "\n").encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def run(args: ServeModel) -> int:
    folder = args.workspace / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "model_worker.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another model worker serves this workspace")
        return 0
    worker, token = Worker(args), secrets.token_hex(16)
    server = _server(worker, token)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = folder / "model_worker.json"
    part = address.with_suffix(f".part-{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(
            {
                "pid": os.getpid(),
                "port": server.server_address[1],
                "token": token,
                "since": time.time(),
            },
            stream,
        )
    os.replace(part, address)
    (folder / "model_worker.starting.json").unlink(missing_ok=True)
    worker.load(args.sae)
    while not worker.stopping.wait(1.0):
        if time.monotonic() - worker.last_request > 60 * args.idle_minutes:
            break
    server.shutdown()
    address.unlink(missing_ok=True)
    return 0
