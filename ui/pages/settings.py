"""Data and settings: where everything came from, what lies where, what is set up, what is wrong.

In:  the workspace and the part in the address. Out: the page, one part at a time.
"""

from __future__ import annotations

import streamlit as st

from data.errors import WorkbenchError
from ui.keys import settings as keys
from ui.pages.panels import (
    settings_exports,
    settings_sae,
    settings_system,
    settings_workspace,
)
from ui.shell import Shell, address, set_address, show_error

PAGE = "settings"
NEEDS_SAE = False
TITLES = {
    "sae": "This SAE",
    "workspace": "Workspace",
    "exports": "Exports",
    "system": "System",
}
PANELS = {
    "sae": settings_sae.show,
    "workspace": settings_workspace.show,
    "exports": settings_exports.show,
    "system": settings_system.show,
}


def page(shell: Shell) -> None:
    st.title("Data and settings")
    params = address(PAGE, shell.sae, keys.KEYS)
    try:
        part = keys.read_part(params)
    except WorkbenchError as error:
        show_error(error)
        st.button("Show this SAE", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    st.session_state["settings.part"] = part

    def chosen() -> None:
        set_address(PAGE, shell.sae, keys.write_part(st.session_state["settings.part"]))

    st.segmented_control(
        "Part", keys.PARTS, key="settings.part", on_change=chosen, required=True,
        format_func=TITLES.get, label_visibility="collapsed",
    )  # fmt: skip
    PANELS[part](shell)
