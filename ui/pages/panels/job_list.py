"""All jobs of the workspace, the newest first. In: a Shell, the open job. Out: the table."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from data.records import Job
from ui.pages.panels import job_actions, job_progress
from ui.shell import Shell, set_address

SHOWN = 50
MARKS = {"running": "▶ running", "done": "✓ done", "failed": "✗ failed", "cancelled": "– cancelled",
         "lost": "? lost"}  # fmt: skip


def show(shell: Shell, opened: str | None) -> None:
    """The table; a click on a row opens its job. It keeps itself fresh while a job runs."""
    jobs = shell.jobs.newest()
    if not jobs:
        st.info(
            "No job was started here yet. A job is a command that runs in the background: it goes "
            "on when you close the page or the app is restarted, and its log and result stay here. "
            "Choose above what to start."
        )
        return
    job_progress.follow(shell, jobs[:SHOWN], lambda now: _table(shell, now, opened))
    if len(jobs) > SHOWN:
        st.caption(f"The newest {SHOWN} of {len(jobs):,} jobs.")
    ended = [job for job in jobs if job.state != "running"]
    with st.popover("Clean up", icon=":material/cleaning_services:", disabled=not ended):
        st.write(f"Delete the records and logs of {len(ended):,} jobs that have ended? What they "
                 "made stays.")  # fmt: skip
        if st.button("Yes, delete them", key="jobs.clean", type="primary"):
            job_actions.refuse_others(shell)
            shell.jobs.clean(keep=0)
            set_address("jobs", shell.sae, {})
            st.rerun()


def _table(shell: Shell, jobs: list[Job], opened: str | None) -> None:
    column = st.column_config
    table = pd.DataFrame([_row(shell, job) for job in jobs])
    if not any(job.state == "running" for job in jobs):
        table = table.drop(columns="phase")
    event = st.dataframe(
        table,
        key=f"jobs.table.{opened}",  # a click is done with once its job is open
        hide_index=True,
        height="content",
        row_height=34,
        placeholder="–",
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "state": column.TextColumn("State", width=100),
            "title": column.TextColumn("Job", width=330),
            "who": column.TextColumn("Who", width="small"),
            "began": column.TextColumn("Began", width=130),
            "took": column.TextColumn("Took", width=100),
            "progress": column.ProgressColumn("Progress", min_value=0, max_value=1,
                                              format="percent", width=130),
            "phase": column.TextColumn("Phase", width=190),
            "memory": column.TextColumn("Peak memory", width=110,
                                        help="Largest memory of its processes, known at its end."),
        },
    )  # fmt: skip
    if event.selection.cells:
        row, _ = event.selection.cells[0]
        set_address("jobs", shell.sae, {"job": jobs[row].id})
        st.rerun()


def _row(shell: Shell, job: Job) -> dict:
    told = job.progress
    share = None
    if told is not None and told.total > 0:
        share = min(max(told.done / told.total, 0.0), 1.0)
    phase = None if told is None else job_actions.shown(shell, told.phase)
    if job.state == "running" and told is not None and told.eta and share != 1.0:
        phase += f", {job_actions.duration(told.eta)} left"
    return {
        "state": "■ stopping" if job.cancelling else MARKS[job.state],
        "title": job_actions.BIDI.sub("�", " ".join(job.title.split())),
        "who": job.who or None,
        "began": job_actions.when(job.began),
        "took": job_actions.duration(job_actions.took(job)),
        "progress": 1.0 if job.state == "done" else share,
        "phase": phase if job.state == "running" else None,
        "memory": None if job.peak_bytes is None else job_actions.size(job.peak_bytes),
    }
