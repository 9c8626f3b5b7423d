"""Where a trainer's rows come from: anything with batches, seek and state.

In: a tensor of rows, or any iterable of them. Out: batches of one size, and a position to go back
to. data.activations meets `Source` without importing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sae.config import Refused


@runtime_checkable
class Source(Protocol):
    """Raw activations, endlessly."""

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Float32 rows [batch_size, d_in], from the current position on, without end."""

    def seek(self, n_rows: int) -> None:
        """Sets the position: n_rows handed out since the very start."""

    def state(self) -> dict:
        """What identifies the stream and its position: JSON."""


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
        return {"kind": "tensor", "seed": self.seed, "n": self.rows.shape[0], "rows": self.position}


class IteratorSource:
    """Rows of an iterable of tensors [any, d_in], in its order. It cannot go back.

    The start statistics are taken from rows that are kept and handed out afterwards. Refuses to
    seek to a place that is gone, which is what resuming would need.
    """

    def __init__(self, rows: Iterable[Tensor]) -> None:
        self._rows, self.position = iter(rows), 0
        self._waiting: list[Tensor] = []
        self._handed_out: list[Tensor] | None = []  # until the first seek(0)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        while True:
            while sum(len(rows) for rows in self._waiting) < batch_size:
                piece = next(self._rows, None)
                if piece is None:
                    return
                self._waiting.append(piece)
            rows = torch.cat(self._waiting)
            rows, self._waiting = rows[:batch_size], [rows[batch_size:]]
            self.position += batch_size
            if self._handed_out is not None:
                self._handed_out.append(rows)
            yield rows.float()

    def seek(self, n_rows: int) -> None:
        if n_rows == 0 and self._handed_out is not None:
            self._waiting = self._handed_out + self._waiting
            self._handed_out, self.position = None, 0
        elif n_rows != self.position:
            raise Refused(
                f"a plain iterator cannot go to row {n_rows:,} (it stands at {self.position:,}): "
                "give a tensor, an activation cache, or an object with batches, seek and state"
            )

    def state(self) -> dict:
        return {"kind": "iterator", "rows": self.position}


def as_source(rows: Source | Tensor | Iterable[Tensor], seed: int) -> Source:
    """A Source of whatever was given."""
    if isinstance(rows, Tensor):
        return TensorSource(rows, seed)
    return rows if isinstance(rows, Source) else IteratorSource(rows)
