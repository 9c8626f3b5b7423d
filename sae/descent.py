"""One optimiser step: gradients in, weights moved and kept in their places.

Adam on all trained weights, theta by its own rate and in its own parametrisation, decoder rows at
norm 1 with the gradient along them taken out (Gemma Scope sec. 3.2), the whole gradient clipped,
theta's gradient averaged over steps. In: working weights and a recipe, then each step's gradients.
Out: nothing; the weights change in place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae.config import TrainConfig
from sae.control import lr_factor
from sae.losses import Gradients, Weights


class Descent:
    """The optimiser of one SAE; `state` holds all that it remembers."""

    def __init__(self, weights: Weights, c: TrainConfig) -> None:
        self.weights, self.config = weights, c
        self.theta: Tensor | None = None  # what Adam moves: log(theta) or theta
        if weights.theta is not None:
            self.theta = weights.theta.log() if c.log_theta else weights.theta.clone()
        self.theta_mean = torch.zeros_like(weights.b_enc)  # running mean of theta's gradient
        self.trained = [(n, p) for n, p in weights.items() if n not in (*c.freeze, "theta")]
        groups = [{"params": [p for _, p in self.trained], "lr": c.lr}]
        self.moves_theta = self.theta is not None and c.has_theta and "theta" not in c.freeze
        if self.moves_theta:
            groups.append({"params": [self.theta], "lr": c.theta_lr})
        self.adam = torch.optim.Adam(groups, betas=c.betas, eps=c.adam_eps, fused=True)

    def step(self, gradients: Gradients, done: int) -> None:
        """Moves every trained weight; `done` steps were taken before."""
        w, c = self.weights, self.config
        if c.decoder_norm == "unit":
            gradients.W_dec.addcmul_(gradients.W_dec_parallel[:, None], w.W_dec, value=-1)
        for name, weight in self.trained:
            weight.grad = getattr(gradients, name)
        if self.moves_theta:
            self.theta.grad = self._theta_gradient(gradients.theta, done)
        if c.clip is not None:
            self._clip(c.clip)
        factor = lr_factor(done, c)
        for group, lr in zip(self.adam.param_groups, (c.lr, c.theta_lr), strict=False):
            group["lr"] = lr * factor
        self.adam.step()
        if c.decoder_norm == "unit" and "W_dec" not in c.freeze:
            w.W_dec.div_(torch.linalg.vector_norm(w.W_dec, dim=1, keepdim=True))

    def _theta_gradient(self, gradient: Tensor, done: int) -> Tensor:
        beta = self.config.kde_beta
        if beta:  # a kernel estimate over all past batches, the older the lighter
            self.theta_mean.lerp_(gradient, 1 - beta)
            gradient = self.theta_mean / (1 - beta ** (done + 1))
        return gradient * self.weights.theta if self.config.log_theta else gradient

    def _clip(self, largest: float) -> None:
        gradients = [parameter.grad for parameter in self._parameters()]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (largest / norm).clamp(max=1.0))

    def shift(self, move: Tensor) -> None:
        """Multiplies all thresholds by exp(move)."""
        self.theta.add_(move) if self.config.log_theta else self.theta.mul_(move.exp())

    def lower(self, features: Tensor, share: float) -> None:
        """Lowers the thresholds of some features by a share."""
        if self.config.log_theta:
            self.theta[features] += math.log1p(-share)
        else:
            self.theta[features] *= 1 - share

    def settle(self) -> None:
        """Writes the thresholds back to the weights."""
        if self.theta is None or not self.config.has_theta:
            return
        if self.config.log_theta:
            torch.exp(self.theta, out=self.weights.theta)
        else:
            self.weights.theta.copy_(self.theta.clamp_(min=0))

    def moments(self) -> list[Tensor]:
        """Adam's moments of the weights that have one row a feature."""
        return [
            self.adam.state[weight][key]
            for name, weight in self.trained
            if name != "b_dec" and weight in self.adam.state
            for key in ("exp_avg", "exp_avg_sq")
        ]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.adam.param_groups for p in group["params"]]

    def state(self) -> dict[str, Tensor]:
        kept = {"theta_mean": self.theta_mean}
        if self.theta is not None:
            kept["theta"] = self.theta
        for number, parameter in enumerate(self._parameters()):
            for key, value in self.adam.state.get(parameter, {}).items():
                kept[f"{number}.{key}"] = value
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on as the optimiser that gave this state, on the same weights and recipe."""
        self.theta_mean.copy_(state["theta_mean"])
        if self.theta is not None:
            self.theta.copy_(state["theta"])
        for number, parameter in enumerate(self._parameters()):
            place = f"{number}."
            mine = {k.removeprefix(place): v for k, v in state.items() if k.startswith(place)}
            if mine:
                self.adam.state[parameter] = mine
