"""Per-feature statistics of a corpus, streamed: constant memory, float64 sums.

In:  active entries of consecutive rows, and dense pre-activations of a uniform sample of rows.
Out: counts, power sums, extremes and histograms per feature, and the distribution of L0. Two parts
     of a corpus add up to the whole (`merge`).

Non-zero activations are counted in cells, 32 even ones in each octave, so that a cell is read off
the bits of a float32; four cells are a bin of the histogram that is stored. Pre-activations in
steps of a tenth of `pre_unit` (theta, if there is one).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

OCTAVES = (-12, 6)  # of the histogram, from the octave the scale of the activations lies in
BITS, CELL_BITS = 3, 5  # bins and cells of an octave, as powers of two
BEYOND = 2.0**128  # no float32 reaches it
AT_ONCE = 1_024  # features whose cumulated counts are in memory together
PRE_RANGE, PRE_STEP = (-6.0, 4.0), 0.1
PRE_SAMPLE = 16  # one row in so many enters the pre-activation histogram
MOMENTS = 4
LEAST = 1e-4, 3e-3  # deviation over mean from which on skew and kurtosis are told


class Entries(NamedTuple):
    """Active entries of a chunk, sorted by feature, then by row."""

    features: np.ndarray  # [n] int64
    rows: np.ndarray  # [n] int64, within the chunk
    values: np.ndarray  # [n] float32, above 0


class Rows(NamedTuple):
    """What the statistics need to know of the rows of a chunk, [n_rows] each."""

    doc: np.ndarray
    bucket: np.ndarray  # of its position in the context (`position_edges`)
    outlier: np.ndarray  # bool: of unusual norm


def position_edges(context: int) -> np.ndarray:
    """0, 1, 2, 4, ... up to `context`: edges of the buckets fires are counted in by position."""
    doubling = [2**i for i in range(max(context - 1, 1).bit_length())]
    return np.array([0, *(edge for edge in doubling if edge < context), context])


def pre_edges() -> np.ndarray:
    """Edges of the pre-activation histogram [101], in units of `pre_unit`."""
    low, high = PRE_RANGE
    return np.linspace(low, high, round((high - low) / PRE_STEP) + 1)


class Histogram:
    """Cells of float32 values around a scale: which one a value falls into, and their edges."""

    def __init__(self, scale: float) -> None:
        octave = math.floor(math.log2(scale)) + OCTAVES[0]
        n_edges = (OCTAVES[1] - OCTAVES[0]) * 2**CELL_BITS + 1
        self.first = (octave + 127) << CELL_BITS  # the first edge's bits, shortened
        self.n_cells = n_edges + 1  # one below the first edge and one beyond the last

    @property
    def cell_edges(self) -> np.ndarray:
        """float64 [n_cells - 1]; cell i lies between edges i - 1 and i, its lower edge included."""
        bits = (self.first + np.arange(self.n_cells - 1)) << (23 - CELL_BITS)
        return bits.astype(np.int32).view(np.float32).astype(np.float64)

    @property
    def edges(self) -> np.ndarray:
        """float64: those of the stored histogram's bins, counted like cells."""
        return self.cell_edges[:: 2 ** (CELL_BITS - BITS)]

    def cells(self, values: np.ndarray) -> np.ndarray:
        """int64 [n] of positive float32 values."""
        shortened = values.view(np.int32) >> np.int32(23 - CELL_BITS)
        return np.clip(shortened.astype(np.int64) - (self.first - 1), 0, self.n_cells - 1)

    def bins(self, counts: np.ndarray) -> np.ndarray:
        """Counts in cells [n, n_cells] -> in bins [n, len(edges) + 1]."""
        starts = np.arange(1, self.n_cells - 1, 2 ** (CELL_BITS - BITS))
        return np.add.reduceat(counts, [0, *starts, self.n_cells - 1], axis=1)


class StreamingStats:
    """Accumulates; chunks may come in any order and any size."""

    # What adds up over parts of a corpus, what takes the smaller, what the larger.
    SUMS = ("n_rows", "n_pre", "fires", "powers", "cells", "pre", "positions", "outliers",
            "position_rows", "outlier_rows")  # fmt: skip

    def __init__(self, d_sae: int, scale: float, pre_unit: np.ndarray, context: int) -> None:
        self.d_sae, self.pre_unit = d_sae, pre_unit.astype(np.float32)
        self.histogram, self.context = Histogram(scale), context
        buckets = len(position_edges(context)) - 1
        self.n_rows, self.n_pre, self.outlier_rows = (np.zeros((), np.int64) for _ in range(3))
        self.position_rows = np.zeros(buckets, dtype=np.int64)
        self.fires = np.zeros(d_sae, dtype=np.int64)
        self.powers = np.zeros((MOMENTS, d_sae), dtype=np.float64)  # sums of f, f^2, f^3, f^4
        self.max = np.zeros(d_sae, dtype=np.float32)
        self.first_doc = np.full(d_sae, np.iinfo(np.int32).max, dtype=np.int32)
        self.last_doc = np.full(d_sae, -1, dtype=np.int32)
        self.cells = np.zeros((d_sae, self.histogram.n_cells), dtype=np.int64)
        self.pre = np.zeros((d_sae, len(pre_edges()) + 1), dtype=np.int64)
        self.positions = np.zeros((d_sae, buckets), dtype=np.int64)
        self.outliers = np.zeros(d_sae, dtype=np.int64)  # fires on rows of unusual norm

    def update(self, entries: Entries, rows: Rows) -> np.ndarray:
        """Counts the active entries of a chunk; returns each one's cell [n]."""
        f, r, v = entries
        self.n_rows += len(rows.doc)
        self.position_rows += np.bincount(rows.bucket, minlength=len(self.position_rows))
        self.outlier_rows += rows.outlier.sum()
        cells = self.histogram.cells(v)
        if len(f) == 0:
            return cells
        starts = np.flatnonzero(np.diff(f, prepend=-1))
        of = f[starts]
        self.fires[of] += np.diff(starts, append=len(f))
        value = v.astype(np.float64)
        power = value.copy()
        for total in self.powers:  # one by one in the order of rows: no cut rounds otherwise
            np.add.at(total, f, power)
            power *= value
        self.max[of] = np.maximum(self.max[of], np.maximum.reduceat(v, starts))
        doc = rows.doc[r]
        self.first_doc[of] = np.minimum(self.first_doc[of], np.minimum.reduceat(doc, starts))
        self.last_doc[of] = np.maximum(self.last_doc[of], np.maximum.reduceat(doc, starts))
        _count(self.cells, f, cells)
        _count(self.positions, f, rows.bucket[r])
        if rows.outlier.any():
            self.outliers += np.bincount(f[rows.outlier[r]], minlength=self.d_sae)
        return cells

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

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds what `arrays` gave of another part of the corpus."""
        for name in self.SUMS:
            setattr(self, name, getattr(self, name) + arrays[name])
        self.max = np.maximum(self.max, arrays["max"])
        self.first_doc = np.minimum(self.first_doc, arrays["first_doc"])
        self.last_doc = np.maximum(self.last_doc, arrays["last_doc"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything counted, by name."""
        names = (*self.SUMS, "max", "first_doc", "last_doc")
        return {name: np.asarray(getattr(self, name)) for name in names}

    # ------------------------------------------------------------ what follows from the counts

    def moments(self) -> dict[str, np.ndarray]:
        """mean, sd, skew and excess kurtosis of the non-zero activations [d_sae]; NaN: undefined.

        Those of the fires themselves (divided by n). Nearly equal values have no skew and kurtosis.
        """
        n = np.where(self.fires > 0, self.fires, np.nan)
        m1, m2, m3, m4 = self.powers / n
        variance = np.maximum(m2 - m1**2, 0)
        # Below these deviations, relative to the mean, raw powers leave nothing but rounding.
        varied, widely = (np.where(variance > least**2 * m2, variance, np.nan) for least in LEAST)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return {
            "mean": m1,
            "sd": np.sqrt(variance),
            "skew": third / varied**1.5,
            "kurtosis": fourth / widely**2 - 3,
        }

    def quantiles(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of the non-zero activations [d_sae, levels], and how wrong they may be at most,
        relative to themselves. NaN for features that never fire.

        Linear within a cell; the true one lies in the same cell.
        """
        edges = np.concatenate([[0.0], self.histogram.cell_edges, [np.inf]])
        found, error = (np.full((self.d_sae, len(levels)), np.nan) for _ in range(2))
        for some, counts in self._alive():
            below = np.cumsum(counts, axis=1)
            each = np.arange(len(some))
            for column, level in enumerate(levels):
                wanted = level * self.fires[some]
                at = np.argmax(below >= np.maximum(wanted, 1e-9)[:, None], axis=1)
                count = counts[each, at]
                low, high = edges[at], np.minimum(edges[at + 1], self.max[some])
                high = np.maximum(high, low)
                value = low + (high - low) * (wanted - (below[each, at] - count)) / count
                found[some, column] = value
                error[some, column] = np.maximum(value - low, high - value) / value
        return found, error

    def strongest(self, percents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Where the strongest so many percent of a feature's fires begin: the first cell
        [d_sae, percents], and exactly how many fires there are from it on.

        Of all edges of cells the one whose fires are nearest in number; of two as near the one
        with more fires, of those with the same fires the lowest. n_cells: it holds none.
        """
        first = np.full((self.d_sae, len(percents)), self.histogram.n_cells)
        held = np.zeros((self.d_sae, len(percents)), dtype=np.int64)
        for some, counts in self._alive():
            above = np.zeros((len(some), counts.shape[1] + 1), dtype=np.int64)
            above[:, :-1] = counts[:, ::-1].cumsum(1)[:, ::-1]
            for column, percent in enumerate(percents):
                off = np.abs(100 * above - percent * self.fires[some, None])
                first[some, column] = at = off.argmin(1)
                held[some, column] = above[np.arange(len(some)), at]
        return first, held

    def _alive(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features that fire, their counts in cells), some at a time: tables are large."""
        alive = np.flatnonzero(self.fires)
        for start in range(0, len(alive), AT_ONCE):
            some = alive[start : start + AT_ONCE]
            yield some, self.cells[some]


def _count(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """table[row, column] += 1 for each pair."""
    np.add.at(table.reshape(-1), rows * table.shape[1] + columns, 1)
