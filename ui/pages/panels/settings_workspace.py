"""The workspace: what is wrong with it, its activation caches, its unfinished work.

In:  a Shell. Out: the panel. All that can be deleted here is an activation cache no SAE uses.
"""

from __future__ import annotations

import html
import shutil

import pandas as pd
import streamlit as st

from data import contents, doctor, summaries
from data.errors import WorkbenchError
from ui import cards
from ui.pages.panels import job_actions
from ui.shell import Shell, plain, show_error

WORDS = {"problem": "warn", "warning": "warn", "note": "plain"}


def show(shell: Shell) -> None:
    st.subheader("Health")
    findings(shell)
    st.subheader("Contents")
    _contents(shell)
    st.subheader("Activation caches")
    _caches(shell)


def findings(shell: Shell) -> None:
    """All findings of the workspace, the worst first."""
    found = doctor.findings(shell.workspace, shell.root)
    if not found:
        st.success("Nothing is wrong.")
        return
    rows = "".join(
        f'<li><span class="flag {WORDS[one.level]}">{one.level}</span> '
        f"<b>{html.escape(one.about)}</b> {html.escape(job_actions.shown(shell, one.text))} "
        f"<em>{html.escape(one.cure)}</em></li>"
        for one in found
    )
    st.html(f'<ul class="findings">{rows}</ul>')
    st.caption("The same in a terminal: `python run.py doctor`.")


def _contents(shell: Shell) -> None:
    workspace = shell.workspace
    jobs = shell.jobs.newest()
    running = sum(job.state == "running" for job in jobs)
    disk = shutil.disk_usage(workspace.root)
    journal = workspace.lab_journal
    size = contents.size_of(journal) if journal.is_file() else 0
    unfinished = ", ".join(run.name for run in summaries.unfinished(workspace))
    st.html(
        cards.facts(
            [
                ("folder", job_actions.shown(shell, str(workspace.root))),
                ("SAEs", f"{len(workspace.saes):,}"),
                ("unfinished training", unfinished or "none"),
                ("jobs", f"{len(jobs):,}, {running} running"),
                ("notes and tags", f"journal of {job_actions.size(size)}" if size else "none yet"),
                ("locks", _locks(shell)),
                ("disk", f"{job_actions.size(disk.free)} of {job_actions.size(disk.total)} free"),
            ]
        )
    )


def _locks(shell: Shell) -> str:
    """Who writes here now."""
    held = [
        f"{name} is being harvested"
        for name in shell.workspace.saes
        if job_actions.running(shell, "harvest", name)
    ]
    return "; ".join(held) or "none: stores are replaced whole; only this app writes notes"


def _caches(shell: Shell) -> None:
    found = contents.caches(shell.workspace)
    if not found:
        st.caption("None. Training, evaluating and harvesting make them, so that the language "
                   "model reads a text once.")  # fmt: skip
        return
    st.caption(
        "Activations of the language model, kept so that it reads a text once. They can always be "
        "made again; one that belongs to no SAE here may go."
    )
    column = st.column_config
    st.dataframe(
        pd.DataFrame(
            {
                "cache": [cache.hash for cache in found],
                "model": [cache.model for cache in found],
                "site": [cache.site for cache in found],
                "text": [cache.text for cache in found],
                "tokens": [cache.rows for cache in found],
                "size": [job_actions.size(cache.n_bytes) for cache in found],
                "used": [", ".join(cache.used_by) or None for cache in found],
            }
        ),
        hide_index=True,
        height="content",
        row_height=32,
        placeholder="–",
        column_config={
            "cache": column.TextColumn("Cache"),
            "model": column.TextColumn("Model"),
            "site": column.TextColumn("Site"),
            "text": column.TextColumn("Text"),
            "tokens": column.NumberColumn("Tokens", format="localized"),
            "size": column.TextColumn("Size"),
            "used": column.TextColumn("Used by", width="large"),
        },
    )
    _delete(shell, [cache for cache in found if not cache.used_by])


def _delete(shell: Shell, unused: list[contents.Cache]) -> None:
    """Asks once, for one cache."""
    if not unused or shell.person.role != "researcher":
        return
    sizes = {cache.hash: cache.n_bytes for cache in unused}
    with st.popover("Delete an unused cache", icon=":material/delete:"):
        picked = st.selectbox(
            "Cache", list(sizes), key="settings.cache",
            format_func=lambda hash: f"{hash}  ({job_actions.size(sizes[hash])})",
        )  # fmt: skip
        st.write("It belongs to no SAE here. Whoever needs these activations again will have to "
                 "run the language model over the text again.")  # fmt: skip
        if st.button("Yes, delete it", type="primary", key="settings.cache.delete"):
            try:
                delete(shell, picked)
            except WorkbenchError as error:
                show_error(error)
                return
            st.toast(plain(f"Deleted {picked}: {job_actions.size(sizes[picked])} are free again."))
            st.rerun()


def delete(shell: Shell, hash: str) -> None:
    """Deletes one cache for good; WorkbenchError while a job runs that may be reading it."""
    job_actions.refuse_others(shell)
    if job_actions.running(shell):
        raise WorkbenchError("A job is running and may be reading it: wait until it ends")
    contents.delete_cache(shell.workspace, hash)
