"""Loss terms as pure functions of tensors: each gives its value and its gradient.

    L = mean over rows of ||x - x_hat||^2 + lambda S(f) + ...      (arXiv 2407.14435, eq. 9)

`SUPPORT` says on which (row, feature) entries a term's gradient with respect to the code can be
non-zero: at active ones, inside the straight-through window as well, or anywhere. sae.step relies
on it to touch nothing else. In: entries of a batch in training units. Out: values and gradients;
and Weights, Objective, Gradients, Stats: what one training step takes and gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sae.config import SAEConfig, TrainConfig
from sae.jump import KERNELS, RECTANGLE, Kernel

SUPPORT: dict[str, Literal["active", "window", "dense"]] = {
    # Penalties on the number of active features: theta's gradient, inside the window.
    "l0": "window",
    "target_l0": "window",
    "quadratic_l0": "window",
    "quadratic_frequency": "window",
    "squared_frequency": "window",
    # Penalties on the values of active features; through a jump also theta's, inside the window.
    "l1": "active",
    "weighted_l1": "active",
    "tanh": "active",
    "lp": "active",
    # df at active entries; theta's gradient inside the window.
    "reconstruction": "window",
    "gated_auxiliary": "active",
    # Non-zero at every silent entry, but there it is one number a feature: sae.step writes it as a
    # correction at active entries and a product of two vectors.
    "pre_activation": "active",
    # From features without an active entry: a small dense block of their own.
    "dead_features": "dense",
}
SMALLEST = 1e-3  # of lp: (u + SMALLEST)^p has a finite slope at u = 0


@dataclass
class Weights:
    """The trainer's working weights; None where the architecture has none.

    W_enc is [d_sae, d_in], so that both its gradient and its rows are contiguous; `sae.models`
    holds the transpose.
    """

    W_enc: Tensor  # [d_sae, d_in]
    b_enc: Tensor  # [d_sae]; a Gated SAE's b_gate
    W_dec: Tensor  # [d_sae, d_in]
    b_dec: Tensor  # [d_in]
    theta: Tensor | None = None  # [d_sae], 0 or more
    r_mag: Tensor | None = None  # [d_sae]
    b_mag: Tensor | None = None  # [d_sae]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that exist, by name, in a fixed order."""
        for entry in fields(Weights):
            value = getattr(self, entry.name)
            if value is not None:
                yield entry.name, value


@dataclass
class Gradients(Weights):
    """dL/d(weights), shaped like Weights, and dot(dL/dW_dec, W_dec) per row for the projection."""

    W_dec_parallel: Tensor | None = None  # [d_sae]
    theta_from_error: Tensor | None = None  # [d_sae] the reconstruction's share of theta


@dataclass(frozen=True)
class Objective:
    """What one step minimises. Scalars that change while training are 0-d tensors."""

    architecture: str = "jumprelu"
    penalty: str = "l0"
    coefficient: Tensor | float = 0.0  # lambda
    l0: float = 1.0  # of target_l0, quadratic_l0, and k of the TopK family
    frequency_scale: float = 0.05  # f0 of quadratic_frequency
    tanh_scale: float = 4.0
    exponent: float = 0.5  # of lp
    penalty_decoder_free: bool = True  # whether decoder norms in S(f) get a gradient
    pre_activation_coefficient: Tensor | float = 0.0
    bandwidth: Tensor | float | None = None  # eps, one or [d_sae]; None: no window
    kernel: Kernel = RECTANGLE
    pre_activation_gradient: float = 0.0  # c of sae.jump
    pre_relu: bool = False
    pre_encoder_bias: bool = False
    aux_decoder_free: bool = False  # gated: the auxiliary reconstruction trains the decoder
    groups: tuple[int, ...] = ()  # matryoshka: ends of the nested prefixes, the last is d_sae
    dead: Tensor | None = None  # [n] features that count as dead; None: none
    aux_coefficient: float = 0.0
    aux_k: int = 1
    bfloat16: bool = False  # the encoder's matrix product


def objective_of(shape: SAEConfig, c: TrainConfig) -> Objective:
    """What a recipe minimises, apart from what changes while training: coefficient, bandwidth and
    the list of dead features."""
    groups = ()
    if c.architecture == "matryoshka":
        groups = tuple(sorted({max(1, round(share * shape.d_sae)) for share in c.groups}))
    return Objective(
        architecture=c.architecture,
        penalty=c.penalty,
        l0=c.l0 or 1.0,
        frequency_scale=c.frequency_scale,
        tanh_scale=c.tanh_scale,
        exponent=c.exponent,
        penalty_decoder_free=c.decoder_norm == "free" and c.penalty_decoder == "free",
        pre_activation_coefficient=c.pre_activation_coefficient,
        kernel=KERNELS[c.kernel],
        pre_activation_gradient=c.pre_activation_gradient,
        pre_relu=c.pre_relu,
        pre_encoder_bias=c.pre_encoder_bias,
        aux_decoder_free=c.aux_decoder == "free",
        groups=groups,
        aux_coefficient=c.aux_coefficient,
        aux_k=c.aux_k or max(1, shape.d_in // 2),
        bfloat16=c.precision == "bfloat16",
    )


class Stats(NamedTuple):
    """Facts of one batch, left on the device. NaN where the architecture has no such thing."""

    reconstruction: Tensor  # mean over rows of ||x - x_hat||^2
    penalty: Tensor  # lambda S(f) and the other terms, mean over rows
    l0: Tensor  # active entries per row
    fired: Tensor  # [d_sae] rows on which each feature is active
    window: Tensor  # [d_sae] rows on which each feature is inside the window
    benefit: Tensor  # the lambda at which the window's entries push theta nowhere on balance
    sensitivity: Tensor  # window estimate of -d L0 / d log theta
    threshold: Tensor  # least value selected; BatchTopK


def reconstruction(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows of ||x - x_hat||^2 and its gradient with respect to x_hat [batch, d_in]."""
    error = x_hat - x
    return torch.linalg.vector_norm(error).square() / x.shape[0], error * (2 / x.shape[0])


def step_penalty(o: Objective, l0: Tensor, per_row: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
    """S of the number of active features, and dS / d(one active entry), both for lambda = 1.

    l0: mean active entries per row; per_row [batch]; fired [d_sae]. The gradient is one number,
    one a row [batch, 1], or one a feature [d_sae].

        l0                   ||f||_0                                 (arXiv 2407.14435, eq. 9)
        target_l0            (mean ||f||_0 / l0* - 1)^2              (ibid., on the batch's mean)
        quadratic_l0         (2 / l0*) (||f||_0 - l0*)^2, per row    (Gemma Scope 2, eq. 5)
        quadratic_frequency  sum_i p_i (1 + p_i / f0)                (DeepMind, March 2025)
        squared_frequency    sum_i p_i^2                             (ibid., footnote 4)
    """
    n_rows, aim = per_row.shape[0], o.l0
    if o.penalty == "l0":
        return l0, torch.full_like(l0, 1 / n_rows)
    if o.penalty == "target_l0":
        off = l0 / aim - 1
        return off.square(), 2 * off / (aim * n_rows)
    if o.penalty == "quadratic_l0":
        off = per_row - aim
        return (2 / aim) * off.square().mean(), (4 / (aim * n_rows)) * off[:, None]
    p = fired / n_rows
    if o.penalty == "quadratic_frequency":
        return (p * (1 + p / o.frequency_scale)).sum(), (1 + 2 * p / o.frequency_scale) / n_rows
    return p.square().sum(), 2 * p / n_rows


def value_penalty(o: Objective, u: Tensor) -> tuple[Tensor, Tensor]:
    """phi(u) and phi'(u) of entries u = f ||d|| (u = f where norms have no part), u >= 0.

    l1, weighted_l1   u                 (arXiv 2404.16014 sec. 2; Conerly et al. 2024)
    tanh              tanh(c u)         (Anthropic, January 2025)
    lp                u^p, p < 1        (with u + SMALLEST for u: a finite slope at 0)
    """
    if o.penalty == "tanh":
        value = torch.tanh(o.tanh_scale * u)
        return value, o.tanh_scale * (1 - value.square())
    if o.penalty == "lp":
        shifted, p = u + SMALLEST, o.exponent
        return shifted**p - SMALLEST**p, p * shifted ** (p - 1)
    return u, torch.ones_like(u)


NORM_WEIGHTED = ("weighted_l1", "tanh", "lp")  # penalties of u = f ||d||
