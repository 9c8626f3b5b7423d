"""How far the calls of an auto-interp run have come, told while it runs.

In:  the `Progress` of each batch of calls, as the caller tells it. Out: one position and one note
     for the whole stage; in a background job a line of its progress.jsonl now and then.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from data.jobs import JOB_FOLDER, Teller


class Calls:
    """The calls of one stage, explaining or scoring, all batches together."""

    def __init__(self, phase: str) -> None:
        folder = os.environ.get(JOB_FOLDER)
        self.teller = None if folder is None else Teller(folder, phase)
        self.expected = 0  # calls of the whole stage, from its estimate
        self._before = (0, 0)  # done and cached in the batches that are over
        self._failed: Counter[str] = Counter()
        self._not_run: Counter[str] = Counter()
        self._batch: Any = None

    def came(self, batch: Any) -> None:
        """One more outcome; batch: the caller's Progress of the batch under way."""
        if batch.done == 1 and self._batch is not None:  # a batch has begun
            last = self._batch
            self._before = (self._before[0] + last.done, self._before[1] + last.cached)
            self._failed.update(last.failed)
            self._not_run.update(last.not_run)
        self._batch = batch
        if self.teller is not None:
            self.teller.tell(self.position, self.note)

    def position(self) -> tuple[int, int]:
        """(calls answered or given up, all calls)."""
        done = self._before[0] + (0 if self._batch is None else self._batch.done)
        return done, max(done, self.expected, 1)

    def note(self) -> str:
        """From the cache, failed and not run by reason, calls and money spent."""
        if self._batch is None:
            return ""
        from interp.judges.calls import Progress

        done, total = self.position()
        whole = Progress(
            done, total, self._before[1] + self._batch.cached,
            self._failed + Counter(self._batch.failed),
            self._not_run + Counter(self._batch.not_run), self._batch.spent,
        )  # fmt: skip
        return str(whole).partition("; ")[2]
