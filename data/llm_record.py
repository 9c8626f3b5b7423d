"""What one run asked a language-model service: each paid reply and each failed attempt, one line.

In:  events as they happen. Out: the same events; what was spent, so that a run that goes on after a
     kill keeps to its budget.

    calls.jsonl   {"event": "paid", "key", "usage", "guessed", "factor", "time"}
                  {"event": "failed", ... , "attempt", "reason", "retry_after", "time"}

Lines are only ever added. A line that was cut by a kill or a full disk is passed over.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from data.errors import WorkspaceError


class RunRecord:
    """The record of one run. Safe between threads and processes: a line is one write."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._checked = False

    def paid(self, key: str, usage: Mapping, guessed: bool = False, factor: float = 1.0) -> None:
        """A reply. usage: tokens by name; guessed: by us; factor: of the usual price."""
        self._append({"event": "paid", "key": key, "usage": dict(usage), "guessed": guessed,
                      "factor": factor})  # fmt: skip

    def failed(
        self,
        key: str,
        attempt: int,
        reason: str,
        retry_after: float | None = None,
        usage: Mapping | None = None,
    ) -> None:
        """An attempt without a reply. usage: what it may have cost all the same, by our guess.

        The reason holds no secret.
        """
        self._append({"event": "failed", "key": key, "attempt": attempt, "reason": reason,
                      "retry_after": retry_after, "usage": dict(usage or {}),
                      "guessed": usage is not None, "factor": 1.0})  # fmt: skip

    def events(self) -> list[dict]:
        """All whole lines, in order; [] if there is no record."""
        try:
            lines = self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WorkspaceError(
                f"{self.path} cannot be read ({error.strerror}): what the run has spent so far is "
                "not known; make it readable, or start another run"
            ) from None
        events = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and {"event", "usage", "factor", "guessed"} <= event.keys():
                events.append(event)
        return events

    def _append(self, event: dict) -> None:
        event["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps(event).encode() + b"\n"
        try:
            if not self._checked:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                if not self._checked and not _ends_whole(file):
                    line = b"\n" + line  # leaves what a kill has cut alone on its line
                self._checked = True
                if os.write(file, line) != len(line):
                    self._checked = False
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
        except OSError as error:
            raise WorkspaceError(
                f"{self.path} cannot be written ({error.strerror}): free some space, or choose a "
                "workspace you may write"
            ) from None


def _ends_whole(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"
