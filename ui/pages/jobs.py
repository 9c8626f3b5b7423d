"""Jobs: commands that run in the background; start, follow, stop and start again.

In:  the workspace's jobs, the job or form in the address. Out: the page.
"""

from __future__ import annotations

import streamlit as st

from data.errors import WorkbenchError
from ui.keys import jobs as keys
from ui.pages.panels import job_detail, job_forms, job_list
from ui.pages.panels.job_catalogue import FORMS
from ui.shell import Shell, address, set_address, show_error

PAGE = "jobs"
NEEDS_SAE = False


def page(shell: Shell) -> None:
    st.title("Jobs")
    params = address(PAGE, shell.sae, keys.KEYS)
    try:
        view = keys.read_view(params, FORMS)
    except WorkbenchError as error:
        show_error(error)
        st.button("Show all jobs", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    if shell.person.role == "researcher":
        _choose(shell, view)
    if view.new is not None and shell.person.role == "researcher":
        job_forms.show(shell, FORMS[view.new])
    if view.job is not None:
        job_detail.show(shell, view.job)
    st.subheader("All jobs")
    job_list.show(shell, view.job)


def _choose(shell: Shell, view: keys.JobsView) -> None:
    """What to start; filled from the address."""
    st.session_state["jobs.new"] = view.new

    def chosen() -> None:
        new = keys.JobsView(new=st.session_state["jobs.new"])
        set_address(PAGE, shell.sae, keys.write_view(new))

    st.pills(
        "Start a job", list(FORMS), key="jobs.new", on_change=chosen,
        format_func=lambda command: FORMS[command].title,
        help="It runs in the background: you may close the page, or restart the app.",
    )  # fmt: skip
