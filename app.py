"""The app: `streamlit run app.py -- --workspace PATH`.

Opens the workspace, decides who is here and which SAE is looked at, lists the pages and runs one.
Errors a user can mend are shown in place; everything else crashes loudly. Loads no model and no
torch: what needs the model goes through its worker process (interp/live.py).
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import sys
from pathlib import Path

import streamlit as st

from data.access import Access
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
from ui.pages.panels import overview_welcome, search, shortcuts, sign_in, soft_links

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


RATER = {"Judge": {"rate": SECTIONS["Judge"]["rate"]}}  # all that a rater sees


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
def the_access(workspace: Path) -> Access:
    """Who may come in; one for all sessions, since it counts wrong passcodes."""
    return Access(workspace)


@st.cache_resource
def live_model(workspace: Path, sae: str) -> LiveModel:
    """One client of the model worker for each SAE, shared by all browser sessions."""
    return LiveModel(workspace, sae)


@st.cache_resource
def freeze_imports(page: str) -> None:
    """Streamlit collects garbage after every run of a script; what imports made is none, and going
    through it took most of a run (docs/BENCHMARKS.md). Once a page, since each may import more."""
    gc.collect()
    gc.freeze()


def main() -> None:
    st.set_page_config(page_title="SAE workbench", page_icon=shell.FAVICON, layout="wide")
    st.html(shell.styles())
    workspace = Workspace.open(workspace_path(sys.argv[1:], dict(os.environ)))
    access = the_access(workspace.root)
    person = sign_in.person(access)
    opened: dict[str, st.Page] = {}
    desk = None

    def show(module) -> None:
        if desk.sae is None and module.NEEDS_SAE:
            overview_welcome.show(desk)
        else:
            module.page(desk)

    sections = {}
    researcher = person is None or person.researcher
    for section, pages in (SECTIONS if researcher else RATER).items():
        for name, (module, title, icon) in pages.items():
            opened[name] = st.Page(
                functools.partial(show, module),
                title=title, icon=icon, url_path=name if opened else None, default=not opened,
            )  # fmt: skip
        sections[section] = [opened[name] for name in pages]
    first = next(iter(opened))  # Streamlit serves it at the root only; its name leads there too
    named = st.Page(
        lambda: st.switch_page(opened[first], query_params=st.query_params.to_dict()),
        title=opened[first].title, url_path=first, visibility="hidden",
    )  # fmt: skip
    next(iter(sections.values())).append(named)
    # Before somebody signs in the pages are known, so that the address is kept, but none runs.
    chosen = st.navigation(sections, position="hidden" if person is None else "sidebar")
    if person is None:
        sign_in.form(access)
        return
    sae = shell.choose_sae(workspace) if workspace.saes and person.researcher else None
    desk = shell.Shell(
        workspace, the_root(), the_lab(workspace.root), Jobs(workspace.jobs), person, sae, opened,
        live_model, shell.register_token_strip(),
    )  # fmt: skip
    if sae is not None:
        shell.sidebar_facts(workspace, sae)
        search.button(desk)
    if person.researcher:
        shortcuts.button()
    sign_in.sidebar(access, person)
    soft_links.follow(desk)
    try:
        chosen.run()
    finally:
        freeze_imports(chosen.url_path)


try:
    main()
except WorkbenchError as error:
    shell.show_error(error)
