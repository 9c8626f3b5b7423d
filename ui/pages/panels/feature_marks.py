"""Bookmark, tags and note of a feature: three buttons, two dialogs.

In:  a `Case`. Out: each change is written to the lab before anything else happens, and confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from data.errors import WorkbenchError
from data.lab_events import LONGEST
from ui.pages.panels import dialog_focus
from ui.pages.panels.feature_case import Case
from ui.shell import plain


def buttons(case: Case) -> None:
    on = case.mark.bookmarked
    st.button(
        "Bookmarked" if on else "Bookmark", key="feature.bookmark", shortcut="B",
        on_click=_bookmark, args=(case,), type="primary" if on else "tertiary",
        icon=":material/bookmark_added:" if on else ":material/bookmark_border:",
        help="Press to take the bookmark away" if on else "Keep it for later",
    )  # fmt: skip
    if st.button("Tags", key="feature.tags", shortcut="T", icon=":material/label:",
                 type="tertiary"):  # fmt: skip
        _tags(case)
    if st.button("Note", key="feature.note", shortcut="N", icon=":material/edit_note:",
                 type="tertiary"):  # fmt: skip
        _note(case)


def written(work: Callable[[], object], done: str) -> bool:
    """Does what writes to the lab and has `told` say so; a refusal too, and nothing is changed."""
    try:
        work()
    except WorkbenchError as error:
        st.session_state["feature.said"] = (f"Not saved: {error}", ":material/error:")
        return False
    st.session_state["feature.said"] = (done, ":material/check:")
    return True


def told() -> None:
    """Says once what became of the last change. Not in a callback: of a dialog, that would take the
    place of what stands at the top of the page."""
    text, icon = st.session_state.pop("feature.said", ("", ""))
    if text:
        st.toast(plain(text), icon=icon)


def _bookmark(case: Case) -> None:
    shell, on = case.shell, not case.mark.bookmarked
    written(
        lambda: shell.lab.bookmark(shell.sae, case.feature, on, who=shell.person.name),
        f"Feature {case.feature} bookmarked" if on else f"Bookmark of {case.feature} taken away",
    )


@st.dialog("Tags", on_dismiss="rerun")
def _tags(case: Case) -> None:
    """Tags of the team, to choose from and to add to; saved with every change."""
    shell, key = case.shell, f"feature.tags.{case.shell.sae}.{case.feature}"
    own = list(shell.lab.mark(shell.sae, case.feature).tags)
    known = list(shell.lab.tags())
    st.session_state[key] = own
    st.multiselect(
        f"Tags of feature {case.feature}", list(dict.fromkeys([*known, *own])), key=key,
        accept_new_options=True, placeholder="choose, or type a new one and press Enter",
        on_change=lambda: _save_tags(case, own, st.session_state[key]),
    )  # fmt: skip
    st.caption("Saved at once, for everybody of this workspace. The Features page filters by tag.")
    dialog_focus.first_field("tags")
    told()


def _save_tags(case: Case, before: Sequence[str], after: Sequence[str]) -> None:
    shell, who = case.shell, case.shell.person.name

    def work() -> None:
        for tag in after:
            if tag not in before:
                shell.lab.tag(shell.sae, case.feature, tag, who=who)
        for tag in before:
            if tag not in after:
                shell.lab.untag(shell.sae, case.feature, tag, who=who)

    written(work, "Tags saved")


@st.dialog("Note", on_dismiss="rerun")
def _note(case: Case) -> None:
    shell = case.shell
    versions = shell.lab.notes(shell.sae, case.feature)
    key = f"feature.note.{shell.sae}.{case.feature}"
    st.text_area(
        f"Note on feature {case.feature}", value=case.mark.note or "", height=180, key=key,
        max_chars=LONGEST["note"],
        placeholder="what you saw, and where",
    )  # fmt: skip
    dialog_focus.first_field("note")
    if versions:
        newest = versions[0]
        st.caption(plain(f"Last changed by {newest.who}, {when(newest.time)}."))

    def save() -> bool:
        said, who = st.session_state[key], shell.person.name
        return written(lambda: shell.lab.note(shell.sae, case.feature, said, who=who), "Note saved")

    saving("Save note", save)


def saving(name: str, save: Callable[[], bool]) -> None:
    """The button that saves what a dialog holds, and closes it unless that was refused."""
    done = "feature.saved"

    def work() -> None:
        st.session_state[done] = save()

    if st.button(name, key=f"feature.saving.{name}", type="primary", on_click=work):
        if st.session_state.pop(done, False):
            st.rerun()
        told()


def when(time: str) -> str:
    """A journal's time as people read it, in UTC: `2026-11-21 10:00`."""
    return time[:16].replace("T", " ") + " UTC"
