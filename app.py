"""The app: `streamlit run app.py -- --workspace PATH`.

Opens the workspace, chooses the SAE, lists the pages and runs one. Errors a user can mend are shown
in place; everything else crashes loudly. Loads no model and no torch: what needs the model goes
through its worker process (interp/live.py).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

import streamlit as st

from data.errors import WorkbenchError, WorkspaceError
from data.schema import Root, open_root
from data.workspace import Workspace
from interp.live import LiveModel
from ui import shell
from ui.pages import feature, features, overview, prompt

PAGES = {"overview": overview, "features": features, "feature": feature, "prompt": prompt}


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
def live_model(workspace: Path, sae: str) -> LiveModel:
    """One client of the model worker for each SAE, shared by all browser sessions."""
    return LiveModel(workspace, sae)


def main() -> None:
    st.set_page_config(page_title="SAE workbench", layout="wide")
    st.html(shell.STYLE)
    workspace = Workspace.open(workspace_path(sys.argv[1:], dict(os.environ)))
    opened: dict[str, st.Page] = {}
    sae = None

    def show(name: str) -> None:
        if sae is None:
            shell.welcome(workspace)
            return
        desk = shell.Shell(workspace, the_root(), sae, opened, live_model, token_strip)
        PAGES[name].page(desk)

    for name in PAGES:
        run = functools.partial(show, name)
        opened[name] = st.Page(
            run, title=name.capitalize(), url_path=name, default=name == "overview"
        )
    chosen = st.navigation(list(opened.values()))
    token_strip = shell.register_token_strip()
    if workspace.saes:
        sae = shell.choose_sae(workspace)
        shell.sidebar_facts(workspace, sae)
    chosen.run()


try:
    main()
except WorkbenchError as error:
    shell.show_error(error)
