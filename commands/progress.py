"""A bar for whatever takes longer than a moment; plain lines where there is no terminal.

In:  an iterator of steps and how to read one. Out: the same steps, told to the person waiting; and,
in a background job, to its progress.jsonl (data/jobs.py).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data.jobs import JOB_FOLDER, Teller

T = TypeVar("T")
PLAIN_EVERY_S = 10.0


def track(
    steps: Iterable[T],
    title: str,
    position: Callable[[T], tuple[float, float]],
    note: Callable[[T], str] = lambda step: "",
) -> Iterator[T]:
    """Yields the steps; `position` gives (done, total), `note` a few words beside the bar."""
    if JOB_FOLDER in os.environ:
        steps = _told(steps, Teller(os.environ[JOB_FOLDER], title), position, note)
    console = Console(stderr=True)  # standard output is for results
    if not console.is_terminal:
        yield from _plain(steps, title, position, note)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, note="")
        for step in steps:
            done, total = position(step)
            bar.update(task, completed=min(done, total), total=total, note=note(step))
            yield step


def _told(
    steps: Iterable[T],
    teller: Teller,
    position: Callable[[T], tuple[float, float]],
    note: Callable[[T], str],
) -> Iterator[T]:
    """The steps, told to the job's page as well."""
    last = None
    for last in steps:
        teller.tell(lambda at=last: position(at), lambda at=last: note(at))
        yield last
    if last is not None:
        teller.write(position(last), note(last))


def _plain(
    steps: Iterable[T],
    title: str,
    position: Callable[[T], tuple[float, float]],
    note: Callable[[T], str],
) -> Iterator[T]:
    """One line now and then, and one at the end."""
    began = told = time.monotonic()
    last = None
    for last in steps:
        if time.monotonic() - told > PLAIN_EVERY_S:
            told = time.monotonic()
            done, total = position(last)
            share = f"{min(done / total, 1):.0%}"
            print(f"{title}: {share}  {note(last)}", file=sys.stderr, flush=True)
        yield last
    if last is not None:
        seconds = time.monotonic() - began
        print(f"{title}: done in {seconds:.1f} s  {note(last)}", file=sys.stderr, flush=True)
