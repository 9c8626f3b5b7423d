"""What both peer drivers share: the job, our batches in our order, our starting weights, the clock.

In: a job, a JSON file that bench/quality writes. Out: the rows a library is fed, and result files:
weights.safetensors (raw weights as the library holds them, and the centre) and facts.json. Runs in
the peers' own environments, so of this project it imports only what needs torch and safetensors.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from run import keep_freed_memory
from sae.config import SAEConfig
from sae.losses import Weights
from sae.presets import preset
from sae.sources import TensorSource
from sae.start import START_ROWS, starting_bandwidth, starting_weights
from sae.units import Units, measure

OTHER_SEED = 1_000  # added to the seed: batches a library draws for its estimate of the scale


@dataclass(frozen=True)
class Job:
    """One training run of a peer."""

    rows: str  # .npy of raw training rows [n, d_in]
    out: str  # folder for the results
    d_sae: int
    batch: int
    steps: int
    seed: int
    lr: float | None  # None: the library's own
    l0: float  # wanted; the starting weights are made for it
    setting: float  # of the knob that decides L0: the library's coefficient or its target
    recipe: str  # a word that the driver knows


class Feed:
    """Endless batches, the same in the same order as our trainer sees; keeps the clock.

    raw: rows as they are, for a library that brings them to its own scale. `before` batches, drawn
    for that, come from another order, so that training begins where ours begins.
    """

    def __init__(self, job: Job, raw: bool, before: int = 0) -> None:
        rows = torch.from_numpy(np.load(job.rows, mmap_mode="c"))
        self._batches = TensorSource(rows, job.seed).batches(job.batch)
        self._others = TensorSource(rows, job.seed + OTHER_SEED).batches(job.batch)
        self._before, self.inside, self.began = before, 0.0, 0.0
        source = TensorSource(rows, job.seed).batches(job.batch)
        n_first = min(job.steps, -(-START_ROWS // job.batch))
        first = torch.cat([next(source) for _ in range(n_first)])
        self.config = preset("small_budget", "jumprelu", l0=job.l0, seed=job.seed)
        self.units = measure(first, self.config)
        if raw:
            self.units = Units(1.0, torch.zeros(rows.shape[1]), "none")
        self._first, self.d_in = self.units(first), rows.shape[1]

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Tensor:
        began = time.perf_counter()
        if self._before > 0:
            self._before -= 1
            return next(self._others)
        if not self.began:
            self.began, self.inside = began, 0.0
        x = self.units(next(self._batches))
        self.inside += time.perf_counter() - began
        return x

    def start(self, job: Job) -> tuple[Weights, float]:
        """Our weights and our bandwidth at step 0, in the units of these rows."""
        shape = SAEConfig(self.d_in, job.d_sae)
        w = starting_weights(self._first, shape, self.config)
        return w, float(starting_bandwidth(self._first, w, job.l0, each=False))


def read_job() -> Job:
    """The job whose file the command line names; sets the process up as bench/quality does."""
    keep_freed_memory()
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.manual_seed(job.seed)  # neither library applies its own
    torch.set_num_threads(1)
    return job


def write(job: Job, feed: Feed, weights: dict[str, Tensor], facts: dict) -> None:
    """weights: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec, threshold, for rows as fed.

    Milliseconds a step leave out the feeding, from the first training batch to now.
    """
    seconds = time.perf_counter() - feed.began - feed.inside
    out = Path(job.out)
    tensors = {name: value.detach().float().contiguous() for name, value in weights.items()}
    save_file(tensors | {"centre": feed.units.centre}, out / "weights.safetensors")
    facts = facts | {
        "scale": feed.units.scale,
        "torch": torch.__version__,
        "ms_per_step": 1000 * seconds / job.steps,
    }
    (out / "facts.json").write_text(json.dumps(facts))
