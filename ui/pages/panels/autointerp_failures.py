"""What failed in a run and why, with a button that asks it again.

In:  a Shell, a run. Out: the panel; "" where nothing failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from data import autointerp_page_store as page_store
from data.errors import WorkbenchError
from data.llm_cache import LlmCache
from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_commands as make
from ui.pages.panels import autointerp_words as words
from ui.pages.panels import job_actions
from ui.pages.panels.autointerp_go import go
from ui.pages.panels.job_fields import chained
from ui.shell import Shell, plain

SHOWN = 8


def show(shell: Shell, run: str, path: Path, meta: Mapping) -> None:
    found = page_store.failures(shell.root, path)
    if not (found.explanations or found.windows or found.features):
        return
    n = sum(k for _, _, k in found.explanations)
    windows = sum(k for _, k in found.windows)
    parts = [f"{n:,} features without an explanation"] * bool(n)
    parts += [f"{windows:,} windows without an answer"] * bool(windows)
    lost = sum(k for _, _, k in found.features)
    parts += [f"{lost:,} results without a value"] * bool(lost)
    with st.expander("What failed: " + ", ".join(parts), icon=":material/report:"):
        st.caption("Nothing that failed counts as a zero, or as a right answer.")
        groups = (
            ("Explanations", [(f"{k:,} × {reason or status}", status)
                              for status, reason, k in found.explanations]),
            ("Windows, over all methods and baselines", [(f"{k:,} × {reason}", "")
                                                         for reason, k in found.windows]),
            ("Features without a value", [
                (f"{k:,} × {words.STATUSES.get(status, status)}: {reason}", status)
                for status, reason, k in found.features]),
        )  # fmt: skip
        for title, entries in groups:
            if entries:
                st.markdown(f"**{title}**")
                st.html(words.chips(entries[:SHOWN], wide=True))
                if len(entries) > SHOWN:
                    st.caption(f"and {len(entries) - SHOWN:,} further reasons")
        _again(shell, run, path, meta)


def _again(shell: Shell, run: str, path: Path, meta: Mapping) -> None:
    """Asks for what has no answer; the rest is in the cache."""
    if shell.person.role != "researcher" or meta.get("judge") is None:
        return
    caps = {}
    if make.is_language_model(meta.get("scorer") or meta["judge"]):
        st.caption("What was answered is in the cache and costs nothing again. Caps are of the "
                   "whole run, with what it has spent so far.")  # fmt: skip
        columns = st.columns(3)
        old = meta.get("score_service") or meta.get("service") or {}
        for column, name, label in zip(
            columns, make.CAPS, ("calls", "tokens", "money"), strict=True
        ):
            kind = float if name == "max_money" else int
            was = old.get(name)
            caps[name] = column.number_input(
                f"Cap on {label}", min_value=kind(0), value=None if was is None else kind(was),
                key=f"autointerp.again.{run}.{name}", placeholder="none",
                disabled=name == "max_money" and old.get("prompt_price") is None,
            )  # fmt: skip
    features, unexplained = page_store.explained(shell.root, path)
    methods = [m for m in page_store.methods(shell.root, path)]
    words_of_it = chained(make.again(meta, run, shell.sae, features, unexplained, methods,
                                     str(shell.workspace.root), caps))  # fmt: skip
    anew = _unreadable(shell, run, path)
    if st.button("Run what failed again", icon=":material/replay:", type="primary",
                 key=f"autointerp.again.{run}"):  # fmt: skip
        try:
            job_actions.refuse_others(shell)
            LlmCache(shell.workspace.llm_cache).remove(anew)
        except WorkbenchError as error:
            st.error(plain(job_actions.shown(shell, str(error))))
            return
        start(shell, words_of_it, f"Run {run} again")
    with st.container(key="autointerp-command-again"):
        st.code(job_actions.command_line(shell, words_of_it), language="bash", wrap_lines=True)


def _unreadable(shell: Shell, run: str, path: Path) -> list[str]:
    """Keys of replies that are to be forgotten, so that they are asked for anew."""
    cache = LlmCache(shell.workspace.llm_cache)
    keys = [key for key in page_store.unreadable(shell.root, path) if _kept(cache, key)]
    if not keys:
        return []
    chosen = st.checkbox(
        f"Ask anew where a reply came and could not be read: {len(keys):,} calls, paid again",
        key=f"autointerp.anew.{run}", help="Otherwise such a reply is read from the cache and "
        "fails again. Calls that had no reply at all are asked in any case.",
    )  # fmt: skip
    return keys if chosen else []


def _kept(cache: LlmCache, key: str) -> bool:
    try:
        return cache.holds(key)
    except WorkbenchError:  # no key of a reply
        return False


def start(shell: Shell, arguments: list[str], title: str) -> None:
    """Starts a job and goes on with the results, above which its progress stands."""
    try:
        job_actions.refuse_others(shell)
        shell.jobs.start(arguments, title, who=shell.person.name)
    except WorkbenchError as error:
        st.error(plain(job_actions.shown(shell, str(error))))
        return
    go(shell, RunView())
    st.rerun()
