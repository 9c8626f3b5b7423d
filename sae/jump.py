"""JumpReLU and the Heaviside step with straight-through gradients: the readable reference.

    JumpReLU_theta(z) = z H(z - theta)                 H(u) = 1 if u > 0 else 0

Backward pass only, with bandwidth eps and the rectangle K(u) = 1 if |u| < 1/2 else 0
(Rajamanoharan et al. 2024, arXiv 2407.14435, sec. 4 and App. J; strict inequalities):

    d JumpReLU / d theta := -(theta / eps) K((z - theta) / eps)
    d H        / d theta := -(1 / eps)     K((z - theta) / eps)
    d JumpReLU / d z     := H(z - theta) + c (theta / eps) K((z - theta) / eps)
    d H        / d z     :=                c (1 / eps)     K((z - theta) / eps)

c = `pre_factor` is 0 in the paper; 1 passes the whole window gradient to the pre-activations
(Anthropic, January 2025 update). In: pre-activations. Out: differentiable features and counts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window(z: Tensor, theta: Tensor, bandwidth: Tensor | float) -> Tensor:
    """K((z - theta) / eps), as booleans shaped like z [..., d_sae].

    Written as two comparisons with the window's ends, as the sparse path compares, so that both
    agree on every rounded number.
    """
    return (z > theta - bandwidth / 2) & (z < theta + bandwidth / 2)


def _sum_to_theta(gradient: Tensor, theta: Tensor) -> Tensor:
    """Sums [..., d_sae] over all leading dimensions."""
    return gradient.reshape(-1, theta.shape[-1]).sum(0)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, bandwidth, pre_factor):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth, ctx.pre_factor = bandwidth, pre_factor
        return z * (z > theta)

    @staticmethod
    def backward(ctx, gradient):
        z, theta = ctx.saved_tensors
        push = gradient * window(z, theta, ctx.bandwidth) * (theta / ctx.bandwidth)
        dz = gradient * (z > theta) + ctx.pre_factor * push
        return dz, _sum_to_theta(-push, theta), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, bandwidth, pre_factor):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth, ctx.pre_factor = bandwidth, pre_factor
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        z, theta = ctx.saved_tensors
        push = gradient * window(z, theta, ctx.bandwidth) / ctx.bandwidth
        return ctx.pre_factor * push, _sum_to_theta(-push, theta), None, None


def jumprelu(
    z: Tensor, theta: Tensor, bandwidth: Tensor | float, pre_factor: float = 0.0
) -> Tensor:
    """z H(z - theta) for z [..., d_sae] and theta [d_sae]; theta's gradient is summed over rows.

    jumprelu([.5, 1.5], [1, 1], eps) -> [0, 1.5]
    """
    return _JumpReLU.apply(z, theta, bandwidth, pre_factor)


def step(z: Tensor, theta: Tensor, bandwidth: Tensor | float, pre_factor: float = 0.0) -> Tensor:
    """H(z - theta) for z [..., d_sae] and theta [d_sae]; summed over features it is L0.

    step([.5, 1.5], [1, 1], eps) -> [0, 1]
    """
    return _Step.apply(z, theta, bandwidth, pre_factor)
