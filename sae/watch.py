"""What a run tells of itself: sums kept on the device between log steps, and the records of them.

In: each step's statistics and gradients. Out: `Step`, one line of train.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.config import Refused, TrainConfig
from sae.control import Stateful
from sae.losses import Gradients, Stats

EMPTY = 2e-3  # window entries per active one; a healthy window holds .25 to 1
GROUPS = 10  # of features by firing frequency: deciles


@dataclass(frozen=True)
class Step:
    """Means over the steps since the last record; the keys of train.jsonl. None: no such thing."""

    step: int  # optimiser steps taken
    tokens: int  # rows seen
    loss: float  # mean ||x - x_hat||^2 + penalties, training units
    fve: float  # 1 - ||x - x_hat||^2 / ||x - mean||^2, on the training rows
    l0: float
    dead: int  # features that have not fired for dead_after rows
    window: float | None  # entries inside the straight-through window per active entry
    theta_mean: float | None  # training units
    bandwidth: float | None  # mean eps, training units
    lr: float
    coefficient: float  # lambda; under control "shift" the running benefit at the threshold
    # Ten numbers, features in order of firing frequency, the rarest tenth first.
    window_by_decile: tuple[float | None, ...] | None  # entries in the window per active entry
    snr_by_decile: tuple[float | None, ...] | None  # median |mean| / sd of theta's gradient
    theta_from_error: float | None  # share of theta's gradient that the reconstruction gives
    heldout_fve: float | None  # of the SAE so far, on rows that are only evaluated
    heldout_l0: float | None
    tokens_per_s: float
    warning: str | None  # what the person watching should know

    def row(self) -> dict:
        """The record under train.jsonl's names, in which coefficient is "lambda"."""
        return {("lambda" if k == "coefficient" else k): v for k, v in vars(self).items()}


class Watch(Stateful):
    """Sums since the last record, and since when each feature has been silent."""

    KEPT = ("sums", "silent_rows", "fired", "window", "gradient", "square", "parts", "since", "bad")

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.silent_rows = torch.zeros(d_sae, device=device)
        self.bad = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self._clear()

    def _clear(self) -> None:
        d_sae, device = self.silent_rows.shape[0], self.silent_rows.device
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # error, total, penalty, l0
        self.fired, self.window, self.gradient, self.square = torch.zeros(4, d_sae, device=device)
        self.parts = torch.zeros(2, device=device)  # |theta's gradient| from error, from penalty
        self.since = torch.zeros((), dtype=torch.int64, device=device)

    def add(
        self,
        step: int,
        stats: Stats,
        total: Tensor,
        rows: int,
        g: Gradients,
        theta: Tensor | None,
    ) -> None:
        """Takes in step number `step`; total: the batch's mean ||x - mean||^2.

        A theta that is not finite counts like a loss that is not: it silences its feature, and
        the loss stays finite.
        """
        facts = (stats.reconstruction, total, stats.penalty, stats.l0)
        self.sums += torch.stack(facts).double()
        self.silent_rows.add_(rows).masked_fill_(stats.fired > 0, 0)
        self.fired += stats.fired
        self.window += stats.window
        if g.theta is not None:
            self.gradient += g.theta
            self.square += g.theta.square()
            from_penalty = (g.theta - g.theta_from_error).abs().sum()
            self.parts += torch.stack((g.theta_from_error.abs().sum(), from_penalty))
        finite = stats.reconstruction if theta is None else stats.reconstruction + theta.sum()
        self.bad = torch.where(torch.isfinite(finite), self.bad, self.bad.clamp_max(step))
        self.since += 1

    def record(
        self,
        done: int,
        config: TrainConfig,
        seconds: float,
        theta: Tensor | None,
        bandwidth: Tensor | None,
        coefficient: Tensor | float,
        saturated: Tensor | None,
        lr: float,
        heldout: tuple[float, float] | None,
    ) -> Step:
        """The sums as means, and begins anew. Refuses a loss that was not finite, with its step."""
        if float(self.bad) < done:
            raise Refused(
                f"the loss is no longer finite at step {int(self.bad) + 1}: "
                f"lower lr ({config.lr}), or look for NaN in the activations; "
                "the last checkpoint is from before"
            )
        n = int(self.since)
        error, total, penalty, l0 = (self.sums / n).tolist()
        has_window = bandwidth is not None
        inside, active = float(self.window.sum()), float(self.fired.sum())
        parts = self.parts.tolist()
        order = self.fired.argsort(stable=True)
        step = Step(
            step=done,
            tokens=done * config.batch,
            loss=error + penalty,
            fve=1 - error / total,
            l0=l0,
            dead=int((self.silent_rows >= config.dead_after).sum()),
            window=inside / active if has_window and active else None,
            theta_mean=None if theta is None else float(theta.mean()),
            bandwidth=float(bandwidth.mean()) if has_window else None,
            lr=lr,
            coefficient=float(coefficient),
            window_by_decile=self._occupancy(order) if has_window else None,
            snr_by_decile=self._snr(order, n) if theta is not None and n > 1 else None,
            theta_from_error=parts[0] / sum(parts) if sum(parts) else None,
            heldout_fve=heldout[0] if heldout else None,
            heldout_l0=heldout[1] if heldout else None,
            tokens_per_s=n * config.batch / max(seconds, 1e-9),
            warning=_warning(
                has_window and inside <= EMPTY * active, saturated is not None and bool(saturated)
            ),
        )
        self._clear()
        return step

    def _occupancy(self, order: Tensor) -> tuple[float | None, ...]:
        """Window entries per active entry in each decile; None where nothing is active."""
        pairs = [(self.window[some].sum(), self.fired[some].sum()) for some in _deciles(order)]
        return tuple(float(w / f) if f > 0 else None for w, f in pairs)

    def _snr(self, order: Tensor, n: int) -> tuple[float | None, ...]:
        """Median over each decile of |mean| / sd of theta's gradient from step to step."""
        mean = self.gradient / n
        sd = (self.square / n - mean.square()).clamp_min(0).sqrt()
        ratios = [(mean[some].abs() / sd[some])[sd[some] > 0] for some in _deciles(order)]
        return tuple(float(ratio.median()) if ratio.numel() else None for ratio in ratios)


def _deciles(order: Tensor) -> tuple[Tensor, ...]:
    """Ten parts of an order of features, sizes alike; fewer features give fewer parts."""
    return order.tensor_split(min(GROUPS, order.numel()))


def _warning(empty: bool, saturated: bool) -> str | None:
    if empty:
        return (
            "almost no pre-activation is inside the straight-through window: theta gets no "
            "gradient; use a larger bandwidth and theta, or the small_budget preset"
        )
    if saturated:
        return "lambda stands at the end of its range and no longer moves L0"
    return None
