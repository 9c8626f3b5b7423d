"""Small blocks of escaped HTML that are no token strips: facts, flags, a label, logit effects.

In:  strings, numbers and records.
Out: HTML strings; ui/styles gives them their looks.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from data.records import Explanation, FeatureStats, Score
from ui.strips import token_text

ARCHITECTURES = {
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "gated": "Gated",
    "standard": "ReLU",
    "matryoshka": "Matryoshka",
}


# Signs that turn text around, so that it reads otherwise than it is.
TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """What others wrote, as HTML: escaped, and in its own order."""
    return html.escape(TURNS.sub("�", text))


def facts(rows: Sequence[tuple[str, str | None]]) -> str:
    """A list of name and value; a value of None is left out."""
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in rows
        if value is not None
    )
    return f'<dl class="facts">{items}</dl>'


def flags(stats: FeatureStats, tokens: Mapping[int, tuple[bytes, bool]]) -> list[tuple[str, str]]:
    """(text, kind) of what the store marks as remarkable; kind: warn | plain."""
    if stats.dead:
        return [("dead: it never fires on this corpus", "warn")]
    found = []
    if stats.rare:
        found.append((f"rare: {stats.fires:,} fires", "warn"))
    if stats.dense_10:
        found.append(("dense: fires on more than 10 % of tokens", "warn"))
    elif stats.dense_1:
        found.append(("fires on more than 1 % of tokens", "plain"))
    if stats.single_token and stats.peak_token is not None:
        token = token_text(tokens[stats.peak_token][0])
        found.append((f"single token: {percent(stats.peak_share)} of fires on {token}", "plain"))
    if stats.position_bound:
        found.append(("bound to a position in the context", "warn"))
    if stats.outlier_bound:
        share = percent(stats.outlier_share)
        found.append((f"{share} of its fires are on tokens of unusual norm", "warn"))
    return found


def flag_row(found: Sequence[tuple[str, str]]) -> str:
    """Flags as a row of badges; "" if there are none."""
    badges = "".join(
        f'<span class="flag {kind}">{html.escape(text)}</span>' for text, kind in found
    )
    return f'<div class="flags">{badges}</div>' if badges else ""


def token_chip(data: bytes) -> str:
    """A token on its own."""
    return f'<code class="chip">{html.escape(token_text(data))}</code>'


def judge_name(judge: str) -> str:
    """Who wrote a label; the token-lookup baseline is marked as what it is."""
    return "lexical baseline, not a language model" if judge == "lexical" else judge


def label(explanation: Explanation) -> str:
    """What a judge says the feature stands for, and who says so."""
    if explanation.status != "ok":
        text = f"no label: {explanation.reason or explanation.status}"
        return f'<div class="label"><em>{safe(text)}</em></div>'
    return (
        f'<div class="label">{safe(explanation.text)} '
        f"<small>{safe(judge_name(explanation.judge))}</small></div>"
    )


MEASURES = {  # what the value of a method is called
    "simulate": "r", "estimate": "ρ", "detect": "balanced accuracy", "fuzz": "balanced accuracy",
    "intruder": "intruders found",
}  # fmt: skip


def score_text(score: Score) -> str:
    """`r = 0.61 [0.48, 0.71], n = 40/40, failed 0`; a failure by its reason, never as a number."""
    said = result_text(score.method, score.status, score.value, score.low, score.high,
                       score.n_ok, score.n, score.wanted, score.reason)  # fmt: skip
    if score.status == "ok" and score.n is None:  # of a run that did not keep them
        return f"{said}, {score.n_tokens:,} tokens of {score.n_documents:,} documents"
    return said


def result_text(
    method: str, status: str, value: float | None, low: float | None, high: float | None,
    n_ok: int | None, n: int | None, wanted: int | None, reason: str,
) -> str:  # fmt: skip
    """A result in one line: value, interval, windows answered of those wanted, how many failed."""
    name = MEASURES.get(method, method)
    rests = ""
    if n is not None and n_ok is not None:
        rests = f", n = {n_ok:,}/{wanted or n:,}, failed {n - n_ok:,}"
    if status == "ok" and value is not None:
        return f"{name} = {interval(value, low, high)}{rests}"
    # The reason need not say again what the status does.
    for again in (": the correlation is undefined", ": the value is withheld"):
        reason = reason.removesuffix(again)
    why = f": {reason}" if reason else ""
    if status == "constant":
        return f"{name} is undefined{why or ': constant prediction'}; 0 in means{rests}"
    words = {"withheld": "withheld", "failed": "score failed", "not_run": "not scored"}
    return f"{words.get(status, 'not scored')}{why}{rests if status == 'withheld' else ''}"


def interval(value: float | None, low: float | None, high: float | None) -> str | None:
    """`0.61 [0.48, 0.71]`; without bounds the value alone; None without a value."""
    if value is None:
        return None
    if low is None or high is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def percent(share: float | None) -> str:
    """A share with three significant digits, as `0.0123 %`; an en dash if absent."""
    if share is None:
        return "–"
    if share == 0:
        return "0 %"
    value = 100 * share
    return f"{value:.3g} %" if value >= 1e-4 else f"{value:.1e} %"


def logit_table(title: str, rows: Sequence[tuple[bytes, float]], up: bool) -> str:
    """Tokens with their logit effects, each with a bar of length |value| / largest."""
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    name = "up" if up else "down"
    body = ""
    for data, value in rows:
        token, width = html.escape(token_text(data)), 100 * abs(value) / largest
        body += (
            f'<tr title="{token}"><td><span class="bar {name}" style="width:{width:.0f}%"></span>'
            f"<code>{token}</code></td><td>{value:+.3f}</td></tr>"
        )
    return f'<table class="logits"><caption>{html.escape(title)}</caption>{body}</table>'
