"""Auto-interp: what judges say features stand for, and how well that predicts their activations.

In:  the auto-interp runs of the chosen SAE. Out: the page: results, prompts and replies, a new run.
"""

from __future__ import annotations

import dataclasses

import streamlit as st

from data.errors import StoreError, WorkbenchError
from ui.keys import autointerp as keys
from ui.keys.autointerp import RunView
from ui.pages.panels import (
    autointerp_beside,
    autointerp_calls,
    autointerp_live,
    autointerp_new,
    autointerp_results,
    job_actions,
)
from ui.pages.panels.autointerp_failures import start
from ui.pages.panels.autointerp_go import PAGE, go
from ui.shell import Shell, address, not_yet, plain, set_address, show_error

NEEDS_SAE = True
PARTS = {"results": "Results", "calls": "Prompts and replies", "new": "New run"}


def page(shell: Shell) -> None:
    st.title("Auto-interp")
    st.caption(
        "A judge reads examples of a feature and says what it stands for; the explanation is then "
        "scored by how well it predicts activations on text the judge never saw."
    )
    params = address(PAGE, shell.sae, keys.KEYS)
    try:
        view = keys.read_view(params)
        runs = [run for run in shell.workspace.runs(shell.sae)
                if (shell.workspace.run(run) / "results.duckdb").is_file()]  # fmt: skip
        for run in (view.run, *view.others):
            if run is not None and run not in runs:
                there = ", ".join(runs) or "none yet"
                raise WorkbenchError(f"no run {run!r:.60} of {shell.sae}: there is {there}")
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
    busy = autointerp_live.show(shell)
    try:
        _parts(shell, view, runs, busy)
    except WorkbenchError as error:
        show_error(error)


def _parts(shell: Shell, view: RunView, runs: list[str], busy: bool) -> None:
    if not runs and view.part != "new":
        _first(shell, view, busy)
        return
    _tabs(shell, view, runs)
    if view.part == "new":
        autointerp_new.show(shell, view, busy)
        return
    run = _choose(shell, runs, view)
    if view.part == "calls":
        autointerp_calls.show(shell, run, view)
        return
    try:
        content = shell.store().meta.get("content_hash")
    except StoreError as error:
        st.warning(plain(job_actions.shown(shell, str(error))))
        content = None
    others = [name for name in view.others if name != run]
    if others:
        autointerp_beside.show(shell, [run, *others], view.method or "simulate")
    autointerp_results.show(shell, run, view, content)


def _first(shell: Shell, view: RunView, busy: bool) -> None:
    """Nothing is explained yet."""
    st.info(
        "No feature of this SAE has a label yet. The lexical baseline labels all of them in about "
        "a minute, without a key and without a network; a language model says more, and is asked "
        "through a key, a server of your own, or a model on this machine."
    )
    if shell.person.role != "researcher":
        return
    with st.container(horizontal=True):
        if st.button("Explain and score all by token lookup", type="primary", disabled=busy,
                     icon=":material/psychology:", key="autointerp.start"):  # fmt: skip
            start(shell, job_actions.step(shell, "explain", shell.sae),
                  job_actions.step_title("explain", shell.sae))  # fmt: skip
        st.button("Choose a judge", key="autointerp.more", on_click=go,
                  args=(shell, RunView(part="new")))  # fmt: skip


def _tabs(shell: Shell, view: RunView, runs: list[str]) -> None:
    st.session_state["autointerp.part"] = view.part
    parts = [part for part in keys.PARTS if runs or part == "new"]

    def switch() -> None:
        go(shell, dataclasses.replace(view, part=st.session_state["autointerp.part"]))

    st.segmented_control("Part", parts, key="autointerp.part", required=True, on_change=switch,
                         format_func=PARTS.get, label_visibility="collapsed")  # fmt: skip


def _choose(shell: Shell, runs: list[str], view: RunView) -> str:
    """The run that is shown: that of the address, else the newest; and those beside it."""
    chosen = view.run or runs[0]
    if len(runs) == 1:
        return chosen
    st.session_state["autointerp.run"] = chosen

    def switch() -> None:
        go(shell, dataclasses.replace(
            view, run=st.session_state["autointerp.run"], page=1, feature=None, call=1, only="",
            others=tuple(n for n in view.others if n != st.session_state["autointerp.run"]),
        ))  # fmt: skip

    left, right = st.columns([1, 1.5], vertical_alignment="bottom")
    with left:
        st.selectbox("Run", runs, key="autointerp.run", on_change=switch)
    with right:
        if view.part == "results":
            others = [name for name in runs if name != chosen]
            autointerp_results.runs_beside(shell, view, chosen, others)
    return chosen
