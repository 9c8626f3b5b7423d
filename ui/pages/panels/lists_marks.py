"""Bookmarks, tags, notes and labels of people, over one SAE or all.

In:  the lab, the chosen part in the address. Out: tables of features with what can be done to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from ui.keys import lists as keys
from ui.keys.lists import ListsView
from ui.pages.panels import lists_entries
from ui.pages.panels.lists_entries import Entry, go
from ui.shell import Shell, plain


def bookmarks(shell: Shell, view: ListsView, act: Callable) -> None:
    _scope(shell, view)
    entries = [(mark.sae, mark.feature) for mark in shell.lab.bookmarks(_sae(shell, view))]
    if not entries:
        st.info(
            "No bookmark here yet. Press B on the Feature page to bookmark a feature, or bookmark "
            "all features of a filter on the Features page with “Mark all”."
        )
        return
    features = "feature" if len(entries) == 1 else "features"
    st.caption(f"{len(entries):,} bookmarked {features}, the last changed first.")
    bar = st.container(horizontal=True)
    chosen = lists_entries.show(
        shell, view, entries, f"lists.bookmarks.{view.page}", within={"star": "yes"}
    )

    def remove() -> str:
        for sae, features in _by_sae(chosen).items():
            shell.lab.bookmark(sae, features, False, who=shell.person.name)
        return f"Removed {len(chosen):,} bookmarks."

    with bar:
        st.button(
            "Remove bookmark", icon=":material/bookmark_remove:", disabled=not chosen,
            on_click=act, args=(remove,),
        )  # fmt: skip
        lists_entries.add_to_list(shell, chosen, "lists.bookmarks", act)


def tags(shell: Shell, view: ListsView, act: Callable) -> None:
    _scope(shell, view)
    sae = _sae(shell, view)
    counts = shell.lab.tags(sae)
    if not counts:
        st.info(
            "No tag here yet. Press T on the Feature page to tag a feature, or tag all features of "
            "a filter on the Features page with “Mark all”."
        )
        return
    tag = view.tag or next(iter(counts))
    names = list(counts) if tag in counts else [*counts, tag]
    st.session_state["lists.tag"] = tag

    def choose() -> None:
        go(shell, replace(view, tag=st.session_state["lists.tag"], page=1))

    st.pills(
        "Tag", names, key="lists.tag", required=True, on_change=choose,
        format_func=lambda name: plain(f"{name} ({counts.get(name, 0):,})"),
    )  # fmt: skip
    tagged = [row for row in shell.lab.registers("tag") if row[2] == tag and sae in (None, row[0])]
    if not tagged:
        st.info(plain(f"No feature has the tag “{tag}” here."))
        return
    bar = st.container(horizontal=True)
    more = {"who": [row[4] for row in tagged], "when": [_minute(row[5]) for row in tagged]}
    chosen = lists_entries.show(
        shell, view, [row[:2] for row in tagged], f"lists.tags.{tag}.{view.page}", more,
        within={"tag": tag},
    )  # fmt: skip

    def untag() -> str:
        for its, features in _by_sae(chosen).items():
            shell.lab.untag(its, features, tag, who=shell.person.name)
        return f"Took the tag “{tag}” from {len(chosen):,} features."

    with bar:
        st.button(
            "Take the tag away", icon=":material/label_off:", disabled=not chosen, on_click=act,
            args=(untag,),
        )  # fmt: skip
        lists_entries.add_to_list(shell, chosen, "lists.tags", act)
        if shell.sae is not None and st.button("Open in Features", icon=":material/filter_alt:"):
            shell.go("features", {"tag": tag})


def notes(shell: Shell, view: ListsView, act: Callable) -> None:
    _scope(shell, view)
    sae = _sae(shell, view)
    written = [
        (kind, row)
        for kind in ("note", "label")
        for row in shell.lab.registers(kind)
        if sae in (None, row[0])
    ]
    if not written:
        st.info(
            "No note here yet. Press N on the Feature page to write one, or say there in your own "
            "words what a feature stands for."
        )
        return
    written.sort(key=lambda one: one[1][5], reverse=True)
    st.caption(f"{len(written):,} notes and labels, the newest first.")
    bar = st.container(horizontal=True)
    more = {
        "note": [f"✎ {row[3]}" if kind == "label" else row[3] for kind, row in written],
        "who": [row[4] for _, row in written],
        "when": [_minute(row[5]) for _, row in written],
    }
    entries = [row[:2] for _, row in written]
    chosen = lists_entries.show(shell, view, entries, f"lists.notes.{view.page}", more)
    with bar:
        lists_entries.add_to_list(shell, list(dict.fromkeys(chosen)), "lists.notes", act)


def _scope(shell: Shell, view: ListsView) -> None:
    """All SAEs, or the one in the sidebar."""
    if shell.sae is None:
        return
    st.session_state["lists.scope"] = view.scope

    def change() -> None:
        go(shell, replace(view, scope=st.session_state["lists.scope"], page=1))

    names = keys.SCOPES | {"this": f"only {shell.sae}"}
    st.segmented_control(
        "Of", list(names), key="lists.scope", format_func=lambda scope: plain(names[scope]),
        required=True, on_change=change, label_visibility="collapsed",
    )  # fmt: skip


def _sae(shell: Shell, view: ListsView) -> str | None:
    return shell.sae if view.scope == "this" else None


def _by_sae(chosen: list[Entry]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for sae, feature in chosen:
        found.setdefault(sae, []).append(feature)
    return found


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
