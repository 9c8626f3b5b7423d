"""`lm train`: make the embedded language model from this installation's Python source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LMTrain:
    """Train the small Python language model of the demo, or go on where it stopped.

    Stopped at any moment it resumes from its last checkpoint; a larger --tokens prolongs a run
    whose rate has not begun to fall.
    """

    out: Path = Path("data/demo")  # where the finished model goes
    workspace: Path = Path("workspace")  # corpus and checkpoints live in its folder lm/
    tokens: float = 30e6  # training budget in tokens
    compile: bool = False  # use torch.compile (needs a C++ compiler)
    device: str = "auto"  # auto, cpu or cuda
    seed: int = 0


def run(args: LMTrain) -> int:
    from data.lm import pick_device
    from data.lm_training import LMTrainConfig, train_lm

    config = LMTrainConfig(tokens=args.tokens, compile=args.compile, seed=args.seed)
    work = args.workspace / "lm"
    print(f"{config.steps:,} steps; reading and tokenising the corpus into {work} ...")
    for step in train_lm(config, work, args.out, pick_device(args.device)):
        left = (config.tokens - step.tokens) / max(step.tokens_per_s, 1e-9) / 60
        bpb = f"  held-out sample {step.bpb:.3f} bits/byte" if step.bpb is not None else ""
        print(
            f"step {step.step:>6,}  {step.tokens / 1e6:7.2f}M tokens  loss {step.loss:.3f}  "
            f"rate {step.rate:.2f}  {step.tokens_per_s:,.0f} tokens/s  {left:.0f} min left{bpb}",
            flush=True,
        )
    print(f"wrote {args.out}")
    return 0
