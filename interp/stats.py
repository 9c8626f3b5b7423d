"""Per-feature statistics of a corpus, streamed: constant memory, float64 sums.

In:  sparse codes of consecutive rows, and dense pre-activations of a uniform sample of rows.
Out: counts, sums, maxima and two histograms per feature, and the distribution of L0.

Histogram bins: non-zero activations in quarter octaves of the activations' own scale;
pre-activations in steps of a tenth of `pre_unit` (theta, where there is one).
"""

from __future__ import annotations

import numpy as np
import torch

from data.text import mix64
from sae.sparse import SparseCode

HIST_OCTAVES = (-12, 6)  # from scale / 4096 to 64 * scale
PRE_RANGE, PRE_STEP = (-6.0, 4.0), 0.1
PRE_SAMPLE = 16  # one row in so many enters the pre-activation histogram


def histogram_edges(scale: float) -> np.ndarray:
    """Edges of the activation histogram [73], times the scale sqrt(E||x||^2)."""
    low, high = HIST_OCTAVES
    return scale * 2.0 ** np.arange(low, high + 0.125, 0.25)


def pre_edges() -> np.ndarray:
    """Edges of the pre-activation histogram [101], in units of `pre_unit`."""
    low, high = PRE_RANGE
    return np.linspace(low, high, round((high - low) / PRE_STEP) + 1)


def in_pre_sample(doc: np.ndarray, position: np.ndarray, seed: int) -> np.ndarray:
    """bool [n]: a token is in the sample by a seeded hash of where it stands."""
    return token_hash(doc, position, seed) % np.uint64(PRE_SAMPLE) == 0


def token_hash(doc: np.ndarray, position: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [n], uniform: the same token has the same hash in whatever order it comes."""
    where = (doc.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
    return mix64(where ^ mix64(seed))


class StreamingStats:
    """Accumulates; `update` takes rows in any order and any batch size."""

    def __init__(self, d_sae: int, scale: float, pre_unit: np.ndarray) -> None:
        self.d_sae, self.pre_unit = d_sae, pre_unit.astype(np.float32)
        self.hist_edges, self.pre_edges = histogram_edges(scale), pre_edges()
        self.n_rows = self.n_pre = 0
        self.fires = np.zeros(d_sae, dtype=np.int64)
        self.total = np.zeros(d_sae, dtype=np.float64)
        self.max = np.zeros(d_sae, dtype=np.float32)
        # One bin below the first edge and one beyond the last keep every count.
        self.hist = np.zeros((d_sae, len(self.hist_edges) + 1), dtype=np.int64)
        self.pre = np.zeros((d_sae, len(self.pre_edges) + 1), dtype=np.int64)
        self.l0 = np.zeros(d_sae + 1, dtype=np.int64)  # rows with so many active features

    def update(self, code: SparseCode) -> None:
        """Counts the active entries of `code`."""
        features = code.features.cpu().numpy().astype(np.int64)
        values = code.values.cpu().numpy()
        self.n_rows += code.n_rows
        self.fires += np.bincount(features, minlength=self.d_sae)
        self.total += np.bincount(features, weights=values, minlength=self.d_sae)
        np.maximum.at(self.max, features, values)
        per_octave = 4 * (np.log2(values) - np.log2(self.hist_edges[0]))
        bins = np.clip(np.floor(per_octave) + 1, 0, len(self.hist_edges)).astype(np.int64)
        flat = features * self.hist.shape[1] + bins
        self.hist += np.bincount(flat, minlength=self.hist.size).reshape(self.hist.shape)
        per_row = np.bincount(code.rows.cpu().numpy(), minlength=code.n_rows)
        self.l0 += np.bincount(per_row, minlength=self.d_sae + 1)

    def update_pre(self, pre: torch.Tensor) -> None:
        """Counts dense pre-activations [n, d_sae] of sampled rows."""
        if len(pre) == 0:
            return
        n_bins = self.pre.shape[1]
        scaled = pre / torch.from_numpy(self.pre_unit).to(pre)
        bins = ((scaled - PRE_RANGE[0]) / PRE_STEP).floor_().add_(1).clamp_(0, n_bins - 1)
        flat = bins.to(torch.int64) + torch.arange(self.d_sae, device=pre.device) * n_bins
        counts = torch.bincount(flat.flatten(), minlength=self.pre.size)
        self.pre += counts.cpu().numpy().reshape(self.pre.shape)
        self.n_pre += len(pre)
