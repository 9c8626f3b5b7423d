"""Auto-interp jobs under way: how far, from the cache, failed by reason, what it cost so far.

In:  a Shell. Out: the panel, which keeps itself fresh; a cancelled or failed job says what stays.
"""

from __future__ import annotations

import dataclasses

import streamlit as st

from data.errors import WorkbenchError
from data.records import Job
from ui.cards import safe
from ui.pages.panels import autointerp_words as words
from ui.pages.panels import job_actions, job_progress
from ui.pages.panels.autointerp_failures import start
from ui.shell import Shell, plain, show_error


def show(shell: Shell) -> bool:
    """Jobs that explain or score this SAE; whether one runs."""
    mine = [job for job in shell.jobs.newest() if _concerns(job, shell.sae) and not estimates(job)]
    running = [job for job in mine if job.state == "running"]
    if running:
        with st.container(border=True):
            job_progress.follow(shell, running, lambda now: _draw(shell, now))
            for job in running:
                _buttons(shell, job)
    elif mine and mine[0].state in ("failed", "cancelled", "lost"):
        _ended(shell, mine[0])
    return bool(running)


def estimates(job: Job) -> bool:
    return "--estimate" in job.arguments


def _concerns(job: Job, sae: str | None) -> bool:
    return any(does in ("explain", "score") and name == sae
               for does, name in job_actions.subjects(job))  # fmt: skip


def _draw(shell: Shell, now: list[Job]) -> None:
    for job in now:
        told = job.progress
        note = "" if told is None else told.note
        bare = dataclasses.replace(job, progress=told and dataclasses.replace(told, note=""))
        title = safe(job.title)
        st.html(f'<div class="job-row"><b>{title}</b>{job_progress.bar(shell, bare)}</div>')
        if note:
            parts = [job_actions.BIDI.sub("�", part.strip()) for part in note.split(";")]
            st.html(words.chips([(p, "failed" if " failed (" in p or " not run (" in p else "")
                                 for p in parts if p], wide=True))  # fmt: skip


def _buttons(shell: Shell, job: Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if shell.person.role == "researcher":
            with st.popover("Stopping…" if job.cancelling else "Cancel",
                            icon=":material/stop_circle:"):  # fmt: skip
                st.write("Replies that came are kept: started again, the run pays for none of them "
                         "twice. An earlier result stays as it is.")  # fmt: skip
                if st.button("Stop it at once" if job.cancelling else "Yes, stop it",
                             type="primary", key=f"autointerp.cancel.{job.id}"):  # fmt: skip
                    _cancel(shell, job)
        if st.button("Log", type="tertiary", key=f"autointerp.log.{job.id}"):
            shell.go("jobs", {"job": job.id})


def _cancel(shell: Shell, job: Job) -> None:
    try:
        job_actions.refuse_others(shell)
        shell.jobs.cancel(job.id, who=shell.person.name, now=job.cancelling)
    except WorkbenchError as error:
        show_error(error)
        return
    st.rerun()


def _ended(shell: Shell, job: Job) -> None:
    """The last job did not come to its end."""
    _, word = job_actions.STATES[job.state]
    why = f": {job_actions.shown(shell, job.reason)}" if job.reason else ""
    st.warning(plain(f"The last run, “{job.title}”, is {word}{why}"), icon=":material/warning:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if shell.person.role == "researcher" and job.arguments and st.button(
            "Go on", icon=":material/play_arrow:", type="primary", key="autointerp.goon",
            help="The same commands again: what was answered is in the cache and costs nothing.",
        ):  # fmt: skip
            start(shell, list(job.arguments), job.title)
        if st.button("Log", type="tertiary", key="autointerp.log"):
            shell.go("jobs", {"job": job.id})
