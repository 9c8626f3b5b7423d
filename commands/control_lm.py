"""`control-lm`: a language model that learned nothing, to train SAEs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ControlLM:
    """Write a language model with its weights drawn again, to train SAEs on what learned nothing.

    It is written to workspace/lms/NAME, which `train --lm` takes.
    """

    name: str
    lm: str = "demo"  # demo, a model folder, or a hub id
    way: str = "moments"  # each tensor's mean and deviation, or init: as the model's class does
    keep_embeddings: bool = False  # leave those of tokens as they are
    dtype: str = "float32"  # of the written weights
    seed: int = 0
    device: str = "auto"
    workspace: Path = Path("workspace")


def run(args: ControlLM) -> int:
    from data import control_lm
    from data import lm as language_models
    from data.errors import WorkspaceError
    from data.workspace import Workspace

    workspace = Workspace.open(args.workspace)
    folder = workspace.root / "lms" / workspace.run(args.name).name  # checked as all names are
    if folder.exists():
        raise WorkspaceError(f"{folder} exists already; choose another name")
    lm = language_models.load(args.lm, args.device, args.dtype)
    drawn = control_lm.redraw(lm, args.way, args.seed, args.keep_embeddings)
    note = {
        "lm": args.lm,
        "lm_weights": lm.fingerprint,
        "way": args.way,
        "keep_embeddings": args.keep_embeddings,
        "seed": args.seed,
        "drawn": drawn,
    }
    fingerprint = control_lm.write(lm, folder, note)
    print(f"wrote {folder}: {drawn:,} weights drawn by {args.way}, fingerprint {fingerprint[:16]}")
    print(f"train on it with: python run.py train NAME --lm {folder}")
    return 0
