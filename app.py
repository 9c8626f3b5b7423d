"""The app: `streamlit run app.py -- --workspace PATH`.

Opens the workspace, decides who is here and which SAE is looked at, lists the pages and runs one.
Errors a user can mend are shown in place; everything else crashes loudly. Loads no model and no
torch: what needs the model goes through its worker process (interp/live.py).
"""

from __future__ import annotations

import argparse
import functools
import getpass
import os
import sys
from pathlib import Path

import streamlit as st

from data.errors import WorkbenchError, WorkspaceError
from data.jobs import Jobs
from data.lab import Lab, open_lab
from data.schema import Root, open_root
from data.workspace import Workspace
from interp.live import LiveModel
from ui import shell
from ui.pages import (
    autointerp,
    compare,
    feature,
    features,
    jobs,
    lists,
    overview,
    prompt,
    rate,
    settings,
    study,
)

# Section of the sidebar -> pages by their address: (module, title, icon).
SECTIONS = {
    "Explore": {
        "overview": (overview, "Overview", ":material/space_dashboard:"),
        "features": (features, "Features", ":material/table_rows:"),
        "feature": (feature, "Feature", ":material/scatter_plot:"),
        "prompt": (prompt, "Prompt", ":material/short_text:"),
        "compare": (compare, "Compare", ":material/compare_arrows:"),
    },
    "Judge": {
        "autointerp": (autointerp, "Auto-interp", ":material/psychology:"),
        "rate": (rate, "Rate", ":material/thumbs_up_down:"),
        "study": (study, "Study results", ":material/analytics:"),
    },
    "Workspace": {
        "lists": (lists, "Lists", ":material/bookmarks:"),
        "jobs": (jobs, "Jobs", ":material/work_history:"),
        "settings": (settings, "Data and settings", ":material/database:"),
    },
}


def workspace_path(argv: list[str], environ: dict[str, str]) -> str:
    """--workspace, else WORKBENCH_WORKSPACE, else ./workspace; WorkspaceError for anything else."""
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--workspace", default=environ.get("WORKBENCH_WORKSPACE", "workspace"))
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise WorkspaceError(
            f"{error}; start with: streamlit run app.py -- --workspace PATH"
        ) from None
    if rest:
        raise WorkspaceError(
            f"unknown argument {rest[0]!r}; start with: streamlit run app.py -- --workspace PATH"
        )
    return known.workspace


@st.cache_resource
def the_root() -> Root:
    """The one database instance of this process."""
    return open_root()


@st.cache_resource
def the_lab(workspace: Path) -> Lab:
    """What people write: one for all browser sessions."""
    return open_lab(the_root(), Workspace.open(workspace))


@st.cache_resource
def live_model(workspace: Path, sae: str) -> LiveModel:
    """One client of the model worker for each SAE, shared by all browser sessions."""
    return LiveModel(workspace, sae)


def main() -> None:
    st.set_page_config(page_title="SAE workbench", page_icon=shell.FAVICON, layout="wide")
    st.html(shell.styles())
    workspace = Workspace.open(workspace_path(sys.argv[1:], dict(os.environ)))
    person = shell.Person(getpass.getuser())
    opened: dict[str, st.Page] = {}
    sae = None

    def show(name: str, module) -> None:
        if sae is None and module.NEEDS_SAE:
            shell.welcome(workspace)
            return
        desk = shell.Shell(
            workspace, the_root(), the_lab(workspace.root), Jobs(workspace.jobs), person, sae,
            opened, live_model, token_strip,
        )  # fmt: skip
        module.page(desk)

    sections = {}
    for section, pages in SECTIONS.items():
        for name, (module, title, icon) in pages.items():
            opened[name] = st.Page(
                functools.partial(show, name, module),
                title=title, icon=icon, url_path=name, default=name == "overview",
            )  # fmt: skip
        sections[section] = [opened[name] for name in pages]
    chosen = st.navigation(sections)
    token_strip = shell.register_token_strip()
    if workspace.saes:
        sae = shell.choose_sae(workspace)
        shell.sidebar_facts(workspace, sae)
    chosen.run()


try:
    main()
except WorkbenchError as error:
    shell.show_error(error)
