"""Exports: what was written for other programs, to be fetched if it is small.

In:  the folder exports/ of the workspace. Out: a list with downloads; a way to the export form.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import streamlit as st

from data import contents
from ui.pages.panels import job_actions, job_progress
from ui.shell import Shell, plain

SMALL = 50e6  # bytes that a browser is offered at once
SHOWN = 20


def show(shell: Shell) -> None:
    st.caption(
        "An SAE’s weights as SAELens, Gemma Scope or dictionary_learning files; its features as "
        "Parquet, CSV or JSONL tables, as Neuronpedia’s import, or as one HTML page each."
    )
    researcher = shell.person.role == "researcher"
    if shell.sae is not None and researcher:
        if st.button("New export", type="primary", icon=":material/add:", key="settings.export"):
            shell.go("jobs", {"new": "export"})
    running = job_actions.running(shell, "export")
    job_progress.strip(shell, running)
    found = contents.exports(shell.workspace)
    if not found:
        st.info("Nothing was exported from the app yet. An export runs as a job and appears here.")
        return
    for thing in found[:SHOWN]:
        _one(shell, thing)
    if len(found) > SHOWN:
        st.caption(f"The newest {SHOWN} of {len(found):,}.")


def _one(shell: Shell, thing: contents.Thing) -> None:
    path = shell.workspace.root / thing.name
    try:
        names = sorted(file.name for file in path.iterdir())
    except OSError:  # deleted meanwhile
        return
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"**{plain(thing.name)}**")
        left.caption(plain(f"{job_actions.size(thing.n_bytes)}, {job_actions.when(thing.changed)}: "
                           f"{listed}"))  # fmt: skip
        if shell.person.role != "researcher":
            return
        if thing.n_bytes > SMALL:
            right.caption("Too large for a download: copy the folder from the workspace.")
            return
        right.download_button(
            "Download", data=lambda: zipped(path), file_name=f"{path.name}.zip",
            mime="application/zip", key=f"settings.download.{thing.name}", on_click="ignore",
            icon=":material/download:", width="stretch",
        )  # fmt: skip


def zipped(folder: Path) -> bytes:
    """A folder as one zip file, made when it is asked for."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder.parent))
    return out.getvalue()
