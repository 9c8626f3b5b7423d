"""The results file, which several processes fill over days: one JSON line a run.

In: lines. Out: the current ones, by run; claims, so that no run is made twice. A claim is a lock on
a file beside the results: it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.quality.arms import Run, run_of


@dataclass(frozen=True)
class Results:
    path: Path

    def lines(self) -> dict[str, dict]:
        """id -> the line of each run made by today's recipe, failed ones (with "error") too."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return {}
        found = {}
        for row in text.splitlines():
            try:
                line = json.loads(row)
            except json.JSONDecodeError:
                continue  # the torn end of a write that was cut off
            run = run_of(line)
            if run is not None and line["id"] == run.id:
                found[run.id] = line
        return found

    def append(self, line: dict) -> None:
        """In one write at the file's end, so that two processes do not mix."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, ("\n" * torn + json.dumps(line) + "\n").encode())
        finally:
            os.close(file)

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """True while this process alone may make the run; False if another makes or made it."""
        claims = self.path.with_suffix(".claims")
        claims.mkdir(parents=True, exist_ok=True)
        with (claims / run.id).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                # Only now: another may have finished it since the plan was read.
                yield run.id not in self.lines()
