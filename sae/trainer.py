"""The training loop: a source of raw activations in, Step records and a folded SAE out.

Rows are brought to training units (E||x||^2 = 1), every step is one call
step(weights, x, objective) -> gradients, stats, and scale, centre and pre-encoder bias are folded
into the weights at the end. Nothing is read back to the host between log steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sae import control
from sae.config import Refused, SAEConfig, TrainConfig, check_pair
from sae.losses import Gradients, Objective, Stats
from sae.models import SAE, fold
from sae.sparse import Buffers, sparse_step

DEAD_AFTER = 200_000  # rows without firing after which a feature counts as dead while training


class Source(Protocol):
    """Raw activations, endlessly."""

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Float32 rows [batch_size, d_in], from the current position on, without end."""

    def seek(self, n_rows: int) -> None:
        """Sets the position: n_rows handed out since the very start."""

    def state(self) -> dict:
        """What identifies the position: JSON."""


class TensorSource:
    """Rows of one tensor [n, d_in], in a new seeded order every time all were seen."""

    def __init__(self, rows: Tensor, seed: int = 0) -> None:
        if rows.ndim != 2 or rows.shape[0] == 0:
            raise Refused(f"activations are {tuple(rows.shape)}: expected [rows, d_in], not empty")
        self.rows, self.seed, self.position = rows, seed, 0

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.rows.shape[0], generator=generator)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        n, epoch, order = self.rows.shape[0], -1, torch.empty(0)
        while True:
            picked: list[Tensor] = []
            missing = batch_size
            while missing:
                if self.position // n != epoch:
                    epoch = self.position // n
                    order = self._order(epoch)
                start = self.position % n
                picked.append(order[start : start + missing])
                self.position += picked[-1].numel()
                missing -= picked[-1].numel()
            yield self.rows[torch.cat(picked).to(self.rows.device)].float()

    def seek(self, n_rows: int) -> None:
        self.position = n_rows

    def state(self) -> dict:
        return {"seed": self.seed, "rows": self.position}


@dataclass(frozen=True)
class Step:
    """Means over the steps since the last record; the keys of train.jsonl."""

    step: int  # optimiser steps taken
    tokens: int  # rows seen
    loss: float  # mean ||x - x_hat||^2 (+ lambda L0 under control "lambda"), training units
    fve: float  # 1 - ||x - x_hat||^2 / ||x - mean||^2, on the training rows
    l0: float
    dead: int  # features that have not fired for DEAD_AFTER rows
    window: float  # share of all pre-activations inside the straight-through window
    theta_mean: float  # training units
    bandwidth: float  # training units
    lr: float
    # the price of one active entry; under control "shift" the running benefit at the threshold
    l0_coefficient: float
    tokens_per_s: float

    def row(self) -> dict:
        """The record under train.jsonl's names, in which l0_coefficient is "lambda"."""
        return {("lambda" if k == "l0_coefficient" else k): v for k, v in vars(self).items()}


class Trainer:
    """Iterate it once for Step records, then take `sae()`.

    source: a Source or a tensor of rows [n, d_in]; calibrate: rows of the same kind, not trained
    on, to which the final factor on theta is fitted (control "shift" only; None: not fitted).
    Same seed, source, thread count and machine: the same weights, byte for byte. Refuses
    contradictory configurations, rows of the wrong width, constant rows, and a loss that is no
    longer finite.
    """

    def __init__(
        self,
        source: Source | Tensor,
        sae: SAEConfig,
        train: TrainConfig,
        calibrate: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        check_pair(sae, train)
        self.source = TensorSource(source, train.seed) if isinstance(source, Tensor) else source
        self.sae_config, self.config, self.device = sae, train, torch.device(device)
        if calibrate is not None:
            self._check_rows(calibrate, "calibration rows")
        self.calibrate = calibrate
        self.n_steps = train.n_steps
        self.log_every = max(10, self.n_steps // 1000)
        self._buffers = Buffers()
        self._finished = False
        self._begin()

    # -- the start

    def _check_rows(self, rows: Tensor, what: str) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.sae_config.d_in or rows.shape[0] == 0:
            raise Refused(
                f"{what} are {tuple(rows.shape)}: the SAE takes [rows, {self.sae_config.d_in}]"
            )

    def _first_rows(self) -> Tensor:
        """The first rows of the source, raw; the source is put back to its start."""
        c = self.config
        n_batches = min(c.n_steps, -(-control.START_ROWS // c.batch))
        self.source.seek(0)
        batches = self.source.batches(c.batch)
        rows = [next(batches).clone() for _ in range(n_batches)]
        self._check_rows(rows[0], "rows of the source")
        self.source.seek(0)
        return torch.cat(rows)[: max(control.START_ROWS, c.batch)].to(self.device)

    def _begin(self) -> None:
        c, raw = self.config, self._first_rows()
        mean = raw.mean(0, dtype=torch.float64)
        square = raw.square().sum(1, dtype=torch.float64).mean()
        if c.centre:
            square = square - mean.square().sum()
        if not bool(torch.isfinite(square)) or float(square) <= 0:
            raise Refused(
                f"the first {raw.shape[0]:,} rows have mean square {float(square)}: "
                "activations must be finite and not all alike"
            )
        self.scale = float(square.sqrt())  # raw units per training unit
        self.centre = mean.float() if c.centre else torch.zeros_like(mean, dtype=torch.float32)
        self._mean = (mean.float() - self.centre) / self.scale  # training units
        x = self._units(raw)
        self.weights = control.starting_weights(x, self.sae_config, c)
        theta = self.weights.theta
        self._theta = theta.log() if c.log_theta else theta.clone()  # what Adam moves
        bandwidth = torch.tensor(c.bandwidth or 0.0, device=self.device)
        self.shift = None
        if c.control == "shift":
            if c.bandwidth is None:
                bandwidth = control.starting_bandwidth(x, self.weights, c.l0)
            _, first = self._gradients(x[: c.batch], Objective(0.0, bandwidth, **self._fixed()))
            self.shift = control.Shift(c.l0, bandwidth, c.bandwidth is None, first)
        self._bandwidth = bandwidth
        self._optimiser = self._adam()

    def _fixed(self) -> dict:
        c = self.config
        return {
            "pre_activation_gradient": c.pre_activation_gradient,
            "pre_relu": c.pre_relu,
            "pre_encoder_bias": c.pre_encoder_bias,
        }

    def _adam(self) -> torch.optim.Adam:
        w, c = self.weights, self.config
        return torch.optim.Adam(
            [
                {"params": [w.W_enc, w.b_enc, w.W_dec, w.b_dec], "lr": c.lr},
                {"params": [self._theta], "lr": c.theta_lr},
            ],
            betas=c.betas,
            eps=c.adam_eps,
            fused=True,
        )

    # -- one step

    def _units(self, raw: Tensor) -> Tensor:
        """Raw rows -> training units."""
        return (raw.to(self.device, torch.float32) - self.centre).div_(self.scale)

    def _gradients(self, x: Tensor, objective: Objective) -> tuple[Gradients, Stats]:
        return sparse_step(self.weights, x, objective, self._buffers)

    def objective(self, step: int) -> Objective:
        """What step `step` (from 0) minimises."""
        if self.shift is not None:
            return Objective(self.shift.l0_coefficient, self.shift.bandwidth, **self._fixed())
        price = self.config.l0_coefficient * control.l0_factor(step, self.config)
        return Objective(price, self._bandwidth, **self._fixed())

    @torch.no_grad()
    def step(self, step: int, x: Tensor) -> Stats:
        """One optimiser step, number `step` from 0, on x [batch, d_in] in training units."""
        w, c = self.weights, self.config
        gradients, stats = self._gradients(x, self.objective(step))
        gradients.W_dec.addcmul_(gradients.W_dec_parallel[:, None], w.W_dec, value=-1)
        w.W_enc.grad, w.b_enc.grad = gradients.W_enc, gradients.b_enc
        w.W_dec.grad, w.b_dec.grad = gradients.W_dec, gradients.b_dec
        self._theta.grad = gradients.theta * w.theta if c.log_theta else gradients.theta
        factor = control.lr_factor(step, c)
        for group, lr in zip(self._optimiser.param_groups, (c.lr, c.theta_lr), strict=True):
            group["lr"] = lr * factor
        self._optimiser.step()
        w.W_dec.div_(torch.linalg.vector_norm(w.W_dec, dim=1, keepdim=True))
        if self.shift is not None:
            move = self.shift.update(stats)
            self._theta.add_(move) if c.log_theta else self._theta.mul_(move.exp())
        if c.log_theta:
            torch.exp(self._theta, out=w.theta)
        else:
            w.theta.copy_(self._theta.clamp_(min=0))
        return stats

    # -- the loop

    def __iter__(self) -> Iterator[Step]:
        if self._finished:
            raise Refused("this trainer has already run: make a new one")
        self._finished = True
        c, device = self.config, self.device
        sums = torch.zeros(5, device=device)  # error, total, l0, window, loss
        silent = torch.zeros(self.sae_config.d_sae, device=device)  # steps since each fired
        first_bad = torch.tensor(self.n_steps, device=device)
        since, clock = 0, time.perf_counter()
        for step, raw in zip(range(self.n_steps), self.source.batches(c.batch), strict=False):
            x = self._units(raw)
            price = self.objective(step).l0_coefficient
            stats = self.step(step, x)
            error, loss = stats.reconstruction, stats.reconstruction
            if c.control == "lambda":
                loss = loss + price * stats.l0
            total = torch.linalg.vector_norm(x - self._mean).square() / x.shape[0]
            sums += torch.stack((error, total, stats.l0, stats.window, loss))
            silent.add_(1).masked_fill_(stats.fired > 0, 0)
            first_bad = torch.where(torch.isfinite(error), first_bad, first_bad.clamp_max(step))
            since += 1
            if since == self.log_every or step + 1 == self.n_steps:
                self._refuse_not_finite(int(first_bad))
                seconds = time.perf_counter() - clock
                yield self._record(step, sums / since, silent, since * c.batch / seconds)
                sums.zero_()
                since, clock = 0, time.perf_counter()
        self._fit_l0()

    def _refuse_not_finite(self, step: int) -> None:
        if step < self.n_steps:
            raise Refused(
                f"the loss is no longer finite at step {step + 1}: "
                f"lower lr ({self.config.lr}), or look for NaN in the activations"
            )

    def _record(self, step: int, means: Tensor, silent: Tensor, rate: float) -> Step:
        c = self.config
        error, total, l0, window, loss = means.tolist()
        objective = self.objective(step)
        return Step(
            step=step + 1,
            tokens=(step + 1) * c.batch,
            loss=loss,
            fve=1 - error / total,
            l0=l0,
            dead=int((silent * c.batch >= DEAD_AFTER).sum()),
            window=window / self.sae_config.d_sae,
            theta_mean=float(self.weights.theta.mean()),
            bandwidth=float(objective.bandwidth),
            lr=c.lr * control.lr_factor(step, c),
            l0_coefficient=float(objective.l0_coefficient),
            tokens_per_s=rate,
        )

    # -- the end

    @torch.no_grad()
    def _fit_l0(self) -> None:
        if self.calibrate is not None and self.shift is not None:
            x, w = self._units(self.calibrate), self.weights
            entering = x - w.b_dec if self.config.pre_encoder_bias else x
            w.theta.mul_(control.threshold_scale(entering, w, self.config.l0))

    @torch.no_grad()
    def sae(self) -> SAE:
        """The SAE so far, on the CPU and in raw units (see sae.models.fold)."""
        return fold(
            self.weights,
            self.sae_config.architecture,
            self.scale,
            self.centre,
            self.config.pre_encoder_bias,
        )
