"""Where an activation stands among all non-zero activations of its feature.

In:  a value, the feature's histogram as the store keeps it. Out: shares from 0 to 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def percentile(
    value: float, edges: Sequence[float], first: int, counts: Sequence[int], maximum: float
) -> float | None:
    """Share of the feature's fires with an activation of at most `value`; None if it never fired.

    edges [n] rising, counts those of bins first, first + 1, ... of the n + 1 bins (the first bin
    lies below edges[0], the last beyond edges[-1]); inside a bin linear, so it is right within the
    share of one bin. maximum: the largest activation. Source: own.
    """
    total = sum(counts)
    if not total or value <= 0:
        return None if not total else 0.0
    if value >= maximum:
        return 1.0
    here = bisect_left(edges, value)  # bin of the value: (edges[here - 1], edges[here]]
    below = sum(counts[: max(0, here - first)])
    if not first <= here < first + len(counts):
        return below / total
    low = edges[here - 1] if here else 0.0
    high = min(edges[here] if here < len(edges) else maximum, maximum)
    part = 1.0 if high <= low else min(1.0, (value - low) / (high - low))
    return (below + part * counts[here - first]) / total


def percentile_text(share: float | None) -> str:
    """`percentile 99.3`; more digits where ranks are dense, never rounded up to 100."""
    if share is None:
        return ""
    digits = 0 if share < 0.99 else 1 if share < 0.999 else 2
    floor = math.floor(100 * share * 10**digits + 1e-9) / 10**digits
    return f"percentile {floor:.{digits}f}" if share < 1 else "the corpus maximum"
