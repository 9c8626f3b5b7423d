"""Streaming measures of an SAE: float64 accumulators, update(batch) / result().

In: raw activations, their reconstructions and codes, batch after batch. Out: L0, FVE, MSE, gamma,
feature frequencies and what follows from them. Every mean runs over the dataset, never over
batches. In formulas E is the mean over rows:

    l0    = E ||f||_0
    mse   = E ||x - x_hat||^2                                   (summed over dimensions)
    fve   = 1 - E ||x - x_hat||^2 / E ||x - E x||^2             (Gemma Scope sec. 4.1)
    gamma = E ||x_hat||^2 / E <x_hat, x>                        (Gated SAE, arXiv 2404.16014, 4.2)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.config import Refused
from sae.sparse import SparseCode


class Metrics:
    """Accumulates over update(); result() may be called at any time after the first row."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.d_in, self.d_sae, self.n_rows = d_in, d_sae, 0
        zero = torch.zeros((), dtype=torch.float64)
        self._error, self._square, self._hat_square, self._dot = (zero.clone() for _ in range(4))
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._origin: Tensor | None = None  # the first batch's mean: sums about it stay exact
        self.fires = torch.zeros(d_sae, dtype=torch.int64)  # rows on which each feature is active

    @torch.no_grad()
    def update(self, x: Tensor, x_hat: Tensor, code: SparseCode | Tensor) -> None:
        """x, x_hat [n, d_in] raw; code: a SparseCode of those rows or f [n, d_sae]."""
        n_rows, d_sae = (
            (code.n_rows, code.d_sae) if isinstance(code, SparseCode) else tuple(code.shape)
        )
        seen = (tuple(x.shape), tuple(x_hat.shape), (n_rows, d_sae))
        n = x.shape[0]
        if seen != ((n, self.d_in), (n, self.d_in), (n, self.d_sae)):
            raise Refused(
                f"x, x_hat and code are {seen}: "
                f"expected [n, {self.d_in}] twice and [n, {self.d_sae}]"
            )
        if n == 0:
            return
        x, x_hat = x.double().cpu(), x_hat.double().cpu()
        if self._origin is None:
            self._origin = x.mean(0)
        about = x - self._origin
        self._error += (x - x_hat).square().sum()
        self._square += about.square().sum()
        self._sum += about.sum(0)
        self._hat_square += x_hat.square().sum()
        self._dot += (x_hat * x).sum()
        if isinstance(code, SparseCode):
            self.fires += torch.bincount(code.features, minlength=self.d_sae).cpu()
        else:
            self.fires += (code > 0).sum(0).cpu()
        self.n_rows += n

    @property
    def frequency(self) -> Tensor:
        """Share of rows on which each feature is active, [d_sae] float64."""
        self._refuse_empty()
        return self.fires.double() / self.n_rows

    def result(self) -> dict[str, float | int | None]:
        """The measures under metrics.json's names; None where undefined (constant x, x_hat = 0).

        dead and alive are counts of features; high_freq_10 and high_freq_1 are shares of all
        features, those active on more than 10 % and 1 % of rows.
        """
        self._refuse_empty()
        variance = float(self._square - self._sum.square().sum() / self.n_rows)
        error, dot, frequency = float(self._error), float(self._dot), self.frequency
        alive = int((self.fires > 0).sum())
        return {
            "l0": float(self.fires.sum()) / self.n_rows,
            "fve": 1 - error / variance if variance > 0 else None,
            "mse": error / self.n_rows,
            "gamma": float(self._hat_square) / dot if dot != 0 else None,
            "dead": self.d_sae - alive,
            "alive": alive,
            "high_freq_10": float((frequency > 0.1).double().mean()),
            "high_freq_1": float((frequency > 0.01).double().mean()),
            "n_tokens": self.n_rows,
        }

    def _refuse_empty(self) -> None:
        if self.n_rows == 0:
            raise Refused("no rows were measured: give at least one batch")
