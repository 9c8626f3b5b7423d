"""Several SAEs trained side by side on one stream of activations.

Each batch is read once; trainers whose SAEs have one shape and one input scale share one encoder
matrix product, their encoders lying one below the other in memory. In: trainers of one source. Out:
(which, Step) as each is due. Trainers resumed from different steps wait for the last one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from sae.config import Refused
from sae.entries import Buffers
from sae.step import encoder_bias
from sae.trainer import Trainer
from sae.watch import Step


class Sweep:
    """Iterate it once for (index of the trainer, Step), then take each trainer's `sae()`."""

    def __init__(self, trainers: list[Trainer]) -> None:
        """Refuses trainers that do not share source, batch, length and device."""
        if not trainers:
            raise Refused("a sweep needs at least one trainer")
        first = trainers[0]
        for trainer in trainers[1:]:
            if trainer.source is not first.source:
                raise Refused("the SAEs of a sweep must share one source of activations")
            for name in ("batch", "tokens"):
                values = getattr(first.config, name), getattr(trainer.config, name)
                if values[0] != values[1]:
                    raise Refused(f"the SAEs of a sweep differ in {name}: {values[0]}, {values[1]}")
            if trainer.device != first.device:
                raise Refused("the SAEs of a sweep must be on one device")
        self.trainers = trainers
        self.groups = [_Group(some) for some in _alike(trainers)]

    @property
    def done(self) -> int:
        """Steps that every trainer has taken."""
        return min(trainer.done for trainer in self.trainers)

    def __iter__(self) -> Iterator[tuple[int, Step]]:
        index = {id(trainer): i for i, trainer in enumerate(self.trainers)}
        first = min(self.trainers, key=lambda trainer: trainer.done)
        clock = dict.fromkeys(index, time.perf_counter())
        for position, raw in enumerate(first.batches(), start=first.done):
            for group in self.groups:
                for trainer in group.step(raw, position):
                    if trainer.record_due():
                        now = time.perf_counter()
                        seconds, clock[id(trainer)] = now - clock[id(trainer)], now
                        yield index[id(trainer)], trainer.record(seconds)
        for trainer in self.trainers:
            trainer.finish()


def _alike(trainers: list[Trainer]) -> list[list[Trainer]]:
    """Trainers by what their encoders see and how wide they are, in order."""
    groups: dict[tuple, list[Trainer]] = {}
    for trainer in trainers:
        units, c = trainer.units, trainer.config
        key = (trainer.sae_config.d_sae, units.scale, units.token_norm, c.centre, c.precision)
        groups.setdefault(key, []).append(trainer)
    return list(groups.values())


class _Group:
    """Trainers with one encoder product."""

    def __init__(self, trainers: list[Trainer]) -> None:
        self.trainers, self._buffers = trainers, Buffers()
        self._W_enc: Tensor | None = None
        if len(trainers) > 1:
            self._W_enc = torch.cat([trainer.weights.W_enc for trainer in trainers])
            d_sae = trainers[0].sae_config.d_sae
            for trainer, rows in zip(trainers, self._W_enc.split(d_sae), strict=True):
                trainer.weights.W_enc.data = rows  # Adam goes on with the same tensor

    def step(self, raw: Tensor, position: int) -> Iterator[Trainer]:
        """One step of every trainer that stands at `position`."""
        ready = [trainer for trainer in self.trainers if trainer.done == position]
        if not ready:
            return
        x = ready[0].units(raw)
        shared = self._product(x) if len(ready) == len(self.trainers) > 1 else [None] * len(ready)
        for trainer, z in zip(ready, shared, strict=True):
            trainer.step(x, z)
            yield trainer

    @torch.no_grad()
    def _product(self, x: Tensor) -> list[Tensor]:
        """Each trainer's pre-activations [batch, d_sae]: columns of one product."""
        d_sae, n = self.trainers[0].sae_config.d_sae, len(self.trainers)
        out = self._buffers.z(x.shape[0], n * d_sae, x)
        bias = torch.cat([encoder_bias(t.weights, t.objective()) for t in self.trainers])
        if self.trainers[0].config.precision == "bfloat16":
            torch.add(x.bfloat16() @ self._W_enc.bfloat16().T, bias, out=out)
        else:
            torch.addmm(bias, x, self._W_enc.T, out=out)
        return list(out.split(d_sae, dim=1))
