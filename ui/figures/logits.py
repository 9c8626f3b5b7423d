"""What a feature does to the logits: a record in, a chart out."""

from __future__ import annotations

from data.records import LogitEffect
from ui.figures.histogram import Bar, Chart


def logit_chart(effect: LogitEffect) -> Chart:
    """All tokens of the vocabulary by how far one unit of the feature moves their logits."""
    step = (effect.high - effect.low) / len(effect.counts)
    bars = []
    for at, count in enumerate(effect.counts):
        left, right = effect.low + at * step, effect.low + (at + 1) * step
        hint = f"{left:+.3g} to {right:+.3g}: {count:,} tokens"
        bars.append(Bar(left, right, count, "on" if left + right > 0 else "down", hint))
    return Chart("Effect on all tokens", bars, "change of the logit", "tokens")
