"""Runs of one SAE beside each other: their means and what one has over the other.

In:  a Shell, runs, a method. Out: a table; differences are over the features that both have.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from data import runs_store
from data.errors import WorkbenchError
from ui.cards import safe
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_numbers import difference, median, totals_of
from ui.shell import Shell, show_error


def show(shell: Shell, runs: Sequence[str], method: str) -> None:
    """The first run and the others; differences are the first minus each."""
    name, about, _ = words.METHODS.get(method, (method, "", None))
    first = shell.workspace.run(runs[0]) / "results.duckdb"
    rows = []
    for run in runs:
        path = shell.workspace.run(run) / "results.duckdb"
        try:
            told = runs_store.summary(shell.root, path)
            found = totals_of(shell, path, method)
            change = None if run == runs[0] else difference(shell, first, path, method)
        except WorkbenchError as error:
            show_error(error)
            continue
        meta = told.meta
        protocol = (meta.get("plan") or {}).get("protocol") or meta.get("protocol")
        mode = (meta.get("score_plan") or {}).get("mode")
        said = [words.judge(told.judge)]
        if meta.get("is_language_model"):
            said.append(words.PROTOCOLS.get(protocol, (protocol or "", ""))[0].lower())
        if mode == "paper":
            said.append("on explained windows")
        scorer = meta.get("scorer")
        if scorer not in (None, told.judge):
            said.append(f"predicted by {words.judge(scorer)}")
        about_run = ", ".join(part for part in said if part)
        cells = [f"{safe(run)}<br><small>{safe(about_run)}</small>"]
        if found is None:
            cells += ['<span class="na">not scored so</span>', *["–"] * 4]
        else:
            lift = found["lift"].get("lexical")
            bad = sum(n for s, n in found["statuses"].items() if s not in ("ok", "constant"))
            cells += [
                safe(words.value(found["uniform"])),
                words.number(median(shell, path, method)),
                safe(words.value(lift, signed=True)),
                f"{found['uniform']['n']:,}" + f" <small>{bad:,} without</small>" * bool(bad),
                _change(change, run == runs[0]),
            ]
        rows.append((cells, run == runs[0]))
    heads = ("Run", f"{name}: mean [95 %]", "Median", "Over token lookup", "Features",
             "First minus this, same features")  # fmt: skip
    st.html(words.table(heads, rows))


def _change(change: dict | None, itself: bool) -> str:
    if itself:
        return "–"
    if change is None or change["value"] is None:
        return '<span class="na">no feature in common</span>'
    return f"{safe(words.value(change, signed=True))} <small>n = {change['n']:,}</small>"
