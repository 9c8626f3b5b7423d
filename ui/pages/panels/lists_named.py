"""Named lists: make one, put its features in order, rename and delete it.

In:  the lab, the chosen list in the address. Out: the lists on the left, the chosen one on the
     right. Every change is in the journal before the page shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from data.errors import WorkbenchError
from data.records import FeatureList
from ui.keys import lists as keys
from ui.keys.lists import ListsView
from ui.pages.panels import lists_entries
from ui.pages.panels.lists_entries import Entry, go
from ui.shell import Shell, plain

ICONS = {
    "up": ":material/arrow_upward:", "down": ":material/arrow_downward:",
    "remove": ":material/playlist_remove:",
}  # fmt: skip


def show(shell: Shell, view: ListsView, act: Callable) -> None:
    """act: runs a change and tells what it did."""
    lists = shell.lab.lists()
    left, right = st.columns([1, 3.4], gap="large")
    chosen = next((one for one in lists if one.id == view.list), lists[0] if lists else None)
    with left:
        _names(shell, view, lists, chosen, act)
    with right:
        if view.list and (chosen is None or chosen.id != view.list):
            st.warning("The list of this address is not there; it may have been deleted.")
        if chosen is None:
            st.info(
                "No list yet. A list holds features of any SAE in the order you give them: what to "
                "look at next, a figure’s panels, a story. Make one on the left, then add features "
                "here, or all features of a filter on the Features page with “Mark all”."
            )
        else:
            _list(shell, view, chosen, act)


def _names(
    shell: Shell,
    view: ListsView,
    lists: list[FeatureList],
    chosen: FeatureList | None,
    act: Callable,
) -> None:
    for one in lists:
        st.button(
            f"{plain(one.name)}  ({len(one.entries):,})", key=f"lists.open.{one.id}",
            width="stretch", type="primary" if one == chosen else "secondary", on_click=go,
            args=(shell, replace(view, list=one.id, page=1)),
        )  # fmt: skip

    def create() -> str:
        made = shell.lab.create_list(st.session_state["lists.new"], who=shell.person.name)
        go(shell, replace(view, list=made.id, page=1))
        return f"Made the list “{made.name}”."

    with st.form("lists.create", border=False, clear_on_submit=True):
        st.text_input("New list", key="lists.new", max_chars=120, placeholder="its name")
        st.form_submit_button(
            "Make list", icon=":material/add:", width="stretch", on_click=act, args=(create,)
        )


def _list(shell: Shell, view: ListsView, one: FeatureList, act: Callable) -> None:
    head, tools = st.columns([1, 1.2], vertical_alignment="center")
    head.subheader(plain(one.name), anchor=False)
    with tools.container(horizontal=True, horizontal_alignment="right"):
        _add(shell, one, act)
        _rename(shell, one, act)
        _delete(shell, one, act)
    named = f"{len(one.entries):,} features, named by {one.who} on {one.time[:10]}."
    if not one.entries:
        st.info("This list is empty. Add features above, or from the Features and Feature pages.")
        return
    st.caption(plain(f"{named} Tick a row to move or remove it; click one to open it."))
    bar = st.container(horizontal=True, vertical_alignment="bottom", key="lists-bar")
    key = f"lists.table.{one.id}.{view.page}"
    chosen = lists_entries.show(shell, view, one.entries, key, numbered=True)
    with bar:
        _order(shell, view, one, chosen, key, act)


def _order(
    shell: Shell, view: ListsView, one: FeatureList, chosen: list[Entry], key: str, act: Callable
) -> None:
    """Up, down, to a number, out: for what is ticked."""
    who, single = shell.person.name, len(chosen) == 1
    place = one.entries.index(chosen[0]) + 1 if single else 0

    def move(to: int) -> Callable[[], str]:
        def moved() -> str:
            at = min(max(to, 1), len(one.entries))
            shell.lab.move_in_list(one.id, *chosen[0], at, who=who)
            page, row = divmod(at - 1, lists_entries.PAGE_SIZE)
            go(shell, replace(view, list=one.id, page=page + 1))
            st.session_state[f"lists.table.{one.id}.{page + 1}"] = {"selection": {"rows": [row]}}
            return f"Moved to number {at}."

        return moved

    def remove() -> str:
        n = shell.lab.remove_from_list(one.id, chosen, who=who)
        st.session_state[key] = {"selection": {"rows": []}}
        return f"Took {n:,} out of the list."

    st.button(
        "Up", icon=ICONS["up"], disabled=not single or place == 1, on_click=act,
        args=(move(place - 1),),
    )  # fmt: skip
    st.button(
        "Down", icon=ICONS["down"], disabled=not single or place == len(one.entries), on_click=act,
        args=(move(place + 1),),
    )  # fmt: skip
    st.session_state["lists.place"] = place or None

    def to_number() -> None:
        wanted = st.session_state["lists.place"]
        if wanted is not None:
            act(move(wanted))

    st.number_input(
        "To number", 1, None, None, key="lists.place", disabled=not single, width=140,
        placeholder="number", label_visibility="collapsed", on_change=to_number,
    )  # fmt: skip
    st.button("Remove", icon=ICONS["remove"], disabled=not chosen, on_click=act, args=(remove,))
    lists_entries.add_to_list(shell, chosen, "lists.named", act)


def _add(shell: Shell, one: FeatureList, act: Callable) -> None:
    with (
        st.popover("Add features", icon=":material/add:"),
        st.form("lists.add", border=False, clear_on_submit=True),
    ):
        names = shell.workspace.saes
        at = names.index(shell.sae) if shell.sae in names else 0
        st.selectbox("SAE", names, index=at if names else None, key="lists.add.sae")
        st.text_input("Features", key="lists.add.numbers", placeholder="3, 17, 40-45")

        def add() -> str:
            sae, text = st.session_state["lists.add.sae"], st.session_state["lists.add.numbers"]
            if sae is None:
                raise WorkbenchError("this workspace has no SAE yet: train or import one first")
            size = shell.workspace.config(sae)["d_sae"]
            entries = [(sae, feature) for feature in keys.numbers(text, size)]
            n = shell.lab.add_to_list(one.id, entries, who=shell.person.name)
            return f"Added {n:,} to “{one.name}”."

        st.form_submit_button("Add", on_click=act, args=(add,))


def _rename(shell: Shell, one: FeatureList, act: Callable) -> None:
    with (
        st.popover("Rename", icon=":material/edit:"),
        st.form(f"lists.rename.{one.id}", border=False),
    ):
        st.text_input("Name", one.name, key=f"lists.name.{one.id}", max_chars=120)

        def rename() -> str:
            name = st.session_state[f"lists.name.{one.id}"]
            shell.lab.rename_list(one.id, name, who=shell.person.name)
            return f"Renamed to “{name.strip()}”."

        st.form_submit_button("Rename", on_click=act, args=(rename,))


def _delete(shell: Shell, one: FeatureList, act: Callable) -> None:
    def delete() -> str:
        shell.lab.delete_list(one.id, who=shell.person.name)
        go(shell, ListsView())
        return f"Deleted the list “{one.name}”."

    with st.popover("Delete", icon=":material/delete:"):
        st.write(plain(f"Delete “{one.name}” with its {len(one.entries):,} entries?"))
        st.caption("The features and what is written about them stay. You can undo it.")
        st.button("Delete this list", type="primary", on_click=act, args=(delete,))
