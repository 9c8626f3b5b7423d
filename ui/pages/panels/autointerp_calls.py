"""Prompts and replies: what was asked about a feature in a run, and what came back.

In:  a Shell, the run's folder name, the view in the address. Out: the panel: one call at a time,
     with the windows it was about.
"""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path

import numpy as np
import streamlit as st

from data import autointerp_page_store as page_store
from data import judged_store, runs_store
from data.errors import WorkbenchError
from data.judged import AskedRow, ResultRow
from data.records import Explanation
from ui import strips
from ui.cards import label, safe
from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_details, autointerp_reply, autointerp_windows
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_go import go
from ui.shell import Shell, show_error


def show(shell: Shell, run: str, view: RunView) -> None:
    path = shell.workspace.run(run) / "results.duckdb"
    feature = _feature(shell, path, view)
    if feature is None:
        return
    explanation = runs_store.read_explanation(shell.root, path, feature)
    if explanation is None:
        st.info(f"This run says nothing of feature {feature}. Choose one of its features.")
        return
    results = judged_store.results_of(shell.root, path, feature)
    address = shell.link("feature", {"f": str(feature), "panel": "predicted"})
    link = f'<a href="{html.escape(address)}" target="_self">Feature {feature}</a>'
    st.html(f'<div class="ai-head">{link} {label(explanation)}</div>')
    method, arm = _choose(shell, view, results)
    if method == "explain":
        _explained(shell, run, path, view, explanation)
        return
    row = next((r for r in results if (r.method, r.arm) == (method, arm)), None)
    if row is None:
        st.info("The run has no such result of this feature.")
        return
    _result(row)
    windows = judged_store.asked_of(shell.root, path, feature, method, arm)
    if not windows:
        words_for = {
            "intruder": "Rounds of the intruder task are kept as their result alone.",
        }.get(method, "The windows of this result are not kept.")
        st.caption(words_for if row.n else "No window was asked about.")
        return
    _asked(shell, run, view, feature, row, windows)


def _feature(shell: Shell, path: Path, view: RunView) -> int | None:
    """Which feature: of the address, else the first of the table."""
    features, _ = page_store.explained(shell.root, path)
    if not len(features):
        st.info("This run explains no feature.")
        return None
    chosen = view.feature if view.feature is not None else int(features[0])
    key = "autointerp.feature"
    st.session_state[key] = chosen

    def switch() -> None:
        go(shell, dataclasses.replace(view, feature=int(st.session_state[key]), call=1))

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input("Feature", 0, None, key=key, step=1, width=180, on_change=switch)
        before = int(np.searchsorted(features, chosen)) - 1  # the run's features are sorted
        after = int(np.searchsorted(features, chosen, side="right"))
        for name, at, icon in (("Previous", before, ":material/chevron_left:"),
                               ("Next", after, ":material/chevron_right:")):  # fmt: skip
            there = 0 <= at < len(features)
            move = dataclasses.replace(view, feature=int(features[at]) if there else chosen, call=1)
            st.button(name, icon=icon, disabled=not there, key=f"autointerp.{name}",
                      on_click=go, args=(shell, move))  # fmt: skip
    return chosen


def _choose(shell: Shell, view: RunView, results: list[ResultRow]) -> tuple[str, str]:
    """Explaining, or a method and an arm."""
    there = list(dict.fromkeys(r.method for r in results))
    asked = ["explain", *[m for m in words.METHODS if m in there]]
    method = view.method if view.method in asked else asked[min(1, len(asked) - 1)]
    arms = [a for a in words.ARMS if any((r.method, r.arm) == (method, a) for r in results)]
    arm = view.arm if view.arm in arms else (arms or ["own"])[0]
    state = st.session_state
    state["autointerp.asked"], state["autointerp.arm"] = method, arm
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "What was asked", asked, key="autointerp.asked", required=True,
            format_func=lambda m: "Explaining" if m == "explain" else words.METHODS[m][0],
            on_change=lambda: go(shell, dataclasses.replace(
                view, method=state["autointerp.asked"], arm="own", call=1)),
        )  # fmt: skip
        if len(arms) > 1:
            st.segmented_control(
                "Judged with", arms, key="autointerp.arm", required=True,
                format_func=words.ARMS.get, help=" ".join(
                    f"{words.ARMS[a]}: {about}" for a, about in words.ARM_HELP.items()),
                on_change=lambda: go(shell, dataclasses.replace(
                    view, method=method, arm=state["autointerp.arm"], call=1)),
            )  # fmt: skip
    return method, arm


def _explained(shell: Shell, run: str, path: Path, view: RunView, explanation: Explanation) -> None:
    """How the explanation came about: its candidates and its calls."""
    if explanation.status != "ok":
        st.html(words.chips([(f"{words.STATUSES.get(explanation.status, explanation.status)}: "
                              f"{explanation.reason}", "failed")], wide=True))  # fmt: skip
    candidates = judged_store.candidates_of(shell.root, path, explanation.feature)
    if candidates:
        rows = [
            ([f"{'chosen' if one.place == 0 else one.place + 1}",
              f'{safe(one.text) or "<em>" + safe(one.reason) + "</em>"}',
              words.number(one.value), safe(words.STATUSES.get(one.status, one.status))],
             one.place == 0)
            for one in candidates
        ]  # fmt: skip
        heads = ("", "Candidate", "r on the calibrate split", "Status")
        st.html(words.table(heads, rows, running=1))
    calls = [str(key) for key in explanation.payload.get("calls", ())]
    _call(shell, run, view, calls, f"{words.judge(explanation.judge)} asked nobody: the "
          "explanation is what people wrote, or a table of tokens.")  # fmt: skip


def _result(row: ResultRow) -> None:
    st.html(f'<div class="ai-head">{safe(words.of_row(row.method, row))}</div>')
    autointerp_details.show(row)


def _asked(
    shell: Shell, run: str, view: RunView, feature: int, row: ResultRow, windows: list[AskedRow]
) -> None:
    """The calls one by one, with their windows; without calls all windows."""
    maximum = _maximum(shell, feature)
    tokens = _tokens(shell, windows)
    looked_up = row.arm == "lexical" or not any(w.calls for w in windows)
    calls = list(dict.fromkeys(key for w in windows for key in w.calls))
    number = min(view.call, max(len(calls), 1))
    names = _documents(shell, feature)
    shown = [w for w in windows if calls[number - 1] in w.calls] if calls else windows
    if row.method == "simulate":
        st.html(strips.legend_of_halves(maximum, "level 10"))
    if not calls:
        st.caption("Nobody was asked: this is what the table of tokens says."
                   if any(w.status == "ok" for w in windows) else "Nothing was sent.")  # fmt: skip
        st.html(autointerp_windows.show(shown, tokens, maximum, looked_up, names))
        return
    left, right = st.columns([1, 1.1], gap="large")
    with right:
        _call(shell, run, view, calls, "")
    with left:
        loose = len([w for w in windows if not w.calls])
        st.caption(f"{len(shown):,} of {len(windows):,} windows were in this call"
                   + (f"; {loose:,} were never sent" if loose else "") + ".")  # fmt: skip
        st.html(autointerp_windows.show(shown, tokens, maximum, looked_up, names))


def _call(shell: Shell, run: str, view: RunView, calls: list[str], none: str) -> None:
    if not calls:
        st.caption(none)
        return
    here = min(view.call, len(calls))
    if len(calls) > 1:
        key = f"autointerp.call.{here}"

        def turn() -> None:
            go(shell, dataclasses.replace(view, call=st.session_state[key]))

        st.pagination(len(calls), default=here, key=key, on_change=turn, width="stretch")
    st.caption(f"Call {here:,} of {len(calls):,}")
    with st.container(key="autointerp-call"):
        autointerp_reply.show(shell, run, calls[here - 1])


def _maximum(shell: Shell, feature: int) -> float | None:
    try:
        return shell.store().feature(feature).max
    except WorkbenchError as error:
        show_error(error)
        return None


def _tokens(shell: Shell, windows: list[AskedRow]) -> dict:
    ids = sorted({token for w in windows for token in w.ids})
    try:
        return shell.store().token_bytes(ids)
    except WorkbenchError as error:
        show_error(error)
        return {}


def _documents(shell: Shell, feature: int) -> dict[int, str]:
    """Names of the documents of its examples, which all windows are cut from."""
    try:
        return {e.doc: e.document for e in shell.store().examples(feature)}
    except WorkbenchError as error:
        show_error(error)
        return {}
