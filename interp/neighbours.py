"""Which features point the same way: the nearest others of each by cosine, in bounded memory.

In:  directions [n, d], one a feature: decoder rows, or the encoder's columns; a second set for the
     features of another SAE.
Out: for each feature the `keep` others of largest cosine, ties by their number.

No [n, n] matrix ever exists: products come in blocks, and `Best` holds what is best so far. Sums
are exact, so that neither the size of the blocks nor the number of threads changes a list (own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.config import Refused
from sae.models import SAE

KEEP = 32  # others of each feature
BLOCK = 2_048  # features on either side of a product
GRID = 2.0**24  # unit directions are multiples of 1 / GRID
SETTLE = 2**18  # pairs that wait to be sorted, at least

Lists = dict[str, np.ndarray]  # columns feature, rank, other, value, ...; by feature, then rank


@dataclass(frozen=True)
class NeighbourStep:
    """Progress, in whatever the phase counts."""

    done: int
    total: int


@dataclass(frozen=True)
class Directions:
    """The directions of the features that have one."""

    features: np.ndarray  # int64 [n], ascending: their numbers
    units: Tensor  # float32 [n, d], of length 1 but for rounding to multiples of 1 / GRID


@torch.no_grad()
def directions(W: Tensor) -> Directions:
    """Unit directions of the rows of W [n_features, d]; rows of zeros, dead features, have none.

    The rounding moves a cosine by at most sqrt(d) / GRID. A product of two entries is then a
    multiple of GRID^-2, and float64 adds those up to 2 without error, in whatever order.
    """
    norms = torch.cat([torch.linalg.vector_norm(rows.double(), dim=1) for rows in W.split(BLOCK)])
    alive = norms.nonzero().squeeze(1)
    units = torch.empty(len(alive), W.shape[1], dtype=torch.float32, device=W.device)
    for some, rows in zip(alive.split(BLOCK), units.split(BLOCK), strict=True):
        rows.copy_((W[some].double() / norms[some, None] * GRID).round() / GRID)
    return Directions(alive.cpu().numpy(), units)


def decoder(sae: SAE) -> Directions:
    """What each feature writes."""
    return directions(sae.W_dec.detach())


def encoder(sae: SAE) -> Directions:
    """What each feature reads; of a Gated SAE what its gate reads, the magnitude's is parallel."""
    return directions(sae.W_enc.detach().T)


def refuse_other_widths(a: SAE, b: SAE) -> None:
    """Refused unless both read and write activations of the same widths."""
    if (a.d_in, a.d_out) != (b.d_in, b.d_out):
        widths = [f"{s.d_in}" if s.d_in == s.d_out else f"{s.d_in} to {s.d_out}" for s in (a, b)]
        raise Refused(
            f"features of SAEs that are {widths[0]} and {widths[1]} wide have no directions in "
            "common: name two of the same width"
        )


class Best:
    """The `keep` best others of each feature, from pairs that come in pieces, in any order.

    Ties: the larger first column of `more` first, where there is one; then the smaller number of
    the other feature. Memory: that of the lists, as much again while pairs wait, and their sort.
    """

    def __init__(self, n_features: int, keep: int, more: tuple[str, ...] = ()) -> None:
        self.keep, self.names = keep, ("feature", "other", "value", *more)
        self.floor = np.full(n_features, -np.inf)  # the worst value in each full list
        self._kept = [np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)]
        self._kept += [np.empty(0) for _ in more]
        self._pending: list[list[np.ndarray]] = []
        self._n_pending = 0

    def offer(self, feature: np.ndarray, other: np.ndarray, *columns: np.ndarray) -> None:
        """Pairs [n] with their value, the larger the better, and the columns of `more`."""
        good = np.flatnonzero(columns[0] >= self.floor[feature])
        if len(good) == 0:
            return
        numbers = [c[good].astype(np.int32) for c in (feature, other)]
        self._pending.append([*numbers, *(c[good].astype(np.float64) for c in columns)])
        self._n_pending += len(good)
        # Sorting twice as many pairs as are kept, at most, and each only a few times.
        if self._n_pending > max(SETTLE, len(self._kept[0])):
            self._settle()

    def _settle(self) -> None:
        parts = zip(self._kept, *self._pending, strict=True)
        columns = [np.concatenate(part) for part in parts]
        self._pending, self._n_pending = [], 0
        feature, other, value, *more = columns
        order = np.lexsort((other, *(-column for column in more[:1]), -value, feature))
        rank = _ranks(feature[order])
        first = order[rank < self.keep]
        self._kept = [column[first] for column in columns]
        last = order[rank == self.keep - 1]
        self.floor[feature[last]] = value[last]

    def lists(self) -> Lists:
        """What is kept, by feature and rank."""
        self._settle()
        found = dict(zip(self.names, self._kept, strict=True))
        return {"feature": found.pop("feature"), "rank": _ranks(self._kept[0]), **found}


def _ranks(feature: np.ndarray) -> np.ndarray:
    """int32 [n]: the how-manieth entry of its feature each is, from 0, in a sorted list [n]."""
    first = np.flatnonzero(np.diff(feature, prepend=-1))
    lengths = np.diff(first, append=len(feature))
    return (np.arange(len(feature)) - np.repeat(first, lengths)).astype(np.int32)


class Cosines:
    """Iterate for progress, then ask for `lists()`; with b also for `lists(reverse=True)`."""

    def __init__(
        self, a: Directions, b: Directions | None = None, keep: int = KEEP, block: int = BLOCK
    ) -> None:
        """The nearest of a's features among themselves, or of a's among b's and of b's among a's;
        `block`: features on either side of a product."""
        self.same, self.a, self.b = b is None, a, a if b is None else b
        self.keep, self.block = keep, block
        self.best_a = Best(len(a.features), keep)
        self.best_b = self.best_a if self.same else Best(len(self.b.features), keep)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[NeighbourStep]:
        n_a, n_b, block = len(self.a.features), len(self.b.features), self.block
        corners = [
            (i, j)
            for i in range(0, n_a, block)
            for j in range(i if self.same else 0, n_b, block)  # a cosine has no direction
        ]
        for done, (i, j) in enumerate(corners, start=1):
            a, b = self.a.units[i : i + block], self.b.units[j : j + block]
            s = (a.double() @ b.double().T).clamp_(-1, 1)
            if self.same and i == j:
                s.fill_diagonal_(-torch.inf)
                self._offer_rows(s, i, j)
            else:
                self._offer_rows(s, i, j)
                self._offer_columns(s, i, j)
            yield NeighbourStep(done, len(corners))

    def lists(self, reverse: bool = False) -> Lists:
        """feature, rank, other, value of a's features; `reverse`: of b's, whose others are a's."""
        best, mine, theirs = self.best_a, self.a, self.b
        if reverse:
            best, mine, theirs = self.best_b, self.b, self.a
        found = best.lists()
        return found | {
            "feature": mine.features[found["feature"]],
            "other": theirs.features[found["other"]],
            "value": found["value"] + 0.0,  # a product's zero may be negative
        }

    # A feature meets the others in ascending order, so those that only equal its worst have lost.

    def _offer_rows(self, s: Tensor, i: int, j: int) -> None:
        """Offers a's features from i on the columns of s: b's from j on."""
        floor = self._floor(self.best_a, i, s)
        rows, columns = _where(s > floor[:, None])
        self.best_a.offer(*_numpy(rows + i, columns + j, s[rows, columns]))

    def _offer_columns(self, s: Tensor, i: int, j: int) -> None:
        """Offers b's features from j on the rows of s: a's from i on."""
        floor = self._floor(self.best_b, j, s.T)
        rows, columns = _where(s > floor)
        self.best_b.offer(*_numpy(columns + j, rows + i, s[rows, columns]))

    def _floor(self, best: Best, start: int, s: Tensor) -> Tensor:
        """float64 [rows]: what a value must exceed; without full lists, just below the worst of the
        best in s [rows, others] itself."""
        floor = torch.tensor(best.floor[start : start + len(s)], device=s.device)
        unknown = floor == -torch.inf
        if unknown.any():
            worst = s[unknown].topk(min(self.keep, s.shape[1])).values[:, -1]
            floor[unknown] = worst.nextafter(worst.new_tensor(-torch.inf))
        return floor


def _where(mask: Tensor) -> tuple[Tensor, Tensor]:
    """mask.nonzero() of a matrix in which few are True: words of 8 are searched first."""
    if mask.numel() % 8:
        return mask.nonzero(as_tuple=True)
    words = mask.view(-1).view(torch.int64)
    found = words.nonzero().squeeze(1)
    inside = words[found].view(torch.bool).nonzero().squeeze(1)
    flat = found[inside >> 3] * 8 + (inside & 7)
    rows = flat.div(mask.shape[1], rounding_mode="floor")
    return rows, flat - rows * mask.shape[1]


def _numpy(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.cpu().numpy() for tensor in tensors)
