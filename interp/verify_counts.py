"""Statistics of chosen features counted again, token by token, over all documents of a store.

In:  a `Recomputer`, the features, and of the store what says how to count: edges, the norm that
     makes an outlier, the seed. Out: `Counts`, each number twice: without and with the fires that
     float noise may bring or take.

Written without interp/stats.py, as literally as vectors allow: it is there to be compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from data.text import mix64
from interp.recompute import Activations, Recomputer, margin
from interp.verify import VerifyStep
from sae.models import TopKSAE

ENTRIES = 1 << 23  # of a matrix [rows, features] at once
SAMPLED = 16  # one token in so many is in the pre-activation histogram (docs/METHODS.md)


@dataclass(frozen=True)
class Rules:
    """How the store says its statistics were counted, and what its values are to be ranked by."""

    hist_edges: np.ndarray
    cell_edges: np.ndarray  # each bin of the histogram in even cells, where bands may be cut
    pre_edges: np.ndarray
    position_edges: np.ndarray
    outlier_norm: float
    seed: int
    rows: int  # tokens the harvest saw, loud ones included
    pre_unit: np.ndarray  # [features]
    peak_token: np.ndarray  # [features], the token id whose fires are counted; -1: none
    at_most: np.ndarray  # [features, k]: values whose fires at or below are counted; NaN: none
    below: np.ndarray  # [features, k]: the same strictly below


class Counts:
    """What the corpus says of `features` [n]. Iterate for progress, then read the arrays.

    Index 0 is what is sure, index 1 what float noise may add to it. Of histograms (`hist`, `cells`,
    `pre`) that holds for sums from the first bin on.
    """

    def __init__(self, recomputer: Recomputer, features: np.ndarray, rules: Rules) -> None:
        self.recomputer, self.features, self.rules = recomputer, features, rules
        n, sae = len(features), recomputer.sae
        self.all = n == sae.d_sae
        self.of = torch.from_numpy(features).to(recomputer.W.device)
        self.W, self.b = recomputer.W, recomputer.b
        if not (self.all or isinstance(sae, TopKSAE)):
            self.W, self.b = self.W[:, self.of], self.b[self.of]
        buckets = len(rules.position_edges) - 1
        self.tokens, self.sampled, self.outlier_tokens = (np.zeros(2, np.int64) for _ in range(3))
        self.position_tokens = np.zeros((2, buckets), dtype=np.int64)
        self.found = np.zeros(n, dtype=np.int64)  # fires as they came out here
        self.on_peak = np.zeros(n, dtype=np.int64)  # those of them on the feature's peak_token
        self.fires, self.outliers = (np.zeros((2, n), dtype=np.int64) for _ in range(2))
        self.powers = np.zeros((2, 4, n))  # sums of f, f^2, f^3, f^4
        self.noise = np.zeros(n)  # sum of the fires' own noise
        self.largest = np.zeros((2, n))
        self.smallest = np.full(n, np.inf)  # of the fires that are not sure
        self.first_doc = np.full((2, n), np.iinfo(np.int64).max)
        self.last_doc = np.full((2, n), -1)
        cells, pre_bins = len(rules.cell_edges) + 1, len(rules.pre_edges) + 1
        self.cells = np.zeros((2, n, cells), dtype=np.int64)
        self.pre = np.zeros((2, n, pre_bins), dtype=np.int64)
        self.positions = np.zeros((2, n, buckets), dtype=np.int64)
        # Tokens with so many features: with the sure ones, and with all that noise may add.
        self.l0 = np.zeros((2, sae.d_sae + 1 if self.all else 0), dtype=np.int64)
        self.at_most, self.below = (
            np.zeros((2, *limits.shape), dtype=np.int64) for limits in (rules.at_most, rules.below)
        )

    @property
    def hist(self) -> np.ndarray:
        """[2, features, bins]: the cells of each bin of the histogram together."""
        bins = np.searchsorted(self.rules.hist_edges, self.rules.cell_edges, side="right")
        found = np.zeros((*self.cells.shape[:2], len(self.rules.hist_edges) + 1), dtype=np.int64)
        np.add.at(found, (slice(None), slice(None), np.concatenate([[0], bins])), self.cells)
        return found

    @torch.inference_mode()
    def __iter__(self) -> Iterator[VerifyStep]:
        total = len(self.recomputer.contexts.order)
        for found, done in self.recomputer.batches(self.rules.rows):
            self._batch(found)
            yield VerifyStep(done, total)

    def _batch(self, found: Activations) -> None:
        at, rules = found.contexts, self.rules
        taken = found.keep | found.unsure
        x = found.x[torch.from_numpy(taken).to(found.x.device)]
        column = np.nonzero(taken)[1] - self.recomputer.mask.prefix
        bucket = np.searchsorted(rules.position_edges, column, side="right") - 1
        doc, position = at.doc[taken].astype(np.int64), at.position[taken].astype(np.int64)
        sure, ids = ~found.unsure[taken], at.ids[taken]
        norm = torch.linalg.vector_norm(x, dim=-1).double().cpu().numpy()
        over = norm / rules.outlier_norm - 1
        noise = self.recomputer.noise
        outlier = np.stack([(over > noise) & sure, over > -noise])
        # A token's place is hashed with the seed; see interp/sampling.py.
        place = (doc.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
        chosen = mix64(place ^ mix64(rules.seed)) % np.uint64(SAMPLED) == 0
        for extra, which in enumerate((sure, ~sure)):
            self.tokens[extra] += which.sum()
            self.sampled[extra] += (which & chosen).sum()
            np.add.at(self.position_tokens[extra], bucket[which], 1)
        self.outlier_tokens += [outlier[0].sum(), (outlier[1] & ~outlier[0]).sum()]
        step = max(ENTRIES // len(self.features), 1)
        for start in range(0, len(x), step):
            here = slice(start, start + step)
            kept = found.keep[taken][here]
            self._rows(x[here], doc[here], bucket[here], sure[here], kept, outlier[:, here],
                       chosen[here], ids[here])  # fmt: skip

    def _rows(self, x, doc, bucket, sure, kept, outlier, chosen, ids) -> None:
        """x: [rows, d_in]; the others [rows], outlier [2, rows]."""
        re, sae = self.recomputer, self.recomputer.sae
        framed = sae.token_frame(x)[0]
        pre = torch.addmm(self.b, framed, self.W)
        if isinstance(sae, TopKSAE):
            clear, pre = margin(sae, pre, None)[:, self.of], pre[:, self.of]
        else:
            clear = margin(sae, pre, None if self.all else self.of)
        noise = torch.linalg.vector_norm(framed, dim=-1)[:, None] * re.lengths[self.of] * re.noise
        rows, which = torch.nonzero(clear > -noise, as_tuple=True)
        value = sae.values(pre[rows, which], self.of[which]).relu()
        slope = 1.0 if getattr(sae, "r_mag", None) is None else sae.r_mag[self.of[which]].exp()
        r, f = rows.cpu().numpy(), which.cpu().numpy()
        v, c, z = (
            part.double().cpu().numpy() for part in (value, clear[rows, which], noise[rows, which])
        )
        slack = (noise[rows, which] * slope).double().cpu().numpy()
        certain = (c > z) & sure[r]
        fired = (c > 0) & kept[r]
        on_peak = fired & (ids[r] == self.rules.peak_token[f])
        self.found += np.bincount(f[fired], minlength=len(self.found))
        self.on_peak += np.bincount(f[on_peak], minlength=len(self.found))
        self._entries(f, r, v, slack, certain, doc, bucket, outlier)
        if self.all:
            for both, fires in enumerate((certain, np.ones_like(certain))):
                counts = np.bincount(r[fires], minlength=len(doc))
                np.add.at(self.l0[both], counts if both else counts[sure], 1)
        if chosen.any():
            at = torch.from_numpy(np.flatnonzero(chosen)).to(pre.device)
            self._pre(
                pre[at].double().cpu().numpy(), noise[at].double().cpu().numpy(), sure[chosen]
            )

    def _entries(self, f, r, v, slack, certain, doc, bucket, outlier) -> None:
        """Fires, sure and possible: feature f, row r, value v and its noise; [n] each."""
        edges, n = self.rules.cell_edges, len(self.features)
        self.noise += np.bincount(f, weights=slack, minlength=n)
        high = np.searchsorted(edges, v + slack, side="right")
        low = np.searchsorted(edges, v - slack, side="right")
        for extra, (which, bins) in enumerate(((certain, high), (~certain, low))):
            F, R, V = f[which], r[which], v[which]
            self.fires[extra] += np.bincount(F, minlength=n)
            for power in range(4):
                self.powers[extra, power] += np.bincount(F, weights=V ** (power + 1), minlength=n)
            np.maximum.at(self.largest[extra], F, V)
            np.minimum.at(self.first_doc[extra], F, doc[R])
            np.maximum.at(self.last_doc[extra], F, doc[R])
            _count(self.cells[extra], F, bins[which])
            _count(self.positions[extra], F, bucket[R])
            self.outliers[extra] += np.bincount(F[outlier[extra][R]], minlength=n)
        np.minimum.at(self.smallest, f[~certain], v[~certain])
        moves = certain & (low < high)  # near an edge
        _count(self.cells[1], f[moves], low[moves])
        _count(self.cells[1], f[moves], high[moves], -1)
        near = certain & outlier[1][r] & ~outlier[0][r]
        self.outliers[1] += np.bincount(f[near], minlength=n)
        for limits, counts, meets in (
            (self.rules.at_most, self.at_most, np.less_equal),
            (self.rules.below, self.below, np.less),
        ):
            for k in range(limits.shape[1]):
                limit = limits[f, k]
                few, many = certain & meets(v + slack, limit), meets(v - slack, limit)
                counts[0, :, k] += np.bincount(f[few], minlength=n)
                counts[1, :, k] += np.bincount(f[many & ~few], minlength=n)

    def _pre(self, pre: np.ndarray, noise: np.ndarray, sure: np.ndarray) -> None:
        """Dense pre-activations [rows, features] of sampled tokens, in the features' units."""
        edges, scaled = self.rules.pre_edges, pre / self.rules.pre_unit
        # The stored bins were found in float32.
        slack = noise / self.rules.pre_unit + 2e-6 * (np.abs(scaled) + np.abs(edges[0]))
        columns = np.broadcast_to(np.arange(pre.shape[1]), pre.shape)
        high = np.searchsorted(edges, scaled + slack, side="right")
        low = np.searchsorted(edges, scaled - slack, side="right")
        _count(self.pre[0], columns[sure].ravel(), high[sure].ravel())
        _count(self.pre[1], columns[~sure].ravel(), low[~sure].ravel())
        moves = (low < high) & sure[:, None]
        _count(self.pre[1], columns[moves], low[moves])
        _count(self.pre[1], columns[moves], high[moves], -1)


def _count(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, by: int = 1) -> None:
    """table[row, column] += by for each pair."""
    np.add.at(table.reshape(-1), rows * table.shape[1] + columns, by)
