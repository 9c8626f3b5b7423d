"""Auto-interp: what judges say features stand for, and how well that predicts their activations.

In:  the auto-interp runs of the chosen SAE. Out: the page; new runs start as jobs.
"""

from __future__ import annotations

import streamlit as st

from data.errors import StoreError, WorkbenchError
from ui.keys import autointerp as keys
from ui.pages.panels import autointerp_runs, job_actions, job_progress
from ui.shell import Shell, address, not_yet, plain, set_address, show_error

PAGE = "autointerp"
NEEDS_SAE = True


def page(shell: Shell) -> None:
    st.title("Auto-interp")
    st.caption(
        "A judge reads examples of a feature and says what it stands for; the label is then scored "
        "by how well it predicts activations on text the judge never saw."
    )
    params = address(PAGE, shell.sae, keys.KEYS)
    try:
        view = keys.read_view(params)
        runs = [run for run in shell.workspace.runs(shell.sae)
                if (shell.workspace.run(run) / "results.duckdb").is_file()]  # fmt: skip
        if view.run is not None and view.run not in runs:
            there = ", ".join(runs) or "none yet"
            raise WorkbenchError(f"no run {view.run!r:.60} of {shell.sae}: there is {there}")
    except WorkbenchError as error:
        show_error(error)
        st.button("Show the newest run", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    if not shell.harvested:
        not_yet("Labels come from a harvest, and there is none yet",
                f"python run.py harvest {shell.sae}")  # fmt: skip
        if shell.person.role == "researcher" and st.button("Harvest", type="primary"):
            arguments = job_actions.step(shell, "harvest", shell.sae)
            job_actions.start(shell, arguments, job_actions.step_title("harvest", shell.sae))
        return
    _start(shell, bool(runs))
    if not runs:
        st.info(
            "No feature of this SAE has a label yet. The lexical baseline labels all of them in "
            "about a minute, without a key and without a network."
        )
        return
    chosen = _choose(shell, runs, view)
    try:
        content = shell.store().meta.get("content_hash")
    except StoreError as error:
        st.warning(plain(job_actions.shown(shell, str(error))))
        content = None
    autointerp_runs.show(shell, chosen, view, content)


def _start(shell: Shell, again: bool) -> None:
    """The button for the one judge there is, and its progress."""
    running = job_actions.running(shell, "explain", shell.sae)
    if running:
        job_progress.strip(shell, running)
        return
    if shell.person.role != "researcher":
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        label = "Explain and score again" if again else "Explain and score"
        if st.button(label, type="secondary" if again else "primary", key="autointerp.start",
                     icon=":material/psychology:", help="With the lexical baseline."):  # fmt: skip
            arguments = job_actions.step(shell, "explain", shell.sae)
            job_actions.start(shell, arguments, job_actions.step_title("explain", shell.sae))
        if st.button("More options", type="tertiary", key="autointerp.more"):
            shell.go("jobs", {"new": "explain"})
        st.caption("The judge is the lexical baseline, which looks tokens up. No language model is "
                   "connected as a judge.")  # fmt: skip


def _choose(shell: Shell, runs: list[str], view: keys.RunView) -> str:
    """The run that is shown: that of the address, else the newest."""
    chosen = view.run or runs[0]
    if len(runs) == 1:
        return chosen
    st.session_state["autointerp.run"] = chosen

    def switch() -> None:
        autointerp_runs.go(shell, keys.RunView(run=st.session_state["autointerp.run"]))

    st.selectbox("Run", runs, key="autointerp.run", on_change=switch)
    return chosen
