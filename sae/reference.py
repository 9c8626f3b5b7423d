"""Every architecture's loss as its paper writes it, differentiated by autograd.

Nothing here is quick: it is what sae.step is tested against, what bench.step compares with, and a
place to begin an experiment. In: Weights, x [batch, d_in] in training units, an Objective. Out: the
loss as a differentiable tensor, and its gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae.jump import jumprelu, step
from sae.losses import NORM_WEIGHTED, Objective, Weights, value_penalty


class Reference(NamedTuple):
    """Gradients by weight name, the loss, and f [batch, d_sae]."""

    gradients: dict[str, Tensor]
    loss: Tensor
    f: Tensor


def differentiate(w: Weights, x: Tensor, o: Objective) -> Reference:
    """dL/d(weights) of one batch by autograd."""
    leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
    with torch.enable_grad():
        total, f = loss(Weights(**leaves), x, o)
        total.backward()
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return Reference(gradients, total.detach(), f.detach())


def loss(w: Weights, x: Tensor, o: Objective) -> tuple[Tensor, Tensor]:
    """The whole loss (0-d) and f [batch, d_sae]."""
    z = (x - w.b_dec if o.pre_encoder_bias else x) @ w.W_enc.T + w.b_enc
    norms = torch.linalg.vector_norm(w.W_dec, dim=1)
    norms = norms if o.penalty_decoder_free else norms.detach()
    if o.architecture == "gated":
        total, f = _gated(w, x, z, norms, o)
    elif o.architecture in ("topk", "batchtopk", "matryoshka"):
        f = _selected(z, o)
        total = _nested(w, x, f, o) if o.architecture == "matryoshka" else _mse(x, w, f)
    else:
        total, f = _thresholded(w, x, z, norms, o)
    if o.dead is not None:
        total = total + _dead_features(w, x, z, f, o)
    return total, f


def _mse(x: Tensor, w: Weights, f: Tensor) -> Tensor:
    return (x - (f @ w.W_dec + w.b_dec)).square().sum(1).mean()


def _thresholded(
    w: Weights, x: Tensor, z: Tensor, norms: Tensor, o: Objective
) -> tuple[Tensor, Tensor]:
    pre = z
    if o.bandwidth is None:
        f, active = z.relu(), (z > 0).to(z.dtype)
    else:
        z = z.relu() if o.pre_relu else z
        estimator = (w.theta, o.bandwidth, o.pre_activation_gradient, o.kernel)
        f, active = jumprelu(z, *estimator), step(z, *estimator)
    total = _mse(x, w, f) + o.coefficient * _sparsity(f, active, norms, o)
    if o.pre_activation_coefficient:
        silent = (w.theta - pre).relu() * norms
        total = total + o.pre_activation_coefficient * silent.sum(1).mean()
    return total, f


def _sparsity(f: Tensor, active: Tensor, norms: Tensor, o: Objective) -> Tensor:
    l0, p = active.sum(1), active.mean(0)
    if o.penalty == "none":
        return l0.new_zeros(())
    if o.penalty == "l0":
        return l0.mean()
    if o.penalty == "target_l0":
        return (l0.mean() / o.l0 - 1) ** 2
    if o.penalty == "quadratic_l0":
        return (2 / o.l0 * (l0 - o.l0) ** 2).mean()
    if o.penalty == "quadratic_frequency":
        return (p * (1 + p / o.frequency_scale)).sum()
    if o.penalty == "squared_frequency":
        return (p**2).sum()
    return value_penalty(o, f * norms if o.penalty in NORM_WEIGHTED else f)[0].sum(1).mean()


def _gated(w: Weights, x: Tensor, z: Tensor, norms: Tensor, o: Objective) -> tuple[Tensor, Tensor]:
    gate, magnitude = z.relu(), (w.r_mag.exp() * (z - w.b_enc) + w.b_mag).relu()
    f = (z > 0) * magnitude
    W_dec, b_dec = w.W_dec, w.b_dec
    if not o.aux_decoder_free:
        W_dec, b_dec = W_dec.detach(), b_dec.detach()
    auxiliary = (x - (gate @ W_dec + b_dec)).square().sum(1).mean()
    return _mse(x, w, f) + auxiliary + o.coefficient * _sparsity(gate, gate, norms, o), f


def _selected(z: Tensor, o: Objective) -> Tensor:
    if o.architecture == "topk":
        least = z.topk(int(o.l0), dim=1).values[:, -1:]
    else:
        least = z.flatten().topk(round(o.l0 * z.shape[0])).values[-1]
    return z.relu() * (z >= least)


def _nested(w: Weights, x: Tensor, f: Tensor, o: Objective) -> Tensor:
    losses = [(x - w.b_dec).square().sum(1).mean()]
    for end in o.groups:
        losses.append((x - (f[:, :end] @ w.W_dec[:end] + w.b_dec)).square().sum(1).mean())
    return torch.stack(losses).mean()


def _dead_features(w: Weights, x: Tensor, z: Tensor, f: Tensor, o: Objective) -> Tensor:
    error = (x - (f @ w.W_dec + w.b_dec)).detach()
    values, features = z[:, o.dead].topk(min(o.aux_k, o.dead.numel()), dim=1)
    chosen = torch.zeros_like(z[:, o.dead]).scatter(1, features, values.relu())
    missing = (error - chosen @ w.W_dec[o.dead]).square().sum(1)
    return o.aux_coefficient * (missing / error.square().sum(1)).mean()
