"""Codes as lists of their active entries: encoding and decoding a corpus at its true size.

In: an SAE and raw activations. Out: SparseCode, and reconstructions from one; the same numbers as
encode and decode (tied by tests/sae).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae.config import Refused
from sae.entries import Buffers, above, gather_sum, pick, pointers
from sae.models import SAE, TopKSAE


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


@torch.no_grad()
def encode_sparse(
    sae: SAE, x: Tensor, buffers: Buffers | None = None, with_pre: bool = False
) -> SparseCode | tuple[SparseCode, Tensor]:
    """The code of raw activations x [n_rows, d_in] as a list of its active entries.

    With `with_pre` also the pre-activations [n_rows, d_sae], valid until `buffers` is used again.
    Give one Buffers for a whole corpus. Refuses other widths.
    """
    if x.ndim != 2 or x.shape[1] != sae.d_in:
        raise Refused(f"activations are {tuple(x.shape)}: expected [n_rows, {sae.d_in}]")
    buffers = buffers or Buffers()
    pre = buffers.z(x.shape[0], sae.d_sae, sae.W_enc)
    torch.addmm(sae.b_enc, sae.token_frame(x.to(sae.W_enc.dtype))[0], sae.W_enc, out=pre)
    if isinstance(sae, TopKSAE):
        values, features = pre.topk(sae.config.k, dim=1)
        features, order = features.sort(dim=1)
        rows = torch.arange(x.shape[0], device=x.device)[:, None].expand_as(features)
        entries = (v.reshape(-1) for v in (rows, features, values.gather(1, order).relu()))
    else:
        rows, features, z = above(pre, sae.floor.detach(), buffers)
        entries = rows, features, sae.values(z, features)
    code = _positive(*entries, x.shape[0], sae.d_sae)
    return (code, pre) if with_pre else code


def _positive(
    rows: Tensor, features: Tensor, values: Tensor, n_rows: int, d_sae: int
) -> SparseCode:
    """The entries that are active: a gate may be open over a magnitude of 0."""
    on = values > 0
    if not bool(on.all()):
        where = on.nonzero().squeeze(1)
        rows, features, values = pick(rows, where), pick(features, where), pick(values, where)
    return SparseCode(rows, features, values, n_rows, d_sae)


@torch.no_grad()
def decode_sparse(sae: SAE, code: SparseCode, x: Tensor | None = None) -> Tensor:
    """x_hat [n_rows, d_out] of a sparse code; x [n_rows, d_in] as for SAE.decode."""
    ends = pointers(code.rows, code.n_rows)
    decoded = gather_sum(code.features, ends, code.values, sae.W_dec.detach())
    return sae.finish(decoded, x)
