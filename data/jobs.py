"""Background jobs: commands that outlive the page, and the app, that started them.

In:  the folder jobs/ of a workspace; arguments of run.py and a title.
Out: records `Job`, read from the disk each time, so that nothing is lost when the app restarts.

    jobs/<id>/job.json        what was started, by whom, as which processes; how it ended
              progress.jsonl  how far it has come (commands/progress.py, under WORKBENCH_JOB)
              log.txt         what it printed
              cancel.json     who asked it to stop

Each job has a small process of its own that looks after it (commands/job.py), in its own session;
the command runs below that in its own process group. An argument `&&` begins another command, which
runs after the one before it if that ended well; no shell reads any of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from data.errors import WorkbenchError
from data.processes import runs, send
from data.records import Job, JobProgress
from data.workspace import publish

ROOT = Path(__file__).resolve().parent.parent
JOB_FOLDER = "WORKBENCH_JOB"  # environment variable: the folder of the job a command runs as
THEN = "&&"  # an argument that begins the next command of the same job
GRACE_S = (60.0, 15.0)  # from SIGINT to SIGTERM (a training run saves itself), and on to SIGKILL
KEEP = 200  # ended jobs
TAIL_BYTES = 1 << 16
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")  # colours and the like


class Jobs:
    """The jobs of one workspace. Holds no state; safe between threads and processes."""

    def __init__(
        self,
        folder: str | Path,
        at_most: int = 2,
        program: Sequence[str] | None = None,
        grace_s: tuple[float, float] = GRACE_S,
    ) -> None:
        """program: what gets the arguments instead of run.py."""
        self.folder, self.at_most, self.grace_s = Path(folder), at_most, grace_s
        self.program = tuple(program or (sys.executable, str(ROOT / "run.py")))

    def start(self, arguments: Sequence[str], title: str, *, who: str = "") -> Job:
        """Starts `run.py ARGUMENTS` in the background; returns once it is under way.

        Raises WorkbenchError while `at_most` jobs run.
        """
        commands = [[*self.program, *one] for one in commands_of(arguments)]
        with self._starting():
            running = [job.title for job in self.newest() if job.state == "running"]
            if len(running) >= self.at_most:
                raise WorkbenchError(
                    f"{len(running)} jobs are running already ({', '.join(running)}): wait until "
                    "one ends, or cancel it"
                )
            self.clean()
            began = time.time()
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(began))
            about = {
                "id": f"{stamp}-{secrets.token_hex(2)}", "title": title, "who": who,
                "arguments": list(arguments), "commands": commands,
                "cwd": os.getcwd(), "grace_s": self.grace_s, "began": began,
            }  # fmt: skip
            self._look_after(about)
            return self.get(about["id"])

    def newest(self) -> list[Job]:
        """All jobs, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if (path / "job.json").is_file()]
        jobs = [self._job(path) for path in found if ID.fullmatch(path.name)]
        return sorted(jobs, key=lambda job: (-job.began, job.id))

    def get(self, id: str) -> Job:
        """One job. WorkbenchError if there is none of that id."""
        return self._job(self._path(id))

    def log(self, id: str, lines: int = 50) -> str:
        """The last lines it printed, without what only a terminal understands."""
        return "\n".join(log_lines(self._path(id) / "log.txt")[-lines:])

    def cancel(self, id: str, *, who: str = "", now: bool = False) -> Job:
        """Asks a job to stop, and ends it if it does not: SIGINT, after a grace SIGTERM, after
        another SIGKILL. now: SIGKILL at once. A job that has ended stays as it is."""
        path, job = self._path(id), self.get(id)
        if job.state != "running":
            return job
        if not job.cancelling:
            with publish(path / "cancel.json") as part:
                part.write_text(json.dumps({"who": who, "time": time.time()}), "utf-8")
        about = _read(path / "job.json")
        if not send(about["supervisor"], signal.SIGUSR1 if now else signal.SIGTERM):
            send(about["process"], signal.SIGKILL)  # nobody is left to look after it
        return self.get(id)

    def remove(self, id: str) -> None:
        """Deletes what is kept of a job. WorkbenchError while it runs."""
        path, job = self._path(id), self.get(id)
        if job.state == "running":
            raise WorkbenchError(f"{job.title} is still running: cancel it first")
        shutil.rmtree(path, ignore_errors=True)

    def clean(self, keep: int = KEEP) -> int:
        """Deletes all but the newest `keep` jobs that have ended; how many. `start` does so too."""
        old = [self.folder / job.id for job in self.newest() if job.state != "running"][keep:]
        for path in self.folder.glob("*-*-????"):  # an app that was killed while it started one
            if not (path / "job.json").exists() and time.time() - path.stat().st_mtime > 3600:
                old.append(path)
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        return len(old)

    def _path(self, id: str) -> Path:
        path = self.folder / id
        if ID.fullmatch(id) is None or not (path / "job.json").is_file():
            raise WorkbenchError(f"there is no job {id!r:.40}: it may have been deleted")
        return path

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """One at a time, so that two sessions cannot both take the last place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "starting.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _look_after(self, about: dict) -> None:
        """Starts the process that looks after the job, and waits until it has written job.json."""
        path = self.folder.resolve() / about["id"]
        path.mkdir()
        with (path / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "commands.job", str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(about).encode())
            process.stdin.close()
        answer = process.stdout.readline()
        process.stdout.close()
        threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie behind
        if answer != b"under way\n":
            last = log_lines(path / "log.txt")[-1:]
            shutil.rmtree(path, ignore_errors=True)
            raise WorkbenchError(f"{about['title']} could not be started: {' '.join(last)}")

    def _job(self, path: Path) -> Job:
        about = _read(path / "job.json")
        alive = runs(about.get("supervisor")) or runs(about.get("process"))
        if not alive and "ended" not in about:
            about = _read(path / "job.json")  # it may have ended in between
        ended, state, reason = about.get("ended"), about.get("state"), about.get("reason")
        if ended is None and alive:
            state = "running"
        elif ended is None:
            state, ended = "lost", max(p.stat().st_mtime for p in path.iterdir())
            reason = "its process is gone without a word: killed, or the machine was switched off"
        return Job(
            id=path.name, title=about.get("title", path.name), who=about.get("who", ""),
            arguments=tuple(about.get("arguments", ())), state=state, reason=reason,
            began=about.get("began", path.stat().st_mtime), ended=ended,
            cancelling=state == "running" and (path / "cancel.json").exists(),
            exit_code=about.get("exit_code"), peak_bytes=about.get("peak_bytes"),
            progress=_progress(path / "progress.jsonl", ended),
        )  # fmt: skip


def commands_of(arguments: Sequence[str]) -> list[list[str]]:
    """The commands that a job's arguments stand for: `&&` begins another."""
    commands: list[list[str]] = [[]]
    for argument in arguments:
        if argument == THEN:
            commands.append([])
        else:
            commands[-1].append(argument)
    return commands


# ---------------------------------------------------------------- progress


class Teller:
    """Tells one phase of a job's progress, now and then. Its failures stop nobody's work."""

    def __init__(self, folder: str | Path, phase: str) -> None:
        self.path, self.phase = Path(folder) / "progress.jsonl", phase
        self.began = self.told = time.time()
        self.first: float | None = None

    def tell(self, position: Callable[[], tuple[float, float]], note: Callable[[], str]) -> None:
        """Writes a line if one is due: each second at first, each ten after ten minutes."""
        now = time.time()
        wait = min(max(1.0, (now - self.began) / 60), 10.0)
        if self.first is None or now - self.told >= wait:
            self.write(position(), note())

    def write(self, position: tuple[float, float], note: str) -> None:
        """Writes a line."""
        (done, total), self.told = map(float, position), time.time()
        self.first = done if self.first is None else self.first
        line = {
            "phase": self.phase, "done": done, "total": total, "note": note,
            "time": self.told, "began": self.began, "first": self.first,
        }  # fmt: skip
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _progress(path: Path, ended: float | None) -> JobProgress | None:
    """The last whole line of progress.jsonl; None without one."""
    for line in reversed(_tail(path).split("\n")):
        try:
            told = json.loads(line)
            done, total, first = (float(told[name]) for name in ("done", "total", "first"))
            began, said = float(told["began"]), float(told["time"])
        except (ValueError, KeyError, TypeError):
            continue
        eta = None
        if ended is None and done > first:
            rest = (total - done) * (said - began) / (done - first)
            eta = max(rest - (time.time() - said), 0.0)
        elapsed = (said if ended is not None else time.time()) - began
        return JobProgress(told["phase"], min(done, total), total, told["note"], elapsed, eta)
    return None


# ---------------------------------------------------------------- files


def log_lines(path: Path) -> list[str]:
    """The last lines of a log, as a terminal would show them; without empty ones at the end."""
    lines = _tail(path).rstrip().split("\n")
    return [CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]) for line in lines]


def _tail(path: Path) -> str:
    """The end of a text file; "" without one."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL_BYTES, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _read(path: Path) -> dict:
    """job.json; {} if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
