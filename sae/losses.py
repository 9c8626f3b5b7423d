"""Loss terms as pure functions of tensors, and the dense training step built on them.

    L = mean over rows of ||x - x_hat||^2 + lambda ||f||_0          (arXiv 2407.14435, eq. 9)

Each term gives its value and its gradient, and `SUPPORT` says on which (row, feature) entries the
gradient with respect to the code can be non-zero; the sparse path relies on that. In: working
weights and a batch in training units. Out: gradients and the batch's statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sae.jump import jumprelu, step, window

# Where a term's gradient with respect to theta and the pre-activations lives: on entries that are
# active, on those inside the window (as well), or anywhere.
SUPPORT: dict[str, Literal["active", "window", "dense"]] = {
    "reconstruction": "window",  # df at active entries; theta's gradient at those in the window
    "l0": "window",
}


@dataclass
class Weights:
    """The trainer's working weights. W_enc is [d_sae, d_in], so that both its gradient and
    its rows are contiguous; `sae.models` holds the transpose."""

    W_enc: Tensor  # [d_sae, d_in]
    b_enc: Tensor  # [d_sae]
    W_dec: Tensor  # [d_sae, d_in]
    b_dec: Tensor  # [d_in]
    theta: Tensor  # [d_sae], 0 or more


@dataclass(frozen=True)
class Objective:
    """What one step minimises. Scalars that change while training are 0-d tensors."""

    l0_coefficient: Tensor | float  # lambda
    bandwidth: Tensor | float  # eps
    pre_activation_gradient: float = 0.0  # c of sae.jump
    pre_relu: bool = False
    pre_encoder_bias: bool = False


class Gradients(NamedTuple):
    """dL/d(weights), shaped like Weights, and dot(dL/dW_dec, W_dec) per row for the projection."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    theta: Tensor
    W_dec_parallel: Tensor  # [d_sae]


class Stats(NamedTuple):
    """Facts of one batch, left on the device."""

    reconstruction: Tensor  # mean over rows of ||x - x_hat||^2
    l0: Tensor  # active entries per row
    window: Tensor  # entries inside the window per row
    benefit: Tensor  # mean over window entries of I = -B theta dL/df
    sensitivity: Tensor  # window estimate of -d L0 / d log theta
    fired: Tensor  # [d_sae] rows on which each feature is active


def reconstruction(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows of ||x - x_hat||^2 and its gradient with respect to x_hat [batch, d_in]."""
    error = x_hat - x
    return torch.linalg.vector_norm(error).square() / x.shape[0], error * (2 / x.shape[0])


def l0(n_active: Tensor, n_rows: int, coefficient: Tensor | float) -> tuple[Tensor, Tensor | float]:
    """lambda times the mean number of active entries, and its gradient per active indicator."""
    return coefficient * n_active / n_rows, coefficient / n_rows


def dense_step(w: Weights, x: Tensor, o: Objective) -> tuple[Gradients, Stats]:
    """Autograd through every entry: the reference, and the path for dense codes and for GPUs.

    x [batch, d_in]. sae.sparse.sparse_step gives the same gradients from few entries.
    """
    leaves = [t.detach().requires_grad_() for t in (w.W_enc, w.b_enc, w.W_dec, w.b_dec, w.theta)]
    W_enc, b_enc, W_dec, b_dec, theta = leaves
    with torch.enable_grad():
        z = torch.addmm(b_enc, x - b_dec if o.pre_encoder_bias else x, W_enc.T)  # [batch, d_sae]
        z = z.relu() if o.pre_relu else z
        f = jumprelu(z, theta, o.bandwidth, o.pre_activation_gradient)
        f.retain_grad()
        n_active = step(z, theta, o.bandwidth, o.pre_activation_gradient).sum()
        error, _ = reconstruction(x, torch.addmm(b_dec, f, W_dec))
        (error + l0(n_active, x.shape[0], o.l0_coefficient)[0]).backward()
    with torch.no_grad():
        inside = window(z, theta, o.bandwidth)
        per_feature = inside.sum(0).to(x.dtype)
        n_inside = per_feature.sum()
        benefit = -x.shape[0] * (f.grad * inside * theta).sum() / n_inside.clamp_min(1)
        stats = Stats(
            error.detach(),
            n_active.detach() / x.shape[0],
            n_inside / x.shape[0],
            benefit,
            (per_feature * theta / o.bandwidth).sum() / x.shape[0],
            (f > 0).sum(0).to(x.dtype),
        )
        return Gradients(*(leaf.grad for leaf in leaves), (f * f.grad).sum(0)), stats
