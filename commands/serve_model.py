"""`serve-model`: the one process that holds the language model for the app's live pages.

In:  one JSON line a connection, on localhost, with the secret of the workspace.
Out: JSON lines: how far the work has come, under `progress`, then the answer.

Requests take turns in the order they came in. Who hangs up is not worked for any longer. The
process ends by itself when nobody has asked for anything for a while.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LONGEST_REQUEST = 1 << 26  # bytes; a prompt is cut to one context only after that
LOOK_EVERY_S = 0.25  # whether who waits for a turn is still there
TELL_EVERY_S = 0.1
ENDING_S = 3.0  # a worker takes to end


@dataclass(frozen=True)
class ServeModel:
    """Serve live prompts to the app (the app starts this by itself)."""

    sae: str  # the SAEs to load first, with commas between them
    workspace: Path = Path("workspace")
    device: str = "auto"
    memory: float = 8.0  # gigabytes of SAE weights held at once, beside the language model
    idle_minutes: float = 30.0  # end after so long without a request


class Gone(Exception):
    """Who asked has hung up."""


class Turns:
    """One request at a time, in the order they came in."""

    def __init__(self) -> None:
        self.waiting: list[object] = []
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, told: Callable[[int], None]) -> Iterator[None]:
        """Waits for the turn; `told` gets the number of those before, and may raise."""
        me = object()
        with self.changed:
            self.waiting.append(me)
        try:
            while True:
                with self.changed:
                    if self.waiting[0] is not me:
                        self.changed.wait(LOOK_EVERY_S)
                    before = self.waiting.index(me)
                if not before:
                    break
                told(before)
            yield
        finally:
            with self.changed:
                self.waiting.remove(me)
                self.changed.notify_all()


class Caller:
    """Who asked: is told how far the work has come, as long as they listen."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.last = connection, -TELL_EVERY_S

    def tell(self, **progress) -> None:
        """Sends it, though not too often; Gone if nobody listens."""
        try:
            if not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise Gone
        except BlockingIOError:
            pass
        except OSError:
            raise Gone from None
        if time.monotonic() - self.last >= TELL_EVERY_S:
            self.send({"progress": progress})
            self.last = time.monotonic()

    def waits(self, before: int) -> None:
        self.tell(what="waiting for a turn", before=before)

    def send(self, reply: dict) -> None:
        try:
            self.connection.sendall((json.dumps(reply) + "\n").encode())
        except OSError:
            raise Gone from None


class Worker:
    """Answers requests with what interp/loaded.py holds."""

    def __init__(self, args: ServeModel) -> None:
        from interp.loaded import Loaded

        self.loaded = Loaded(args.workspace, args.device, int(args.memory * 2**30))
        self.turns = Turns()
        self.last_request = time.monotonic()
        self.stopping = threading.Event()

    def answer(self, request: dict, caller: Caller) -> dict:
        self.last_request = time.monotonic()
        operation, saes = request.get("op"), list(request.get("saes") or ())
        if operation == "stop":
            self.stopping.set()
            return {"state": "stopped"}
        if operation in ("state", "load", "cancel"):
            if operation == "load":
                self.loaded.want(saes)
            elif operation == "cancel" and self.loaded.cancel(saes):
                self.stopping.set()  # a model that is half loaded can be got rid of in no other way
            return {"states": [self.loaded.state(sae) for sae in saes]}
        if operation in ("encode", "ablate", "effects", "steer"):
            return self._work(getattr(self, f"_{operation}"), saes, request, caller)
        return {"error": f"no operation {operation!r}"}

    def _work(self, operation: Callable, saes: list[str], request: dict, caller: Caller) -> dict:
        """The record an operation makes; or why there is none, under `error`."""
        from data.errors import WorkbenchError, WorkerError
        from interp.live import pack

        try:
            engines = self.loaded.engines(saes)
            return {"record": pack(operation(engines, request, caller))}
        except WorkerError as error:
            return {"error": str(error), "ready": False}
        except WorkbenchError as error:
            return {"error": str(error)}
        finally:
            self.last_request = time.monotonic()

    def _encode(self, engines: list, request: dict, caller: Caller) -> tuple:
        from interp.engine import encode_together

        text, top = str(request["text"]), int(request["top"])
        with self.turns.taken(caller.waits):
            return tuple(encode_together(engines, text, top))

    def _ablate(self, engines: list, request: dict, caller: Caller):
        text, feature = str(request["text"]), int(request["feature"])
        with self.turns.taken(caller.waits):
            return engines[0].ablate(text, feature, int(request["seed"]))

    def _effects(self, engines: list, request: dict, caller: Caller) -> tuple:
        """A turn for some features at a time, so that nobody waits for all of them."""
        features = [int(feature) for feature in request["features"]]
        steps = engines[0].effects(str(request["text"]), features, int(request["seed"]))
        found: list = []
        while len(found) < len(features):
            caller.tell(what="ablating features", done=len(found), total=len(features))
            with self.turns.taken(caller.waits):
                found += next(steps)
        return tuple(found)

    def _steer(self, engines: list, request: dict, caller: Caller):
        from interp.steering import Plan

        given = dict(request["plan"])
        given["strengths"] = tuple(float(strength) for strength in given["strengths"])
        plan, text = Plan(**given), str(request["text"])

        def tell(done: int, total: int) -> None:
            caller.tell(what="writing tokens", done=done, total=total)

        with self.turns.taken(caller.waits):
            return engines[0].steer(text, plan, tell)


def _server(worker: Worker, token: str) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            caller = Caller(self.connection)
            try:
                caller.send(self.reply(caller))
            except Gone:
                pass

        def reply(self, caller: Caller) -> dict:
            try:
                request = dict(json.loads(self.rfile.readline(LONGEST_REQUEST)))
                allowed = secrets.compare_digest(str(request.get("token")).encode(), token.encode())
                return worker.answer(request, caller) if allowed else {"error": "wrong token"}
            except (ValueError, KeyError, TypeError) as error:
                return {"error": f"not a request: {error}"}
            except RuntimeError as error:  # such as memory that does not suffice
                return {"error": f"the model could not do it: {str(error).splitlines()[0]}"}

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def run(args: ServeModel) -> int:
    from data.errors import WorkbenchError
    from data.processes import identity

    if args.memory <= 0 or args.idle_minutes <= 0:
        raise WorkbenchError("--memory and --idle-minutes: give numbers above 0")
    folder = args.workspace / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "model_worker.lock").open("w")
    if not _locked(lock):
        print("another model worker serves this workspace")
        return 0
    worker, token = Worker(args), secrets.token_hex(16)
    server = _server(worker, token)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    worker.loaded.want([name for name in args.sae.split(",") if name])
    about = {**identity(os.getpid()), "port": server.server_address[1], "token": token}
    address = folder / "model_worker.json"
    _write(address, about)
    (folder / "model_worker.starting.json").unlink(missing_ok=True)
    while not worker.stopping.wait(1.0):
        if time.monotonic() - worker.last_request > 60 * args.idle_minutes:
            break
    server.shutdown()
    address.unlink(missing_ok=True)
    os._exit(0)  # a model may be half loaded in another thread, and need not be waited for


def _locked(lock: TextIO) -> bool:
    """Whether this is the one worker now; one that is about to end is waited for."""
    end = time.monotonic() + ENDING_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)


def _write(path: Path, about: dict) -> None:
    """Readable by its owner only, and there as a whole."""
    part = path.with_suffix(f".part-{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(about, stream)
    os.replace(part, path)
