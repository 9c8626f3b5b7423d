"""What the feature does to the model, measured by taking it away where it is active.

In:  a `Case`; the effects files of its SAE. Out: the feature's means, and example by example the
     change of loss and of prediction, beside those of a random direction of the same size.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from data import effects_store
from data.effects_store import EffectsStore
from data.records import Example, ExampleEffect, FeatureEffect
from ui import cards, strips
from ui.pages.panels import feature_job
from ui.pages.panels.feature_case import Case

WIDTH = 24  # tokens of an example around its peak
CHIPS = 5  # tokens raised and lowered
WHY = {
    "silent": "the feature is active nowhere in it",
    "not_scored": "no scored token follows",
    "no_examples": "it has no example of the kinds asked for",
}
HELP = (
    "The feature is taken away (its decoder direction times its activation, subtracted) wherever "
    "it is active in the example. Δ loss: by how much the loss of the tokens from there on grows, "
    "in nats a token; positive: the feature helped. KL: how far the predictions move. Random: the "
    "KL of a random direction of the same size at the same positions; a feature that does no more "
    "than this says nothing. Attribution: Δ loss as the gradient predicts it."
)
Tokens = Mapping[int, tuple[bytes, bool]]


def show(case: Case) -> None:
    st.markdown("##### Effect of taking it away", help=HELP)
    store, mean = _measured(case)
    if store is None or mean is None:
        sae, feature = case.shell.sae, case.feature
        feature_job.offer(
            case.shell, f"effects.{sae}.{feature}", "Not computed for this feature.",
            ("effects", sae, "--features", str(feature)), "Compute",
            f"Effects of feature {feature} of {sae}",
        )  # fmt: skip
        return
    if mean.status != "ok":
        st.caption(f"Nothing to measure: {WHY.get(mean.status, mean.status)}.")
        return
    st.html(_means(mean))
    state = st.session_state
    state["feature.losses"] = case.view.losses
    st.toggle(
        "Colour by Δ loss", key="feature.losses",
        on_change=lambda: case.go(losses=state["feature.losses"]),
        help="Colours each position by how much worse (orange) or better (blue) the token after it "
        "is predicted without the feature.",
    )  # fmt: skip
    _rows(case, store.examples(case.feature))


def _measured(case: Case) -> tuple[EffectsStore | None, FeatureEffect | None]:
    """The newest effects file of this harvest in which the feature was measured."""
    shell = case.shell
    content = case.meta["content_hash"]
    for path in shell.workspace.extra(shell.sae, "effects"):
        if effects_store.newest_of(shell.root, [path], content) is None:
            continue
        store = EffectsStore(shell.root, path)
        mean = store.feature(case.feature)
        if mean is not None:
            return store, mean
    return None, None


def _means(mean: FeatureEffect) -> str:
    def nats(value: float | None) -> str:
        return "–" if value is None else f"{value:+.3g}"

    exceeds = None if mean.exceeds is None else f"{mean.exceeds:.0%} of them"
    cells = (
        ("Δ loss", nats(mean.delta_loss)), ("KL", _size(mean.kl)),
        ("KL of a random direction", _size(mean.random_kl)),
        ("more than random in", exceeds or "–"), ("attribution", nats(mean.attribution)),
        ("examples", str(mean.n_examples)),
    )  # fmt: skip
    body = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cells)
    about = '<p class="about">Means over its examples, in nats a token.</p>'
    return f'<dl class="numbers">{body}</dl>{about}'


def _size(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _rows(case: Case, effects: Sequence[ExampleEffect]) -> None:
    found = {(e.kind, e.part, e.rank): e for e in case.store.examples(case.feature)}
    pairs = [(effect, found.get((effect.kind, effect.part, effect.rank))) for effect in effects]
    ids = {i for effect in effects for i in (*effect.up_ids, *effect.down_ids)}
    ids |= {i for _, example in pairs if example is not None for i in example.ids}
    tokens = case.store.token_bytes(ids)
    largest = max((abs(d) for effect in effects for d in effect.delta_losses), default=0.0)
    if case.view.losses:
        st.html(signed_legend(largest))
    rows = "".join(_row(case, *pair, tokens, largest) for pair in pairs)
    st.html(f'<div class="fx">{rows}</div>')


def _row(
    case: Case, effect: ExampleEffect, example: Example | None, tokens: Tokens, largest: float
) -> str:
    if effect.status != "ok":
        numbers = f'<p class="none">{html.escape(WHY.get(effect.status, effect.status))}</p>'
    else:
        shown = (("Δ loss", f"{effect.delta_loss:+.3g}"), ("KL", _size(effect.kl)),
                 ("random", _size(effect.random_kl)),
                 ("attribution", _size(effect.attribution)))  # fmt: skip
        numbers = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in shown)
        numbers = f"<dl>{numbers}</dl>"
    text = "" if example is None else _text(case, effect, example, tokens, largest)
    chips = _chips("raises", effect.up_ids, effect.up_logits, tokens)
    chips += _chips("lowers", effect.down_ids, effect.down_logits, tokens)
    return f'<div class="fx-row"><div class="fx-n">{numbers}</div><div>{text}{chips}</div></div>'


def _text(
    case: Case, effect: ExampleEffect, example: Example, tokens: Tokens, largest: float
) -> str:
    own = [tokens[token] for token in example.ids]
    peak = example.peak if effect.peak is None else effect.peak
    row = strips.around_peak(own, example.values, peak, WIDTH)
    if case.view.losses:
        change = dict(zip(effect.scored, effect.delta_losses, strict=True))
        unit = "nats of loss at the next token"
        body = strips.signed(row, change, largest, unit, peak)
    else:
        body = strips.strip(row, case.stats.max, peak, rank=case.rank)
    return f'<div class="strip" dir="auto">{body}</div>'


def _chips(title: str, ids: Sequence[int], by: Sequence[float], tokens: Tokens) -> str:
    chips = "".join(
        f'<span title="{value:+.3g}">{cards.token_chip(tokens[token][0])}</span>'
        for token, value in list(zip(ids, by, strict=True))[:CHIPS]
        if token in tokens
    )
    return f'<p class="chips"><small>{title}</small>{chips}</p>' if chips else ""


def signed_legend(largest: float) -> str:
    """The two-sided scale with its end points."""
    left = "".join(f'<span class="n{shade}"></span>' for shade in range(strips.LEVELS, 0, -1))
    right = "".join(f'<span class="a{shade}"></span>' for shade in range(1, strips.LEVELS + 1))
    return (
        f'<div class="legend"><span>−{largest:.2g}, better without</span>'
        f'<span class="ramp">{left}{right}</span>'
        f"<span>+{largest:.2g} nats, worse without (log-like scale)</span></div>"
    )
