"""Numbers for predictions: correlation over concatenated tokens, with an interval over documents.

In:  real and predicted activations per window, and each window's document. Out: a `Score`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r; None where either side is constant, for there it is undefined."""
    return _r(_sums(x, y))


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n, sum x, sum y, sum xx, sum yy, sum xy]: add over windows, and r follows."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _r(s: np.ndarray) -> float | None:
    n, sx, sy, sxx, syy, sxy = s
    vx, vy = n * sxx - sx * sx, n * syy - sy * sy
    # Relative to the sums: what is left of a constant vector is rounding.
    if n < 2 or vx <= 1e-12 * n * sxx or vy <= 1e-12 * n * syy:
        return None
    return float(np.clip((n * sxy - sx * sy) / np.sqrt(vx * vy), -1.0, 1.0))


def correlation_with_interval(
    real: Sequence[Sequence[float]],
    predicted: Sequence[Sequence[float]],
    documents: Sequence[int],
    seed: int,
    level: float = 0.95,
) -> tuple[float | None, float | None, float | None]:
    """(r, low, high) over the concatenated tokens of all windows (Bills et al. 2023).

    The percentile interval resamples documents, not tokens: tokens of one text are not
    independent (Efron and Tibshirani 1993, ch. 8). None with fewer than three documents.
    """
    names, group = np.unique(np.asarray(documents), return_inverse=True)
    sums = np.zeros((len(names), 6))
    for which, x, y in zip(group, real, predicted, strict=True):
        sums[which] += _sums(np.asarray(x), np.asarray(y))
    r = _r(sums.sum(axis=0))
    if r is None or len(names) < 3:
        return r, None, None
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
    )
    resampled = [value for s in draws @ sums if (value := _r(s)) is not None]
    if len(resampled) < RESAMPLES // 2:
        return r, None, None
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return r, float(low), float(high)
