"""The sampled tokens of one feature, and how much of the corpus each stands for.

In:  a feature's Examples of the kinds `active` or `quantile`, and `random`; or plain arrays; and on
     how many of the corpus's tokens the feature fires, for `quantile` in each band.
Out: a `TokenSample` with weights that sum to those numbers, for interp/estimates.py.

A sampled token stands for copies / inclusion tokens (Horvitz and Thompson 1952; inclusion in a
bottom-k sample: Cohen and Kaplan 2007). How many tokens fire and how many are silent is counted and
not estimated, so the weights are scaled to those sizes stratum by stratum (the ratio estimator of
Hajek 1971, post-stratified).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data.errors import WorkbenchError
from data.records import Example

SILENT = 0  # number of the stratum of silent tokens
NO_SILENT, NO_FIRING = "no silent token was sampled", "no firing token was sampled"


@dataclass(frozen=True, eq=False)
class TokenSample:
    """Tokens sampled for one feature, in strata of known size; stratum 0 are the silent ones."""

    activation: np.ndarray  # float [n]
    weight: np.ndarray  # float [n], copies / inclusion
    inclusion: np.ndarray  # float [n], probability with which it was taken
    stratum: np.ndarray  # int [n]
    sizes: np.ndarray  # float [strata], tokens of the corpus in each
    within: np.ndarray | None = None  # bool [n]: the part of the corpus asked about; None: all
    examples: tuple[Example, ...] = ()  # in the same order, where it was made of Examples
    lows: np.ndarray | None = None  # float [strata], ascending: where each begins, if it is a band

    def __post_init__(self) -> None:
        n = len(self.activation)
        for name in ("weight", "inclusion", "stratum"):
            given = len(getattr(self, name))
            if given != n:
                raise WorkbenchError(f"{n} sampled tokens come with {given} of {name}: give {n}")
        if not ((self.inclusion > 0) & (self.inclusion <= 1) & (self.weight > 0)).all():
            raise WorkbenchError(
                "a sampled token has no inclusion probability between 0 and 1: harvest again"
            )
        if ((self.activation > 0) != self.fires).any():
            raise WorkbenchError("a token sampled as silent fires, or the reverse: harvest again")

    @cached_property
    def fires(self) -> np.ndarray:
        """bool [n]"""
        return self.stratum != SILENT

    @cached_property
    def calibrated(self) -> np.ndarray:
        """Weights [n] that sum to each stratum's size."""
        sums = np.bincount(self.stratum, weights=self.weight, minlength=len(self.sizes))
        return self.weight * (self.sizes / np.where(sums > 0, sums, 1.0))[self.stratum]

    def settled(self, above: float) -> np.ndarray:
        """bool [n]: tokens whose band lies on one side of `above` with all its fires."""
        if self.lows is None:
            return np.zeros(len(self.activation), dtype=bool)
        ends = np.append(self.lows[1:], np.inf)
        return ((self.lows > above) | (ends <= above))[self.stratum]

    def only(self, chosen: np.ndarray) -> TokenSample:
        """The same sample, asked about the part of the corpus where chosen (bool [n]) is True."""
        return replace(self, within=chosen if self.within is None else self.within & chosen)

    def lacking(self) -> str:
        """Which tokens of the corpus no sampled one stands for; "" if there are none."""
        seen = np.bincount(self.stratum, minlength=len(self.sizes))
        empty = (self.sizes > 0) & (seen == 0)
        return NO_FIRING if empty[1:].any() else NO_SILENT if empty[SILENT] else ""

    @cached_property
    def groups(self) -> np.ndarray:
        """Strata [n] as errors are told from them; -1 for tokens that were certain to be taken.

        Firing strata of a single token are joined (collapsed strata, Cochran 1977, 5A.12).
        """
        labels, chance = self.stratum.copy(), self.inclusion < 1
        counts = np.bincount(labels, minlength=len(self.sizes))
        alone = (counts[labels] == 1) & chance & self.fires
        larger = [h for h in np.flatnonzero(counts > 1) if h != SILENT]
        many = alone.sum() > 1 or not larger
        labels[alone] = len(self.sizes) if many else min(larger, key=lambda h: counts[h])
        labels[~chance] = -1
        return labels


def sample_of_arrays(
    activation: np.ndarray, weight: np.ndarray, inclusion: np.ndarray, fires: int, tokens: int
) -> TokenSample:
    """From arrays [n]: uniformly sampled firing tokens and uniformly sampled silent ones of a
    feature that fires on `fires` of the corpus's `tokens`."""
    a, w, p = (np.asarray(v, dtype=np.float64) for v in (activation, weight, inclusion))
    sizes = np.array([tokens - fires, fires], dtype=np.float64)
    return TokenSample(a, w, p, (a > 0).astype(np.int64), sizes)


def sample_of(
    examples: Iterable[Example],
    fires: int,
    tokens: int,
    firing: str = "active",
    use: str | None = None,
    bands: Mapping[str, tuple[float, int]] | None = None,
) -> TokenSample:
    """From a feature's examples: the peaks of its `random` ones and of those of kind `firing`.

    firing: `active`, a uniform sample of the fires; or `quantile`, a sample of each band of ranks,
    for which `bands` says what each holds (`FeatureStore.bands`).
    The bands tell several times as much of what strong activations decide (density above a high
    threshold, precision and recall there), a little more of correlations, and about as much of the
    rest: 8 a band are worth 19 uniform ones, since half the fires have 8 of them.
    With `use` the estimates are of the corpus's documents of that use only.
    """
    if firing not in ("active", "quantile"):
        raise WorkbenchError(f"{firing!r} examples are no sample of the fires: active, quantile")
    held = {"": (0.0, fires)} if firing == "active" else _held(bands, fires)
    chosen = tuple(e for e in examples if e.kind in (firing, "random"))
    parts = list(held)
    for part in {e.part for e in chosen if e.kind == firing} - held.keys():
        raise WorkbenchError(f"an example of band {part!r}, which holds no fire: harvest again")
    stratum = np.array(
        [SILENT if e.kind == "random" else 1 + parts.index(e.part) for e in chosen], dtype=np.int64
    )
    inclusion = np.array([e.inclusion for e in chosen], dtype=np.float64)
    return TokenSample(
        np.array([e.max for e in chosen], dtype=np.float64),
        np.array([e.copies for e in chosen]) / inclusion,
        inclusion,
        stratum,
        np.array([tokens - fires, *(n for _, n in held.values())], dtype=np.float64),
        None if use is None else np.array([e.use == use for e in chosen], dtype=bool),
        chosen,
        None if firing == "active" else np.array([0.0, *(low for low, _ in held.values())]),
    )


def _held(
    bands: Mapping[str, tuple[float, int]] | None, fires: int
) -> dict[str, tuple[float, int]]:
    """The bands that hold any fires, the weakest first."""
    if bands is None:
        raise WorkbenchError("quantile examples are weighed by their bands: give bands")
    found = {part: (low, n) for part, (low, n) in sorted(bands.items()) if n > 0}
    total = sum(n for _, n in found.values())
    if total != fires:
        raise WorkbenchError(f"the bands hold {total:,} of {fires:,} fires: harvest again")
    return found
