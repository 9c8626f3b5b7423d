"""What is not computed yet: says so, and offers the command that makes it, to copy or to start.

In:  the words of a command of run.py. Out: a short panel; while the job runs, its progress.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import streamlit as st

from data.errors import WorkbenchError
from data.records import Job
from ui.pages.panels import job_actions
from ui.shell import Shell, plain

HEARTBEAT = "1s"


def offer(
    shell: Shell, name: str, absent: str, words: Sequence[str], button: str, title: str
) -> None:
    """Says what is absent, with a button that starts `run.py WORDS` and the command to copy.

    name: of this offer in the session, such as "effects.small.7". title: of the job.
    """
    job = _started(shell, name)
    if job is not None and job.state == "running":
        _running(shell, name)
        return
    st.caption(absent)
    if job is not None and job.state != "done":
        st.warning(plain(f"The last try ended: {job.reason or job.state}"))

    def start() -> None:
        argv = [*words, "--workspace", str(shell.workspace.root)]
        try:
            job_actions.refuse_others(shell)
            job = shell.jobs.start(argv, title, who=shell.person.name)
        except WorkbenchError as error:
            st.toast(plain(str(error)), icon=":material/error:")
        else:
            st.session_state[f"feature.job.{name}"] = job.id

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(button, key=f"feature.offer.{name}", on_click=start,
                  icon=":material/play_arrow:")  # fmt: skip
        st.code(f"python run.py {shlex.join(words)}", language="bash", width="content")


def _started(shell: Shell, name: str) -> Job | None:
    """The job this session started for it, if it is still kept."""
    id = st.session_state.get(f"feature.job.{name}")
    try:
        return None if id is None else shell.jobs.get(id)
    except WorkbenchError:
        return None


@st.fragment(run_every=HEARTBEAT)
def _running(shell: Shell, name: str) -> None:
    """Redraws itself until the job ends; then the whole page, which finds what it made."""
    job = _started(shell, name)
    if job is None or job.state != "running":
        st.rerun()
    told = job.progress
    with st.container(border=True):
        if told is None:
            st.progress(0.0, text=plain(f"{job.title}: starting"))
        else:
            share = min(max(told.done / told.total, 0.0), 1.0) if told.total else 0.0
            left = "" if told.eta is None else f", {told.eta:.0f} s left"
            st.progress(share, text=plain(f"{told.phase}: {told.note}{left}"))
        with st.container(horizontal=True):
            st.button("Cancel", key=f"feature.cancel.{name}", disabled=job.cancelling,
                      on_click=shell.jobs.cancel, args=(job.id,),
                      kwargs={"who": shell.person.name})  # fmt: skip
            st.caption("It goes on if you leave this page; the Jobs page lists it.")
