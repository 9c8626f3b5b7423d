"""Which examples a feature keeps: the k best by a score, merged chunk by chunk.

In:  entries (feature, score, document, row) of a chunk. Out: per feature the k smallest scores.
With score = -activation these are the top examples; with score = a seeded hash of (document,
position, feature) they are a uniform sample of all fires (bottom-k sampling, Cohen and Kaplan
2007), whatever the order or the chunks, so shards merge exactly.
"""

from __future__ import annotations

import numpy as np


class BestPerFeature:
    """The `k` entries of smallest score per feature; with `one_per_document`, of the best one of
    each document."""

    def __init__(self, d_sae: int, k: int, one_per_document: bool) -> None:
        self.d_sae, self.k, self.one_per_document = d_sae, k, one_per_document
        # Score of the k-th kept entry: what is above it cannot enter.
        self.bound = np.full(d_sae, np.inf if k > 0 else -np.inf)
        self.feature = np.empty(0, dtype=np.int64)
        self.score = np.empty(0, dtype=np.float64)
        self.tie = np.empty(0, dtype=np.uint64)
        self.doc = np.empty(0, dtype=np.int64)
        self.row = np.empty(0, dtype=np.int64)

    def offer(
        self,
        feature: np.ndarray,
        score: np.ndarray,
        tie: np.ndarray,
        doc: np.ndarray,
        row: np.ndarray,
    ) -> None:
        """Considers entries [n]; equal scores are ordered by `tie`, a seeded hash."""
        good = score <= self.bound[feature]
        columns = (feature, score, tie, doc, row)
        new = [np.asarray(column)[good] for column in columns]
        if self.one_per_document and len(new[0]):
            new = _best_of_documents(new)
        kept = (self.feature, self.score, self.tie, self.doc, self.row)
        merged = [np.concatenate([old, fresh]) for old, fresh in zip(kept, new, strict=True)]
        if self.one_per_document:
            merged = self._first_of_groups(merged, by_document=True, at_most=1)
        merged = self._first_of_groups(merged, by_document=False, at_most=self.k)
        self.feature, self.score, self.tie, self.doc, self.row = merged
        counts = np.bincount(self.feature, minlength=self.d_sae)
        full = counts >= max(self.k, 1)
        last = np.cumsum(counts) - 1
        self.bound[full] = self.score[last[full]]

    @staticmethod
    def _first_of_groups(
        columns: list[np.ndarray], by_document: bool, at_most: int
    ) -> list[np.ndarray]:
        """The `at_most` best of each feature (or feature and document), sorted."""
        feature, score, tie, doc, _ = columns
        keys = (tie, score, doc, feature) if by_document else (tie, score, feature)
        columns = [column[np.lexsort(keys)] for column in columns]
        feature, doc = columns[0], columns[3]
        new = np.ones(len(feature), dtype=bool)
        new[1:] = feature[1:] != feature[:-1]
        if by_document:
            new[1:] |= doc[1:] != doc[:-1]
        starts = np.flatnonzero(new)
        rank = np.arange(len(feature)) - starts[np.cumsum(new) - 1]
        return [column[rank < at_most] for column in columns]

    def ranks(self) -> np.ndarray:
        """Rank of each kept entry within its feature, from 0."""
        counts = np.bincount(self.feature, minlength=self.d_sae)
        starts = np.cumsum(counts) - counts
        return np.arange(len(self.feature)) - starts[self.feature]


def _best_of_documents(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Only entries that are the best of their feature and document, ties kept.

    One sort of an integer key instead of four: it thins millions of entries to thousands.
    """
    feature, score, _, doc, _ = columns
    first = doc.min()
    key = feature * (int(doc.max() - first) + 1) + (doc - first)
    order = np.argsort(key)
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    best = np.minimum.reduceat(score[order], starts)
    lengths = np.diff(starts, append=len(order))
    kept = order[score[order] == np.repeat(best, lengths)]
    return [column[kept] for column in columns]
