"""How far a job has come: a bar, and a part of the page that keeps itself fresh while it runs.

In:  a Job, or a Shell and the id of one. Out: escaped HTML; a fragment that ends with the job.
"""

from __future__ import annotations

import html
from collections.abc import Callable

import streamlit as st

from data.errors import WorkbenchError
from data.records import Job
from ui.pages.panels.job_actions import BIDI, duration, shown, took
from ui.shell import Shell

EVERY_S = 1.5


def bar(shell: Shell, job: Job) -> str:
    """A job's progress as a bar with its phase, count, time left; of an ended one, how far."""
    told = job.progress
    share = None
    words = ["starting" if job.state == "running" else ""]
    if told is not None:
        share = min(max(told.done / told.total, 0.0), 1.0) if told.total > 0 else None
        words = [told.phase]
        if told.total > 1:
            words.append(f"{told.done:,.0f} of {told.total:,.0f}")
        elif share is not None:
            words.append(f"{share:.0%}".replace("%", " %"))
        words.append(told.note)
    if job.state == "running":
        if job.cancelling:
            words.insert(0, "stopping")
        words.append(f"{duration(took(job))} so far")
        if told is not None and told.eta is not None and share != 1.0:
            words.append(f"about {duration(told.eta)} left in this phase")
    text = " · ".join(BIDI.sub("�", shown(shell, word)) for word in words if word)
    width = 0.0 if share is None else 100 * share
    kind = "idle" if share is None and job.state == "running" else job.state
    return (
        f'<div class="job-bar {kind}" role="progressbar" aria-valuenow="{width:.0f}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="progress of the job">'
        f'<span style="width:{width:.1f}%"></span></div>'
        f'<div class="job-words">{html.escape(text)}</div>'
    )


def follow(
    shell: Shell, jobs: list[Job], draw: Callable[[list[Job]], None], every_s: float = EVERY_S
) -> None:
    """Draws the jobs, again and again while one of them runs; the whole page once one has ended."""
    live = {job.id for job in jobs if job.state == "running"}
    ids = [job.id for job in jobs]

    def again() -> None:
        now = []
        for id in ids:
            try:
                now.append(shell.jobs.get(id))
            except WorkbenchError:  # removed meanwhile
                continue
        draw(now)
        if live - {job.id for job in now if job.state == "running"}:
            st.rerun()

    st.fragment(again, run_every=every_s if live else None)()


def strip(shell: Shell, jobs: list[Job]) -> None:
    """Titles and bars of running jobs, kept fresh."""

    def draw(now: list[Job]) -> None:
        rows = "".join(
            f'<div class="job-row"><b>{html.escape(BIDI.sub("�", one.title))}</b>{bar(shell, one)}'
            "</div>"
            for one in now
        )
        st.html(f'<div class="job-rows">{rows}</div>')

    if jobs:
        follow(shell, jobs, draw)
