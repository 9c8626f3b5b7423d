"""Training runs that survive: records, checkpoints, Ctrl-C, a killed process.

In:  trainers under way and where each keeps its unfinished work. Out: train.jsonl beside a
checkpoint that is never older than a twentieth of the run; `Stopped` after Ctrl-C, all saved.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sae.trainer import Trainer
from sae.watch import Step

CHECKPOINTS = 20  # in one run
LOG, CHECKPOINT = "train.jsonl", "checkpoint"


class Stopped(Exception):
    """The person pressed Ctrl-C; everything is saved."""


@dataclass
class Run:
    """One SAE in training and the folder of its unfinished work."""

    trainer: Trainer
    folder: Path
    saved_at: int = 0
    warned: str | None = None

    def begin(self) -> None:
        """Makes the folder; keeps the records of a resumed run up to its checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saved_at = self.trainer.done
        log = self.folder / LOG
        kept = [row for row in _rows(log) if row["step"] <= self.trainer.done]
        log.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def take(self, step: Step) -> None:
        """Writes a record, a checkpoint when one is due, and each warning once."""
        with (self.folder / LOG).open("a") as log:
            log.write(json.dumps(step.row()) + "\n")
        if step.warning not in (None, self.warned):
            print(f"warning at step {step.step:,}: {step.warning}", file=sys.stderr)
            self.warned = step.warning
        if step.step - self.saved_at >= self.trainer.n_steps / CHECKPOINTS:
            self.save()

    def save(self) -> None:
        self.trainer.save(self.folder / CHECKPOINT)
        self.saved_at = self.trainer.done


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint of unfinished work; None where there is none."""
    found = any((folder / name).exists() for name in (CHECKPOINT, f"{CHECKPOINT}.old"))
    return folder / CHECKPOINT if found else None


def discard(folder: Path) -> None:
    """Removes unfinished work."""
    shutil.rmtree(folder, ignore_errors=True)


def follow(steps: Iterable[tuple[int, Step]], runs: list[Run]) -> Iterator[tuple[int, Step]]:
    """Yields (which run, record) and keeps each run safe. Raises Stopped after Ctrl-C."""
    for run in runs:
        run.begin()
    with _listening() as asked_to_stop:
        for which, step in steps:
            runs[which].take(step)
            yield which, step
            if asked_to_stop() and step.step < runs[which].trainer.n_steps:
                for run in runs:
                    run.save()
                raise Stopped


@contextmanager
def _listening() -> Iterator:
    """Holds SIGINT and SIGTERM back: a step is never cut in two. A second one ends at once.

    Only a process's main thread may listen; elsewhere nothing is held back.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def listen(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        asked.append(number)
        print("stopping at the next record; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, listen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rows(path: Path) -> list[dict]:
    """Records of a train.jsonl; a torn last line is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
