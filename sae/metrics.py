"""Streaming measures of an SAE: float64 accumulators, update(batch) / result().

In: raw activations, their reconstructions and codes, batch after batch; with a group number for
each row, the errors of each group too. Out: L0 and its distribution, FVE, MSE, gamma, cosine, L2
ratio, feature frequencies and what follows from them. Every mean runs over the dataset, never over
batches. In formulas E is the mean over rows:

    l0       = E ||f||_0
    mse      = E ||x - x_hat||^2                                 (summed over dimensions)
    fve      = 1 - E ||x - x_hat||^2 / E ||x - E x||^2           (Gemma Scope sec. 4.1)
    gamma    = E ||x_hat||^2 / E <x_hat, x>                      (Gated SAE, arXiv 2404.16014, 4.2)
    cosine   = E <x_hat, x> / (||x_hat|| ||x||)                  (SAEBench, arXiv 2503.09532)
    l2_ratio = E ||x_hat|| / ||x||                               (the same)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.config import Refused
from sae.sparse import SparseCode

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


class Metrics:
    """Accumulates over update(); result() may be called at any time after the first row."""

    def __init__(self, d_in: int, d_sae: int, n_groups: int = 1) -> None:
        self.d_in, self.d_sae, self.n_groups, self.n_rows = d_in, d_sae, n_groups, 0
        self._sums = torch.zeros(n_groups, 9, dtype=torch.float64)  # columns as in _row_sums
        self._about = torch.zeros(n_groups, d_in, dtype=torch.float64)  # sums of x - origin
        self._origin: Tensor | None = None  # the first batch's mean: sums about it stay exact
        self.fires = torch.zeros(d_sae, dtype=torch.int64)  # rows on which each feature is active
        self.l0_counts = torch.zeros(d_sae + 1, dtype=torch.int64)  # rows with so many active ones

    @torch.no_grad()
    def update(
        self, x: Tensor, x_hat: Tensor, code: SparseCode | Tensor, group: Tensor | None = None
    ) -> None:
        """x, x_hat [n, d_in] raw; code: a SparseCode of those rows or f [n, d_sae].

        group: the group [n] int64 each row counts in, 0 to n_groups - 1; None: all in group 0.
        """
        self._check(x, x_hat, code, group)
        n = x.shape[0]
        if n == 0:
            return
        x, x_hat = x.double(), x_hat.double()
        if self._origin is None:
            self._origin = x.mean(0)
        about = x - self._origin
        group = torch.zeros(n, dtype=torch.int64) if group is None else group
        # A product with 0 and 1 adds in one order; index_add_ on a GPU would not.
        member = torch.nn.functional.one_hot(group.to(x.device), self.n_groups).T.double()
        self._sums += (member @ _row_sums(x, x_hat, about)).cpu()
        self._about += (member @ about).cpu()
        if isinstance(code, SparseCode):
            self.fires += torch.bincount(code.features, minlength=self.d_sae).cpu()
            l0 = torch.bincount(code.rows, minlength=n)
        else:
            self.fires += (code > 0).sum(0).cpu()
            l0 = (code > 0).sum(1)
        self.l0_counts += torch.bincount(l0, minlength=self.d_sae + 1).cpu()
        self.n_rows += n

    def _check(self, x: Tensor, x_hat: Tensor, code, group: Tensor | None) -> None:
        n = x.shape[0]
        of_code = (code.n_rows, code.d_sae) if isinstance(code, SparseCode) else tuple(code.shape)
        seen = (tuple(x.shape), tuple(x_hat.shape), of_code)
        if seen != ((n, self.d_in), (n, self.d_in), (n, self.d_sae)):
            raise Refused(
                f"x, x_hat and code are {seen}: "
                f"expected [n, {self.d_in}] twice and [n, {self.d_sae}]"
            )
        if group is not None and tuple(group.shape) != (n,):
            raise Refused(
                f"group is {tuple(group.shape)}: expected one number for each of {n} rows"
            )

    @property
    def mean(self) -> Tensor:
        """The dataset's mean activation, [d_in] float64 on the CPU."""
        self._refuse_empty()
        return self._origin.cpu() + self._about.sum(0) / self.n_rows

    @property
    def frequency(self) -> Tensor:
        """Share of rows on which each feature is active, [d_sae] float64."""
        self._refuse_empty()
        return self.fires.double() / self.n_rows

    def l0_distribution(self) -> dict[str, int]:
        """Quantiles of a row's number of active features: the smallest that at least that share
        of the rows does not exceed, so each is a number that some row has."""
        self._refuse_empty()
        below = self.l0_counts.cumsum(0)
        # A millionth of a row less: 0.95 n may come out a rounding above the whole number it is.
        wanted = [max(q * self.n_rows, 1.0) - 1e-6 for q in QUANTILES.values()]
        found = torch.searchsorted(below.double(), torch.tensor(wanted, dtype=torch.float64))
        return dict(zip(QUANTILES, found.tolist(), strict=True))

    def result(self) -> dict:
        """The measures under metrics.json's names; None where undefined (constant x, x_hat = 0).

        dead and alive are counts of features; high_freq_10 and high_freq_1 are shares of all
        features, those active on more than 10 % and 1 % of rows. Rows with x or x_hat of norm 0
        have no cosine, and those with x of norm 0 no L2 ratio: the means leave them out.
        """
        self._refuse_empty()
        _, error, _, hat_square, dot, cosine, n_cosine, ratio, n_ratio = self._sums.sum(0).tolist()
        variance = float(self._variance().sum())
        frequency = self.frequency
        alive = int((self.fires > 0).sum())
        return {
            "l0": float(self.fires.sum()) / self.n_rows,
            "fve": 1 - error / variance if variance > 0 else None,
            "mse": error / self.n_rows,
            "gamma": hat_square / dot if dot != 0 else None,
            "cosine": cosine / n_cosine if n_cosine else None,
            "l2_ratio": ratio / n_ratio if n_ratio else None,
            "dead": self.d_sae - alive,
            "alive": alive,
            "high_freq_10": float((frequency > 0.1).double().mean()),
            "high_freq_1": float((frequency > 0.01).double().mean()),
            "l0_distribution": self.l0_distribution(),
            "n_tokens": self.n_rows,
        }

    def by_group(self) -> list[dict[str, float | int | None]]:
        """n, mse and fve of each group's rows; fve about the mean of the whole dataset."""
        self._refuse_empty()
        rows = []
        for (n, error, *_), variance in zip(
            self._sums.tolist(), self._variance().tolist(), strict=True
        ):
            fve = 1 - error / variance if variance > 0 else None
            rows.append({"n": int(n), "mse": error / n if n else None, "fve": fve})
        return rows

    def _variance(self) -> Tensor:
        """Sum over each group's rows of ||x - mean||^2, [n_groups]."""
        n, square = self._sums[:, 0], self._sums[:, 2]
        shift = self._about.sum(0) / self.n_rows  # the mean, seen from the origin
        return square - 2 * self._about @ shift + n * shift.square().sum()

    def _refuse_empty(self) -> None:
        if self.n_rows == 0:
            raise Refused("no rows were measured: give at least one batch")


def _row_sums(x: Tensor, x_hat: Tensor, about: Tensor) -> Tensor:
    """What is added up for each row, [n, 9]: 1, ||x - x_hat||^2, ||about||^2, ||x_hat||^2,
    <x_hat, x>, then the cosine and whether there is one, the L2 ratio and whether there is one."""
    error = x - x_hat
    square, hat_square, dot = _dot(x, x), _dot(x_hat, x_hat), _dot(x_hat, x)
    norms = (square * hat_square).sqrt()
    cosine, has_cosine = _over(dot, norms)
    ratio, has_ratio = _over(hat_square.sqrt(), square.sqrt())
    columns = (
        torch.ones_like(dot), _dot(error, error), _dot(about, about), hat_square, dot,
        cosine, has_cosine, ratio, has_ratio,
    )  # fmt: skip
    return torch.stack(columns, dim=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)


def _over(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a / b and 1, or 0 and 0 where b is 0."""
    defined = b > 0
    return torch.where(defined, a / b.where(defined, 1.0), 0.0), defined.double()
