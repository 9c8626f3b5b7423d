"""What a training run will take, said before it begins; refused where it cannot fit.

In:  shapes, recipes, a device. Out: a line of memory and time; Refused with what would fit.
"""

from __future__ import annotations

import os
from pathlib import Path

from sae.config import Refused, SAEConfig, TrainConfig
from sae.trainer import Trainer, memory_needed


def refuse_too_large(shape: SAEConfig, config: TrainConfig, device: str, n_saes: int = 1) -> None:
    """Raises Refused where weights, gradients, Adam's moments and a batch cannot fit."""
    free = free_memory(device)
    needed = memory_needed(shape, config) * n_saes
    if needed <= free:
        return
    per_feature = needed / shape.d_sae
    fits = int(free / per_feature)
    cure = (
        f"at most {fits:,} features fit"
        if n_saes == 1
        else (
            f"{int(free * n_saes / needed)} of {n_saes} such SAEs fit side by side: lower --at-once"
        )
    )
    raise Refused(
        f"--d-sae {shape.d_sae:,} needs about {needed / 1e9:.0f} GB"
        f"{f' for {n_saes} SAEs' if n_saes > 1 else ''} and {free / 1e9:.0f} are free: {cure}"
    )


def expected(trainers: list[Trainer]) -> str:
    """ "about 3 min and 0.4 GB for 1,000 steps on cpu", from a few timed steps."""
    first = trainers[0]
    steps = first.n_steps - first.done
    seconds = sum(trainer.seconds_per_step() for trainer in trainers) * steps
    memory = sum(trainer.memory() for trainer in trainers)
    return f"about {_duration(seconds)} and {_size(memory)} for {steps:,} steps on {first.device}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes > 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def free_memory(device: str) -> int:
    """Bytes that can be had without swapping; all of the memory where the system does not say."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
