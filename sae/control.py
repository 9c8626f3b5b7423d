"""What moves while training: schedules, the start, theta's shift towards the wanted L0, bandwidth.

In: the configuration, the first rows, each batch's Stats. Out: starting weights, factors for the
learning rate and lambda, and 0-d tensors (nothing is read back to the host between log steps).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.config import Refused, SAEConfig, TrainConfig
from sae.losses import Stats, Weights

START_ROWS = 16_384  # rows of the start statistics
WINDOW_SHARE = 0.5  # entries inside the window per active entry that the bandwidth aims at
BLOCK = 2**24  # elements of pre-activations held at once outside the training step


def lr_factor(step: int, c: TrainConfig) -> float:
    """lr / c.lr at step 0, 1, ...: warm-up, constant, linear decay to 0 over the last share.

    A cosine warm-up goes from .1 to 1 (Gemma Scope sec. 3.2), a linear one from 0.
    """
    rise = 1.0
    if step < c.warmup:
        linear = (step + 1) / c.warmup
        cosine = 0.1 + 0.45 * (1 - math.cos(math.pi * step / c.warmup))
        rise = linear if c.warmup_shape == "linear" else cosine
    falling = c.decay * c.n_steps
    fall = min(1.0, (c.n_steps - step) / falling) if falling else 1.0
    return rise * fall


def l0_factor(step: int, c: TrainConfig) -> float:
    """lambda / c.l0_coefficient at step 0, 1, ...: linear from 0 over l0_warmup steps."""
    return min(1.0, step / c.l0_warmup) if c.l0_warmup else 1.0


def unit_rows(W: Tensor) -> Tensor:
    return F.normalize(W, dim=1)


def starting_weights(x: Tensor, sae: SAEConfig, c: TrainConfig) -> Weights:
    """Weights at step 0. x: the first rows [n, d_in] in training units.

    Decoder: He-uniform, then unit rows; encoder its transpose; biases 0 (Gemma Scope sec. 3.2).
    A calibrated start then gives each feature the threshold above which l0 / d_sae of the rows
    lie, and scales encoder and thresholds so that the first reconstruction fits x in size (own).
    """
    generator = torch.Generator().manual_seed(c.seed)
    bound = math.sqrt(6 / sae.d_in)
    W_dec = (torch.rand(sae.d_sae, sae.d_in, generator=generator) * 2 - 1) * bound
    W_dec = unit_rows(W_dec).to(x.device)
    theta = torch.full((sae.d_sae,), c.theta or 0.0, device=x.device)
    w = Weights(
        W_dec.clone(), torch.zeros_like(theta), W_dec, torch.zeros(sae.d_in, device=x.device), theta
    )
    if c.start == "calibrated":
        w.theta = _quantiles(x, W_dec, c.l0 / sae.d_sae)
        alpha = _fitting_scale(x, w)
        w.W_enc.mul_(alpha)
        w.theta.mul_(alpha)
    return w


def _quantiles(x: Tensor, W_enc: Tensor, share: float) -> Tensor:
    """Per feature the value that `share` of the rows exceed, kept positive. [d_sae]"""
    n = x.shape[0]
    rank = min(n, max(1, n - round(share * n)))
    step = max(1, BLOCK // n)
    blocks = [(W @ x.T).kthvalue(rank, dim=1).values for W in W_enc.split(step)]
    theta = torch.cat(blocks)
    return theta.clamp_min(1e-3 * theta.abs().mean().clamp_min(1e-6))


def _fitting_scale(x: Tensor, w: Weights) -> Tensor:
    """alpha minimising ||x - alpha x_hat||^2 over the rows."""
    dot, square = x.new_zeros(()), x.new_zeros(())
    for rows in x.split(max(1, BLOCK // w.theta.shape[0])):
        z = rows @ w.W_enc.T
        x_hat = (z * (z > w.theta)) @ w.W_dec
        dot += (rows * x_hat).sum()
        square += x_hat.square().sum()
    return torch.where(dot > 0, dot / square, torch.ones_like(dot))


def starting_bandwidth(x: Tensor, w: Weights, l0: float) -> Tensor:
    """The eps whose window holds WINDOW_SHARE * l0 entries a row at the start. 0-d."""
    rows = x[: max(1, BLOCK // w.theta.shape[0])]
    distance = (torch.addmm(w.b_enc, rows, w.W_enc.T) - w.theta).abs_().view(-1)
    rank = min(distance.numel(), max(1, round(WINDOW_SHARE * l0 * rows.shape[0])))
    return 2 * distance.kthvalue(rank).values.clamp_min(1e-9)


class Shift:
    """Holds L0 at a target by moving all thresholds by one factor a step (own).

    The factor is gain * (L0_ema - l0) / D with D the window estimate of -dL0 / dlog theta, clipped.
    lambda is then no knob: it is a running mean of the benefit of firing at the threshold, so that
    theta's gradient only redistributes. The bandwidth keeps WINDOW_SHARE window entries an active
    one.
    """

    GAIN, CLIP, BETA = 0.05, 0.1, 0.8
    BENEFIT_BETA = 0.95
    BANDWIDTH_GAIN, BANDWIDTH_CLIP = 0.05, 0.05

    def __init__(self, l0: float, bandwidth: Tensor, adapt: bool, first: Stats) -> None:
        self.l0, self.adapt = l0, adapt
        self.bandwidth = bandwidth.clone()
        self.l0_ema = torch.full_like(first.l0, l0)
        self.l0_coefficient = first.benefit.clone()  # lambda

    def update(self, stats: Stats) -> Tensor:
        """Takes one batch's statistics in; returns log of the factor for every threshold. 0-d."""
        self.l0_ema.lerp_(stats.l0, 1 - self.BETA)
        self.l0_coefficient.lerp_(stats.benefit, 1 - self.BENEFIT_BETA)
        slope = torch.maximum(stats.sensitivity, 0.05 * self.l0_ema).clamp_min(1e-6)
        move = (self.GAIN * (self.l0_ema - self.l0) / slope).clamp(-self.CLIP, self.CLIP)
        if self.adapt:
            ratio = WINDOW_SHARE * stats.l0.clamp_min(1e-3) / stats.window.clamp_min(1e-3)
            change = self.BANDWIDTH_GAIN * ratio.log()
            self.bandwidth *= change.clamp(-self.BANDWIDTH_CLIP, self.BANDWIDTH_CLIP).exp()
        return move.log1p()


def threshold_scale(x: Tensor, w: Weights, l0: float) -> float:
    """The one factor on theta that gives mean L0 = l0 on rows x [n, d_in] as the encoder gets them.

    Entry z is active under factor s when z / theta > s, so s is an order statistic of the ratios.
    """
    wanted = round(l0 * x.shape[0])
    for lowest in (0.8, 0.4, 0.1, 0.0):
        kept = []
        for rows in x.split(max(1, BLOCK // w.theta.shape[0])):
            ratio = torch.addmm(w.b_enc, rows, w.W_enc.T).div_(w.theta)
            kept.append(ratio[ratio > lowest])
        ratios = torch.cat(kept)
        if ratios.numel() > wanted:
            return float(ratios.kthvalue(ratios.numel() - wanted).values)
    raise Refused(
        f"the calibration rows reach L0 {ratios.numel() / x.shape[0]:.1f} at most, not {l0}: "
        "they differ too much from the training rows; use rows of the same text and site"
    )
