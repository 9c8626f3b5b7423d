"""What a study over several SAEs found: means with intervals, differences, curves, by frequency.

In:  of each arm its features' densities and, by method, one `Result` a feature and baseline.
Out: a dict of JSON, the same for the same results and seed.

The units are features: intervals say how the numbers would vary had other features of these very
SAEs been drawn, not other SAEs been trained. A constant prediction counts 0 in every mean (the mean
without stands beside); what failed, was withheld or not run enters none, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from scipy.stats import rankdata

from interp.outcomes import Result
from interp.totals import DENSE, Mean, mean, totals

RESAMPLES = 2000
POINTS = 121  # of a curve
LEAST_WIDTH = 0.02  # of a curve's kernel: all scores alike would make a spike
STEP = 0.05  # width of a histogram's bar
CORRELATIONS = ("simulate", "estimate")  # between -1 and 1; the others are shares
# Shares of tokens on which a feature fires; the last band is the papers' high-frequency features.
BANDS = ((0.0, 1e-4), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, DENSE), (DENSE, 1.0))
FEWEST = 5  # features of a band that is compared
DIGITS = 6  # of every number in the report


@dataclass(frozen=True)
class ArmResults:
    """What was found of one arm. results: method -> for each feature {own | baseline: Result}."""

    sae: str
    group: str
    l0: float | None
    features: tuple[int, ...]
    density: tuple[float, ...]
    results: Mapping[str, Sequence[Mapping[str, Result]]]
    matched_to: str | None = None


def analysed(arms: Sequence[ArmResults], methods: Sequence[str], seed: int) -> dict:
    """method -> everything below, every number rounded to DIGITS digits."""
    return {method: _rounded(_method(arms, method, seed)) for method in methods}


def _method(arms: Sequence[ArmResults], method: str, seed: int) -> dict:
    values = {arm.sae: numbers(arm.results[method]) for arm in arms}
    groups = list(dict.fromkeys(arm.group for arm in arms))
    members = {group: [arm for arm in arms if arm.group == group] for group in groups}
    parts = {g: [_known(values[arm.sae]) for arm in members[g]] for g in groups}
    banded = {g: [_within(members[g], values, *band) for band in BANDS] for g in groups}
    low, high = _range(method, values.values())
    edges = np.round(np.arange(round((high - low) / STEP) + 1) * STEP + low, 6)
    return {
        "range": [low, high],
        "edges": edges.tolist(),
        "arms": [_arm(arm, method, values[arm.sae], edges, seed) for arm in arms],
        "groups": [_group(g, members[g], parts[g], (low, high), method, seed) for g in groups],
        "differences": [
            difference(first, parts[first], second, parts[second], seed)
            | {"like_frequency": like_frequency(banded[first], banded[second], seed)}
            for first, second in combinations(groups, 2)
        ],
        "paired": _paired(arms, values, seed),
        "bands": [
            {
                "low": least,
                "high": most,
                "groups": {g: asdict(group_mean(banded[g][at], seed)) for g in groups},
            }
            for at, (least, most) in enumerate(BANDS)
        ],
    }


def numbers(results: Sequence[Mapping[str, Result]]) -> np.ndarray:
    """The own score of each feature: 0 of a constant prediction, NaN of what says nothing."""
    return np.array(
        [
            0.0 if one["own"].status == "constant"
            else np.nan if one["own"].value is None else one["own"].value
            for one in results
        ]
    )  # fmt: skip


def _arm(arm: ArmResults, method: str, values: np.ndarray, edges: np.ndarray, seed: int) -> dict:
    results = arm.results[method]
    found = asdict(totals(method, arm.density, results, seed))
    known = _known(values)
    reasons: Counter[str] = Counter()
    for one in results:
        if one["own"].status in ("failed", "withheld", "not_run"):
            reasons[one["own"].reason] += 1
    return {
        "sae": arm.sae, "group": arm.group, "l0": arm.l0, "wanted": len(arm.features),
        "mean": found["uniform"], "without_constants": found["without_constants"],
        "by_frequency": found["by_frequency"], "lift": found["lift"],
        "quarters": [
            {"low": a, "high": b, "mean": m} for a, b, m in found["quarters"]
        ],
        "dense": found["dense"], "statuses": found["statuses"],
        "reasons": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        "windows": sum(one["own"].n for one in results),
        "windows_wanted": sum(one["own"].wanted for one in results),
        "windows_failed": sum(one["own"].n - one["own"].n_ok for one in results),
        **_spread(known),
        "histogram": np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0].tolist(),
    }  # fmt: skip


def _group(
    name: str, members: Sequence[ArmResults], parts: Sequence[np.ndarray], limits, method, seed: int
) -> dict:
    pooled = np.concatenate(parts)
    sure = [
        r["own"].value for arm in members for r in arm.results[method] if r["own"].value is not None
    ]
    return {
        "group": name, "saes": [arm.sae for arm in members],
        "mean": asdict(group_mean(parts, seed)),
        "without_constants": asdict(mean(np.array(sure, dtype=float), seed)),
        **_spread(pooled),
        "curve": curve(pooled, *limits),
    }  # fmt: skip


def _spread(known: np.ndarray) -> dict:
    if len(known) == 0:
        return {"median": None, "q25": None, "q75": None, "sd": None}
    q25, median, q75 = np.quantile(known, [0.25, 0.5, 0.75])
    sd = float(known.std(ddof=1)) if len(known) > 1 else None
    return {"median": float(median), "q25": float(q25), "q75": float(q75), "sd": sd}


# ---------------------------------------------------------------- means and differences


def group_mean(parts: Sequence[np.ndarray], seed: int) -> Mean:
    """Mean over the features of several SAEs, each SAE's resampled by themselves."""
    pooled = np.concatenate(parts)
    if len(pooled) < 3:
        return Mean(float(pooled.mean()) if len(pooled) else None, None, None, len(pooled))
    low, high = np.quantile(_resampled(parts, np.random.default_rng(seed)), [0.025, 0.975])
    return Mean(float(pooled.mean()), float(low), float(high), len(pooled))


def difference(
    first: str, a: Sequence[np.ndarray], second: str, b: Sequence[np.ndarray], seed: int
) -> dict:
    """First minus second mean, both resampled independently (Efron and Tibshirani 1993, ch. 8);
    how often a feature of the first scores above one of the second, ties half; and the difference
    in standard deviations within the groups (Cohen's d)."""
    x, y = np.concatenate(a), np.concatenate(b)
    out = {"first": first, "second": second, "value": None, "low": None, "high": None,
           "beats": None, "sds": None, "n": [len(x), len(y)]}  # fmt: skip
    if not len(x) or not len(y):
        return out
    out["value"] = float(x.mean() - y.mean())
    ranks = rankdata(np.concatenate([x, y]))[: len(x)].sum()
    out["beats"] = float((ranks - len(x) * (len(x) + 1) / 2) / (len(x) * len(y)))
    if len(x) < 3 or len(y) < 3:
        return out
    generator = np.random.default_rng(seed)
    found = _resampled(a, generator) - _resampled(b, generator)
    out["low"], out["high"] = (float(v) for v in np.quantile(found, [0.025, 0.975]))
    within = ((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (len(x) + len(y) - 2)
    out["sds"] = out["value"] / float(within) ** 0.5 if within > 0 else None
    return out


def like_frequency(
    a: Sequence[Sequence[np.ndarray]], b: Sequence[Sequence[np.ndarray]], seed: int
) -> dict:
    """The difference of two groups at like frequency: that of each band, by its harmonic number
    of features n m / (n + m) (as Mantel and Haenszel 1959 weight strata). a, b: scores by band and
    SAE. Bands where either has fewer than FEWEST features are left out; `n` counts the rest."""
    value, drawn, weights, n = 0.0, np.zeros(RESAMPLES), 0.0, 0
    generator = np.random.default_rng(seed)
    for one, other in zip(a, b, strict=True):
        x, y = np.concatenate(one), np.concatenate(other)
        if min(len(x), len(y)) < FEWEST:
            continue
        weight = len(x) * len(y) / (len(x) + len(y))
        value += weight * float(x.mean() - y.mean())
        drawn += weight * (_resampled(one, generator) - _resampled(other, generator))
        weights, n = weights + weight, n + len(x) + len(y)
    if not weights:
        return asdict(Mean(None, None, None, 0))
    low, high = np.quantile(drawn / weights, [0.025, 0.975])
    return asdict(Mean(value / weights, float(low), float(high), n))


def _resampled(parts: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Means of RESAMPLES resamples, each part drawn from itself."""
    total = np.zeros(RESAMPLES)
    for part in parts:
        n = len(part)
        if n:
            total += generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) @ part
    return total / sum(len(part) for part in parts)


def _paired(arms: Sequence[ArmResults], values: Mapping[str, np.ndarray], seed: int) -> list[dict]:
    """The mean difference, feature by feature, of arms that have the same ones."""
    by_name = {arm.sae: arm for arm in arms}
    out = []
    for second in arms:
        first = by_name.get(second.matched_to or "")
        if first is None or first.features != second.features:
            continue
        gap = values[first.sae] - values[second.sae]
        found = mean(gap[np.isfinite(gap)], seed)
        out.append({"first": first.sae, "second": second.sae, **asdict(found)})
    return out


def _within(
    arms: Sequence[ArmResults], values: Mapping[str, np.ndarray], low: float, high: float
) -> list[np.ndarray]:
    """The known scores of features within a band of density, by SAE."""
    out = []
    for arm in arms:
        d, v = np.asarray(arm.density), values[arm.sae]
        out.append(v[np.isfinite(v) & (d > low) & (d <= high)])
    return out


# ---------------------------------------------------------------- curves


def curve(values: np.ndarray, low: float, high: float) -> list[list[float]] | None:
    """A density over [low, high] as (x, y): Gaussian kernels, mirrored at both ends, so that all of
    it lies where scores can lie (Silverman 1986, 2.10, and his width, eq. 3.31). None for fewer
    than three values."""
    if len(values) < 3:
        return None
    q25, q75 = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std(ddof=1)), (q75 - q25) / 1.34 or float("inf"))
    width = max(0.9 * spread * len(values) ** -0.2, LEAST_WIDTH)
    x = np.linspace(low, high, POINTS)
    y = np.zeros(POINTS)
    for centres in (values, 2 * low - values, 2 * high - values):
        y += np.exp(-0.5 * ((x[:, None] - centres) / width) ** 2).sum(1)
    y /= len(values) * width * np.sqrt(2 * np.pi)
    return [[float(a), float(b)] for a, b in zip(x, y, strict=True)]


def _range(method: str, values) -> tuple[float, float]:
    """Where scores are drawn: 0 to 1, with as much of -1 to 0 as a correlation needs."""
    known = np.concatenate([_known(one) for one in values])
    least = known.min() if len(known) else 0.0
    if method not in CORRELATIONS or least >= 0:
        return 0.0, 1.0
    return max(-1.0, float(np.floor(least * 10) / 10)), 1.0


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _rounded(value):
    """The same with floats of DIGITS digits: later ones differ between machines."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value
