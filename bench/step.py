"""A training step: time, and its ratio to the encoder matmul alone.

    python -m bench.step [--arch A] [--d-in 256] [--d-sae 2048] [--batch 2048] [--l0 32] [--json]

Synthetic sparse activations; the whole step of the trainer (gradients, projection, Adam, control)
after 200 warm-up steps, in turn with the encoder matmul, so that both see the same machine. The
dense autograd step is the readable reference that the sparse one is tested against.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json
import statistics
import time

import torch

from run import keep_freed_memory
from sae.config import ARCHITECTURES, shape_for
from sae.presets import preset
from sae.reference import differentiate
from sae.trainer import Trainer


def planted(n: int, d_in: int, d_true: int, active: int, seed: int = 0) -> torch.Tensor:
    """Rows that are sums of `active` of `d_true` random directions [n, d_in]."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_true, d_in, generator=generator))
    rows = torch.zeros(n, d_in)
    for _ in range(active):
        which = torch.randint(0, d_true, (n,), generator=generator)
        rows += directions[which] * torch.rand(n, 1, generator=generator)
    return rows


def milliseconds(work) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("d-in", 256), ("d-sae", 2048), ("batch", 2048), ("l0", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="jumprelu")
    parser.add_argument("--steps", type=int, default=60, help="steps timed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    rows = planted(32 * args.batch, args.d_in, args.d_sae, args.l0)
    config = preset(
        "small_budget", args.arch, tokens=1000 * args.batch, batch=args.batch, l0=float(args.l0)
    )
    trainer = Trainer(rows, shape_for(args.d_in, args.d_sae, config), config)
    batches = trainer.batches()
    for _ in range(200):
        trainer.step(trainer.units(next(batches)))
    weights = trainer.weights
    z = torch.empty(args.batch, args.d_sae)
    times: dict[str, list[float]] = {"matmul": [], "step": [], "dense": []}
    for step in range(200, 200 + args.steps):
        x = trainer.units(next(batches))
        times["matmul"].append(milliseconds(lambda x=x: torch.mm(x, weights.W_enc.T, out=z)))
        times["step"].append(milliseconds(lambda x=x: trainer.step(x)))
        if step % 10 == 0:
            objective = trainer.objective()
            times["dense"].append(
                milliseconds(lambda x=x, o=objective: differentiate(weights, x, o))
            )
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["step_over_matmul"] = medians["step"] / medians["matmul"]
    medians["dense_over_step"] = medians["dense"] / medians["step"]
    for name, value in medians.items():
        print(f"{name:<18}{value:>9.2f}{'' if 'over' in name else ' ms'}")
    if args.json:
        print(json.dumps({"bench": "step", **vars(args), **medians}))


if __name__ == "__main__":
    main()
