"""Codes as lists of their entries, and the training step that touches nothing else.

After the encoder's matrix product only entries that are active or inside the straight-through
window matter (sae.losses.SUPPORT): about 1.5 L0 a row. They are compacted once, row-major; decode
and every gradient then work on the list. In: an SAE or working weights, and a batch. Out:
SparseCode, or the same Gradients and Stats as sae.losses.dense_step (tied by tests/sae).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.config import Refused
from sae.losses import Gradients, Objective, Stats, Weights, dense_step, l0, reconstruction
from sae.models import SAE, JumpReLUSAE

DENSE_SHARE = 0.15  # above this share of entries the matrix products of dense_step are quicker


class SparseCode(NamedTuple):
    """The active entries of a code [n_rows, d_sae], sorted by row, then by feature."""

    rows: Tensor  # [n] int64
    features: Tensor  # [n] int64
    values: Tensor  # [n] float, above 0
    n_rows: int
    d_sae: int

    def dense(self) -> Tensor:
        """The code as a matrix [n_rows, d_sae]."""
        f = self.values.new_zeros(self.n_rows, self.d_sae)
        f[self.rows, self.features] = self.values
        return f


class Buffers:
    """Memory reused from batch to batch; fresh pages would cost more than the comparison.

    One owner at a time: what a call returns as `pre` is overwritten by the next.
    """

    def __init__(self) -> None:
        self._z = torch.empty(0)
        self._mask = np.empty(0, dtype=np.bool_)
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

    None where there are more than `limit`; NaN is never above.
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
    features = torch.from_numpy(flat - rows * z.shape[1])
    return torch.from_numpy(rows), features, _pick(z.view(-1), torch.from_numpy(flat))


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values[index] for one dimension; several times faster than the bracket."""
    return values.index_select(0, index)


def _pointers(sorted_index: Tensor, n: int) -> Tensor:
    """Offsets [n + 1] of the runs 0..n-1 in a sorted index."""
    pointers = sorted_index.new_zeros(n + 1)
    torch.cumsum(torch.bincount(sorted_index, minlength=n), 0, out=pointers[1:])
    return pointers


def _gather_sum(index: Tensor, pointers: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    """out[i] = sum over the i-th run of weight * matrix[index]: a sparse-dense product."""
    return F.embedding_bag(
        index, matrix, pointers, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


@torch.no_grad()
def encode_sparse(
    sae: SAE, x: Tensor, buffers: Buffers | None = None, with_pre: bool = False
) -> SparseCode | tuple[SparseCode, Tensor]:
    """The code of raw activations x [n_rows, d_in] as a list of its active entries.

    With `with_pre` also the pre-activations [n_rows, d_sae], valid until `buffers` is used again.
    Give one Buffers for a whole corpus. Refuses other architectures and other widths.
    """
    if not isinstance(sae, JumpReLUSAE):
        raise Refused(f"no sparse encoding for {sae.architecture!r}: use encode")
    if x.ndim != 2 or x.shape[1] != sae.d_in:
        raise Refused(f"activations are {tuple(x.shape)}: expected [n_rows, {sae.d_in}]")
    buffers = buffers or Buffers()
    pre = buffers.z(x.shape[0], sae.d_sae, sae.W_enc)
    torch.addmm(sae.b_enc, x.to(sae.W_enc.dtype), sae.W_enc, out=pre)
    entries = above(pre, sae.threshold.detach().clamp_min(0), buffers)
    code = SparseCode(*entries, x.shape[0], sae.d_sae)
    return (code, pre) if with_pre else code


@torch.no_grad()
def decode_sparse(sae: SAE, code: SparseCode) -> Tensor:
    """x_hat [n_rows, d_in] of a sparse code."""
    pointers = _pointers(code.rows, code.n_rows)
    return _gather_sum(code.features, pointers, code.values, sae.W_dec.detach()) + sae.b_dec


@torch.no_grad()
def sparse_step(w: Weights, x: Tensor, o: Objective, buffers: Buffers) -> tuple[Gradients, Stats]:
    """Gradients and statistics of one batch x [batch, d_in] from its few entries.

    Equations of sae.jump and sae.losses, entry by entry; falls back to dense_step where more than
    DENSE_SHARE of all entries count, and away from the CPU.
    """
    n_rows, d_sae = x.shape[0], w.theta.shape[0]
    if x.device.type != "cpu":
        return dense_step(w, x, o)
    centred = x - w.b_dec if o.pre_encoder_bias else x
    z = torch.addmm(w.b_enc, centred, w.W_enc.T, out=buffers.z(n_rows, d_sae, x))
    floor = w.theta - o.bandwidth / 2
    if o.pre_relu:  # ReLU lifts every entry of such a feature into its window
        floor = floor.masked_fill(floor < 0, -torch.inf)
    entries = above(z, floor, buffers, limit=int(DENSE_SHARE * z.numel()))
    if entries is None:
        return dense_step(w, x, o)
    rows, features, values = entries
    return _from_entries(w, x, centred, o, rows, features, values.relu() if o.pre_relu else values)


def _from_entries(
    w: Weights, x: Tensor, centred: Tensor, o: Objective, rows: Tensor, features: Tensor, z: Tensor
) -> tuple[Gradients, Stats]:
    """The step after compaction. rows, features, z: [n] entries above the window's lower end."""
    n_rows, d_sae = x.shape[0], w.theta.shape[0]
    theta = _pick(w.theta, features)
    active = (z > theta).to(x.dtype)
    inside = (z < theta + o.bandwidth / 2).to(x.dtype)
    f = z * active
    by_row = _pointers(rows, n_rows)
    x_hat = _gather_sum(features, by_row, f, w.W_dec).add_(w.b_dec)
    error, g = reconstruction(x, x_hat)
    n_active = active.sum()
    _, per_active = l0(n_active, n_rows, o.l0_coefficient)

    code = torch.sparse_csr_tensor(by_row, features, torch.zeros_like(z), (n_rows, d_sae))
    df = torch.sparse.sampled_addmm(code, g, w.W_dec.T, beta=0).values()  # (g W_dec^T) at entries
    gain = inside * theta * df  # -I / B of papers' equation for the expected loss
    push = (gain + inside * per_active) / o.bandwidth
    dz = active * df
    if o.pre_activation_gradient:
        straight = push * (z > 0) if o.pre_relu else push
        dz = dz + o.pre_activation_gradient * straight

    by_feature = features.to(torch.int16 if d_sae < 2**15 else torch.int32)  # a short radix sort
    order = by_feature.sort(stable=True).indices
    rows_of, pointers = _pick(rows, order), _pointers(features, d_sae)
    b_enc = _per_feature(dz, features, d_sae)
    b_dec = g.sum(0)
    gradients = Gradients(
        W_enc=_gather_sum(rows_of, pointers, _pick(dz, order), centred),
        b_enc=b_enc,
        W_dec=_gather_sum(rows_of, pointers, _pick(f, order), g),
        b_dec=b_dec - b_enc @ w.W_enc if o.pre_encoder_bias else b_dec,
        theta=-_per_feature(push, features, d_sae),
        W_dec_parallel=_per_feature(f * df, features, d_sae),
    )
    n_inside = inside.sum()
    stats = Stats(
        error,
        n_active / n_rows,
        n_inside / n_rows,
        -n_rows * gain.sum() / n_inside.clamp_min(1),
        (inside * theta / o.bandwidth).sum() / n_rows,
        _per_feature(active, features, d_sae),
    )
    return gradients, stats


def _per_feature(values: Tensor, features: Tensor, d_sae: int) -> Tensor:
    """Sums of entries by feature [d_sae]."""
    return values.new_zeros(d_sae).index_add_(0, features, values)
