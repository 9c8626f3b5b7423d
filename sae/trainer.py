"""The training loop of one SAE: a source of raw activations in, Step records and a folded SAE out.

Rows are brought to training units, every step is one call step(weights, x, objective) ->
gradients, stats, and scale, centre and pre-encoder bias are folded into the weights at the end.
Nothing is read back to the host between log steps. A checkpoint holds everything that the rest of
the run depends on, so that a resumed run gives the same weights byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from sae import checkpoint, control, start
from sae import units as training_units
from sae.config import Refused, SAEConfig, TrainConfig, check_pair
from sae.descent import Descent
from sae.entries import Buffers
from sae.losses import Objective, Stats, Weights, objective_of
from sae.metrics import Metrics
from sae.models import SAE
from sae.presets import FIT
from sae.revive import dead_features, resample
from sae.sources import Source, as_source
from sae.sparse import decode_sparse, encode_sparse
from sae.step import step as one_step
from sae.units import Units
from sae.watch import Step, Watch

THRESHOLD_BETA = 0.99  # of the running least selected value of BatchTopK
CALIBRATION_CHECKS = 40  # looks at the calibration rows in one run, under control "price"
CALIBRATION_ROWS = 4096  # of one look, from all over: neighbours are of one document
BESIDE_THE_STEP = 1.8  # Adam, projection and control, in units of a step's gradients
TRAIN_L0_BATCHES = 16  # that L0 on training rows is measured on at the end
EVALUATION_ROWS = 8192  # encoded at once
EVALUATIONS = 10  # looks at the held-out rows in one run


class Trainer:
    """Iterate it for Step records, then take `sae()`.

    source: a Source, a tensor of rows [n, d_in], or an iterable of such tensors. calibrate: rows of
    the same kind, not trained on, that the last correction of L0 is fitted to (None: not fitted).
    heldout: rows that are only ever evaluated. fitted: an SAE on raw activations to start from,
    for rescaling, shifting or fine-tuning it. Same seed, source, thread count and machine: the
    same weights, byte for byte. Refuses contradictory configurations, rows of the wrong width,
    constant rows, and a loss that is no longer finite.
    """

    def __init__(
        self,
        source: Source | Tensor | Iterable[Tensor],
        sae: SAEConfig,
        train: TrainConfig,
        calibrate: Tensor | None = None,
        heldout: Tensor | None = None,
        device: str = "cpu",
        fitted: SAE | None = None,
        resume: Path | str | None = None,
    ) -> None:
        check_pair(sae, train)
        if train.preset == FIT and fitted is None:
            raise Refused("this recipe is fitted on a finished SAE: give one as `fitted`")
        self.source = as_source(source, train.seed)
        self.sae_config, self.config, self.device = sae, train, torch.device(device)
        for rows, what in ((calibrate, "calibration rows"), (heldout, "held-out rows")):
            if rows is not None:
                self._check_rows(rows, what)
        self.calibrate, self.heldout, self.fitted = calibrate, heldout, fitted
        self.n_steps = train.n_steps
        self.log_every = min(100, max(10, self.n_steps // 1000))
        self.done = 0  # optimiser steps taken
        self._buffers = Buffers()
        self._objective = objective_of(sae, train)
        if resume is None:
            self._begin()
        else:
            self._resume(Path(resume))

    # -- the start

    def _check_rows(self, rows: Tensor, what: str) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.sae_config.d_in or rows.shape[0] == 0:
            raise Refused(
                f"{what} are {tuple(rows.shape)}: the SAE takes [rows, {self.sae_config.d_in}]"
            )
        if not bool(torch.isfinite(rows).all()):
            raise Refused(f"{what} hold values that are not finite: leave those rows out")

    def _first_rows(self) -> Tensor:
        """The first rows of the source, raw; the source is put back to its start."""
        c = self.config
        n_batches = min(c.n_steps, -(-start.START_ROWS // c.batch))
        rows = []
        for batch, _ in zip(self.source.batches(c.batch), range(n_batches), strict=False):
            rows.append(batch.clone())
        if not rows:
            raise Refused(f"the source gives no batch of {c.batch:,} rows: use a smaller batch")
        if rows[0].ndim != 2 or rows[0].shape[1] != self.sae_config.d_in:
            self._check_rows(rows[0], "rows of the source")
        self.source.seek(0)
        return torch.cat(rows)[: max(start.START_ROWS, c.batch)].to(self.device)

    @torch.no_grad()
    def _begin(self) -> None:
        c, raw = self.config, self._first_rows()
        self.units = training_units.measure(raw, c)
        x = self.units(raw)
        if self.fitted is None:
            self.weights = start.starting_weights(x, self.sae_config, c)
        else:
            self.weights = training_units.to_weights(self.fitted, self.units, self.sae_config, c)
        self._mean = x.mean(0, dtype=torch.float64).float()
        self._begin_loops(x)
        self.descent = Descent(self.weights, self.config)

    def _begin_loops(self, x: Tensor) -> None:
        """The loops at step 0. x: the first rows in training units."""
        c, w = self.config, self.weights
        self._least = torch.zeros((), device=self.device)
        self.dead: Tensor | None = None
        self.watch = Watch(self.sae_config.d_sae, self.device)
        eps = None
        if c.has_window and c.bandwidth is None:
            each = c.bandwidth_rule in ("fixed", "per_feature")
            eps = start.starting_bandwidth(self._entering(x), w, c.l0 * c.start_share, each)
        elif c.has_window:
            eps = torch.tensor(c.bandwidth, device=self.device)
        x = x[: c.batch]
        _, first = one_step(w, x, replace(self._objective, bandwidth=eps), self._buffers)
        self.bandwidth = None
        if eps is not None:
            self.bandwidth = control.Bandwidth(c.bandwidth_rule, eps, x, w, first)
        self.loop: control.Shift | control.Price | None = None
        if c.control == "shift":
            self.loop = control.Shift(first)
        elif c.control == "price":
            self.loop = control.Price(c.coefficient or 1e-2, first)

    # -- one step

    def objective(self) -> Objective:
        """What the next step minimises."""
        c = self.config
        if self.loop is not None:
            price = self.loop.coefficient
        else:
            price = (c.coefficient or 0.0) * control.coefficient_factor(self.done, c)
        return replace(
            self._objective,
            coefficient=price,
            bandwidth=None if self.bandwidth is None else self.bandwidth.eps,
            dead=self.dead if c.aux_coefficient else None,
        )

    @torch.no_grad()
    def step(self, x: Tensor, z: Tensor | None = None) -> Stats:
        """One optimiser step on x [batch, d_in] in training units.

        z: its pre-activations, where a matrix product shared with other SAEs gave them.
        """
        w, c = self.weights, self.config
        if self.done in control.resample_steps(c):
            self._resample(x)
        gradients, stats = one_step(w, x, self.objective(), self._buffers, z)
        self.descent.step(gradients, self.done)
        self._control(stats, x)
        self.descent.settle()
        if c.architecture in ("batchtopk", "matryoshka"):
            least = torch.where(torch.isfinite(stats.threshold), stats.threshold, self._least)
            beta = THRESHOLD_BETA if self.done else 0.0
            self._least = torch.lerp(least, self._least, beta)
        total = torch.linalg.vector_norm(x - self._mean).square() / x.shape[0]
        self.watch.add(self.done, stats, total, x.shape[0], gradients, w.theta)
        self.done += 1
        return stats

    def _control(self, stats: Stats, x: Tensor) -> None:
        c = self.config
        if self.loop is not None:
            move = self.loop.update(stats, control.l0_aim(self.done, c))
            if c.control == "shift":
                self.descent.shift(move)
            elif self._correction_due():
                rows = self.units(self.calibrate[:: -(-len(self.calibrate) // CALIBRATION_ROWS)])
                self.loop.correct(control.active_per_row(self._entering(rows), self.weights))
        if c.dead_decay and self.dead is not None and c.has_theta:
            # They get no gradient from so far away; who fires again leaves the list at the next
            # record.
            self.descent.lower(self.dead, c.dead_decay)
        if self.bandwidth is not None:
            self.bandwidth.update(self.done, stats, x, self.weights)

    def _correction_due(self) -> bool:
        every = max(1, self.n_steps // CALIBRATION_CHECKS)
        late = self.done >= self.n_steps // 4
        return self.calibrate is not None and late and self.done % every == 0

    def _entering(self, x: Tensor) -> Tensor:
        """Rows in training units as the encoder gets them."""
        return x - self.weights.b_dec if self.config.pre_encoder_bias else x

    def _resample(self, x: Tensor) -> None:
        dead = dead_features(self.watch.silent_rows, self.config.dead_after)
        if dead is None:
            return
        sae = training_units.in_units(self._weights(), self.sae_config, self.config).to(x.device)
        error = x - sae(self._entering(x))
        seed = self.config.seed * 1_000_003 + self.done
        resample(self.weights, x, error, dead, self.descent.moments(), seed)
        self.watch.silent_rows[dead] = 0

    # -- the loop

    def batches(self) -> Iterator[Tensor]:
        """The raw rows of the steps that are left. Refuses a source that ends too early."""
        c = self.config
        self.source.seek(self.done * c.batch)
        rows = self.source.batches(c.batch)
        for done in range(self.done, self.n_steps):
            raw = next(rows, None)
            if raw is None:
                wanted = self.n_steps * c.batch
                raise Refused(
                    f"the source ended after {done * c.batch:,} of {wanted:,} rows: "
                    "give more rows, or fewer tokens"
                )
            yield raw

    def __iter__(self) -> Iterator[Step]:
        if self.done == self.n_steps:
            raise Refused("this trainer has already run: make a new one")
        clock = time.perf_counter()
        for raw in self.batches():
            self.step(self.units(raw))
            if self.record_due():
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                yield self.record(seconds)
        self.finish()

    def record_due(self) -> bool:
        return self.done % self.log_every == 0 or self.done == self.n_steps

    def record(self, seconds: float) -> Step:
        """Means since the last record; the one place where the host waits for the device.

        seconds: since the last record. Refuses a loss that is no longer finite.
        """
        c, o = self.config, self.objective()
        if c.aux_coefficient or c.dead_decay:
            self.dead = dead_features(self.watch.silent_rows, c.dead_after)
        every = max(1, self.n_steps // self.log_every // EVALUATIONS) * self.log_every
        due = self.done % every == 0 or self.done == self.n_steps
        heldout = self.evaluate(self.heldout) if self.heldout is not None and due else None
        return self.watch.record(
            done=self.done,
            config=c,
            seconds=seconds,
            theta=self.weights.theta if c.has_theta else None,
            bandwidth=o.bandwidth,
            coefficient=o.coefficient,
            saturated=getattr(self.loop, "saturated", None),
            lr=c.lr * control.lr_factor(self.done - 1, c),
            heldout=heldout,
        )

    @torch.no_grad()
    def evaluate(self, rows: Tensor) -> tuple[float, float]:
        """FVE and L0 of the SAE so far on raw rows [n, d_in]."""
        sae = self.sae()
        metrics = Metrics(sae.d_in, sae.d_sae)
        for some in rows.split(EVALUATION_ROWS):
            x = some.cpu().float()
            code = encode_sparse(sae, x)
            metrics.update(x, decode_sparse(sae, code, x), code)
        result = metrics.result()
        return result["fve"], result["l0"]

    # -- the end

    @torch.no_grad()
    def finish(self) -> None:
        """Fits one last factor on the thresholds: L0 on unseen documents becomes the target.

        That L0 is looked for between the next rows of the source and the calibration rows, by
        control.expected_gap.
        """
        c = self.config
        w = self.weights = self._weights()
        if self.calibrate is None or w.theta is None or c.control not in ("shift", "k"):
            return
        rows = self._rows_after()
        calibrate = self._entering(self.units(self.calibrate))
        if not rows:
            w.theta.mul_(control.threshold_scale(calibrate, w, c.l0))
            return
        train = self._entering(self.units(torch.cat(rows)))
        train_l0 = control.active_per_row(train, w).mean()
        gap = control.expected_gap(control.active_per_row(calibrate, w), train_l0)
        w.theta.mul_(control.threshold_scale(train, w, c.l0 * float((-gap).exp())))

    def _rows_after(self) -> list[Tensor]:
        """Some batches that follow the run's last; none of an iterator that cannot go there."""
        try:
            self.source.seek(self.n_steps * self.config.batch)
        except Refused:
            return []
        batches = self.source.batches(self.config.batch)
        return [raw for raw, _ in zip(batches, range(TRAIN_L0_BATCHES), strict=False)]

    def _weights(self) -> Weights:
        """The working weights, with the threshold that BatchTopK has found so far."""
        w = self.weights
        if self.config.architecture in ("batchtopk", "matryoshka") and w.theta is None:
            return replace(w, theta=self._least.expand_as(w.b_enc).clone())
        return w

    @torch.no_grad()
    def sae(self) -> SAE:
        """The SAE so far, on the CPU and for raw activations, decoder rows at norm 1."""
        return training_units.to_sae(self._weights(), self.units, self.sae_config, self.config)

    # -- what it will take

    def memory(self) -> int:
        """Bytes that a run of this kind needs at most: see `memory_needed`."""
        return memory_needed(self.sae_config, self.config)

    def seconds_per_step(self) -> float:
        """A step's time, from three looks at the next batch. The source stays where it is."""
        raw = next(iter(self.batches()))
        self.source.seek(self.done * self.config.batch)
        x, times = self.units(raw), []
        for _ in range(3):
            began = time.perf_counter()
            _, stats = one_step(self.weights, x, self.objective(), self._buffers)
            stats.l0.item()  # wait for the device
            times.append(time.perf_counter() - began)
        return sorted(times)[1] * BESIDE_THE_STEP

    # -- checkpoints

    def _own(self) -> dict[str, Tensor]:
        """The tensors of this object that a resumed run needs, by attribute."""
        names = ("_mean", "_least", "dead")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def save(self, folder: Path | str) -> None:
        """Writes a checkpoint in place of the last one; the last stays until this one is whole."""
        groups = {
            "own": self._own() | {"centre": self.units.centre},
            "weights": dict(self.weights.items()),
            "descent": self.descent.state(),
            "loop": self.loop.state() if self.loop is not None else {},
            "bandwidth": self.bandwidth.state() if self.bandwidth is not None else {},
            "watch": self.watch.state(),
        }
        facts = {
            "done": self.done,
            "scale": self.units.scale,
            "sae": asdict(self.sae_config),
            "train": asdict(self.config),
            "source": self.source.state(),
        }
        checkpoint.write(Path(folder), groups, facts)

    def _resume(self, folder: Path) -> None:
        c = self.config
        groups, facts = checkpoint.read(folder, self.device)
        checkpoint.refuse_different(facts, asdict(self.sae_config), asdict(c))
        checkpoint.refuse_other_rows(facts["source"], self.source.state())
        own = groups["own"]
        self.units = Units(facts["scale"], own["centre"], c.token_norm)
        self._mean, self._least, self.dead = own["_mean"], own["_least"], own.get("dead")
        self.weights = Weights(**groups["weights"])
        self.descent = Descent(self.weights, c)
        self.descent.restore(groups["descent"])
        self.watch = Watch.restored(groups["watch"])
        self.loop = self.bandwidth = None
        if c.control in ("shift", "price"):
            loop = control.Shift if c.control == "shift" else control.Price
            self.loop = loop.restored(groups["loop"])
        if c.has_window:
            self.bandwidth = control.Bandwidth.restored(groups["bandwidth"], rule=c.bandwidth_rule)
        self.done = facts["done"]
        self.source.seek(self.done * c.batch)


def fit(
    source: Source | Tensor | Iterable[Tensor],
    sae: SAEConfig,
    train: TrainConfig,
    calibrate: Tensor | None = None,
    device: str = "cpu",
) -> SAE:
    """An SAE trained on activations, in one call; see Trainer."""
    trainer = Trainer(source, sae, train, calibrate, device=device)
    for _ in trainer:
        pass
    return trainer.sae()


def memory_needed(shape: SAEConfig, c: TrainConfig) -> int:
    """Bytes of weights, gradients, Adam's moments, one batch's pre-activations and its entries."""
    weights = 4 * 4 * shape.d_sae * (2 * shape.d_in + 4)
    dense = 4 if c.architecture in ("gated", "relu") else 3  # while more than a few entries count
    batch = 4 * c.batch * (dense * shape.d_sae + 6 * shape.d_in)
    return weights + batch
