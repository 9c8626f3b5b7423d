"""How often and how strongly a feature fires, and what its threshold does.

In:  a `Case`. Out: figures in numbers; a histogram of its activations; one of its pre-activations
     around the threshold.
"""

from __future__ import annotations

import html

import streamlit as st

from ui import cards
from ui.figures import activations
from ui.figures.histogram import draw
from ui.pages.panels.feature_case import Case
from ui.percentiles import percentile_text

HEIGHT = 220  # of a chart, in pixels: as high as the table of logits beside it


def numbers(case: Case) -> None:
    """The numbers everybody asks for first."""
    stats = case.stats
    values = (
        ("Density", cards.percent(stats.density), "Share of tokens on which it is active."),
        ("Fires", f"{stats.fires:,}", "Tokens of the corpus on which it is active."),
        ("Mean", three(stats.mean), "Mean of its non-zero activations."),
        ("Median", three(stats.q50), "Half of its non-zero activations are weaker."),
        ("Max", three(stats.max), "Its largest activation; the colour scale ends there."),
        ("Threshold θ", three(stats.theta) if stats.theta > 0 else "none",
         "Pre-activations at or below it are silenced."),
    )  # fmt: skip
    for column, (name, value, help) in zip(st.columns(len(values)), values, strict=True):
        column.metric(name, value, help=help)


def show(case: Case) -> None:
    """The histogram of all non-zero activations."""
    stats, tested = case.stats, case.tested()
    if not stats.fires:
        body, about = '<p class="none">It never fires on this corpus.</p>', ""
    else:
        body = draw(activations.activation_chart(stats, case.meta, tested), HEIGHT)
        more = [f"sd {stats.sd:.3g}"] if stats.sd is not None else []
        more += [f"skew {stats.skew:.2g}"] if stats.skew is not None else []
        about = f"All {stats.fires:,} non-zero activations in the corpus"
        about += f" ({', '.join(more)})." if more else "."
    if tested:
        where = percentile_text(case.rank(tested)) if stats.fires else ""
        about += f" Your text reaches {tested:.3g}{where and f', {where}'}."
    st.html(panel("Activations", body, about))


def threshold(case: Case) -> None:
    """The histogram of pre-activations around the threshold."""
    stats, meta = case.stats, case.meta
    if not sum(stats.pre_counts):
        body = '<p class="none">Not counted in this harvest.</p>'
        st.html(panel("Around the threshold", body, ""))
        return
    body = draw(activations.pre_chart(stats, meta), HEIGHT)
    if stats.theta > 0:
        about = (
            "Grey is silenced, orange passes unchanged: it starts at θ, not at 0, so weak evidence "
            "is cut off without shrinking strong activations."
        )
    else:
        about = "Grey is silenced, orange passes."
    sample = meta.get("pre_tokens")
    told = f" A sample of {sample:,} tokens; the end bars are open." if sample else ""
    st.html(panel("Around the threshold", body, about + told))


def panel(title: str, body: str, about: str) -> str:
    """A titled block with a line below it; `body` is HTML, the rest text."""
    caption = f'<p class="about">{html.escape(about)}</p>' if about else ""
    return f'<h3 class="panel">{html.escape(title)}</h3>{body}{caption}'


def three(value: float | None) -> str:
    """A number with three significant digits, an en dash if it is absent."""
    return "–" if value is None else f"{value:.3g}"
