"""One auto-interp run in numbers: every method with its baselines, how features spread, failures.

In:  a Shell, the run's folder name, the view in the address. Out: the panel.
"""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path

import numpy as np
import streamlit as st

from data import autointerp_page_store as page_store
from data import runs_store
from ui.cards import percent, safe
from ui.figures import scores
from ui.keys.autointerp import METHODS, RunView
from ui.pages.panels import autointerp_failures, autointerp_table
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_go import go, link
from ui.pages.panels.autointerp_numbers import median, totals_of
from ui.shell import Shell, plain


def show(shell: Shell, run: str, view: RunView, store_content: str | None) -> None:
    path = shell.workspace.run(run) / "results.duckdb"
    told = runs_store.summary(shell.root, path)
    made_from = told.meta.get("store_content")
    if store_content is not None and made_from not in (None, store_content):
        st.warning("This run explains an older harvest: its labels may not fit the features that "
                   "are shown now. Explain again.")  # fmt: skip
    _about(told)
    methods = page_store.methods(shell.root, path)
    if not methods:
        st.info(f"{told.explained:,} features are explained and none is scored yet. A score says "
                "how well an explanation predicts activations on unseen text: start one under New "
                "run.")  # fmt: skip
        autointerp_failures.show(shell, run, path, told.meta)
        autointerp_table.show(shell, path, view, "simulate", [])
        return
    method = _method(view, told.meta, methods)
    with st.spinner("Adding up the features…", show_time=False):
        found = {name: totals_of(shell, path, name) for name in METHODS if name in methods}
    _headline(shell, path, method, found[method])
    _methods(shell, path, view, method, found)
    autointerp_failures.show(shell, run, path, told.meta)
    left, right = st.columns([1.1, 1], gap="large")
    with left:
        _spread(shell, path, method)
    with right:
        _arms(shell, path, method)
        _quarters(found[method])
    autointerp_table.show(shell, path, view, method, methods[method])


def _about(told: runs_store.RunSummary) -> None:
    """Who explained and who predicted, how, and what it cost."""
    meta = told.meta
    plan, how = meta.get("plan") or {}, meta.get("score_plan") or {}
    explained = f"{told.explained:,} explained"
    if told.not_explained:
        explained += f", {told.not_explained:,} not"
    protocol = plan.get("protocol") if meta.get("is_language_model") else None
    facts = [
        ("Explained by", words.judge(told.judge)),
        ("from", words.PROTOCOLS.get(protocol, (protocol, ""))[0] if protocol else None),
        ("Predicted by", words.judge(meta["scorer"]) if "scorer" in meta else None),
        ("Features", explained),
        ("Cost", _cost(meta.get("spent"))),
    ]
    line = " · ".join(f"<b>{safe(name)}</b> {safe(str(said))}"
                      for name, said in facts if said)  # fmt: skip
    st.html(f'<div class="ai-note">{line}</div>')
    if how.get("mode") == "paper":
        st.warning(words.PAPER)
    if told.judge == "lexical":
        st.caption("The lexical judge looks tokens up and is no language model: its scores are the "
                   "baseline that a language model has to beat.")  # fmt: skip


def _cost(spent: dict | None) -> str | None:
    if not spent:
        return None
    tokens = sum(spent.get(name) or 0 for name in ("prompt", "reply", "thoughts"))
    said = f"{spent.get('calls', 0):,} calls, {tokens:,} tokens"
    return said if spent.get("money") is None else f"{said}, {spent['money']:,.2f} spent"


def _method(view: RunView, meta: dict, methods: dict) -> str:
    """That of the address, else the run's headline, else the first there is."""
    for name in (view.method, meta.get("headline"), *METHODS):
        if name in methods:
            return name
    return next(iter(methods))


def _headline(shell: Shell, path: Path, method: str, found: dict) -> None:
    name, about, chance = words.METHODS.get(method, (method, "", None))
    mean, interval = words.split_value(found["uniform"])
    without, within = words.split_value(found["without_constants"])
    weighted, spread = words.split_value(found["by_frequency"])
    lift, ends = words.split_value(found["lift"].get("lexical"), signed=True)
    middle = median(shell, path, method)
    boxes = [
        (f"{name}: mean", mean, interval, f"{about} Over {found['uniform']['n']:,} features, with "
         "the 95 % interval over features; a constant prediction counts as 0."),
        ("Median", words.number(middle), "", "Over features; a constant prediction counts as 0."),
        ("Without constants", without, within, "Over the features whose prediction varies."),
        ("Frequency-weighted", weighted, spread, "Weighted by how often each feature fires."),
        ("Lift over token lookup", lift, ends, "Its score minus that of a table of tokens on the "
         "same windows: what understanding adds to counting tokens."),
    ]  # fmt: skip
    st.html(words.big(boxes))
    st.html(words.status_chips(found["statuses"]))


def _methods(
    shell: Shell, path: Path, view: RunView, method: str, found: dict[str, dict | None]
) -> None:
    """Every method in a row, with its baselines."""
    rows = []
    for name, told in found.items():
        if told is None:
            continue
        title, about, chance = words.METHODS[name]
        address = link(shell, dataclasses.replace(view, method=name, page=1, only=""))
        counts = told["statuses"]
        bad = sum(n for status, n in counts.items() if status not in ("ok", "constant"))
        cells = [
            f'<a href="{html.escape(address)}" target="_self" title="{safe(about)}">'
            f"{safe(title)}</a>",
            safe(words.value(told["uniform"])),
            words.number(median(shell, path, name)),
            *(safe(words.value(told["lift"].get(arm), signed=True))
              for arm in ("lexical", "shuffled", "empty")),
            f"{chance:g}",
            f"{told['uniform']['n']:,}" + f" <small>{bad:,} without a value</small>" * bool(bad),
        ]  # fmt: skip
        rows.append((cells, name == method))
    if len(rows) == 1 and not found[method]["lift"]:
        return
    heads = ("Method", "Mean [95 %]", "Median", "Over token lookup", "Over another’s",
             "Over none", "Chance", "Features")  # fmt: skip
    st.html(words.table(heads, rows))


def _spread(shell: Shell, path: Path, method: str) -> None:
    title, about, chance = words.METHODS.get(method, (method, "", None))
    st.caption(f"**{title}**: how features spread, the explanation above its baselines",
               help=about)  # fmt: skip
    found = page_store.arms(shell.root, path, method)
    order = [arm for arm in words.ARMS if arm in found]
    values = {words.ARMS[arm]: found[arm].values[np.isfinite(found[arm].values)] for arm in order}
    figure = scores.by_arm(values, f"{title.lower()}, one point a feature", chance)
    if figure is None:
        st.caption("No feature has a value: the reasons are above.")
        return
    st.plotly_chart(figure, key=f"autointerp.spread.{path.parent.name}.{method}",
                    config={"displayModeBar": False})  # fmt: skip


def _arms(shell: Shell, path: Path, method: str) -> None:
    """The explanation and its baselines, each over the features it has a value of."""
    found = page_store.arms(shell.root, path, method)
    rows = []
    for arm in (name for name in words.ARMS if name in found):
        one = found[arm]
        values = one.values[np.isfinite(one.values)]
        rest = {s: n for s, n in one.statuses.items() if s != "ok"}
        said = ", ".join(f"{n:,} {words.STATUSES.get(s, s)}" for s, n in rest.items())
        mean = words.number(float(values.mean()) if len(values) else None)
        name = f'<span title="{safe(words.ARM_HELP[arm])}">{words.ARMS[arm]}</span>'
        scored = f"{one.statuses.get('ok', 0):,}"
        rows.append(([name, mean, scored, safe(said) or "–"], arm == "own"))
    st.html(words.table(("Judged with", "Mean", "Scored", "Others"), rows,
                        "The explanation and its baselines, on the same windows"))  # fmt: skip


def _quarters(told: dict) -> None:
    """By how often features fire."""
    rows = [
        ([f"{percent(a)} – {percent(b)}", safe(words.value(mean)), f"{mean['n']:,}"], False)
        for a, b, mean in told["quarters"]
    ]  # fmt: skip
    dense = told["dense"]
    if dense["n"]:
        rows.append((["above 10 % of tokens", safe(words.value(dense)), f"{dense['n']:,}"],
                     False))  # fmt: skip
    if rows:
        heads = ("Fires on", "Mean [95 %]", "Features")
        st.html(words.table(heads, rows, "By how often features fire, rarest first"))


def runs_beside(shell: Shell, view: RunView, run: str, others: list[str]) -> None:
    """Which runs are shown beside this one; and them, where there are any."""
    if not others:
        return
    key = "autointerp.beside"
    st.session_state[key] = [name for name in view.others if name in others]

    def choose() -> None:
        go(shell, dataclasses.replace(view, others=tuple(st.session_state[key])))

    st.multiselect("Beside it", others, key=key, on_change=choose, max_selections=5,
                   placeholder="choose runs to compare", format_func=plain_name)  # fmt: skip


def plain_name(name: str) -> str:
    return plain(name)
