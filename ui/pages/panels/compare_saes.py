"""Two SAEs: what can be compared of them, metrics beside each other, densities overlaid.

In:  names of two SAEs of the workspace. Out: the panels; what was not computed has its button.
"""

from __future__ import annotations

import html
from collections.abc import Callable

import streamlit as st

from data.errors import WorkbenchError
from interp.compare import comparable
from ui import cards
from ui.figures import compare as figures
from ui.keys.compare import CompareView
from ui.pages.panels import compare_matches, feature_job
from ui.pages.panels.compare_numbers import table
from ui.pages.panels.compare_side import made
from ui.shell import Shell, plain, show_error

Show = Callable[[float], str]
METRICS: tuple[tuple[str, str, str, Show, int], ...] = (
    # name, key, what it says, how it is written, which way is better (0: neither)
    ("L0", "l0", "Active features per token", "{:.1f}".format, 0),
    ("FVE", "fve", "Fraction of the variance explained", "{:.3f}".format, 1),
    ("Δ loss", "delta_loss", "Loss added by splicing it in, nats per token", "{:+.3f}".format, -1),
    ("Loss recovered", "loss_recovered", "Share of the loss kept, against ablating the site",
     "{:.1%}".format, 1),
    ("KL", "kl", "Of the model’s predictions with it spliced in, nats per token", "{:.3f}".format,
     -1),
    ("γ", "gamma", "Scale of the reconstruction that would fit best: below 1 it shrinks",
     "{:.3f}".format, 0),
    ("Dead", "dead_share", "Share of features that never fired in the evaluation",
     "{:.2%}".format, -1),
    ("Dense > 1 %", "high_freq_1", "Share of features active on more than 1 % of tokens",
     "{:.1%}".format, 0),
    ("Dense > 10 %", "high_freq_10", "Share of features active on more than 10 % of tokens",
     "{:.1%}".format, 0),
)  # fmt: skip


def show(shell: Shell, view: CompareView) -> None:
    a, b = view.a.sae, view.b.sae
    facts = [made(shell, name) for name in (a, b)]
    can = comparable(*facts)
    for remark in can.remarks:
        st.html(f'<div class="remark">{html.escape(remark)}</div>')
    left, right = st.columns([1, 1.15], gap="large")
    with left:
        _metrics(shell, a, b)
    with right:
        _densities(shell, a, b)
    compare_matches.show(shell, view, can)


def _metrics(shell: Shell, a: str, b: str) -> None:
    st.subheader("Metrics", anchor=False)
    found = [_with_shares(shell, name) for name in (a, b)]
    for name, metrics in zip((a, b), found, strict=True):
        if metrics is None:
            feature_job.offer(
                shell, f"compare.evaluate.{name}", f"{name} was never evaluated.",
                ["evaluate", name], "Evaluate", f"Evaluate {name}",
            )  # fmt: skip
    first, second = (metrics or {} for metrics in found)
    rows = []
    for name, key, about, write, better in METRICS:
        x, y = first.get(key), second.get(key)
        told = ["–" if value is None else write(value).replace("%", " %") for value in (x, y)]
        rows.append((name, about, *told, _change(x, y, write, better)))
    config = [shell.workspace.config(name) for name in (a, b)]
    sizes = [c["d_sae"] for c in config]
    kinds = [cards.ARCHITECTURES.get(c["architecture"], c["architecture"]) for c in config]
    rows.insert(0, ("Kind", "Architecture", *kinds, ""))
    rows.insert(1, ("Features", "Width of the SAE", *(f"{n:,}" for n in sizes),
                    f"× {sizes[1] / sizes[0]:.3g}"))  # fmt: skip
    st.html(table(("", a, b, "B against A"), rows))
    texts = [(m or {}).get("text") for m in found]
    if None not in texts and texts[0] != texts[1]:
        st.warning(plain(f"Evaluated on different text: {texts[0]} and {texts[1]}."))


def _with_shares(shell: Shell, name: str) -> dict | None:
    metrics = shell.workspace.metrics(name)
    if metrics is not None and metrics.get("dead") is not None:
        total = shell.workspace.config(name)["d_sae"]
        metrics = {**metrics, "dead_share": metrics["dead"] / total}
    return metrics


def _change(x: float | None, y: float | None, write: Show, better: int) -> str:
    if x is None or y is None:
        return ""
    change = y - x
    shown = write(abs(change)).lstrip("+").replace("%", " points")
    if not any(digit in shown for digit in "123456789"):
        return "±0"
    sign = "+" if change > 0 else "−"
    if not better:
        return f"{sign}{shown}"
    return f"{sign}{shown} · {'B' if change * better > 0 else 'A'} better"


def _densities(shell: Shell, a: str, b: str) -> None:
    st.subheader(
        "Densities", anchor=False,
        help="How often features fire, over all features of each SAE that fire at all.",
    )  # fmt: skip
    columns = []
    for name in (a, b):
        own = shell.named(name)
        if not own.harvested:
            feature_job.offer(
                shell, f"compare.harvest.{name}", f"{name} was not harvested.", ["harvest", name],
                "Harvest", f"Harvest {name}",
            )  # fmt: skip
            continue
        try:
            columns.append((name, own.store().densities()[1]))
        except WorkbenchError as error:
            show_error(error)
    figure = figures.densities(columns) if columns else None
    if figure is not None:
        st.plotly_chart(figure, key="compare.densities", config={"displayModeBar": False})
