"""Weights, thresholds and window widths at step 0, from the first rows of activations.

In: rows in training units, a shape and a recipe. Out: Weights, and the bandwidth's first value.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.config import SAEConfig, TrainConfig
from sae.losses import Weights

START_ROWS = 16_384  # rows of the start statistics
WINDOW_SHARE = 0.5  # entries inside the window per active entry that bandwidths aim at
ENCODER_BIAS_FIRES = 10_000  # / d_sae of the rows fire each feature (Anthropic, January 2025)
BLOCK = 2**24  # elements of pre-activations held at once outside the training step
MEDIAN_STEPS = 50


def unit_rows(W: Tensor) -> Tensor:
    return F.normalize(W, dim=1)


def starting_weights(x: Tensor, sae: SAEConfig, c: TrainConfig) -> Weights:
    """Weights at step 0. x: the first rows [n, d_in] in training units.

    paper         decoder He-uniform, then unit rows; encoder its transpose; biases 0; theta as
                  given (Gemma Scope sec. 3.2)
    encoder_bias  decoder uniform in +-1/sqrt(d_in), encoder its transpose times d_in / d_sae, and
                  encoder biases that let each feature fire at the same rate (Anthropic, 2025)
    calibrated    as paper, with each feature's threshold where l0 / d_sae of the rows lie above
                  it, and encoder and thresholds scaled so that the first reconstruction fits x in
                  size (own); a bias takes the threshold's place where there is no theta
    """
    generator = torch.Generator().manual_seed(c.seed)
    uniform = torch.rand(sae.d_sae, sae.d_in, generator=generator) * 2 - 1
    zeros = torch.zeros(sae.d_sae, device=x.device)
    b_dec = geometric_median(x) if c.b_dec_start == "median" else x.new_zeros(sae.d_in)
    seen = x - b_dec if c.pre_encoder_bias else x
    theta = torch.full_like(zeros, c.theta or 0.0)
    if c.start == "encoder_bias":
        W_dec = (uniform / math.sqrt(sae.d_in)).to(x.device)
        W_enc = W_dec * (sae.d_in / sae.d_sae)
        b_enc = theta - _quantiles(seen, W_enc, min(1.0, ENCODER_BIAS_FIRES / sae.d_sae), 0.0)
    else:
        W_dec = unit_rows(uniform * math.sqrt(6 / sae.d_in)).to(x.device)
        W_enc, b_enc = W_dec.clone(), zeros.clone()
    if c.start == "calibrated":
        cut = _quantiles(seen, W_dec, c.l0 * c.start_share / sae.d_sae)
        biased = not c.has_theta and c.architecture in ("jumprelu", "relu")
        alpha = _fitting_scale(seen, W_enc, W_dec, cut, shrunk=biased)
        W_enc, cut = W_enc * alpha, cut * alpha
        if c.has_theta:
            theta = cut
        elif c.architecture in ("jumprelu", "relu", "gated"):
            b_enc = -cut
    w = Weights(W_enc, b_enc, W_dec, b_dec)
    if c.architecture == "jumprelu":
        w.theta = theta
    if c.architecture == "gated":
        w.r_mag, w.b_mag = zeros.clone(), zeros.clone()
    return w


def _quantiles(x: Tensor, W_enc: Tensor, share: float, least: float = 1e-3) -> Tensor:
    """Per feature the value that `share` of the rows exceed [d_sae]; at least `least` of the mean
    size where that is above 0, so that it can be a threshold."""
    n = x.shape[0]
    rank = min(n, max(1, n - round(share * n)))
    step = max(1, BLOCK // n)
    blocks = [(W @ x.T).kthvalue(rank, dim=1).values for W in W_enc.split(step)]
    theta = torch.cat(blocks)
    return theta.clamp_min(least * theta.abs().mean().clamp_min(1e-6)) if least else theta


def _fitting_scale(x: Tensor, W_enc: Tensor, W_dec: Tensor, cut: Tensor, shrunk: bool) -> Tensor:
    """alpha minimising ||x - alpha x_hat||^2 over the rows; shrunk: f = z - cut, not z."""
    dot, square = x.new_zeros(()), x.new_zeros(())
    for rows in x.split(max(1, BLOCK // W_enc.shape[0])):
        z = rows @ W_enc.T
        x_hat = ((z - cut if shrunk else z) * (z > cut)) @ W_dec
        dot += (rows * x_hat).sum()
        square += x_hat.square().sum()
    return torch.where(dot > 0, dot / square, torch.ones_like(dot))


def geometric_median(x: Tensor) -> Tensor:
    """The point [d_in] with the least mean distance to the rows, by Weiszfeld's iteration."""
    point = x.mean(0)
    for _ in range(MEDIAN_STEPS):
        weight = 1 / torch.linalg.vector_norm(x - point, dim=1).clamp_min(1e-9)
        point = (weight[:, None] * x).sum(0) / weight.sum()
    return point


def starting_bandwidth(x: Tensor, w: Weights, l0: float, each: bool) -> Tensor:
    """The eps whose window holds WINDOW_SHARE * l0 entries a row at the start.

    One for all (0-d), or with `each` one a feature [d_sae], for its own share of the entries.
    """
    d_sae = w.b_enc.shape[0]
    theta = torch.zeros_like(w.b_enc) if w.theta is None else w.theta
    if not each:
        rows = x[: max(1, BLOCK // d_sae)]
        distance = (torch.addmm(w.b_enc, rows, w.W_enc.T) - theta).abs_().view(-1)
        rank = min(distance.numel(), max(1, round(WINDOW_SHARE * l0 * rows.shape[0])))
        return 2 * distance.kthvalue(rank).values.clamp_min(1e-9)
    n = x.shape[0]
    rank = min(n, max(1, round(WINDOW_SHARE * l0 / d_sae * n)))
    step, nearest = max(1, BLOCK // n), []
    for some in torch.arange(d_sae, device=x.device).split(step):
        z = torch.addmm(w.b_enc[some, None], w.W_enc[some], x.T) - theta[some, None]
        nearest.append(z.abs_().kthvalue(rank, dim=1).values)
    return 2 * torch.cat(nearest).clamp_min(1e-9)
