"""How noisy theta's gradient is: kernels, bandwidth rules, and an estimate kept over steps.

    python -m bench.estimator [--d-in 64] [--d-sae 512] [--batch 1024] [--l0 16] [--json]

Trains on planted features, stops, and looks at the gradient of theta on 200 further batches with
the weights held still: per feature the deviation over batches beside the mean. An exponential mean
of independent estimates should have (1 - beta) / (1 + beta) of their variance; what it costs is
lag, so the same setting is also trained to its end.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json

import torch

from bench.step import planted
from run import keep_freed_memory
from sae.config import shape_for
from sae.presets import preset
from sae.step import step
from sae.trainer import Trainer

BATCHES = 200
SETTINGS = {
    "rectangle": {},
    "triangular": {"kernel": "triangular"},
    "epanechnikov": {"kernel": "epanechnikov"},
    "gaussian": {"kernel": "gaussian"},
    "logistic": {"kernel": "logistic"},
    "a bandwidth each": {"bandwidth_rule": "per_feature"},
    "silverman": {"bandwidth_rule": "silverman"},
    "kept, beta .5": {"kde_beta": 0.5},
    "kept, beta .9": {"kde_beta": 0.9},
    "kept, beta .98": {"kde_beta": 0.98},
}


def measure(rows: torch.Tensor, args: argparse.Namespace, changes: dict) -> dict[str, float]:
    """Median over features of |mean| / sd of theta's gradient as Adam gets it, its variance
    relative to the single batch's, and the run's last FVE on its training rows."""
    size = {"batch": args.batch, "tokens": args.steps * args.batch}
    config = preset("small_budget", l0=float(args.l0), **size, **changes)
    trainer = Trainer(rows, shape_for(args.d_in, args.d_sae, config), config)
    *_, last = trainer
    batches = trainer.source.batches(args.batch)
    objective, running, single, kept = trainer.objective(), None, [], []
    for _ in range(BATCHES):
        gradients, _ = step(
            trainer.weights, trainer.units(next(batches)), objective, trainer._buffers
        )
        single.append(gradients.theta)
        running = gradients.theta if running is None else running
        running = torch.lerp(gradients.theta, running, config.kde_beta)
        kept.append(running)
    single, kept = torch.stack(single), torch.stack(kept[BATCHES // 4 :])
    alive = single.var(0) > 0
    ratio = kept.var(0)[alive] / single.var(0)[alive]
    snr = kept.mean(0)[alive].abs() / kept.std(0)[alive]
    return {
        "snr": float(snr.median()),
        "variance": float(ratio.median()),
        "expected": (1 - config.kde_beta) / (1 + config.kde_beta),
        "fve": last.fve,
        "dead": last.dead,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("d-in", 64), ("d-sae", 512), ("batch", 1024), ("l0", 16), ("steps", 600)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    rows = planted(64 * args.batch, args.d_in, args.d_sae, args.l0)
    print(f"{'':<18}{'snr':>8}{'variance':>10}{'expected':>10}{'fve':>8}{'dead':>6}")
    results = {}
    for name, changes in SETTINGS.items():
        r = results[name] = measure(rows, args, changes)
        print(
            f"{name:<18}{r['snr']:>8.3f}{r['variance']:>10.3f}{r['expected']:>10.3f}"
            f"{r['fve']:>8.4f}{r['dead']:>6}"
        )
    if args.json:
        print(json.dumps({"bench": "estimator", **vars(args), "results": results}))


if __name__ == "__main__":
    main()
