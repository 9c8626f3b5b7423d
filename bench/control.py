"""The L0 that was asked for: when it holds, how near it ends, and what holding it costs.

    python -m bench.control [--data demo|stories] [--tokens 1e6 1e7 1e8]
        [--arms jumprelu gated relu] [--d-sae 512] [--l0 16] [--seeds 0] [--workspace PATH] [--json]
    python -m bench.control --cost [--steps 1000] [--seeds 0 1 2] ...

Trains on cached activations of the train split with preset small_budget. The first form reads, on
the way, the mean L0 of the SAE so far on held-out rows that nothing was fitted to.
The second trains a JumpReLU also with a fixed lambda, from the same start and with everything else
alike, at three values around the one that lands on the wanted L0, and compares FVE at equal L0
(linear in log L0 between them). The stories model is that of bench.quality.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench.quality.arms import BATCH, DATA
from bench.quality.plan import at
from bench.quality.rows import Rows, load
from commands.capture import anywhere
from data.workspace import Workspace
from run import keep_freed_memory
from sae.config import TrainConfig, shape_for
from sae.metrics import Metrics
from sae.models import SAE
from sae.presets import preset
from sae.sparse import decode_sparse, encode_sparse
from sae.trainer import Trainer

HELD_OUT = 16_384  # rows read on the way
SPREAD = (0.85, 1.0, 1.18)  # of lambda, around the value found
SEARCH = 5  # runs that look for lambda, at most


def held_out(rows: Rows) -> torch.Tensor:
    """Raw rows of held-out documents, from all over [n, d_in]."""
    where = rows.cache.rows_of(rows.heldout)[:HELD_OUT]
    return torch.from_numpy(rows.cache.x[where])


@torch.no_grad()
def measured(sae: SAE, x: torch.Tensor) -> tuple[float, float]:
    """(L0, FVE) on raw rows."""
    metrics = Metrics(sae.d_in, sae.d_sae)
    for part in x.split(4096):
        code = encode_sparse(sae, part)
        metrics.update(part, decode_sparse(sae, code, part), code)
    found = metrics.result()
    return found["l0"], found["fve"]


def run(rows: Rows, config: TrainConfig, d_sae: int, x: torch.Tensor) -> dict:
    """One whole run: held-out L0 on the way, L0 and FVE at its end, ms a step."""
    shape = shape_for(rows.train.shape[1], d_sae, config)
    trainer = Trainer(rows.train, shape, config, calibrate=rows.fit, heldout=x)
    began = time.perf_counter()
    seen = [
        (step.step / config.n_steps, step.heldout_l0)
        for step in trainer
        if step.heldout_l0 is not None
    ]
    ms = 1000 * (time.perf_counter() - began) / config.n_steps
    l0, fve = measured(trainer.sae(), x)
    return {"seen": seen, "l0": l0, "fve": fve, "ms": ms}


def holding(args: argparse.Namespace, rows: Rows, x: torch.Tensor) -> list[dict]:
    """When the target holds: one line a run."""
    lines = []
    for tokens in args.tokens:
        for arm in args.arms:
            for seed in args.seeds:
                steps = max(1, round(tokens / BATCH))
                config = preset("small_budget", arm, tokens=steps * BATCH, batch=BATCH,
                                l0=args.l0, seed=seed)  # fmt: skip
                found = run(rows, config, args.d_sae, x)
                late = [abs(l0 / args.l0 - 1) for share, l0 in found["seen"] if share >= 0.5]
                line = {"tokens": tokens, "arm": arm, "seed": seed, **found,
                        "off": found["l0"] / args.l0 - 1, "off_late": max(late)}  # fmt: skip
                lines.append(line)
                way = " ".join(f"{l0:.1f}" for _, l0 in _some(found["seen"]))
                print(f"{tokens:>12,.0f} {arm:<10}{seed:>2}  {way}  end {line['l0']:.2f} "
                      f"({line['off']:+.1%})  FVE {line['fve']:.4f}  {line['ms']:.1f} ms/step",
                      flush=True)  # fmt: skip
    return lines


def _some(seen: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The readings nearest to each tenth of the run."""
    return [min(seen, key=lambda s: abs(s[0] - part / 10)) for part in range(1, 11)]


def cost(args: argparse.Namespace, rows: Rows, x: torch.Tensor) -> list[dict]:
    """FVE at the wanted L0, controlled and with a fixed lambda: one line a seed."""
    lines = []
    common = {"tokens": args.steps * BATCH, "batch": BATCH}
    for seed in args.seeds:
        controlled = preset("small_budget", "jumprelu", l0=args.l0, seed=seed, **common)
        ours = run(rows, controlled, args.d_sae, x)
        points: list[tuple[float, float]] = []
        price, known = args.coefficient, []
        for _ in range(SEARCH):
            found = run(rows, _fixed(controlled, price), args.d_sae, x)
            known.append((math.log(price), math.log(found["l0"])))
            points.append((found["l0"], found["fve"]))
            if abs(known[-1][1] - math.log(args.l0)) < 0.03:
                break
            price = math.exp(_next(known, math.log(args.l0)))
        for factor in SPREAD[::2]:
            found = run(rows, _fixed(controlled, price * factor), args.d_sae, x)
            points.append((found["l0"], found["fve"]))
        fixed, own = at(points, ours["l0"]), ours["fve"]
        line = {"seed": seed, "l0": ours["l0"], "fve": own, "fixed_fve": fixed, "lambda": price,
                "cost": None if fixed is None else fixed - own, "points": points}  # fmt: skip
        lines.append(line)
        print(f"seed {seed}: L0 {ours['l0']:.2f}  controlled {own:.4f}  fixed lambda {price:.4g} "
              f"{fixed if fixed is None else round(fixed, 4)}  cost "
              f"{'unknown' if fixed is None else f'{100 * (fixed - own):+.2f} points'}",
              flush=True)  # fmt: skip
    return lines


def _fixed(controlled: TrainConfig, price: float) -> TrainConfig:
    """The same run with a fixed lambda on the L0 penalty instead of the loop."""
    return replace(controlled, control="fixed", penalty="l0", coefficient=price)


def _next(known: list[tuple[float, float]], aim: float) -> float:
    """log lambda to try next: along the line of the last two, or a guess from one."""
    (x, y) = known[-1]
    slope = -0.7
    if len(known) > 1 and known[-2][0] != x:
        slope = min(-0.1, (y - known[-2][1]) / (x - known[-2][0]))
    return x + max(-1.5, min(1.5, (aim - y) / slope))


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bench.control", description=__doc__, formatter_class=form)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--data", choices=["demo", "stories"], default="demo")
    parser.add_argument("--stories-lm", default=os.environ.get("QUALITY_STORIES_LM"))
    parser.add_argument("--stories-text", default=os.environ.get("QUALITY_STORIES_TEXT"))
    parser.add_argument("--tokens", nargs="+", type=float, default=[1e6])
    parser.add_argument("--arms", nargs="+", default=["jumprelu", "gated", "relu"])
    parser.add_argument("--d-sae", type=int, default=512)
    parser.add_argument("--l0", type=float, default=16.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cost", action="store_true", help="against a fixed lambda")
    parser.add_argument("--steps", type=int, default=1000, help="of each run of --cost")
    parser.add_argument("--coefficient", type=float, default=1e-3, help="where --cost begins")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    lm, text = "demo", "python:stdlib"
    if args.data == "stories":
        if not (args.stories_lm and args.stories_text):
            raise SystemExit("give --stories-lm and --stories-text")
        lm, text = anywhere(args.stories_lm), anywhere(args.stories_text)
    rows = load(DATA[args.data], Workspace.open(args.workspace), lm, text)
    lines = (cost if args.cost else holding)(args, rows, held_out(rows))
    if args.json:
        print(json.dumps({"bench": "control", "data": args.data, "lines": lines}))


if __name__ == "__main__":
    main()
