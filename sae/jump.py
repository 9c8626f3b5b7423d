"""JumpReLU and the Heaviside step with straight-through gradients, and the family of kernels.

    JumpReLU_theta(z) = z H(z - theta)                 H(u) = 1 if u > 0 else 0

Backward pass only, with a kernel K that integrates to 1 and its bandwidth h (Rajamanoharan et al.
2024, arXiv 2407.14435, sec. 4 and App. J; the paper's K is the rectangle, strict inequalities):

    d JumpReLU / d theta := -(theta / h) K((z - theta) / h)
    d H        / d theta := -(1 / h)     K((z - theta) / h)
    d JumpReLU / d z     := H(z - theta) + c (theta / h) K((z - theta) / h)
    d H        / d z     :=                c (1 / h)     K((z - theta) / h)

c = `pre_factor` is 0 in the paper; 1 passes the whole window gradient to the pre-activations
(Anthropic, January 2025 update). A bandwidth is always given as a rectangle's eps; the other
kernels take the h that smooths with the same standard deviation. In: pre-activations. Out:
differentiable features and counts, and the kernel weights that sae.step writes gradients with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kernel:
    """K(u), even, 0 from |u| = reach on, with integral 1."""

    name: str
    density: Callable[[Tensor], Tensor]  # K(u) for |u| < reach
    reach: float
    sd: float  # standard deviation of K

    @property
    def width(self) -> float:
        """h / eps: smooths like a rectangle of width eps, whose deviation is eps / sqrt(12)."""
        return 1 / (math.sqrt(12) * self.sd)


def _rectangle(u: Tensor) -> Tensor:
    return torch.ones_like(u)


def _triangular(u: Tensor) -> Tensor:
    return 1 - u.abs()


def _epanechnikov(u: Tensor) -> Tensor:
    return 0.75 * (1 - u * u)


def _biweight(u: Tensor) -> Tensor:
    return 15 / 16 * (1 - u * u).square()


def _triweight(u: Tensor) -> Tensor:
    return 35 / 32 * (1 - u * u) ** 3


def _cosine(u: Tensor) -> Tensor:
    return math.pi / 4 * torch.cos(math.pi / 2 * u)


# The two kernels without an end are cut at 4 deviations and scaled to integral 1, so that only the
# entries of a window matter for them too: at most 1.3 % of the mass moves.
_GAUSSIAN_CUT = 4.0
_LOGISTIC_SD = math.pi / math.sqrt(3)
_LOGISTIC_CUT = 4 * _LOGISTIC_SD


def _gaussian(u: Tensor) -> Tensor:
    mass = math.erf(_GAUSSIAN_CUT / math.sqrt(2))
    return torch.exp(-u * u / 2) / (math.sqrt(2 * math.pi) * mass)


def _logistic(u: Tensor) -> Tensor:
    mass = math.tanh(_LOGISTIC_CUT / 2)
    return torch.sigmoid(u) * torch.sigmoid(-u) / mass


KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel("rectangle", _rectangle, 0.5, 1 / math.sqrt(12)),
        Kernel("triangular", _triangular, 1.0, 1 / math.sqrt(6)),
        Kernel("epanechnikov", _epanechnikov, 1.0, 1 / math.sqrt(5)),
        Kernel("biweight", _biweight, 1.0, 1 / math.sqrt(7)),
        Kernel("triweight", _triweight, 1.0, 1 / 3),
        Kernel("cosine", _cosine, 1.0, math.sqrt(1 - 8 / math.pi**2)),
        Kernel("gaussian", _gaussian, _GAUSSIAN_CUT, 1.0),
        Kernel("logistic", _logistic, _LOGISTIC_CUT, _LOGISTIC_SD),
    )
}
RECTANGLE = KERNELS["rectangle"]


def window(
    z: Tensor, theta: Tensor, bandwidth: Tensor | float, kernel: Kernel = RECTANGLE
) -> Tensor:
    """Whether K((z - theta) / h) counts, as booleans shaped like z [..., d_sae].

    bandwidth: eps, one for all or [d_sae]. Written as two comparisons with the window's ends, as
    entries are selected, so that both agree on every rounded number.
    """
    half = bandwidth * (kernel.width * kernel.reach)
    return (z > theta - half) & (z < theta + half)


def kernel_weight(
    z: Tensor, theta: Tensor, bandwidth: Tensor | float, kernel: Kernel = RECTANGLE
) -> Tensor:
    """K((z - theta) / h) / h, shaped like z; in units of 1 / z."""
    inside = window(z, theta, bandwidth, kernel)
    h = bandwidth * kernel.width
    if kernel is RECTANGLE:
        return inside / h
    return inside * kernel.density((z - theta) / h) / h


def _sum_to_theta(gradient: Tensor, theta: Tensor) -> Tensor:
    """Sums [..., d_sae] over all leading dimensions."""
    return gradient.reshape(-1, theta.shape[-1]).sum(0)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, bandwidth, pre_factor, kernel):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth, ctx.pre_factor, ctx.kernel = bandwidth, pre_factor, kernel
        return z * (z > theta)

    @staticmethod
    def backward(ctx, gradient):
        z, theta = ctx.saved_tensors
        push = gradient * theta * kernel_weight(z, theta, ctx.bandwidth, ctx.kernel)
        dz = gradient * (z > theta) + ctx.pre_factor * push
        return dz, _sum_to_theta(-push, theta), None, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, bandwidth, pre_factor, kernel):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth, ctx.pre_factor, ctx.kernel = bandwidth, pre_factor, kernel
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        z, theta = ctx.saved_tensors
        push = gradient * kernel_weight(z, theta, ctx.bandwidth, ctx.kernel)
        return ctx.pre_factor * push, _sum_to_theta(-push, theta), None, None, None


def jumprelu(
    z: Tensor,
    theta: Tensor,
    bandwidth: Tensor | float,
    pre_factor: float = 0.0,
    kernel: Kernel = RECTANGLE,
) -> Tensor:
    """z H(z - theta) for z [..., d_sae] and theta [d_sae]; theta's gradient is summed over rows.

    jumprelu([.5, 1.5], [1, 1], eps) -> [0, 1.5]
    """
    return _JumpReLU.apply(z, theta, bandwidth, pre_factor, kernel)


def step(
    z: Tensor,
    theta: Tensor,
    bandwidth: Tensor | float,
    pre_factor: float = 0.0,
    kernel: Kernel = RECTANGLE,
) -> Tensor:
    """H(z - theta) for z [..., d_sae] and theta [d_sae]; summed over features it is L0.

    step([.5, 1.5], [1, 1], eps) -> [0, 1]
    """
    return _Step.apply(z, theta, bandwidth, pre_factor, kernel)
