"""The entries of a batch's code that a training step touches: listed one by one, or everywhere.

Both classes offer the same few operations, so that sae.step writes every architecture once. In:
pre-activations z [batch, d_sae]. Out: `Listed` (sorted by row; the CPU's way) or `Full` (matrices;
for dense codes and for GPUs), chosen by how many entries there are.

    at_feature(v)     v [d_sae]        -> entries        by_feature(e)   entries -> [d_sae]
    at_row(v)         v [batch]        -> entries        by_row(e)       entries -> [batch]
    decode(e, W)      W [d_sae, d]     -> [batch, d]     sum over a row's entries of e W_feature
    project(g, W)     g [batch, d]     -> entries        <g_row, W_feature>
    outer(e, x)       x [batch, d]     -> [d_sae, d]     sum over a feature's entries of e x_row
    between(lo, hi)   the same for features lo..hi-1 alone, renumbered from 0, and where they stand
    select(e, where)  their part of an entries value          put(e, where, part)   and back
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DENSE_SHARE = 0.15  # above this share of entries matrix products are quicker than lists
CANDIDATES = 0.8  # of the last batch's selected minimum: where BatchTopK looks first


class Buffers:
    """Memory reused from batch to batch; fresh pages would cost more than the comparison.

    One owner at a time: pre-activations that a call returns are overwritten by the next.
    """

    def __init__(self) -> None:
        self._z = torch.empty(0)
        self._mask = np.empty(0, dtype=np.bool_)
        self.least_selected = 0.0  # of the last BatchTopK batch; where to look, never what to take
        with warnings.catch_warnings():  # torch announces once a process that CSR is in beta
            warnings.simplefilter("ignore")
            torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1))

    def z(self, n_rows: int, d_sae: int, like: Tensor) -> Tensor:
        """An uninitialised [n_rows, d_sae] tensor of like's dtype and device."""
        n = n_rows * d_sae
        if self._z.numel() < n or self._z.dtype != like.dtype or self._z.device != like.device:
            self._z = torch.empty(n, dtype=like.dtype, device=like.device)
        return self._z[:n].view(n_rows, d_sae)

    def mask(self, n: int) -> np.ndarray:
        """An uninitialised boolean array of n, a multiple of 8, elements."""
        if self._mask.size < n:
            self._mask = np.empty(n, dtype=np.bool_)
        return self._mask[:n]


def _marked(mask: np.ndarray) -> np.ndarray:
    """Sorted positions of True in a boolean array whose size is a multiple of 8.

    Few are True, so words of 8 booleans are searched first: 2.5 ms instead of 6 for torch.nonzero
    at [2048, 2048] with 2 % kept.
    """
    words = mask.view(np.int64)
    occupied = np.flatnonzero(words != 0)
    found = np.flatnonzero(words[occupied].view(np.bool_))
    return (occupied[found >> 3] << 3) + (found & 7)


def above(
    z: Tensor, floor: Tensor, buffers: Buffers, limit: int | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Where z > floor, for z [n_rows, d_sae] and floor [d_sae]: rows, features, values, sorted.

    Rows of z may lie apart in memory. None where there are more than `limit`; NaN is never above.
    """
    if z.device.type != "cpu" or z.dtype not in (torch.float32, torch.float64):
        rows, features = (z > floor).nonzero(as_tuple=True)
        if limit is not None and rows.numel() > limit:
            return None
        return rows, features, z[rows, features]
    n = z.numel()
    mask = buffers.mask(-(-n // 8) * 8)
    mask[n:] = False
    np.greater(z.numpy(), floor.numpy(), out=mask[:n].reshape(z.shape))
    flat = _marked(mask)
    if limit is not None and flat.size > limit:
        return None
    rows = flat // z.shape[1]  # numpy divides ten times faster than torch here
    features = flat - rows * z.shape[1]
    if not z.is_contiguous():
        flat = rows * z.stride(0) + features
        z = z.as_strided((int(z.shape[0] * z.stride(0)) - z.stride(0) + z.shape[1],), (1,))
    values = pick(z.view(-1), torch.from_numpy(flat))
    return torch.from_numpy(rows), torch.from_numpy(features), values


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[index] for one dimension; several times faster than the bracket."""
    return values.index_select(0, index)


def pointers(sorted_index: Tensor, n: int) -> Tensor:
    """Offsets [n + 1] of the runs 0..n-1 in a sorted index."""
    ends = sorted_index.new_zeros(n + 1)
    torch.cumsum(torch.bincount(sorted_index, minlength=n), 0, out=ends[1:])
    return ends


def gather_sum(index: Tensor, ends: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    """out[i] = sum over the i-th run of weight * matrix[index]: a sparse-dense product."""
    return F.embedding_bag(
        index, matrix, ends, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


class Listed:
    """Some entries of [n_rows, d_sae], sorted by row; `z` [n] holds their pre-activations."""

    def __init__(self, rows: Tensor, features: Tensor, z: Tensor, n_rows: int, d_sae: int) -> None:
        self.rows, self.features, self.z = rows, features, z
        self.n_rows, self.d_sae = n_rows, d_sae
        self._by_row: Tensor | None = None
        self._by_feature: tuple[Tensor, Tensor, Tensor] | None = None

    def at_feature(self, v: Tensor) -> Tensor:
        return pick(v, self.features) if v.ndim else v

    def at_row(self, v: Tensor) -> Tensor:
        return pick(v, self.rows)

    def by_feature(self, entries: Tensor) -> Tensor:
        return entries.new_zeros(self.d_sae).index_add_(0, self.features, entries)

    def by_row(self, entries: Tensor) -> Tensor:
        return entries.new_zeros(self.n_rows).index_add_(0, self.rows, entries)

    def decode(self, entries: Tensor, W: Tensor) -> Tensor:
        return gather_sum(self.features, self._row_ends(), entries, W)

    def project(self, g: Tensor, W: Tensor) -> Tensor:
        shape, zeros = (self.n_rows, self.d_sae), torch.zeros_like(self.z)
        code = torch.sparse_csr_tensor(self._row_ends(), self.features, zeros, shape)
        return torch.sparse.sampled_addmm(code, g, W.T, beta=0).values()

    def outer(self, entries: Tensor, x: Tensor) -> Tensor:
        if self._by_feature is None:
            # A radix sort, and a short one: integers of 16 bits where they suffice.
            keys = self.features.to(torch.int16 if self.d_sae < 2**15 else torch.int32)
            order = keys.sort(stable=True).indices
            ends = pointers(self.features, self.d_sae)
            self._by_feature = order, pick(self.rows, order), ends
        order, rows, ends = self._by_feature
        return gather_sum(rows, ends, pick(entries, order), x)

    def between(self, lo: int, hi: int) -> tuple[Listed, Tensor]:
        """The entries of features lo..hi-1, and where they stand in this list."""
        where = ((self.features >= lo) & (self.features < hi)).nonzero().squeeze(1)
        part = Listed(
            pick(self.rows, where),
            pick(self.features, where) - lo,
            pick(self.z, where),
            self.n_rows,
            hi - lo,
        )
        return part, where

    def select(self, entries: Tensor, where: Tensor) -> Tensor:
        return pick(entries, where)

    def put(self, entries: Tensor, where: Tensor, part: Tensor) -> None:
        entries[where] = part

    def _row_ends(self) -> Tensor:
        if self._by_row is None:
            self._by_row = pointers(self.rows, self.n_rows)
        return self._by_row


class Full:
    """Every entry of [n_rows, d_sae]; `z` holds their pre-activations."""

    def __init__(self, z: Tensor) -> None:
        self.z = z
        self.n_rows, self.d_sae = z.shape

    def at_feature(self, v: Tensor) -> Tensor:
        return v

    def at_row(self, v: Tensor) -> Tensor:
        return v[:, None]

    def by_feature(self, entries: Tensor) -> Tensor:
        return entries.sum(0)

    def by_row(self, entries: Tensor) -> Tensor:
        return entries.sum(1)

    def decode(self, entries: Tensor, W: Tensor) -> Tensor:
        return entries @ W

    def project(self, g: Tensor, W: Tensor) -> Tensor:
        return g @ W.T

    def outer(self, entries: Tensor, x: Tensor) -> Tensor:
        return entries.T @ x

    def between(self, lo: int, hi: int) -> tuple[Full, slice]:
        where = slice(lo, hi)
        return Full(self.z[:, where]), where

    def select(self, entries: Tensor, where: slice) -> Tensor:
        return entries[:, where]

    def put(self, entries: Tensor, where: slice, part: Tensor) -> None:
        entries[:, where] = part


Entries = Listed | Full


def entries_above(z: Tensor, floor: Tensor, buffers: Buffers) -> Entries:
    """The entries of z [batch, d_sae] with z > floor [d_sae]; all of them where they are many, and
    away from the CPU."""
    if z.device.type == "cpu":
        found = above(z, floor, buffers, limit=int(DENSE_SHARE * z.numel()))
        if found is not None:
            return Listed(*found, *z.shape)
    return Full(z)


def top_of_rows(z: Tensor, k: int) -> tuple[Entries, Tensor]:
    """The k largest entries of each row, and 1 or 0 for each entry: whether it is one of them."""
    values, features = z.topk(k, dim=1)
    if z.device.type == "cpu" and k <= DENSE_SHARE * z.shape[1]:
        rows = torch.arange(z.shape[0]).repeat_interleave(k)
        return Listed(rows, features.reshape(-1), values.reshape(-1), *z.shape), values.new_ones(())
    return Full(z), torch.zeros_like(z).scatter_(1, features, 1.0)


def top_of_batch(z: Tensor, n: int, buffers: Buffers) -> tuple[Entries, Tensor]:
    """The n largest positive entries of the whole batch; the second value as in `top_of_rows`.

    On a CPU entries near the last batch's minimum are searched first: the answer is the same.
    """
    if z.device.type != "cpu" or n > DENSE_SHARE * z.numel():
        least = z.flatten().topk(n).values[-1]
        return Full(z), ((z >= least) & (z > 0)).to(z.dtype)
    for floor in (CANDIDATES * buffers.least_selected, 0.0):
        found = above(z, z.new_full((z.shape[1],), floor), buffers)
        if found[2].numel() >= n or floor == 0:
            break
    rows, features, values = found
    if values.numel() > n:
        least = values.kthvalue(values.numel() - n + 1).values
        where = (values >= least).nonzero().squeeze(1)
        rows, features, values = (pick(v, where) for v in (rows, features, values))
    buffers.least_selected = float(values.min()) if values.numel() else 0.0
    return Listed(rows, features, values, *z.shape), values.new_ones(())
