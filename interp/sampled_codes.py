"""Which features are active on a seeded sample of tokens: of one SAE, or of two on the same ones.

In:  SAEs and their activation caches of one text.
Out: `Codes`: the active entries of each SAE on the sampled tokens.

The sample is the tokens of smallest seeded hash, so it does not depend on their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from data.activations import ActivationCache
from data.errors import WorkbenchError
from interp.neighbours import NeighbourStep
from interp.sampling import token_hash
from sae.models import SAE
from sae.sparse import Buffers, encode_sparse

MOST_PAIRS = 2e10  # of features active on one token, over the sample: minutes of counting
HASHED = 2**20  # rows hashed at once
FIRST_ROUND, ROUND = 1_024, 32_768  # tokens encoded before their pairs are added up
PRE_CELLS = 2**27  # of the pre-activations [rows, d_sae] of one batch


class Codes(NamedTuple):
    """The active entries of an SAE on some tokens, sorted by token, then by feature."""

    ends: np.ndarray  # int64 [n_tokens + 1]
    features: np.ndarray  # int32 [n]
    values: np.ndarray  # float32 [n], above 0
    d_sae: int

    @property
    def n_tokens(self) -> int:
        return len(self.ends) - 1


def sampled_rows(caches: Sequence[ActivationCache], n: int, seed: int) -> list[np.ndarray]:
    """Rows of each cache that hold the same tokens, those of smallest hash: int64 [m], m <= n.

    With two caches m falls short of n by the tokens that the masks of only one of them keep. In the
    order of the hash, so a beginning of it is a smaller sample. Raises WorkbenchError without any.
    """
    (hashes, row), *others = [_smallest(cache, n, seed) for cache in caches]
    rows = [row]
    for more, row in others:
        hashes, here, there = np.intersect1d(hashes, more, assume_unique=True, return_indices=True)
        rows = [*(row[here] for row in rows), row[there]]
    if len(hashes) == 0:
        raise WorkbenchError(f"none of {n:,} sampled tokens is kept at both sites: sample more")
    return rows


def _smallest(cache: ActivationCache, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The n smallest hashes of a cache's tokens, ascending, and their rows."""
    hashes, rows = np.empty(0, np.uint64), np.empty(0, np.int64)
    for start in range(0, cache.n_rows, HASHED):
        part = slice(start, min(start + HASHED, cache.n_rows))
        doc, position = np.asarray(cache.doc[part]), np.asarray(cache.position[part])
        hashes = np.concatenate([hashes, token_hash(doc, position, seed)])
        rows = np.concatenate([rows, np.arange(part.start, part.stop)])
        if len(hashes) > n:
            kept = np.argpartition(hashes, n - 1)[:n]
            hashes, rows = hashes[kept], rows[kept]
    order = np.argsort(hashes)
    return hashes[order], rows[order]


class Encoding:
    """Encodes the same tokens with each SAE: iterate for progress, then read `codes`.

    Takes fewer tokens where theirs would make more than `most_pairs` pairs of features active
    together: time and memory stay bounded for dense codes, and the sample is still uniform.
    """

    def __init__(
        self,
        saes: Sequence[SAE],
        caches: Sequence[ActivationCache],
        tokens: int,
        seed: int,
        most_pairs: float = MOST_PAIRS,
    ) -> None:
        """caches: of each SAE's site, of one text and one rule of contexts."""
        self.saes, self.caches, self.most_pairs = saes, caches, most_pairs
        self.rows = sampled_rows(caches, tokens, seed)
        self.codes: list[Codes] = []

    @torch.inference_mode()
    def __iter__(self) -> Iterator[NeighbourStep]:
        total, left, start, length = len(self.rows[0]), self.most_pairs, 0, FIRST_ROUND
        rounds: list[list[Codes]] = []
        while start < total:
            stop = min(start + length, total)
            codes, pairs = self._round(start, stop)
            if pairs.sum() > left:  # the first tokens, by their hash, that fit; one at least
                fit = max(int(np.searchsorted(np.cumsum(pairs), left, side="right")), not rounds)
                codes, _ = self._round(start, start + fit)
                stop = total
            rounds.append(codes)
            left -= pairs.sum()
            start, length = stop, min(2 * length, ROUND)
            yield NeighbourStep(start, total)
        self.codes = [_joined(parts) for parts in zip(*rounds, strict=True)]

    def _round(self, start: int, stop: int) -> tuple[list[Codes], np.ndarray]:
        """Each SAE's codes of tokens start..stop-1 of the sample, in the order of the text; and the
        pairs of active features of each, float64 [stop - start], in the order of the sample."""
        rows = [row[start:stop] for row in self.rows]
        order = np.argsort(rows[0])  # the disk is read forwards
        codes = [
            _encode(sae, cache, row[order])
            for sae, cache, row in zip(self.saes, self.caches, rows, strict=True)
        ]
        pairs = np.empty(len(order))
        pairs[order] = np.diff(codes[0].ends).astype(np.float64) * np.diff(codes[-1].ends)
        return codes, pairs


def _encode(sae: SAE, cache: ActivationCache, rows: np.ndarray) -> Codes:
    """The codes of those rows of the cache, in their order."""
    buffers, parts = Buffers(), []
    at_once = min(max(PRE_CELLS // sae.d_sae, 64), 4_096)
    for start in range(0, max(len(rows), 1), at_once):
        x = torch.from_numpy(cache.x[rows[start : start + at_once]]).to(sae.W_enc.device)
        code = encode_sparse(sae, x, buffers)
        lengths = np.bincount(code.rows.cpu().numpy(), minlength=code.n_rows)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        features = code.features.cpu().numpy().astype(np.int32)
        parts.append(Codes(ends, features, code.values.cpu().float().numpy(), sae.d_sae))
    return _joined(parts)


def _joined(parts: Sequence[Codes]) -> Codes:
    """Codes of some tokens after those of others."""
    lengths = np.concatenate([np.diff(part.ends) for part in parts])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    features = np.concatenate([part.features for part in parts])
    values = np.concatenate([part.values for part in parts])
    return Codes(ends, features, values, parts[0].d_sae)
