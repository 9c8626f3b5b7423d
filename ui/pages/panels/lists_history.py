"""What was changed last, and the lab as one file: export and import.

In:  the lab. Out: a table of changes; a file to keep, a file to take in; what an undo would undo.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from data.records import Change
from ui.keys.lists import ListsView
from ui.shell import Shell, plain

SHOWN = 100
LARGEST = 20  # MB of a file to import
KINDS = {
    "bookmark": ("bookmark", "bookmarks"), "tag": ("tag", "tags"), "note": ("note", "notes"),
    "label": ("label", "labels"), "list": ("list", "lists"), "entry": ("entry", "entries of lists"),
    "filter": ("saved filter", "saved filters"),
}  # fmt: skip


def said(change: Change, lists: dict[str, str]) -> str:
    """A change in words. lists: names by id."""
    on = change.value is not None
    several = "" if change.items == 1 else f" and {change.items - 1:,} more"
    where = "" if change.feature is None else f"feature {change.feature} of {change.sae}{several}"
    name = lists.get(change.name or "", change.value if change.kind == "list" else None)
    called = f"“{name}”" if name else "that is deleted now"
    moved = "placed {} in" if on else "took {} out of"
    if change.action == "import":
        return f"imported {change.items:,} items"
    return {
        "bookmark": f"{'bookmarked' if on else 'removed the bookmark of'} {where}",
        "tag": f"{'tagged' if on else 'took a tag from'} {where}: “{change.name}”",
        "note": f"{'wrote a note on' if on else 'removed the note of'} {where}",
        "label": f"{'labelled' if on else 'removed the label of'} {where}",
        "list": f"{'named' if on else 'deleted'} the list {called}",
        "entry": f"{moved.format(where)} the list {called}",
        "filter": f"{'saved' if on else 'deleted'} the filter “{change.name}”",
    }.get(change.action, change.action)


def names(shell: Shell) -> dict[str, str]:
    return {one.id: one.name for one in shell.lab.lists()}


def changes(shell: Shell, view: ListsView, act: Callable) -> None:
    found = shell.lab.changes(SHOWN)
    if not found:
        st.info(
            "Nothing was written yet. Every bookmark, tag, note, label, list and saved filter will "
            "stand here with who made it; your own last change can be undone with one click."
        )
        return
    st.caption(
        f"The last {len(found):,} changes that were not undone, the newest first. Click one to "
        "open its feature."
    )
    called = names(shell)
    table = pd.DataFrame(
        {
            "when": [change.time[:16].replace("T", " ") for change in found],
            "who": [change.who for change in found],
            "what": [said(change, called) for change in found],
        }
    )
    column = st.column_config
    event = st.dataframe(
        table, key="lists.changes", hide_index=True, height="content", on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "when": column.TextColumn("when (UTC)", width=130),
            "who": column.TextColumn("who", width=120), "what": column.TextColumn("what"),
        },
    )  # fmt: skip
    if event.selection.cells:
        change = found[event.selection.cells[0][0]]
        if change.feature is not None and change.sae in shell.workspace.saes:
            shell.go("feature", {"f": str(change.feature)}, sae=change.sae)


def copy(shell: Shell, view: ListsView, act: Callable) -> None:
    left, right = st.columns(2, gap="large")
    with left.container(border=True):
        st.subheader("Export", anchor=False)
        st.write(
            "Everything people wrote here, of all SAEs, as one JSON file: bookmarks, tags, notes "
            "and labels with their versions, lists, saved filters. To keep, or to hand on."
        )
        st.download_button(
            "Download JSON", shell.lab.export_json, "sae-workbench-lab.json", "application/json",
            key="lists.export", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
    with right.container(border=True):
        st.subheader("Import", anchor=False)
        st.write(
            "Adds what such a file holds and is lacking here. Nothing is removed; where both have "
            "a text for the same thing the newer one is shown. One undo takes all of it back."
        )
        file = st.file_uploader(
            "Exported JSON file", type="json", key="lists.import", max_upload_size=LARGEST
        )

        def take() -> str:
            counts = shell.lab.import_json(file.getvalue(), who=shell.person.name)
            parts = [f"{n:,} {KINDS[kind][n != 1]}" for kind, n in counts.items()]
            return f"Imported {', '.join(parts)}." if parts else "Nothing in it is new here."

        st.button(
            "Import", icon=":material/upload:", disabled=file is None, on_click=act, args=(take,)
        )


def undo(shell: Shell, act: Callable) -> None:
    """The button that takes back a person's last change, and says which."""
    last = shell.lab.last_change(shell.person.name)
    what = "" if last is None else said(last, names(shell))

    def take_back() -> str:
        change = shell.lab.undo(who=shell.person.name)
        return "There is nothing to undo." if change is None else f"Undone: {what}."

    if last is not None:
        st.caption(plain(f"{what}, {last.time[:16].replace('T', ' ')}"), width="content")
    st.button(
        "Undo", icon=":material/undo:", disabled=last is None, on_click=act, args=(take_back,),
        help=plain(f"Your last change: {what}") if what else "You have not changed anything yet",
    )  # fmt: skip
