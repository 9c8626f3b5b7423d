"""Which features fire together, counted pair by pair on a sample of tokens in bounded memory.

In:  the `Codes` of one SAE, or of two on the same tokens.
Out: for each feature the others with the largest PMI (pointwise mutual information, Church and
     Hanks 1990) and with the largest correlation of activations, and the counts behind them.

A pair counts only where chance does not explain it (`Significance`), so that PMI is no list of
single coincidences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from interp.neighbours import KEEP, Best, Lists, NeighbourStep
from interp.sampled_codes import Codes

LEAST_TOGETHER = 5  # tokens
ALPHA = 0.05  # probability that chance alone gives any of the pairs that count
CELLS = 2**21  # of the counts [features, others] of one block
PAIRS = 2**20  # of entries on one token, counted at once
ENTRIES = 2**22  # summed at once
CONSTANT = 1e-12  # a variance below so much of the mean square is rounding


class Sums:
    """Of each feature over the sample, [d_sae]: tokens it fires on, mean activation, and
    n_tokens times the variance, 0 where it is constant."""

    def __init__(self, codes: Codes) -> None:
        d_sae = codes.d_sae
        self.fires = np.zeros(d_sae, np.int64)
        total, squares = np.zeros(d_sae), np.zeros(d_sae)
        for start in range(0, len(codes.features), ENTRIES):
            features = codes.features[start : start + ENTRIES]
            values = codes.values[start : start + ENTRIES].astype(np.float64)
            self.fires += np.bincount(features, minlength=d_sae)
            total += np.bincount(features, values, d_sae)
            squares += np.bincount(features, values**2, d_sae)
        self.mean = total / codes.n_tokens
        self.spread = squares - total * self.mean
        self.spread[self.spread <= CONSTANT * squares] = 0.0


@dataclass(frozen=True)
class Significance:
    """Which pairs of features count: those together at least LEAST_TOGETHER times, and more often
    than chance explains.

    Were two features independent, each with its own number of fires, they would meet on about
    m = fires_a fires_b / n tokens, and on c or more with a probability of at most
    exp(c - m - c ln(c / m)) (Chernoff's bound; it holds for the Poisson, binomial and
    hypergeometric distribution). That must lie under ALPHA / (pairs that fire often enough to
    count): Bonferroni's rule. Tokens of one document are not independent, so ALPHA is nominal.
    """

    fires_a: np.ndarray
    fires_b: np.ndarray
    n_tokens: int
    same: bool  # one SAE: a pair is tested once

    @cached_property
    def tested(self) -> int:
        """How many pairs could count."""
        often = [int((f >= LEAST_TOGETHER).sum()) for f in (self.fires_a, self.fires_b)]
        return often[0] * (often[0] - 1) // 2 if self.same else often[0] * often[1]

    def __call__(self, a: np.ndarray, b: np.ndarray, together: np.ndarray) -> np.ndarray:
        """bool [n]: of the pairs a, b [n], together on so many tokens (1 or more)."""
        expected = self.fires_a[a] * (self.fires_b[b] / self.n_tokens)
        surprise = together * (np.log(together / expected) - 1) + expected
        enough = surprise >= np.log(max(self.tested, 1) / ALPHA)
        return enough & (together > expected) & (together >= LEAST_TOGETHER)


class CoActivation:
    """Counts pairs: iterate for progress, then ask for `lists` and `describe`.

    Of one SAE each pair of features is counted once; of two, every pair across them.
    """

    def __init__(
        self,
        codes: Codes,
        others: Codes | None = None,
        keep: int = KEEP,
        asked: np.ndarray | None = None,
        block: int | None = None,
    ) -> None:
        """asked: pairs [n, 2] that `describe` will be asked for; block: features at once."""
        self.same, self.a, self.b = others is None, codes, codes if others is None else others
        self.n_tokens, self.width = self.a.n_tokens, self.b.d_sae
        self.sums_a = Sums(self.a)
        self.sums_b = self.sums_a if self.same else Sums(self.b)
        fires = self.sums_a.fires, self.sums_b.fires
        self.significance = Significance(*fires, self.n_tokens, self.same)
        self.block = block or max(CELLS // self.width, 1)
        best_a = self._empty(self.a, keep)
        self.best = best_a, best_a if self.same else self._empty(self.b, keep)
        self.asked = np.empty(0, np.int64) if asked is None else np.unique(self._keys(*asked.T))
        self.asked_together = np.zeros(len(self.asked), np.int64)
        self.asked_product = np.zeros(len(self.asked))
        self._sort_by_feature()

    def __iter__(self) -> Iterator[NeighbourStep]:
        low, total = 0, int(self.done[-1])
        while low < self.a.d_sae:
            enough = np.searchsorted(self.done, self.done[low] + PAIRS, side="right") - 1
            high = max(low + 1, min(int(enough), low + self.block, self.a.d_sae))
            if self.done[high] > self.done[low]:
                self._count(low, high)
            low = high
            yield NeighbourStep(int(self.done[low]), total)

    def lists(self, reverse: bool = False) -> dict[str, Lists]:
        """`coactivation`: values are PMI in nats; `correlation`: Pearson's r of activations over
        all tokens, silent ones included. Ties: more tokens together, then the smaller number.

        Columns feature, rank, other, value, together, given_this (P(other | this)), given_other
        (P(this | other)), r; of a's features, or with `reverse` of b's among a's.
        """
        this, that = self._sides(reverse)
        found = {kind: best.lists() for kind, best in self.best[reverse].items()}
        for kind, columns in found.items():
            feature, together = columns["feature"], columns["together"].astype(np.int64)
            if kind == "coactivation":
                columns["value"] = np.log(columns["value"] * self.n_tokens / this.fires[feature])
            given = together / this.fires[feature], together / that.fires[columns["other"]]
            columns |= {"together": together, "given_this": given[0], "given_other": given[1]}
        return found

    def describe(self, feature: np.ndarray, other: np.ndarray, reverse: bool = False) -> Lists:
        """together, given_this, given_other, r of pairs [n] that were `asked`; NaN where a feature
        is silent, or for r constant. `reverse`: features of b, others of a."""
        this, that = self._sides(reverse)
        keys = self._keys(other, feature) if reverse else self._keys(feature, other)
        at = np.searchsorted(self.asked, keys)
        assert np.array_equal(self.asked[at], keys), "pairs that were not asked for"
        together = self.asked_together[at]
        with np.errstate(invalid="ignore"):
            given = together / this.fires[feature], together / that.fires[other]
        r = _correlation(self.asked_product[at], this, feature, that, other, self.n_tokens)
        return {"together": together, "given_this": given[0], "given_other": given[1], "r": r}

    @staticmethod
    def _empty(codes: Codes, keep: int) -> dict[str, Best]:
        kinds = ("coactivation", "correlation")
        return {kind: Best(codes.d_sae, keep, ("together", "r")) for kind in kinds}

    def _sides(self, reverse: bool) -> tuple[Sums, Sums]:
        return (self.sums_b, self.sums_a) if reverse else (self.sums_a, self.sums_b)

    def _keys(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int64 [n]: one number a pair, whichever way round for one SAE."""
        first, second = (np.minimum(a, b), np.maximum(a, b)) if self.same else (a, b)
        return first.astype(np.int64) * self.width + second

    # ---------------------------------------------------------------- a's entries by feature

    def _sort_by_feature(self) -> None:
        """place, token int32 [n]: where each of a's entries stands in a's list, and its token, by
        feature; first [d_sae + 1]: a feature's entries; done: pairs before each feature."""
        place = np.arange(len(self.a.features), dtype=np.int32)
        by_token = (place, self.a.features, self.a.ends.astype(np.int32))
        by_feature = sparse.csr_array(by_token, (self.n_tokens, self.a.d_sae)).tocsc()
        self.place, self.token = by_feature.data, by_feature.indices
        self.first = by_feature.indptr.astype(np.int64)
        pairs = np.zeros(self.a.d_sae)
        for start in range(0, len(place), ENTRIES):
            low, high = self._partners(start, min(start + ENTRIES, len(place)))
            features = self.a.features[self.place[start : start + ENTRIES]]
            pairs += np.bincount(features, high - low, self.a.d_sae)
        self.done = np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64)

    def _partners(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in b's list the partners of entries start..stop-1 begin and end: all of b's on
        their token; for one SAE those of larger features, so that a pair is met once."""
        token = self.token[start:stop]
        low = self.place[start:stop] + np.int64(1) if self.same else self.b.ends[token]
        return low, self.b.ends[token + 1]

    def _parts(self, low: int, high: int) -> list[tuple[int, int]]:
        """The entries of features low..high-1 in parts of about PAIRS pairs, so that a feature that
        fires everywhere needs no more memory. How one is cut depends on that feature alone."""
        start, stop = int(self.first[low]), int(self.first[high])
        if self.done[high] - self.done[low] <= PAIRS:
            return [(start, stop)]
        first, end = self._partners(start, stop)
        pairs = np.cumsum(end - first)
        cuts = start + np.searchsorted(pairs, np.arange(PAIRS, pairs[-1], PAIRS))
        edges = np.unique([start, *cuts, stop]).tolist()
        return list(zip(edges[:-1], edges[1:], strict=True))

    # ---------------------------------------------------------------- counting

    def _count(self, low: int, high: int) -> None:
        """Counts all pairs of features low..high-1 and offers those that count to both sides."""
        together, product = self._block(low, high)
        at = slice(*np.searchsorted(self.asked, [low * self.width, high * self.width]))
        cells = self.asked[at] - low * self.width
        self.asked_together[at], self.asked_product[at] = together[cells], product[cells]
        cells = np.flatnonzero(together >= LEAST_TOGETHER)
        a, b = np.divmod(cells, self.width)
        a += low
        good = self.significance(a, b, together[cells])
        cells, a, b = cells[good], a[good], b[good]
        sums = self.sums_a, a, self.sums_b, b
        r = _correlation(product[cells], *sums, self.n_tokens)
        self._offer(self.best[0], a, b, self.sums_b, together[cells], r)
        self._offer(self.best[1], b, a, self.sums_a, together[cells], r)

    @staticmethod
    def _offer(
        best: dict[str, Best],
        this: np.ndarray,
        that: np.ndarray,
        sums: Sums,
        together: np.ndarray,
        r: np.ndarray,
    ) -> None:
        """PMI is ln P(this | that) / P(this): of one feature's others, P(this | that) orders it."""
        best["coactivation"].offer(this, that, together / sums.fires[that], together, r)
        best["correlation"].offer(this, that, r, together, r)

    def _block(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens together (int64) and the sum over them of the products of activations (float64),
        both [(high - low) * width]. Sums run in the order of the tokens."""
        size = (high - low) * self.width
        together = product = None
        for start, stop in self._parts(low, high):
            first, end = self._partners(start, stop)
            lengths = end - first
            place = self.place[start:stop]
            row = (self.a.features[place].astype(np.int64) - low) * self.width
            at = np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
            at += np.arange(len(at))
            cell = np.repeat(row, lengths)
            cell += self.b.features.take(at)
            values = self.b.values.take(at).astype(np.float64)
            values *= np.repeat(self.a.values[place], lengths)
            counted, summed = np.bincount(cell, minlength=size), np.bincount(cell, values, size)
            if together is None:
                together, product = counted, summed
            else:
                together += counted
                product += summed
        return together, product


def _correlation(
    product: np.ndarray, a: Sums, feature: np.ndarray, b: Sums, other: np.ndarray, n_tokens: int
) -> np.ndarray:
    """Pearson's r [n] over all tokens, from sums of products; NaN for a constant feature."""
    shared = product - n_tokens * a.mean[feature] * b.mean[other]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = shared / np.sqrt(a.spread[feature] * b.spread[other])
    constant = (a.spread[feature] == 0) | (b.spread[other] == 0)
    return np.where(constant, np.nan, np.clip(r, -1, 1))
