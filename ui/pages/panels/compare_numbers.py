"""What is counted of two features, side by side: label, flags, statistics, histograms, logits.

In:  two Subjects. Out: the panels. What was counted on different text says so.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from data.records import LogitEffect
from ui import cards
from ui.figures import compare as figures
from ui.pages.panels.compare_side import Subject
from ui.shell import Shell
from ui.strips import token_text

LOGITS = 10
STATISTICS = (  # name, field, what it says
    ("Density", "density", "Share of tokens on which it is active"),
    ("Fires", "fires", "Tokens of the corpus on which it is active"),
    ("Mean", "mean", "Mean of its non-zero activations"),
    ("Median", "q50", "Half of its non-zero activations are below"),
    ("90 %", "q90", "Nine of ten non-zero activations are below"),
    ("Max", "max", "Its largest activation; the colour scale ends there"),
    ("Skew", "skew", "Of its non-zero activations"),
    ("Threshold θ", "theta", "Pre-activations at or below it are silenced"),
)


def head(shell: Shell, one: Subject, letter: str) -> None:
    """Which feature it is, with its label and flags."""
    stats = one.stats
    address = html.escape(shell.link("feature", {"f": str(stats.feature)}, one.sae))
    st.html(
        f'<h3 class="side side-{letter}"><span class="badge">{letter.upper()}</span>'
        f'<a data-go href="{address}" title="Open the feature’s page">Feature {stats.feature}</a> '
        f"<small>{html.escape(one.sae)}</small></h3>"
    )
    if one.explanation is None:
        st.html('<div class="label none">no label yet</div>')
    else:
        st.html(cards.label(one.explanation))
    peak = [] if stats.peak_token is None else [stats.peak_token]
    flags = cards.flag_row(cards.flags(stats, one.store.token_bytes(peak)))
    if flags:
        st.html(flags)


def statistics(a: Subject, b: Subject) -> None:
    rows = []
    for name, field, about in STATISTICS:
        x, y = getattr(a.stats, field), getattr(b.stats, field)
        rows.append((name, about, _number(field, x), _number(field, y), _times(field, x, y)))
    tokens = [_peak(one) for one in (a, b)]
    same = tokens[0][0] is not None and tokens[0][0] == tokens[1][0]
    rows.append(("Peak token", "Commonest token it fires on, with its share of the fires",
                 tokens[0][1], tokens[1][1], "the same" if same else ""))  # fmt: skip
    scores = [one.score if one.score and one.score.status == "ok" else None for one in (a, b)]
    told = ["–" if s is None else cards.interval(s.value, s.low, s.high) for s in scores]
    change = "" if None in scores else f"{scores[1].value - scores[0].value:+.2f}"
    rows.append(("Score of the label", "Predicted against real activations, 95 % interval",
                 *told, change))  # fmt: skip
    st.html(table(("", "A", "B", "B against A"), rows))


def table(titles: Sequence[str], rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """rows: name, what it says, A, B, difference; all of them plain text."""
    head = "".join(
        f'<th scope="col">{html.escape(title)}</th>' if title else "<td></td>" for title in titles
    )
    body = "".join(
        f'<tr title="{html.escape(about)}"><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, about, *cells in rows
    )
    return f'<table class="cmp"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _number(field: str, value: float | None) -> str:
    if value is None:
        return "–"
    if field == "density":
        return cards.percent(value)
    if field == "theta" and value <= 0:
        return "none"
    return f"{value:,}" if field == "fires" else f"{value:.3g}"


def _times(field: str, x: float | None, y: float | None) -> str:
    """How many times as much; a difference where that means nothing."""
    if x is None or y is None:
        return ""
    if field == "skew":
        return f"{y - x:+.3g}".replace("-", "−")
    return f"× {y / x:.3g}" if x > 0 and y > 0 else ""


def _peak(one: Subject) -> tuple[bytes | None, str]:
    """The token's bytes, and how it is shown."""
    at = one.stats.peak_token
    if at is None:
        return None, "–"
    data = one.store.token_bytes([at]).get(at, (b"", False))[0]
    return data, f"{token_text(data)} · {cards.percent(one.stats.peak_share)}"


def histograms(a: Subject, b: Subject) -> None:
    st.markdown(
        "##### Activations",
        help="How strong each is where it fires, as a share of its own largest activation: so two "
        "features of different scale can be laid over each other.",
    )
    curves = []
    for one in (a, b):
        if one.stats.fires:
            edges = one.store.meta["hist_edges"]
            curves.append((one.name, edges, one.stats))
    if not curves:
        st.caption("Neither fires in its corpus.")
        return
    figure = figures.activations(curves)
    st.plotly_chart(figure, key="compare.hist", config={"displayModeBar": False})


def logits(a: Subject, b: Subject) -> None:
    st.markdown(
        "##### Effect on the next token",
        help="Each decoder direction read through the unembedding. Tokens that stand in both "
        "lists are outlined.",
    )
    effects = [one.store.logits(one.stats.feature) for one in (a, b)]
    if None in effects:
        st.caption("Not computed: a site that does not write to the residual stream has none.")
        return
    lists = [
        (_named(one, effect.top_ids), _named(one, effect.bottom_ids))
        for one, effect in zip((a, b), effects, strict=True)
    ]
    shared = [set(lists[0][i]) & set(lists[1][i]) for i in (0, 1)]
    for column, effect, names in zip(st.columns(2, gap="medium"), effects, lists, strict=True):
        column.html(_logit_lists(effect, names, shared))
    st.caption(
        f"Of the {LOGITS} tokens each raises most, {len(shared[0])} are the same; of those each "
        f"lowers most, {len(shared[1])}."
    )


def _named(one: Subject, ids: Sequence[int]) -> list[bytes]:
    tokens = one.store.token_bytes(ids[:LOGITS])
    return [tokens[i][0] for i in ids[:LOGITS] if i in tokens]


def _logit_lists(
    effect: LogitEffect, names: tuple[list[bytes], list[bytes]], shared: list[set[bytes]]
) -> str:
    out = []
    values = (effect.top_logits, effect.bottom_logits)
    for title, which, by, both in zip(("raises", "lowers"), names, values, shared, strict=True):
        cells = "".join(
            f'<span class="lt{" both" * (name in both)}" title="{value:+.3f}">'
            f"{html.escape(token_text(name))}</span>"
            for name, value in zip(which, by, strict=False)
        )
        out.append(f'<div class="lts"><b>{title}</b>{cells}</div>')
    return "".join(out)
