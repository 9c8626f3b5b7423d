"""The system: versions, device, services and their keys (set or not), memory, who is here.

In:  doctor's facts. Out: the panel. No key is ever read out, not even in part.
"""

from __future__ import annotations

import os
import platform

import streamlit as st

from data import doctor
from ui import cards
from ui.pages.panels import job_actions
from ui.shell import Shell


def show(shell: Shell) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("You")
        st.html(cards.facts([("name", shell.person.name), ("role", shell.person.role)]))
        st.subheader("Services")
        _services()
        st.subheader("Machine")
        _machine()
    with right:
        st.subheader("Installed")
        rows = [(name, version or "not installed") for name, version in doctor.versions().items()]
        st.html(cards.facts(rows))


def _services() -> None:
    rows = []
    for service in doctor.services():
        key = "key set" if service.key_set else f"no key (set {' or '.join(service.variables)})"
        package = "" if service.installed else ", package not installed"
        rows.append((service.name, key + package))
    rows.append(("Hugging Face hub", "switched off" if doctor.hub_is_off() else "may be asked"))
    st.html(cards.facts(rows))
    st.caption("Keys are read from the environment of the server and shown to nobody. The app "
               "itself asks no service; jobs that need one do.")  # fmt: skip


def _machine() -> None:
    total, free = doctor.memory()
    size = job_actions.size
    st.html(
        cards.facts(
            [
                ("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
                ("graphics cards", "; ".join(doctor.accelerators()) or "none: jobs run on the CPU"),
                ("memory", f"{size(free)} of {size(total)} free" if total else None),
                ("this app’s memory", size(doctor.own_memory()) or None),
            ]
        )
    )
