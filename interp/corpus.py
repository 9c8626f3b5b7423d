"""What a harvest knows of the corpus before it looks at a feature.

In:  an activation cache and a seed. Out: for any rows their place, their text's hash, their
     tie-break; the scale of the activations; a uniform sample of all rows.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from data.activations import ActivationCache
from data.text import mix64
from interp.sampling import Smallest, text_hash, token_hash
from interp.stats import Rows, position_edges

SCALE_ROWS = 4_096  # rows whose mean square sets the scale of the histograms
OUTLIER_MEDIANS = (
    3.0  # a norm beyond so many medians is unusual; beyond 10 the mask drops the token
)
POOL = 4_096  # rows that `random` examples are drawn from
AT_ONCE = 1 << 20  # rows whose hashes are made at once


class Corpus:
    """Facts about the rows of one activation cache."""

    def __init__(self, cache: ActivationCache, seed: int) -> None:
        self.cache, self.seed = cache, seed
        first = np.asarray(cache.x[:SCALE_ROWS], dtype=np.float64)
        norms = np.sqrt((first**2).sum(1))
        self.scale = float(np.sqrt((norms**2).mean())) or 1.0
        self.outlier_norm = float(OUTLIER_MEDIANS * np.median(norms))
        self.edges = position_edges(cache.ids.shape[1])
        lengths = np.array([d.n_tokens for d in cache.documents])
        self._start = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.concatenate([*cache.document_ids, np.empty(0, np.int32)])
        self._text = text_hash(flat, lengths, seed)
        # Documents that share their smallest shingle hash are near-duplicates: one of them counts.
        minimum = np.array([d.min_hash for d in cache.documents], dtype=np.uint64)
        self.doc_group = np.unique(minimum, return_inverse=True)[1].astype(np.int64)

    @property
    def n_rows(self) -> int:
        return self.cache.n_rows

    def rows(self, start: int, stop: int, norms: np.ndarray) -> Rows:
        """Place and kind of rows start..stop-1, whose activations have those norms."""
        cache = self.cache
        column = np.asarray(cache.column[start:stop]) - cache.mask.prefix
        bucket = np.searchsorted(self.edges, column, side="right") - 1
        return Rows(np.asarray(cache.doc[start:stop]), bucket, norms > self.outlier_norm)

    def text(self, rows: np.ndarray | slice) -> np.ndarray:
        """uint64 [n]: the hash of the text around each row's token."""
        cache = self.cache
        return self._text[self._start[cache.doc[rows]] + cache.position[rows]]

    def tie(self, rows: np.ndarray | slice) -> np.ndarray:
        """uint64 [n]: a hash of where each row's token stands."""
        return token_hash(
            np.asarray(self.cache.doc[rows]), np.asarray(self.cache.position[rows]), self.seed
        )

    def group(self, rows: np.ndarray | slice) -> np.ndarray:
        """int64 [n]: number of each row's document, near-duplicates alike."""
        return self.doc_group[self.cache.doc[rows]]

    def token(self, rows: np.ndarray | slice) -> np.ndarray:
        """int32 [n]: token ids."""
        return self.cache.ids[self.cache.context[rows], self.cache.column[rows]]

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows by token, in a seeded order each, and where the rows of each token begin."""
        rows = slice(0, self.n_rows)
        tokens = self.token(rows)
        order = np.lexsort((self.tie(rows), tokens))
        return order, np.searchsorted(tokens[order], np.arange(int(tokens.max()) + 2))

    def pool(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """A uniform sample of the corpus's distinct texts: rows [n], how many tokens each stands
        for [n], a second, independent hash of each [n], and the probability they were taken with.
        """
        chosen = Smallest(1, POOL + 1, counted=True)
        for start in range(0, self.n_rows, AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, self.n_rows))
            text = self.text(rows)
            key = mix64(text ^ np.uint64(1))
            number = np.arange(rows.start, rows.stop)
            good = np.flatnonzero(key <= chosen.bound[0])
            key = key[good]
            columns = (np.zeros(len(good)), key, key, self.tie(rows)[good], number[good])
            chosen.offer(*columns, np.zeros(len(good)))
        probability = 1.0
        n = len(chosen.row)
        if n > POOL:
            probability, n = float(chosen.key[POOL]) / 2.0**64, POOL
        rows = chosen.row[:n]
        return rows, chosen.copies[:n], mix64(self.text(rows) ^ np.uint64(2)), probability
