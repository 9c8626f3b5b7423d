"""What ablations say together: means of a feature, and an SAE's causal score.

In:  ExampleEffects of a feature; FeatureEffects of an SAE, with what its examples measured.
Out: a FeatureEffect; a CausalScore.

A feature exceeds if its mean KL under ablation is above that of random directions of the same norm
at the same positions. Were features no better than random directions, half of them would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from data.records import CausalScore, ExampleEffect, FeatureEffect
from interp.intervals import wilson


def feature_effect(feature: int, examples: Sequence[ExampleEffect]) -> FeatureEffect:
    """Means over the feature's examples that are ok."""
    ok = [e for e in examples if e.status == "ok"]
    if not ok:
        seen = {e.status for e in examples}
        status = next((s for s in ("not_scored", "silent") if s in seen), "no_examples")
        return FeatureEffect(feature, status, 0, None, None, None, None, None)
    names = ("delta_loss", "kl", "attribution", "random_kl")
    means = [float(np.mean([getattr(e, name) for e in ok])) for name in names]
    exceeds = float(np.mean([e.kl > e.random_kl for e in ok]))
    return FeatureEffect(feature, "ok", len(ok), *means, exceeds)


def causal_score(
    features: Sequence[FeatureEffect], attribution: np.ndarray, delta_loss: np.ndarray
) -> CausalScore:
    """attribution, delta_loss: of all examples that are ok, [n] each.

    The correlations are None where undefined: below 3 examples, or without variance.
    """
    ok = [f for f in features if f.status == "ok"]
    exceeding = sum(f.kl > f.random_kl for f in ok)
    interval = wilson(exceeding / len(ok), len(ok)) if ok else (None, None, None)
    means = [
        float(np.mean([getattr(f, name) for f in ok])) if ok else None
        for name in ("delta_loss", "kl", "random_kl")
    ]
    varies = len(delta_loss) > 2 and np.ptp(delta_loss) > 0 and np.ptp(attribution) > 0
    kinds = (stats.pearsonr, stats.spearmanr)
    agreement = [float(r(attribution, delta_loss)[0]) if varies else None for r in kinds]
    return CausalScore(
        len(features), len(ok), exceeding, *interval, len(delta_loss), *means, *agreement
    )
