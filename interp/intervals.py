"""Intervals of shares, of their products and of parts of a sum; no data, no models.

In:  shares seen on so many tokens. Out: (value, low, high) at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Z = 1.959963984540054  # of a two-sided 95 % interval
Interval = tuple[float, float, float]  # value, low, high


def wilson(p: float, n: float) -> Interval:
    """Of a share p seen on n tokens (Wilson 1927); n need not be whole."""
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + (Z / (2 * n)) ** 2)
    # At 0 and 1 the end is the share itself, which rounding would miss.
    return p, min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p)


def product(one: Interval, other: Interval) -> Interval:
    """Of two independent shares: the two deviations added as vectors (the method of variance
    estimates recovery, Zou and Donner 2008)."""
    (p, p_low, p_high), (q, q_low, q_high) = one, other
    low = p * q - math.hypot(q * (p - p_low), p * (q - q_low))
    high = p * q + math.hypot(q * (p_high - p), p * (q_high - q))
    return p * q, max(low, 0.0), min(high, 1.0)


def part_of_sum(a: Interval, b: Interval) -> Interval:
    """Of a / (a + b) for independent a and b, not both 0.

    Its ends are the x at which the interval of (1 - x) a - x b ends at 0 (Donner and Zou 2012, of
    the ratio of a and b).
    """

    def least(x: float) -> float:
        return (1 - x) * a[0] - x * b[0] - math.hypot((1 - x) * (a[0] - a[1]), x * (b[2] - b[0]))

    def most(x: float) -> float:
        return (1 - x) * a[0] - x * b[0] + math.hypot((1 - x) * (a[2] - a[0]), x * (b[0] - b[1]))

    return a[0] / (a[0] + b[0]), _zero(least), _zero(most)


def times(interval: Interval, factor: float) -> Interval:
    """The interval of `factor` times the number."""
    value, low, high = interval
    return factor * value, factor * low, factor * high


def fisher(r: float, se: float) -> Interval:
    """Of a correlation within (-1, 1) with that standard error (Fisher 1921)."""
    half = Z * se / (1 - r**2)
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _zero(falling: Callable[[float], float]) -> float:
    """Where a falling function on [0, 1] comes down to 0, by bisection."""
    low, high = 0.0, 1.0
    if falling(low) <= 0:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
