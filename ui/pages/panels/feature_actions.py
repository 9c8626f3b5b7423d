"""What can be done with all features of the list at once: mark them, take them along as a file.

In:  the store, the lab, the filter in the address, how many features it lets through. Out: popovers
     and a notice of what was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import streamlit as st

from data.errors import WorkbenchError
from data.features_store import FeatureStore
from data.records import FeatureFilter
from ui.shell import Shell, plain

AT_ONCE = 10_000  # features marked by one click: a third of a second, one line of the journal
NOTICE = "features.notice"
FILES = {"csv": ("CSV", "text/csv"), "parquet": ("Parquet", "application/vnd.apache.parquet")}


@contextmanager
def tell(done: str) -> Iterator[None]:
    """Keeps what a callback did, or why it could not, for the next run of the page."""
    try:
        yield
    except WorkbenchError as error:
        st.session_state[NOTICE] = (False, str(error))
    else:
        st.session_state.setdefault(NOTICE, (True, done))


def notice() -> None:
    """Shows it."""
    done, text = st.session_state.pop(NOTICE, (True, ""))
    if text and done:
        st.toast(plain(text), icon=":material/check:")
    elif text:
        st.error(plain(text))


def download(shell: Shell, store: FeatureStore, current: FeatureFilter, count: int) -> None:
    """The whole list as a file, made when it is asked for."""
    with st.popover("Download", icon=":material/download:", disabled=not count):
        st.caption(
            f"All {count:,} features of this list, with every column, in its order. In CSV a text "
            "that a spreadsheet would run as a formula begins with an apostrophe."
        )
        for format, (name, mime) in FILES.items():
            st.download_button(
                name, lambda format=format: store.exported(replace(current, page=1), format),
                f"{shell.sae}-features.{format}", mime, key=f"features.download.{format}",
                on_click="ignore", icon=":material/download:", width="stretch",
            )  # fmt: skip


def mark_all(shell: Shell, store: FeatureStore, current: FeatureFilter, count: int) -> None:
    """A tag, a bookmark or a place in a list for every feature of this one."""
    with st.popover("Mark all", icon=":material/bookmarks:", disabled=not count):
        if count > AT_ONCE:
            st.caption(
                f"{count:,} features are in this list and at most {AT_ONCE:,} can be marked at "
                "once: narrow the filter first."
            )
            return
        st.caption(f"For all {count:,} features of this list. Lists can undo it.")
        more = {"args": (shell, store, current)}
        with st.form("features.tagging", border=False):
            tags = list(shell.lab.tags())
            st.selectbox(
                "Tag", tags, index=None, key="features.new_tag", accept_new_options=True,
                placeholder="choose or type a tag",
            )  # fmt: skip
            st.form_submit_button("Tag all", on_click=_tag, **more)
        with st.form("features.listing", border=False):
            names = [one.name for one in shell.lab.lists()]
            st.selectbox(
                "List", names, index=None, key="features.new_list", accept_new_options=True,
                placeholder="choose a list, or type a new name",
            )  # fmt: skip
            st.form_submit_button("Add all to the list", on_click=_add, **more)
        st.button("Bookmark all", icon=":material/star:", on_click=_bookmark, **more)


def _chosen(store: FeatureStore, current: FeatureFilter) -> list[int]:
    found = store.features(current).tolist()
    if len(found) > AT_ONCE:  # somebody marked more meanwhile
        raise WorkbenchError(f"{len(found):,} features fit now: narrow the filter first")
    return found


def _tag(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    tag = st.session_state["features.new_tag"]
    with tell("Tagged."):
        if not tag:
            raise WorkbenchError("no tag was given: choose or type one")
        n = shell.lab.tag(shell.sae, _chosen(store, current), tag, who=shell.person.name)
        st.session_state[NOTICE] = (True, f"Tagged {n:,} features with “{tag}”.")


def _bookmark(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    with tell("Bookmarked."):
        n = shell.lab.bookmark(shell.sae, _chosen(store, current), True, who=shell.person.name)
        st.session_state[NOTICE] = (True, f"Bookmarked {n:,} features.")


def _add(shell: Shell, store: FeatureStore, current: FeatureFilter) -> None:
    name = st.session_state["features.new_list"]
    with tell("Added."):
        if not name:
            raise WorkbenchError("no list was given: choose one, or type a new name")
        features = _chosen(store, current)
        there = {one.name: one for one in shell.lab.lists()}
        chosen = there.get(name) or shell.lab.create_list(name, who=shell.person.name)
        entries = [(shell.sae, feature) for feature in features]
        n = shell.lab.add_to_list(chosen.id, entries, who=shell.person.name)
        st.session_state[NOTICE] = (True, f"Added {n:,} features to the list “{name}”.")
