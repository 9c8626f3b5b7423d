"""What moves while training: schedules, and the loops that hold L0 and the window's width.

In: the configuration and each batch's Stats. Out: factors for the learning rate and lambda, 0-d
tensors and [d_sae] vectors (nothing is read back to the host between log steps).

Each loop keeps its whole state in named tensors: `state()` gives them for a checkpoint.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from sae.config import TrainConfig
from sae.losses import Stats, Weights
from sae.start import BLOCK, WINDOW_SHARE


def lr_factor(step: int, c: TrainConfig) -> float:
    """lr / c.lr at step 0, 1, ...: warm-up, constant, linear decay to 0 over the last share.

    A cosine warm-up goes from .1 to 1 (Gemma Scope sec. 3.2), a linear one from 0. After dead
    features are resampled the warm-up comes again (Gated SAE paper, App. D).
    """
    rise = 1.0
    since = step - max((s for s in resample_steps(c) if s <= step), default=0)
    if since < c.warmup:
        linear = (since + 1) / c.warmup
        cosine = 0.1 + 0.45 * (1 - math.cos(math.pi * since / c.warmup))
        rise = linear if c.warmup_shape == "linear" else cosine
    falling = c.decay * c.n_steps
    fall = min(1.0, (c.n_steps - step) / falling) if falling else 1.0
    return rise * fall


def resample_steps(c: TrainConfig) -> tuple[int, ...]:
    """The steps before which dead features start anew."""
    return tuple(round(share * c.n_steps) for share in c.resample_at)


def coefficient_factor(step: int, c: TrainConfig) -> float:
    """lambda / c.coefficient at step 0, 1, ...: linear from 0 over the warm-up."""
    steps = c.n_steps if c.coefficient_warmup is None else c.coefficient_warmup
    return min(1.0, step / steps) if steps else 1.0


def l0_aim(step: int, c: TrainConfig) -> float:
    """The L0 aimed at: from start_share * l0 to l0, by equal factors up to start_until (own)."""
    rising = c.start_until * c.n_steps
    if c.start_share == 1 or step >= rising:
        return c.l0
    return c.l0 * c.start_share ** (1 - step / rising)


class Stateful:
    """Something whose tensors, named in KEPT, are all that it remembers."""

    KEPT: tuple[str, ...] = ()

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.KEPT}

    @classmethod
    def restored(cls, state: dict[str, Tensor], **settings) -> Self:
        """The object that gave this state; settings: its attributes that are no tensors."""
        restored = cls.__new__(cls)
        for name, value in {**state, **settings}.items():
            setattr(restored, name, value)
        return restored


class Shift(Stateful):
    """Holds L0 at a target by moving all thresholds by one factor a step (own).

    The factor is gain * (L0_ema - l0) / D with D the window estimate of -dL0 / dlog theta, clipped;
    there is no integral that could wind up. Near the target the gain is small, since it passes the
    batches' noise on to the thresholds; far from it, larger. lambda is then no knob: it
    is a running mean of the price at which the window's entries push theta nowhere on balance, so
    that theta's gradient only redistributes.
    """

    GAIN, CLIP, BETA = 0.05, 0.1, 0.8
    FAR_GAIN, NEAR = 0.5, 0.05  # beyond a miss of 5 % the gain rises with it
    BENEFIT_BETA = 0.95
    KEPT = ("l0_ema", "coefficient")

    def __init__(self, first: Stats) -> None:
        self.l0_ema = first.l0.clone()
        self.coefficient = first.benefit.clone()  # lambda

    def update(self, stats: Stats, aim: float) -> Tensor:
        """Takes one batch's statistics in; returns log of the factor for every threshold. 0-d."""
        self.l0_ema.lerp_(stats.l0, 1 - self.BETA)
        self.coefficient.lerp_(stats.benefit, 1 - self.BENEFIT_BETA)
        slope = torch.maximum(stats.sensitivity, 0.05 * self.l0_ema).clamp_min(1e-6)
        miss = self.l0_ema - aim
        gain = self.GAIN + self.FAR_GAIN * (miss.abs() / aim - self.NEAR).clamp(0, 1)
        move = (gain * miss / slope).clamp(-self.CLIP, self.CLIP)
        return move.log1p()


class Price(Stateful):
    """Holds L0 at a target by lambda, where no threshold can be moved (own).

    log lambda integrates the relative miss that is to be expected LEAD steps ahead, if L0 goes on
    as it does: L0 answers lambda late, and a loop on the present miss overshoots. Against wind-up,
    since under Adam a large lambda soon stops mattering, the miss is bounded and so is the range.
    `offset` corrects the aim for the difference between training batches and other rows.
    """

    GAIN, LEAD, BOUND, BETA = 0.05, 60.0, 0.7, 0.9
    TREND_BETA = 0.95
    RANGE = math.log(1e3)
    KEPT = ("l0_ema", "trend", "integral", "offset", "coefficient", "start")

    def __init__(self, coefficient: float, first: Stats) -> None:
        self.l0_ema = first.l0.clone()
        self.start = torch.full_like(first.l0, math.log(coefficient))
        self.integral = self.start.clone()
        self.offset, self.trend = torch.zeros_like(first.l0), torch.zeros_like(first.l0)
        self.coefficient = self.start.exp()

    def update(self, stats: Stats, aim: float) -> None:
        """Takes one batch's statistics in; `coefficient` is the next step's lambda."""
        before = self.l0_ema.clamp_min(1e-3).log()
        self.l0_ema.lerp_(stats.l0, 1 - self.BETA)
        now = self.l0_ema.clamp_min(1e-3).log()
        self.trend.lerp_(now - before, 1 - self.TREND_BETA)
        miss = now - math.log(aim) + self.offset + self.LEAD * self.trend
        self.integral += self.GAIN * miss.clamp(-self.BOUND, self.BOUND)
        low, high = self.start - self.RANGE, self.start + self.RANGE
        self.integral = torch.minimum(torch.maximum(self.integral, low), high)
        self.coefficient = self.integral.exp()

    def correct(self, active: Tensor) -> None:
        """Takes in active features per calibration row [n]: the aim moves by `expected_gap`."""
        self.offset = expected_gap(active, self.l0_ema)

    @property
    def saturated(self) -> Tensor:
        """Whether lambda stands at the end of its range: it no longer moves L0. 0-d bool."""
        return (self.integral - self.start).abs() >= self.RANGE - 1e-6


class Bandwidth(Stateful):
    """Keeps WINDOW_SHARE entries in the window per active one.

    occupancy    one eps for all
    per_feature  each feature's own, from running counts of its window and its fires (own)
    silverman    eps_i = kappa sd_i n_i^(-1/5): sd_i of the pre-activation from the rows' running
                 covariance, n_i the running count of the window's rows, one kappa for all (own,
                 after Silverman's rule for a kernel's width)
    fixed        never moves
    """

    GAIN, CLIP = 0.05, 0.05
    BETA = 0.98  # of the running counts
    PRIOR = 1.0  # rows by which a feature's counts are drawn to those of all
    REFRESH = 10  # steps between two looks at the covariance
    KEPT = ("eps", "fired", "window", "covariance", "shape", "kappa")

    def __init__(self, rule: str, eps: Tensor, x: Tensor, w: Weights, first: Stats) -> None:
        self.rule = rule
        self.fired, self.window = first.fired.clone(), first.window.clone()
        self.kappa = torch.ones_like(first.l0)
        self.covariance = self.shape = torch.zeros(0, device=x.device)
        self.eps = eps.clone()
        if rule == "silverman":
            self.covariance = _covariance(x)
            self.shape = self._silverman(w)
            self.kappa = eps.mean() / self.shape.mean()
            self.eps = self.kappa * self.shape

    def update(self, step: int, stats: Stats, x: Tensor, w: Weights) -> None:
        if self.rule == "fixed":
            return
        self.fired.lerp_(stats.fired, 1 - self.BETA)
        self.window.lerp_(stats.window, 1 - self.BETA)
        n_rows = x.shape[0]
        inside = stats.window.sum() / n_rows
        ratio = WINDOW_SHARE * stats.l0.clamp_min(1e-3) / inside.clamp_min(1e-3)
        move = (self.GAIN * ratio.log()).clamp(-self.CLIP, self.CLIP)
        if self.rule == "occupancy":
            self.eps = self.eps * move.exp()
        elif self.rule == "per_feature":
            wanted = WINDOW_SHARE * self.fired + self.PRIOR
            each = (wanted / (self.window + self.PRIOR)).log()
            self.eps = self.eps * (self.GAIN * each).clamp(-self.CLIP, self.CLIP).exp()
        else:
            self.kappa = self.kappa * move.exp()
            if step % self.REFRESH == 0:
                self.covariance.lerp_(_covariance(x), 0.1)
                self.shape = self._silverman(w)
            self.eps = self.kappa * self.shape

    def _silverman(self, w: Weights) -> Tensor:
        """sd_i n_i^(-1/5) [d_sae]."""
        sd = ((w.W_enc @ self.covariance) * w.W_enc).sum(1).clamp_min(1e-12).sqrt()
        return sd * (self.window + self.PRIOR) ** -0.2


def _covariance(x: Tensor) -> Tensor:
    """[d_in, d_in] of rows x [n, d_in]; torch.cov reads values back to the host."""
    about = x - x.mean(0)
    return about.T @ about / x.shape[0]


def threshold_scale(x: Tensor, w: Weights, l0: float) -> float:
    """The one factor on theta that gives mean L0 = l0 on rows x [n, d_in] as the encoder gets them.

    Entry z is active under factor s when z / theta > s, so s is an order statistic of the ratios;
    0 where even all positive entries are too few.
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
    return 0.0


def active_per_row(x: Tensor, w: Weights) -> Tensor:
    """Active features [n] of each of the rows x [n, d_in] as the encoder gets them."""
    counts, cut = [], 0.0 if w.theta is None else w.theta
    for rows in x.split(max(1, BLOCK // w.b_enc.shape[0])):
        z = torch.addmm(w.b_enc, rows, w.W_enc.T)
        on = z > cut
        if w.r_mag is not None:
            on &= w.r_mag.exp() * (z - w.b_enc) + w.b_mag > 0
        counts.append(on.sum(1))
    return torch.cat(counts).to(x.dtype)


GAP_SD = 0.01  # of log L0 between rows trained on and rows of other documents, before any is seen
GAP_BLOCKS = 32


def expected_gap(active: Tensor, train_l0: Tensor) -> Tensor:
    """log of how much more L0 rows of unseen documents have than training rows. 0-d.

    active [n]: active features of calibration rows in the order of their text. They are few
    documents, which differ: how much is seen between blocks of neighbouring rows. The gap found is
    drawn to 0 by as much as that noise outweighs the gap that is to be expected (own; the mean of
    a normal posterior).
    """
    blocks = torch.stack([block.mean() for block in active.tensor_split(GAP_BLOCKS) if len(block)])
    l0 = active.mean().clamp_min(1e-3)
    noise = (blocks.var() / len(blocks)).nan_to_num(0.0) / l0.square()
    gap = (l0 / train_l0.clamp_min(1e-3)).log()
    return gap * GAP_SD**2 / (GAP_SD**2 + noise)
