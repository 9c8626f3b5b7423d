"""What was predicted for a feature beside what is real, token by token, the worst documents first.

In:  a `Case`. Out: the panel: one strip a window, real above and predicted below, each on its own
     stated scale; a choice of run, method and baseline.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from data import judged_store, runs_store
from data.judged import AskedRow, ResultRow
from ui import strips
from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_details, autointerp_windows
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_feature import runs_of
from ui.pages.panels.autointerp_go import open_page
from ui.pages.panels.feature_case import Case
from ui.shell import plain

SHOWN = 12  # windows; the rest on demand


def show(case: Case) -> None:
    st.markdown("##### Predicted and real")
    runs = runs_of(case)
    if not runs:
        st.caption(
            "Nothing was predicted for this feature yet. Explain it and score the explanation: "
            "then each window stands here with what the judge predicted and what is real."
        )
        if st.button("Start a run", key="feature.predicted.new", icon=":material/psychology:"):
            open_page(case.shell, RunView(part="new", features=str(case.feature)))
        return
    run, row = _choose(case, runs)
    path = case.shell.workspace.run(run) / "results.duckdb"
    _about(case, path, row)
    windows = judged_store.asked_of(case.shell.root, path, case.feature, row.method, row.arm)
    if not windows:
        st.caption("The windows of this result are not kept: runs of token lookup over thousands "
                   "of features keep their numbers alone." if row.method != "intruder" else
                   "Rounds of the intruder task are kept as their result alone.")  # fmt: skip
    else:
        _windows(case, row, windows)
    pressed = st.button(
        "Prompts and replies", icon=":material/chat:", key="feature.predicted.calls",
        help="What the judge was asked about this feature, and what it answered.",
    )  # fmt: skip
    if pressed:
        open_page(case.shell, RunView(run=run, part="calls", feature=case.feature,
                                      method=row.method, arm=row.arm))  # fmt: skip


def _choose(case: Case, runs: dict[str, list[ResultRow]]) -> tuple[str, ResultRow]:
    """A run, a method and who judged; each choice falls back to what there is."""
    about = f"feature.predicted.{case.shell.sae}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        run = _one(f"{about}.run", "Run", list(runs), plain)
        rows = runs[run]
        methods = [m for m in words.METHODS if any(r.method == m for r in rows)]
        method = _one(f"{about}.method", "Method", methods, lambda m: words.METHODS[m][0])
        arms = [a for a in words.ARMS if any((r.method, r.arm) == (method, a) for r in rows)]
        arm = _one(f"{about}.arm", "Judged with", arms, words.ARMS.get)
    return run, next(r for r in rows if (r.method, r.arm) == (method, arm))


def _one(key: str, label: str, options: list[str], said) -> str:
    if st.session_state.get(key) not in options:
        st.session_state[key] = options[0]
    return st.selectbox(label, options, key=key, format_func=said, width=260)


def _about(case: Case, path: Path, row: ResultRow) -> None:
    explanation = runs_store.read_explanation(case.shell.root, path, case.feature)
    if explanation is not None and explanation.status == "ok" and row.arm == "own":
        st.caption(plain(f"“{explanation.text}”"))
    elif row.arm != "own":
        st.caption(words.ARM_HELP[row.arm])
    st.markdown(f"**{plain(words.of_row(row.method, row))}**", help=words.METHODS[row.method][1])
    meta = runs_store.summary(case.shell.root, path).meta
    if (meta.get("score_plan") or {}).get("mode") == "paper":
        st.warning(words.PAPER)
    autointerp_details.show(row)


def _windows(case: Case, row: ResultRow, windows: list[AskedRow]) -> None:
    shell = case.shell
    maximum = case.stats.max
    looked_up = row.arm == "lexical" or not any(w.calls for w in windows)
    if row.method == "simulate":
        st.html(strips.legend_of_halves(
            maximum, f"{maximum:.3g}" if looked_up and maximum else "level 10"))  # fmt: skip
        st.caption("Worst documents first: by how far a window’s prediction is off, from 0 to 10 a "
                   "token on average. Windows without an answer stand at the end.")  # fmt: skip
        windows = worst_first(windows, maximum or 0.0, looked_up)
    ids = sorted({token for w in windows for token in w.ids})
    tokens = case.store.token_bytes(ids)
    names = {e.doc: e.document for e in case.store.examples(case.feature, use="score")}
    key = f"feature.predicted.all.{shell.sae}"
    every = len(windows) <= SHOWN or st.session_state.get(key, False)
    shown = windows if every else windows[:SHOWN]
    st.html(autointerp_windows.show(shown, tokens, maximum, looked_up, names))
    if len(windows) > SHOWN:
        st.toggle(f"All {len(windows):,} windows", key=key)


def worst_first(windows: list[AskedRow], maximum: float, looked_up: bool) -> list[AskedRow]:
    """By mean distance in levels, documents together by their worst window; failures last."""
    off = {id(w): autointerp_windows.error(w, maximum, looked_up) for w in windows}
    worst: dict[int, float] = {}
    for w in windows:
        worst[w.doc] = max(worst.get(w.doc, -1.0), -1.0 if off[id(w)] is None else off[id(w)])
    return sorted(
        windows,
        key=lambda w: (off[id(w)] is None, -worst[w.doc], w.doc, -(off[id(w)] or 0.0), w.item),
    )
