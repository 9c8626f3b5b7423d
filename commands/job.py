"""Looks after one background job: runs its commands, stops them when asked, records how it ended.

In:  the folder of the job; a description (JSON) on standard input.
Out: job.json, log.txt; "under way" on standard output once job.json is there.

Started by data/jobs.py as `python -m commands.job FOLDER`; people do not call it. It stays small,
lives as long as the command, and needs no app: whoever waits for a process learns how it ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.jobs import JOB_FOLDER, log_lines
from data.processes import identity
from data.workspace import publish


@dataclass(frozen=True)
class JobArgs:
    """Look after one background job."""

    folder: Path


def run(args: JobArgs) -> int:
    about = {**json.load(sys.stdin), "supervisor": identity(os.getpid())}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = [_start(about, about["commands"][0], args.folder)]  # the one that runs now
    except OSError as error:
        _write(args.folder, about, {"state": "failed", "exit_code": None, "reason": str(error)})
        _say_under_way()
        return 0
    ended = threading.Event()
    _listen(running, tuple(about["grace_s"]), ended)
    about["process"] = identity(running[0].pid)
    _write(args.folder, about)
    _say_under_way()
    code, whole = _run_all(about, running, args.folder)
    ended.set()
    _write(args.folder, about, _ending(args.folder, code, whole))
    return 0


def _run_all(about: dict, running: list[subprocess.Popen], folder: Path) -> tuple[int, bool]:
    """The exit code of the last command that ran, and whether no other was left to run."""
    code = _wait(running[0])
    for command in about["commands"][1:]:
        if code != 0 or _asked_to_stop(folder):
            return code, False
        running[0] = _start(about, command, folder)
        about["process"] = identity(running[0].pid)
        _write(folder, about)
        if _asked_to_stop(folder):  # in between, when there was nobody to tell
            _signal_group(running[0], signal.SIGINT)
        code = _wait(running[0])
    return code, True


def _wait(command: subprocess.Popen) -> int:
    """Its exit code; nothing that it started outlives it."""
    code = command.wait()
    _signal_group(command, signal.SIGKILL)
    return code


def _asked_to_stop(folder: Path) -> bool:
    return (folder / "cancel.json").exists()


def _start(about: dict, command: list[str], folder: Path) -> subprocess.Popen:
    """A command, in a process group of its own."""
    environment = {**os.environ, JOB_FOLDER: str(folder), "PYTHONUNBUFFERED": "1"}
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def before_it_begins() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an app behind `nohup ... &` ignores it
        if libc is not None:  # it goes down with this process
            PR_SET_PDEATHSIG = 1
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=about["cwd"], env=environment, process_group=0, preexec_fn=before_it_begins,
        )  # fmt: skip


def _listen(
    running: list[subprocess.Popen], grace_s: tuple[float, float], ended: threading.Event
) -> None:
    """SIGTERM stops the command that runs by and by, SIGUSR1 at once."""

    def by_and_by() -> None:
        for number, wait_s in zip((signal.SIGINT, signal.SIGTERM), grace_s, strict=True):
            _signal_group(running[0], number)
            if ended.wait(wait_s):
                return
        _signal_group(running[0], signal.SIGKILL)

    stopping = threading.Thread(target=by_and_by, daemon=True)

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGUSR1:
            _signal_group(running[0], signal.SIGKILL)
        elif stopping.ident is None:
            stopping.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, stop)


def _signal_group(command: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, number)


def _ending(folder: Path, code: int, whole: bool) -> dict:
    """How it ended. One that was to stop but had finished is done."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    end = {"state": "done", "exit_code": code, "peak_bytes": usage.ru_maxrss * unit}
    if code == 0 and whole:
        return end
    if _asked_to_stop(folder):
        return {**end, "state": "cancelled"}
    if code < 0:
        named = -code in signal.Signals.__members__.values()
        name = signal.Signals(-code).name if named else f"signal {-code}"
        cause = ": out of memory?" if -code == signal.SIGKILL else ""
        return {**end, "state": "failed", "reason": f"ended by {name}{cause}"}
    said = [line.strip("│ ") for line in log_lines(folder / "log.txt")]
    last = next((s for s in reversed(said) if any(map(str.isalnum, s))), "it said nothing")
    return {**end, "state": "failed", "reason": f"exit code {code}: {last:.300}"}


def _write(folder: Path, about: dict, end: dict | None = None) -> None:
    whole = about if end is None else {**about, **end, "ended": time.time()}
    with publish(folder / "job.json") as part:
        part.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def _say_under_way() -> None:
    """Once, to whoever started the job; the log may be long, so nothing else goes there."""
    with suppress(BrokenPipeError):
        os.write(1, b"under way\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    os.close(nowhere)


if __name__ == "__main__":
    raise SystemExit(run(JobArgs(Path(sys.argv[1]))))
