"""What a feature's stored examples say of the whole corpus, and how surely.

In:  a `TokenSample` of one feature (interp/token_sample.py).
Out: `Estimate`s of density above a threshold, precision and recall of a rule, and Pearson's
     correlation of a prediction with the activation: value, standard error, interval, sample size.

Totals are Hajek's, with weights that sum to what is counted; bias and standard error are the
stratified jackknife's (Jones 1974). Formulas, and how often the intervals hold the truth:
docs/METHODS.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import WorkbenchError
from interp.intervals import Interval, fisher, part_of_sum, product, times, wilson
from interp.token_sample import NO_FIRING, SILENT, TokenSample

ENOUGH_SILENT = 30  # sampled silent tokens from which on a correlation has an interval
DUST = 1e-12  # standard errors of shares and correlations below this are rounding


@dataclass(frozen=True)
class Estimate:
    """A number about the corpus, from a sample of it.

    `value` is None where the sample cannot tell it, and `reason` says why. `se` is None also where
    the sampled tokens agree in everything that counts: then only the interval says how sure it is.
    """

    value: float | None
    se: float | None  # standard error; 0 where every token that counts was taken
    low: float | None  # 95 % interval
    high: float | None
    ess: float  # effective sample size of the tokens that enter (Kish 1965)
    n: int  # how many those are
    reason: str = ""


def effective_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: so many equally weighted tokens are worth as much (Kish 1965, 11.2).

    0 for none."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


# ---------------------------------------------------------------- estimates


def density_above(sample: TokenSample, threshold: float = 0.0) -> Estimate:
    """Share of the corpus's tokens on which the feature is above `threshold` (0 or more)."""
    everything = np.ones(len(sample.activation), dtype=bool)
    if sample.within is not None:  # how many tokens that part has is an estimate itself
        return precision(sample, everything, threshold)
    _, hit = _checked(sample, everything, threshold)
    if sample.lacking() == NO_FIRING:
        return _undefined(NO_FIRING)
    fires, tokens = float(sample.sizes[1:].sum()), float(sample.sizes.sum())
    if threshold == 0 or fires == 0:
        share = (1.0, 1.0, 1.0)
    else:
        share = _of_bands(sample, hit, sample.settled(threshold))
    estimate = _jackknife(sample, (hit,), lambda totals: totals[0] / tokens)
    return _estimate(sample, estimate, times(share, fires / tokens), sample.fires)


def precision(sample: TokenSample, rule: np.ndarray, above: float = 0.0) -> Estimate:
    """Of the corpus's tokens that `rule` (bool [n]) picks, the share with activation > `above`.

    The interval is of share(> above | rule, fires) times share(fires | rule), whose errors are
    independent. It stays honest where the rule picks no sampled silent token: there may be many.
    """
    rule, hit = _checked(sample, rule, above)
    if sample.lacking():
        return _undefined(sample.lacking())
    picked = rule if sample.within is None else rule & sample.within
    if not picked.any():
        return _undefined("the rule picks no sampled token")
    inside, outside = (
        times(_share(sample, picked, part) or (0.0, 0.0, 0.0), float(size))
        for part, size in (
            (sample.fires, sample.sizes[1:].sum()),
            (~sample.fires, sample.sizes[SILENT]),
        )
    )
    strong = (1.0, 1.0, 1.0) if above == 0 else _share(sample, hit, picked & sample.fires)
    share = product(strong or (0.0, 0.0, 1.0), part_of_sum(inside, outside))
    return _estimate(sample, _jackknife(sample, (picked & hit, picked), _ratio), share, picked)


def recall(sample: TokenSample, rule: np.ndarray, above: float = 0.0) -> Estimate:
    """Of the corpus's tokens with activation > `above`, the share that `rule` (bool [n]) picks."""
    rule, hit = _checked(sample, rule, above)
    if sample.lacking() == NO_FIRING:
        return _undefined(NO_FIRING)
    of = hit if sample.within is None else hit & sample.within
    share = _share(sample, rule, of)
    if share is None:
        return _undefined(f"no sampled token is above {above:g}")
    return _estimate(sample, _jackknife(sample, (rule & of, of), _ratio), share, of)


def correlation(sample: TokenSample, prediction: np.ndarray) -> Estimate:
    """Pearson's correlation of prediction (float [n]) and activation over the corpus.

    None where either is the same on every sampled token. The interval is Fisher's; there is none
    from fewer than ENOUGH_SILENT silent tokens, which say too little of those predicted wrongly.
    """
    p, a = np.asarray(prediction, dtype=np.float64), sample.activation
    if p.shape != a.shape or not np.isfinite(p).all():
        raise WorkbenchError(
            f"{np.isfinite(p).sum()} finite predictions for {a.size} sampled tokens: give one each"
        )
    if sample.lacking():
        return _undefined(sample.lacking())
    used = np.ones(len(a), dtype=bool) if sample.within is None else sample.within
    for name, y in (("activation", a), ("prediction", p)):
        if len(np.unique(y[used])) < 2:
            return _undefined(f"the {name} is the same on every sampled token")
    # Centred and scaled first: sums of squares of large numbers would cancel.
    p, a = ((y - y[used].mean()) / y[used].std() for y in (p, a))
    totals = tuple(y * used for y in (np.ones(len(a)), p, a, p * p, a * a, p * a))
    r, se = _jackknife(sample, totals, _pearson)
    r = min(max(r, -1.0), 1.0)
    silent = int((used & ~sample.fires).sum())
    sure = silent >= ENOUGH_SILENT or sample.sizes[SILENT] == 0 or se == 0
    ends = fisher(r, se) if sure and 1 - r**2 > DUST and se is not None else (r, None, None)
    return _estimate(sample, (r, se), ends, used)


def _estimate(
    sample: TokenSample,
    jackknife: tuple[float, float | None],
    ends: tuple[float, float | None, float | None],
    entering: np.ndarray,
) -> Estimate:
    (value, se), (_, low, high) = jackknife, ends
    if low is not None and high is not None:  # a bias taken off may lead beyond what is possible
        value, se = min(max(value, low), high), se if low < high else 0.0
    g = sample.calibrated[entering]
    return Estimate(value, se, low, high, effective_size(g), int(entering.sum()))


def _undefined(reason: str) -> Estimate:
    return Estimate(None, None, None, None, 0.0, 0, reason)


def _checked(sample: TokenSample, rule: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """The rule and who is above, bool [n] each."""
    rule = np.asarray(rule)
    if rule.shape != sample.activation.shape or rule.dtype != bool:
        raise WorkbenchError(
            f"the rule is {rule.dtype} {list(rule.shape)}: give True or False for each of "
            f"{len(sample.activation)} sampled tokens"
        )
    if not above >= 0:
        raise WorkbenchError(f"a threshold of {above:g}: activations are never below 0")
    return rule, sample.activation > above


def _of_bands(sample: TokenSample, hit: np.ndarray, settled: np.ndarray) -> Interval:
    """Share of `hit` among the fires; only in bands that are not settled is it an estimate."""
    g, unsettled = sample.calibrated, sample.fires & ~settled
    fires = g[sample.fires].sum()
    known, size = float(g[hit & settled].sum() / fires), float(g[unsettled].sum() / fires)
    value, low, high = _share(sample, hit, unsettled) or (0.0, 0.0, 0.0)
    return known + size * value, known + size * low, known + size * high


def _share(sample: TokenSample, hit: np.ndarray, of: np.ndarray) -> Interval | None:
    """Share of `hit` among the tokens `of`, with Wilson's interval at the effective sample size.

    That size is p (1 - p) / variance (Korn and Graubard 1998), or Kish's where all sampled tokens
    agree. None if no sampled token is one of them.
    """
    g, chance = sample.calibrated, 1 - sample.inclusion
    total = float(g[of].sum())
    if total == 0:
        return None
    p = min(float(g[of & hit].sum()) / total, 1.0)
    if not chance[of].any():
        return p, p, p
    variance = (_jackknife(sample, (of & hit, of), _ratio)[1] or 0.0) ** 2
    variance += _unseen(sample, hit, of)
    if 0 < p < 1 and variance > 0:
        return wilson(p, p * (1 - p) / variance)
    return wilson(p, effective_size(g[of]) / float(chance[of].mean()))


def _unseen(sample: TokenSample, hit: np.ndarray, of: np.ndarray) -> float:
    """Variance of that share that the sample cannot show: from strata whose tokens all agree.

    Each counts as if one more token of either sort had been seen there (Laplace); own.
    """
    g, labels = sample.calibrated, sample.groups
    result, total = 0.0, g[of].sum()
    for label in np.unique(labels[of & (labels >= 0)]):
        here = of & (labels == label)
        m = int(here.sum())
        if hit[here].all() or not hit[here].any():
            p = 1 / (m + 2)
            chance = float((1 - sample.inclusion[here]).mean())
            result += (g[here].sum() / total) ** 2 * chance * p * (1 - p) / m
    return result


# ---------------------------------------------------------------- the jackknife


def _jackknife(
    sample: TokenSample, values: Sequence[np.ndarray], f: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float | None]:
    """f of the estimated totals of `values` (each [n]), less its bias, and its standard error.

    Each token in turn is left out and the others of its stratum stand for it; a stratum adds
    (1 - inclusion) (m - 1) times the mean deviation to the bias, times the mean squared one to the
    variance. The error is None where it comes out as 0 by chance, or cannot be told.
    """
    g, labels = sample.calibrated, sample.groups
    y = np.array(values, dtype=np.float64)  # [k, n]
    totals = (y * g).sum(1)
    whole = float(f(totals[:, None])[0])
    bias = variance = 0.0
    for label in np.unique(labels[labels >= 0]):
        here = labels == label
        m, w = int(here.sum()), g[here]
        if m == 1:
            return whole, None
        inside = (y[:, here] * w).sum(1, keepdims=True)
        left = (inside - y[:, here] * w) * (w.sum() / (w.sum() - w))  # totals [k, m] without one
        without = f(totals[:, None] - inside + left)
        without = np.where(np.isfinite(without), without, whole)
        chance = 1 - float(sample.inclusion[here].mean())
        bias += chance * (m - 1) * float(without.mean() - whole)
        variance += chance * (m - 1) * float(((without - without.mean()) ** 2).mean())
    if (labels < 0).all():
        return whole, 0.0
    return whole - bias, math.sqrt(variance) if variance > DUST**2 else None


def _ratio(totals: np.ndarray) -> np.ndarray:
    """totals [2, m] -> the first over the second; NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(totals[1] > DUST, totals[0] / totals[1], np.nan)


def _pearson(totals: np.ndarray) -> np.ndarray:
    """Totals [6, m] of 1, p, a, p^2, a^2, p a -> Pearson's r [m]; NaN where p or a is constant."""
    n, p, a, pp, aa, pa = totals
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (pp / n - (p / n) ** 2) * (aa / n - (a / n) ** 2)
        return (pa / n - p * a / n**2) / np.sqrt(np.where(spread > DUST, spread, np.nan))
