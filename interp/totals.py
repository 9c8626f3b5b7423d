"""An SAE's interpretability in a few numbers, from the results of its features.

In:  for each feature its density and one `Result` an arm. Out: means with intervals, lift over the
     baselines, by density.

A constant prediction counts 0 in every mean, and the mean without such features stands beside it;
what failed, was withheld or not run enters no mean and is counted. Intervals are of features as
units, by bootstrap; the features must be a sample of the SAE's for them to be of the SAE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.outcomes import Result

RESAMPLES = 2000
AT_ONCE = 4_000_000  # counts held at once
DENSE = 0.1  # features above this are looked at apart (the JumpReLU paper's high-frequency ones)


@dataclass(frozen=True)
class Mean:
    """A mean over features. value is None where there are none."""

    value: float | None
    low: float | None  # 95 % interval; None from fewer than three features
    high: float | None
    n: int


@dataclass(frozen=True)
class Totals:
    """One method on one SAE."""

    method: str
    uniform: Mean  # constants as 0
    without_constants: Mean
    by_frequency: Mean  # weighted by density, constants as 0
    lift: dict[str, Mean]  # baseline -> own minus baseline, features that have both
    quarters: tuple[tuple[float, float, Mean], ...]  # least and largest density, and the mean
    dense: Mean  # features above DENSE
    statuses: dict[str, int]


def totals(
    method: str, density: Sequence[float], results: Sequence[Mapping[str, Result]], seed: int
) -> Totals:
    """results: arm -> Result of each feature, `own` among them."""
    d = np.asarray(density, dtype=float)
    own = np.array([_number(arms["own"]) for arms in results])
    counted = np.isfinite(own)
    sure = np.array([arms["own"].value is not None for arms in results], dtype=bool)
    arms = sorted({arm for found in results for arm in found} - {"own"})
    lift = {}
    for arm in arms:
        base = np.array([_number(found[arm]) if arm in found else np.nan for found in results])
        lift[arm] = mean((own - base)[np.isfinite(own - base)], seed)
    return Totals(
        method,
        mean(own[counted], seed),
        mean(own[sure & counted], seed),
        mean(own[counted], seed, d[counted]),
        lift,
        _quarters(d[counted], own[counted], seed),
        mean(own[counted & (d > DENSE)], seed),
        dict(Counter(arms["own"].status for arms in results).most_common()),
    )


def mean(values: np.ndarray, seed: int, weights: np.ndarray | None = None) -> Mean:
    """The (weighted) mean, with its percentile interval over features."""
    n = len(values)
    if n == 0:
        return Mean(None, None, None, 0)
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    if w.sum() <= 0:
        return Mean(None, None, None, n)
    value = float((values * w).sum() / w.sum())
    if n < 3:
        return Mean(value, None, None, n)
    rng, at_once, found = np.random.default_rng(seed), max(1, AT_ONCE // n), []
    for start in range(0, RESAMPLES, at_once):
        drawn = rng.multinomial(n, np.full(n, 1 / n), min(at_once, RESAMPLES - start))
        sums = drawn @ w
        found.append((drawn @ (values * w))[sums > 0] / sums[sums > 0])
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Mean(value, float(low), float(high), n)


def paired(first: Sequence[Result], second: Sequence[Result], seed: int) -> Mean:
    """Mean difference over features that both have."""
    a, b = (np.array([_number(r) for r in side]) for side in (first, second))
    return mean((a - b)[np.isfinite(a - b)], seed)


def _number(result: Result) -> float:
    """The value; 0 of a constant prediction, NaN of what says nothing."""
    if result.status == "constant":
        return 0.0
    return float("nan") if result.value is None else result.value


def _quarters(density: np.ndarray, values: np.ndarray, seed: int) -> tuple:
    """Means of four groups of equally many features, from the rarest on."""
    order = np.argsort(density, kind="stable")
    groups = [g for g in np.array_split(order, 4) if len(g)] if len(order) >= 4 else []
    return tuple(
        (float(density[g].min()), float(density[g].max()), mean(values[g], seed)) for g in groups
    )
