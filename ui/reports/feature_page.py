"""One feature on one HTML page that needs nothing else: no script, no network, no store.

In:  the records of a feature, the bytes of the tokens, the store's meta.
Out: the page as a string. Light or dark as the reader's system is; every number with its name, and
     at the end what it was computed from.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from data.records import Example, Explanation, FeatureStats, LogitEffect, Score
from ui import cards, strips
from ui.reports.histogram import Bar, histogram

WIDTH = 64  # tokens of an example on the page
LOGITS = 10
STYLES = ("../styles/tokens.css", "../styles/cards.css", "feature_page.css")
TITLES = {
    "top": ("Strongest", "The strongest activations in the corpus, one a document."),
    "quantile": ("By rank", "Fires drawn evenly from four bands of ranks: what it does when it is "
                 "strong, usual and weak."),
    "active": ("Sample of its fires", "Tokens drawn evenly from all on which it is active."),
    "near_miss": ("Near misses", "Tokens on which it almost fires, and tokens of its strongest "
                  "examples on which it is silent; chosen, not sampled."),
    "random": ("Silent", "Tokens drawn evenly from all on which it is silent."),
}  # fmt: skip
PARTS = {
    "0.99-1": "the strongest 1 % of its fires", "0.9-0.99": "the next 9 %",
    "0.5-0.9": "the next 40 %", "0-0.5": "the weaker half",
    "under": "pre-activation just under the threshold",
    "token": "the same token as in a strongest example, silent",
}  # fmt: skip
PROVENANCE = (
    "sae model lm_weights site text text_field dtype context rule masks tokens documents d_in "
    "d_sae weights_sha256 tokenizer activations examples seed code versions wall_s content_hash "
    "schema"
).split()
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a reader's browser holds us to it


def feature_page(
    stats: FeatureStats,
    logits: LogitEffect | None,
    examples: Sequence[Example],
    tokens: Mapping[int, tuple[bytes, bool]],
    meta: Mapping[str, Any],
    explanation: Explanation | None = None,
    score: Score | None = None,
    width: int | None = WIDTH,
) -> str:
    """The page. tokens: (bytes, special) of each id that occurs. width: tokens shown of an example,
    None for its whole context. The examples come in the order in which they are shown."""
    name = f"Feature {stats.feature}"
    place = f"{meta.get('sae')} · {meta.get('site')} · {meta.get('model')}"
    style = "\n".join((Path(__file__).parent / s).read_text("utf-8") for s in STYLES)
    body = "".join(
        [
            f"<header><h1>{name}</h1><p>{html.escape(place)}</p></header>",
            _label(explanation, score),
            cards.flag_row(cards.flags(stats, tokens)),
            _numbers(stats),
            f'<section class="charts">{_charts(stats, logits, meta)}</section>',
            _logits(logits, tokens),
            *_examples(stats, examples, tokens, width),
            f"<section><h2>Where this is from</h2>{_provenance(meta)}</section>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} · {html.escape(str(meta.get('sae')))}</title>"
        f"<style>\n{style}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _label(explanation: Explanation | None, score: Score | None) -> str:
    told = cards.label(explanation) if explanation else '<p class="none">no label yet</p>'
    rated = cards.score_text(score) if score else "not scored" if explanation else ""
    return f'<section class="told">{told}<p class="score">{html.escape(rated)}</p></section>'


def _numbers(stats: FeatureStats) -> str:
    def three(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    shown = (
        ("density", cards.percent(stats.density)), ("fires", f"{stats.fires:,}"),
        ("mean", three(stats.mean)), ("median", three(stats.q50)), ("99 %", three(stats.q99)),
        ("max", three(stats.max)), ("sd", three(stats.sd)), ("skew", three(stats.skew)),
        ("threshold θ", three(stats.theta) if stats.theta > 0 else "none"),
    )  # fmt: skip
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown)
    error = stats.quantile_error
    note = f"; quantiles are right within {cards.percent(error)}" if error else ""
    about = f"Mean to skew are of its non-zero activations{note}."
    return f'<dl class="numbers">{cells}</dl><p class="none">{about}</p>'


def _charts(stats: FeatureStats, logits: LogitEffect | None, meta: Mapping[str, Any]) -> str:
    found = []
    if stats.fires:
        found.append(("Activations", "all of them in the corpus", _activations(stats, meta)))
    if sum(stats.pre_counts):
        about = "a sample; grey is silenced; end bars open"
        found.append(("Around the threshold", about, _pre(stats, meta)))
    if logits is not None:
        about = "per unit, over the vocabulary"
        found.append(("Effect on logits", about, _logit_chart(logits)))
    if stats.fires and meta.get("position_edges") and meta.get("position_tokens"):
        about = "how often it fires there"
        found.append(("By position", about, _positions(stats, meta)))
    return "".join(
        f"<figure><figcaption>{title}<small>{about}</small></figcaption>{chart}</figure>"
        for title, about, chart in found
    )


def _activations(stats: FeatureStats, meta: Mapping[str, Any]) -> str:
    """Counts begin with bin hist_first of those below, between and beyond the edges."""
    edges = list(meta["hist_edges"])
    ratio = edges[1] / edges[0] if edges[0] > 0 else 2.0
    whole = [edges[0] / ratio, *edges, max(edges[-1] * ratio, stats.max or 0.0)]
    bars = []
    for at, count in enumerate(stats.hist_counts, start=stats.hist_first):
        left, right = whole[at], whole[at + 1]
        bars.append(Bar(left, right, count, "on", f"{left:.3g} to {right:.3g}: {count:,} tokens"))
    marks = [(stats.mean, f"mean {stats.mean:.3g}")] if stats.mean else []
    log_x = min(bar.left for bar in bars if bar.height) > 0
    return histogram(bars, "activation", "tokens", marks, log_x=log_x, log_y=True)


def _pre(stats: FeatureStats, meta: Mapping[str, Any]) -> str:
    edges = [edge * stats.pre_unit for edge in meta["pre_edges"]]
    step = edges[1] - edges[0]
    whole = [edges[0] - step, *edges, edges[-1] + step]
    bars = []
    for at, count in enumerate(stats.pre_counts):
        left, right = whole[at], whole[at + 1]
        hint = f"{left:.3g} to {right:.3g}: {count:,} tokens"
        if at in (0, len(edges)):
            hint = f"{'below' if at == 0 else 'above'} {edges[0 if at == 0 else -1]:.3g}: {count:,}"
        bars.append(Bar(left, right, count, "on" if left >= stats.theta - 1e-9 else "off", hint))
    mark = (stats.theta, f"θ {stats.theta:.3g}" if stats.theta > 0 else "0")
    return histogram(bars, "pre-activation", "sampled tokens", [mark], log_y=True)


def _logit_chart(logits: LogitEffect) -> str:
    step = (logits.high - logits.low) / len(logits.counts)
    bars = []
    for at, count in enumerate(logits.counts):
        left, right = logits.low + at * step, logits.low + (at + 1) * step
        name = "on" if left + right > 0 else "down"
        bars.append(Bar(left, right, count, name, f"{left:+.3g} to {right:+.3g}: {count:,} tokens"))
    return histogram(bars, "change of the logit", "vocabulary", log_y=True)


def _positions(stats: FeatureStats, meta: Mapping[str, Any]) -> str:
    edges, tokens = meta["position_edges"], meta["position_tokens"]
    bars, ticks = [], []
    for at, (fires, seen) in enumerate(zip(stats.positions, tokens, strict=True)):
        share = fires / seen if seen else 0.0
        hint = f"positions {edges[at]} to {edges[at + 1] - 1}: {fires:,} of {seen:,} tokens"
        bars.append(Bar(at + 0.08, at + 0.92, share, "on", hint))
        ticks.append((at + 0.5, str(edges[at])))
    return histogram(bars, "position in the context, from", "share of tokens", ticks=ticks)


def _logits(logits: LogitEffect | None, tokens: Mapping[int, tuple[bytes, bool]]) -> str:
    if logits is None:
        return ""
    tables = []
    for title, ids, values, up in (
        ("raises", logits.top_ids, logits.top_logits, True),
        ("lowers", logits.bottom_ids, logits.bottom_logits, False),
    ):
        pairs = list(zip(ids, values, strict=True))[:LOGITS]
        tables.append(cards.logit_table(title, [(tokens[i][0], v) for i, v in pairs], up))
    through = "through the final norm’s scale" if logits.scaled else "through the unembedding alone"
    about = f"{through}; sd {logits.sd:.3g}, skew {logits.skew:.3g}, kurtosis {logits.kurtosis:.3g}"
    return (
        f'<section><h2>Next tokens <small>{html.escape(about)}</small></h2><div class="pair">'
        f"{''.join(tables)}</div></section>"
    )


def _examples(
    stats: FeatureStats,
    examples: Sequence[Example],
    tokens: Mapping[int, tuple[bytes, bool]],
    width: int | None,
) -> list[str]:
    """A section for each kind, with the probability of its sampling."""
    out = []
    for kind, of_kind in groupby(examples, key=lambda example: example.kind):
        title, about = TITLES[kind]
        groups = []
        for part, group in groupby(of_kind, key=lambda example: example.part):
            found = list(group)
            head = f"<h3>{PARTS[part]} <small>{_sampling(found)}</small></h3>" if part else ""
            small = "" if part else f" <small>{_sampling(found)}</small>"
            lines = [
                dataclasses.replace(line, note=f"pre {example.pre:.3g}")
                if kind == "near_miss" else line
                for line, example in zip(strips.lines(found, tokens, width), found, strict=True)
            ]  # fmt: skip
            groups.append((small, head + strips.examples(lines, stats.max)))
        text = "".join(group for _, group in groups)
        out.append(
            f'<section class="kind"><h2>{title}{groups[0][0]}</h2><p class="about">{about}</p>'
            f"{strips.legend(stats.max)}{text}</section>"
        )
    return out


def _sampling(found: Sequence[Example]) -> str:
    """How many, and with which probability each was taken."""
    count = f"{len(found):,} shown"
    given = {example.inclusion for example in found}
    if found[0].kind == "top" or None in given:
        return count
    low, high = min(given), max(given)
    chance = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return f"{count}, each taken with probability {chance}"


def _provenance(meta: Mapping[str, Any]) -> str:
    rows = [(name.replace("_", " "), _say(meta.get(name))) for name in PROVENANCE]
    return cards.facts(rows)


def _say(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say(item) or '–'}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
