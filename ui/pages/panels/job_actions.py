"""What pages do with jobs: start, start again, ask who runs what; and how a job is put in words.

In:  a Shell, arguments of run.py. Out: a started job, or its refusal shown in place.

Only researchers may start or stop anything, and that is asked here, on the server.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from data.errors import WorkbenchError, WorkspaceError
from data.jobs import commands_of
from data.records import Job
from ui.pages.panels.job_fields import chained
from ui.shell import Shell, plain, set_address, show_error

STATES = {  # state -> (icon, word)
    "running": (":material/progress_activity:", "running"),
    "done": (":material/check_circle:", "done"),
    "failed": (":material/error:", "failed"),
    "cancelled": (":material/cancel:", "cancelled"),
    "lost": (":material/help:", "lost"),
}
# Command -> what stays when it is stopped.
KEPT = {
    "train": "It stops at its next record and saves itself; it can go on later from there.",
    "demo": "It stops after saving itself; steps that are finished stay and are used again.",
    "harvest": "Parts that are finished stay, and it can go on from there; an earlier harvest of "
    "this SAE stays as it is.",
    "explain": "An earlier run stays as it is; nothing half-done appears.",
    "import": "SAEs that are taken in whole stay.",
}
RESULTS = {  # command -> page and address where its result is seen
    "train": ("overview", {}),
    "demo": ("overview", {}),
    "import": ("overview", {}),
    "evaluate": ("overview", {}),
    "harvest": ("features", {}),
    "effects": ("features", {}),
    "neighbours": ("features", {}),
    "explain": ("autointerp", {}),
    "score": ("autointerp", {}),
    "verify": ("settings", {}),
    "export": ("settings", {"part": "exports"}),
}
NOTHING_KEPT = "Nothing of it is kept; what was there before stays as it is."
PROGRAM = Path(__file__).resolve().parents[3]
BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # would turn text around


def refuse_others(shell: Shell) -> None:
    """WorkbenchError unless a researcher asks."""
    if shell.person.role != "researcher":
        raise WorkbenchError("Only researchers may start or stop jobs: ask one of them")


def start(shell: Shell, arguments: Sequence[str], title: str) -> None:
    """Starts a job and opens it on the Jobs page; a refusal is shown in place."""
    try:
        refuse_others(shell)
        job = shell.jobs.start(list(arguments), title, who=shell.person.name)
    except WorkbenchError as error:
        show_error(error)
        return
    open_job(shell, job.id)


def open_job(shell: Shell, id: str) -> None:
    """Opens a job on the Jobs page; the script ends here."""
    if st.session_state.get("page") == "jobs":
        set_address("jobs", shell.sae, {"job": id})
        st.rerun()
    shell.go("jobs", {"job": id})


def step(shell: Shell, command: str, sae: str) -> list[str]:
    """The arguments of a next step with its defaults; to explain is to score as well."""
    root = ["--workspace", str(shell.workspace.root)]
    if command == "explain":
        return chained([["explain", sae, *root], ["score", sae, *root]])
    return [command, sae, *root]


TITLES = {"evaluate": "Evaluate", "harvest": "Harvest", "effects": "Measure effects of",
          "neighbours": "Find neighbours of", "explain": "Explain and score",
          "verify": "Verify"}  # fmt: skip


def step_title(command: str, sae: str) -> str:
    return f"{TITLES[command]} {sae}"


# ---------------------------------------------------------------- what runs


def subjects(job: Job) -> list[tuple[str, str]]:
    """(command, SAE's name) of each command of a job; the name "" where it has none."""
    found = []
    for command in commands_of(job.arguments):
        words = [*command, "", ""]
        name = words[1]
        if words[0] == "demo":
            name = command[command.index("--name") + 1] if "--name" in command[:-1] else "demo"
        found.append((words[0], "" if name.startswith("-") else name))
    return found


def running(shell: Shell, command: str | None = None, sae: str | None = None) -> list[Job]:
    """Running jobs, of that command and SAE if given."""
    return [
        job
        for job in shell.jobs.newest()
        if job.state == "running"
        and any(command in (None, does) and sae in (None, name) for does, name in subjects(job))
    ]


def kept(job: Job) -> str:
    """What stays if a job is stopped now, in words."""
    commands = [command for command, _ in subjects(job)]
    return " ".join(dict.fromkeys(KEPT.get(command, NOTHING_KEPT) for command in commands))


def can_resume(shell: Shell, job: Job) -> list[str] | None:
    """Arguments that go on where a stopped job was; None where there is nothing to go on from."""
    if job.state not in ("cancelled", "failed", "lost"):
        return None
    commands = commands_of(job.arguments)
    for i, (command, name) in enumerate(subjects(job)):
        if command != "demo" and _half_done(shell, command, name):
            again = [word for word in commands[i] if word not in ("--resume", "--replace")]
            return chained([[*again, "--resume"], *commands[i + 1 :]])
    return None


def again(shell: Shell, job: Job) -> list[str]:
    """Arguments that do the same from the beginning: a stopped training run gives way."""
    commands = []
    for words, (command, name) in zip(commands_of(job.arguments), subjects(job), strict=True):
        words = [word for word in words if word != "--resume"]
        trains = command in ("train", "demo") and _half_done(shell, command, name)
        if trains and name not in shell.workspace.saes and "--replace" not in words:
            words.append("--replace")
        commands.append(words)
    return chained(commands)


def _half_done(shell: Shell, command: str, name: str) -> bool:
    """Whether something lies there that `--resume` goes on from."""
    try:
        run = shell.workspace.unfinished(name)
    except WorkspaceError:  # no name, or none that can be one
        return False
    parts = {"harvest": [run.with_name(f".{name}.harvest") / "state"]}
    parts["train"] = parts["demo"] = [run / "checkpoint", run / "checkpoint.old"]
    return any(part.exists() for part in parts.get(command, ()))


# ---------------------------------------------------------------- in words


def local(shell: Shell) -> bool:
    """Whether the browser is on this machine, reached without anybody in between."""
    headers = {name.lower() for name in st.context.headers}
    return st.context.ip_address is None and not headers & {"x-forwarded-for", "forwarded"}


def shown(shell: Shell, text: str) -> str:
    """Text of a job as a visitor may see it: no folder of the server, no turned-around text."""
    text = BIDI.sub("�", text)
    if not local(shell):
        for path, word in ((shell.workspace.root, "WORKSPACE"), (PROGRAM, "PROGRAM"),
                           (Path.home(), "~")):  # fmt: skip
            if len(path.parts) > 1:
                text = text.replace(str(path), word)
    return text


def command_line(shell: Shell, arguments: Sequence[str]) -> str:
    """The commands that do the same, for a terminal."""
    lines = [f"python run.py {shlex.join(one)}" for one in commands_of(arguments)]
    return shown(shell, " && \\\n".join(lines))


def result_of(job: Job) -> tuple[str, dict[str, str], str] | None:
    """(page, its address, SAE) that shows what a job that is done has made."""
    for command, name in reversed(subjects(job)):
        if command in RESULTS and name:
            return *RESULTS[command], name
    return None


def one_line(text: str, length: int = 120) -> str:
    """A title or name on one line, not read as Markdown."""
    flat = BIDI.sub("�", " ".join(text.split()))
    return plain(flat if len(flat) <= length else flat[: length - 1] + "…")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = int(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """`512 B`, `3.2 MB`, `1.4 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{int(n_bytes)} B"


def when(seconds: float) -> str:
    """`2026-11-21 14:03`, by the server's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def took(job: Job) -> float:
    """Seconds from its beginning to its end, or until now."""
    return (time.time() if job.ended is None else job.ended) - job.began
