"""A table of features of any SAE, as lists, bookmarks and tags hold them.

In:  entries (sae, feature), one page of them, a key. Out: the table and which entries are chosen; a
     click on a row opens its feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from data.errors import WorkbenchError
from data.marks_store import LabMarks
from data.records import FeatureRow, Mark
from ui.keys import lists as keys
from ui.keys.lists import ListsView
from ui.shell import Shell, plain, set_address
from ui.strips import token_text

PAGE = "lists"
PAGE_SIZE = 50
Entry = tuple[str, int]
ABOUT = {
    "sae": ("SAE", "The sparse autoencoder it belongs to."),
    "feature": ("feature", "Number of the feature; a click opens it."),
    "star": ("★", "Bookmarked by somebody of the team."),
    "label": ("label", "What a judge says it stands for; ✎ a person’s own words."),
    "density": ("density", "Share of tokens on which it is active."),
    "max": ("max", "Largest activation in the corpus."),
    "peak": ("peak token", "Token it fires on most often."),
    "tags": ("tags", "Given by people."),
    "note": ("note", "The newest note, or the newest label in a person’s words."),
    "who": ("by", "Who wrote it."),
    "when": ("when", "Time in UTC."),
}


def go(shell: Shell, view: ListsView) -> None:
    """Shows that part of the page."""
    set_address(PAGE, shell.sae, keys.write_view(view))


def show(
    shell: Shell,
    view: ListsView,
    entries: Sequence[Entry],
    key: str,
    more: dict[str, list] | None = None,
    numbered: bool = False,
    within: dict[str, str] | None = None,
) -> list[Entry]:
    """One page of the entries; those whose boxes are ticked.

    more: further columns, one value an entry. numbered: the first column is the place in the list.
    within: the filter that a feature is opened in, for its previous and next.
    """
    pages = max(1, math.ceil(len(entries) / PAGE_SIZE))
    here = min(view.page, pages)
    first = (here - 1) * PAGE_SIZE
    shown = list(entries[first : first + PAGE_SIZE])
    known, marks = _facts(shell, shown)
    table = _table(shown, known, marks)
    if numbered:
        table.insert(0, "place", range(first + 1, first + 1 + len(shown)))
    for at, (name, values) in enumerate((more or {}).items()):
        table.insert(4 + at, name, values[first : first + PAGE_SIZE])
    event = st.dataframe(
        table, key=key, hide_index=True, height="content", row_height=34, placeholder="–",
        column_config=_config(table), on_select="rerun",
        selection_mode=["multi-row", "single-cell"], alt="Features with what is known of them",
    )  # fmt: skip
    _pager(shell, view, pages, here, key)
    if event.selection.cells:
        sae, feature = shown[event.selection.cells[0][0]]
        if sae in shell.workspace.saes:
            shell.go("feature", {"f": str(feature), **(within or {})}, sae=sae)
        st.warning(
            plain(
                f"{sae} is not in this workspace: what was written about its features is kept, "
                "but they cannot be opened."
            )
        )
    return [shown[row] for row in event.selection.rows if row < len(shown)]


def add_to_list(shell: Shell, chosen: list[Entry], key: str, act: Callable) -> None:
    """A popover that puts the chosen entries into a list. act: runs a change and tells of it."""
    with st.popover("Add to a list", icon=":material/playlist_add:", disabled=not chosen):
        names = [one.name for one in shell.lab.lists()]
        name = st.selectbox(
            "List", names, index=None, key=f"{key}.target", accept_new_options=True,
            placeholder="choose a list, or type a new name",
        )  # fmt: skip

        def add() -> str:
            there = {one.name: one for one in shell.lab.lists()}
            target = there.get(name) or shell.lab.create_list(name, who=shell.person.name)
            n = shell.lab.add_to_list(target.id, chosen, who=shell.person.name)
            return f"Added {n:,} to “{target.name}”."

        st.button("Add", key=f"{key}.add", disabled=not name, on_click=act, args=(add,))


def _facts(shell: Shell, shown: list[Entry]) -> tuple[dict[Entry, FeatureRow], dict[Entry, Mark]]:
    """What the stores and the lab say of these; nothing of an SAE that is gone or has no store."""
    known: dict[Entry, FeatureRow] = {}
    marks: dict[Entry, Mark] = {}
    for sae in dict.fromkeys(sae for sae, _ in shown):
        features = [feature for its, feature in shown if its == sae]
        written = LabMarks(shell.root, shell.lab, sae).read().of(features)
        marks |= {(sae, feature): mark for feature, mark in written.items()}
        if sae not in shell.workspace.saes:
            continue
        there = shell.named(sae)
        try:
            rows = there.store().rows_of(features) if there.harvested else []
        except WorkbenchError:  # a store that cannot be read: its page says why
            rows = []
        known |= {(sae, row.feature): row for row in rows}
    return known, marks


def _table(
    shown: list[Entry], known: dict[Entry, FeatureRow], marks: dict[Entry, Mark]
) -> pd.DataFrame:
    rows = [known.get(entry) for entry in shown]
    written = [marks.get(entry) or Mark(*entry) for entry in shown]

    def peak(row: FeatureRow | None) -> str | None:
        return None if row is None or row.peak_token is None else token_text(row.peak_token)

    return pd.DataFrame(
        {
            "sae": [sae for sae, _ in shown],
            "feature": [feature for _, feature in shown],
            "star": ["★" if mark.bookmarked else "" for mark in written],
            "label": [
                f"✎ {mark.label}" if mark.label else row and row.label
                for row, mark in zip(rows, written, strict=True)
            ],
            "density": [None if row is None else 100 * row.density for row in rows],
            "max": [None if row is None else row.max for row in rows],
            "peak": [peak(row) for row in rows],
            "tags": [list(mark.tags) for mark in written],
        }
    )


def _config(table: pd.DataFrame) -> dict:
    column, found = st.column_config, {"place": st.column_config.NumberColumn("#", width=40)}
    formats = {"feature": "%d", "density": "%.3g %%", "max": "%.3g"}
    widths = {"label": 300, "note": 320, "star": 40, "tags": 150}
    for name, (title, help) in ABOUT.items():
        about = {"help": help, "width": widths.get(name)}
        if name in formats:
            found[name] = column.NumberColumn(title, format=formats[name], **about)
        elif name == "tags":
            found[name] = column.ListColumn(title, **about)
        else:
            found[name] = column.TextColumn(title, **about)
    return {name: found[name] for name in table.columns}


def _pager(shell: Shell, view: ListsView, pages: int, here: int, key: str) -> None:
    if pages < 2:
        return
    widget = f"{key}.page.{here}"

    def turn() -> None:
        go(shell, replace(view, page=st.session_state[widget]))

    st.pagination(pages, default=here, key=widget, on_change=turn, width="stretch")
