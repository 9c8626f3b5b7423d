"""`control`: an SAE that nobody trained, as sparse as one that somebody did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROWS = 65_536  # that thresholds are set on, and at most so many held-out ones to check them on
NEAR = 0.02  # by which L0 on held-out rows may miss


@dataclass(frozen=True)
class Control:
    """Make a randomly initialised JumpReLU SAE that is as sparse as another one."""

    name: str  # of the control; it becomes workspace/saes/NAME
    like: str | None = None  # the SAE it is to be like: model, site, size, L0
    directions: str = "uniform"  # uniform on the sphere, covariance, or rotated
    thresholds: str = "matched"  # feature by feature as often as the other, or shared by all
    seed: int = 0
    device: str = "auto"
    workspace: Path = Path("workspace")
    replace: bool = False  # replace an SAE of that name


def run(args: Control) -> int:
    import hashlib

    import torch

    from commands.capture import capture, spec_of
    from data.errors import WorkspaceError
    from data.workspace import Workspace
    from interp.control_sae import control_sae, mean_l0
    from interp.engine import join
    from sae import formats

    workspace = Workspace.open(args.workspace)
    workspace.refuse_taken(args.name, args.replace)
    if args.like is None:
        raise WorkspaceError("name the SAE that the control is to be like: --like SAE")
    if args.name == args.like:
        raise WorkspaceError(f"{args.name} cannot be its own control: choose another name")
    folder = workspace.sae(args.like)
    like, lm, made = join(folder, args.device)
    cache = capture(workspace, lm, spec_of(made))
    rows = torch.from_numpy(_rows(cache, "train")).to(lm.device)
    heldout = torch.from_numpy(_rows(cache, "heldout")).to(lm.device)
    sae = control_sae(like, rows, args.directions, args.thresholds, args.seed)
    l0 = {"wanted": mean_l0(like, rows), "rows": mean_l0(sae, rows)}
    if len(heldout):
        l0 |= {"wanted_heldout": mean_l0(like, heldout), "heldout": mean_l0(sae, heldout)}
    record = {
        "like": args.like,
        "like_weights": hashlib.sha256((folder / formats.WEIGHTS).read_bytes()).hexdigest(),
        "directions": args.directions,
        "thresholds": args.thresholds,
        "seed": args.seed,
        "activations": cache.folder.name,
        "n_rows": len(rows),
        "n_heldout": len(heldout),
        "l0": l0,
    }
    metadata = dict(workspace.config(args.like)["metadata"])
    metadata.pop("imported", None)
    own = {key: value for key, value in made.items() if key not in ("training", "start_from")}
    metadata["workbench"] = own | {"control": record}
    with workspace.new_sae(args.name, args.replace) as part:
        formats.save(sae.cpu(), part, metadata)
    _tell(args, l0)
    return 0


def _rows(cache, split: str):
    """At most ROWS rows of that split, evenly from all of them."""
    import numpy as np

    rows = np.sort(cache.rows_of(cache.contexts_where(split)))
    return np.array(cache.x[rows[:: max(1, -(-len(rows) // ROWS))]])


def _tell(args: Control, l0: dict) -> None:
    print(
        f"{args.name}: {args.directions} directions, {args.thresholds} thresholds; "
        f"L0 {l0['rows']:.2f}, {args.like} has {l0['wanted']:.2f} on the same rows"
    )
    if "heldout" not in l0:
        print("no document of this text is held out: its L0 elsewhere was not measured")
        return
    miss = l0["heldout"] / l0["wanted_heldout"] - 1 if l0["wanted_heldout"] else 0.0
    print(f"on held-out rows {l0['heldout']:.2f}, {args.like} {l0['wanted_heldout']:.2f} "
          f"({miss:+.1%})")  # fmt: skip
    if abs(miss) > NEAR:
        print(
            f"this is more than {NEAR:.0%} off: held-out documents differ from those that the "
            "thresholds were set on; a longer text comes nearer"
        )
