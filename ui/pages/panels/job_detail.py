"""One job: its state, how far it is, its log, and what can be done with it.

In:  a Shell and the job's id. Out: the panel; log and bar keep themselves fresh while it runs.
"""

from __future__ import annotations

import html

import streamlit as st

from data.errors import WorkbenchError
from data.records import Job
from ui import cards
from ui.pages.panels import job_actions, job_progress
from ui.shell import Shell, plain, set_address, show_error

LINES = 200


def show(shell: Shell, id: str) -> None:
    """The panel; one sentence where the job is gone."""
    try:
        job = shell.jobs.get(id)
    except WorkbenchError as error:
        show_error(error)
        st.button("Show all jobs", on_click=set_address, args=("jobs", shell.sae, {}))
        return
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute",
                          vertical_alignment="center"):  # fmt: skip
            st.subheader(job_actions.one_line(job.title), width="content")
            st.button("Close", icon=":material/close:", type="tertiary", key="jobs.close",
                      on_click=set_address, args=("jobs", shell.sae, {}))  # fmt: skip
        job_progress.follow(shell, [job], lambda now: _body(shell, now))
        _buttons(shell, job)
        with st.expander("Command"):
            st.code(job_actions.command_line(shell, job.arguments), language="bash",
                    wrap_lines=True)  # fmt: skip


def _body(shell: Shell, now: list[Job]) -> None:
    """What changes while it runs."""
    if not now:
        st.caption("This job was removed.")
        return
    (job,) = now
    _, word = job_actions.STATES[job.state]
    facts = [
        ("by", job.who or None),
        ("began", job_actions.when(job.began)),
        ("took" if job.ended else "runs for", job_actions.duration(job_actions.took(job))),
        ("peak memory", None if job.peak_bytes is None else job_actions.size(job.peak_bytes)),
        ("exit code", None if job.exit_code in (None, 0) else str(job.exit_code)),
    ]
    line = " · ".join(f"{name} {value}" for name, value in facts if value is not None)
    said = html.escape(job_actions.BIDI.sub("�", line))
    bar = job_progress.bar(shell, job) if job.state == "running" or job.progress else ""
    st.html(f'<span class="state {job.state}">{word}</span> <span class="job-words">{said}</span>'
            f"{bar}")  # fmt: skip
    if job.reason and job.state in ("failed", "lost"):
        st.error(plain(f"It {_ended(job)}: {job_actions.shown(shell, job.reason)}"))
    log = job_actions.shown(shell, shell.jobs.log(job.id, LINES))
    if log.strip():
        with st.container(key="jobs-log"):
            st.code(log, language=None, wrap_lines=True)
    else:
        st.caption("It has printed nothing yet." if job.state == "running" else "No log.")


def _ended(job: Job) -> str:
    return "failed" if job.state == "failed" else "is lost"


def _buttons(shell: Shell, job: Job) -> None:
    with st.container(horizontal=True):
        if job.state == "running":
            _cancel(shell, job)
            return
        made = job_actions.result_of(job) if job.state == "done" else None
        if made is not None and made[-1] in shell.workspace.saes:
            if st.button(f"Open {plain(made[-1])}", type="primary", key="jobs.open"):
                shell.go(*made)
        goes_on = job_actions.can_resume(shell, job)
        if goes_on and st.button("Go on", icon=":material/play_arrow:", type="primary",
                                 key="jobs.resume", help="From where it stopped."):  # fmt: skip
            job_actions.start(shell, goes_on, job.title)
        if job.arguments and st.button("Start again", icon=":material/replay:", key="jobs.again",
                                       help="From the beginning, with the same arguments; what was "
                                       "saved of a stopped training run goes."):  # fmt: skip
            job_actions.start(shell, job_actions.again(shell, job), job.title)
        if st.button("Remove", icon=":material/delete:", key="jobs.remove",
                     help="Deletes this record and its log, nothing that it made."):  # fmt: skip
            _remove(shell, job)


def _cancel(shell: Shell, job: Job) -> None:
    """Asks once."""
    word = "Stop at once" if job.cancelling else "Cancel"
    with st.popover(word, icon=":material/stop_circle:"):
        if job.cancelling:
            st.write("It was asked to stop and is saving its work. Stopping it at once loses what "
                     "it has not saved.")  # fmt: skip
        else:
            st.write(f"Stop this job? {job_actions.kept(job)}")
        if st.button("Yes, stop it", type="primary", key="jobs.cancel"):
            try:
                job_actions.refuse_others(shell)
                shell.jobs.cancel(job.id, who=shell.person.name, now=job.cancelling)
            except WorkbenchError as error:
                show_error(error)
                return
            st.rerun()


def _remove(shell: Shell, job: Job) -> None:
    try:
        job_actions.refuse_others(shell)
        shell.jobs.remove(job.id)
    except WorkbenchError as error:
        show_error(error)
        return
    set_address("jobs", shell.sae, {})
    st.rerun()


def facts_of(job: Job) -> str:
    """A job in a line of HTML, for other pages."""
    word = job_actions.STATES[job.state][1]
    return f'<span class="state {job.state}">{word}</span> ' + cards.facts(
        [
            ("began", job_actions.when(job.began)),
            ("took", job_actions.duration(job_actions.took(job))),
        ]
    )
