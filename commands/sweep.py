"""`sweep`: a grid of SAEs on one pass of the language model, trained side by side.

In:  lists of sites, architectures, target L0s, coefficients and seeds. Out: one finished SAE per
cell of the grid, named after it; cells that are finished are left alone, unfinished ones go on.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from commands.train import (
    STOPPED,
    config_of,
    metadata,
    refuse_long_context,
    spec_for,
    told,
)
from commands.train import Train as OneSAE


@dataclass(frozen=True)
class SweepArgs:
    """Train a grid of SAEs; the same command again goes on where it was stopped."""

    name: str  # the SAEs are called NAME-SITE-ARCH-l0_L0-seed_SEED
    sites: tuple[str, ...] = ("resid_post.2",)
    archs: tuple[str, ...] = ("jumprelu",)
    l0s: tuple[float, ...] = ()  # target L0s
    coefficients: tuple[float, ...] = ()  # lambdas, for presets that keep one
    seeds: tuple[int, ...] = (0,)
    at_once: int = 8  # SAEs in memory side by side
    lm: str = "demo"
    text: str = "python:stdlib"
    text_field: str = "text"
    d_sae: int = 2048
    lr: float | None = None
    batch: int | None = None
    tokens: float = 2e6
    corpus_tokens: float | None = None
    preset: str = "small_budget"
    set: tuple[str, ...] = ()  # FIELD=VALUE ...: any other field of sae/config.py's TrainConfig
    context: int = 256
    pack: bool = False
    chat: bool = False
    skip_first: int = 0
    per_document: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    workspace: Path = Path("workspace")


def cells(args: SweepArgs) -> list[OneSAE]:
    """The grid, as what `train` would be asked for each SAE."""
    shared = {
        name: getattr(args, name)
        for name in (
            "lm", "text", "text_field", "d_sae", "lr", "batch", "tokens", "corpus_tokens", "preset",
            "set", "context", "pack", "chat", "skip_first", "per_document", "device", "dtype",
            "workspace",
        )
    }  # fmt: skip
    grid = itertools.product(
        args.sites, args.archs, args.l0s or (None,), args.coefficients or (None,), args.seeds
    )
    return [
        OneSAE(
            name=_name(args.name, site, arch, l0, coefficient, seed),
            site=site,
            arch=arch,
            l0=l0,
            coefficient=coefficient,
            seed=seed,
            **shared,
        )
        for site, arch, l0, coefficient, seed in grid
    ]


def _name(
    prefix: str, site: str, arch: str, l0: float | None, coefficient: float | None, seed: int
) -> str:
    parts = [prefix, "".join(c if c.isalnum() or c in "._" else "_" for c in site), arch]
    if l0 is not None:
        parts.append(f"l0_{l0:g}")
    if coefficient is not None:
        parts.append(f"lambda_{coefficient:g}")
    return "-".join([*parts, f"seed_{seed}"])


def run(args: SweepArgs) -> int:
    from commands import running
    from commands.capture import capture_all
    from commands.estimate import refuse_too_large
    from data import lm as language_models
    from data.workspace import Workspace
    from sae.config import Refused, shape_for

    if args.at_once < 1:
        raise Refused(f"--at-once {args.at_once}: give at least 1")
    workspace = Workspace.open(args.workspace)
    wanted = cells(args)
    configs = {cell.name: config_of(cell) for cell in wanted}  # refuse all before any work
    todo = [cell for cell in wanted if cell.name not in workspace.saes]
    print(f"{len(wanted)} SAEs, {len(wanted) - len(todo)} of them finished")
    if not todo:
        return 0
    lm = language_models.load(args.lm, args.device, args.dtype)
    refuse_long_context(args.context, lm)
    for cell in todo:
        shape = shape_for(lm.width(cell.site), cell.d_sae, configs[cell.name])
        refuse_too_large(shape, configs[cell.name], lm.device, min(args.at_once, len(todo)))
    sites = list(dict.fromkeys(cell.site for cell in todo))
    caches = capture_all(workspace, lm, [spec_for(args, site) for site in sites])
    for site, cache in zip(sites, caches, strict=True):
        mine = [cell for cell in todo if cell.site == site]
        for start in range(0, len(mine), args.at_once):
            some = mine[start : start + args.at_once]
            try:
                _side_by_side(some, configs, workspace, lm, cache, args.seeds[0])
            except running.Stopped:
                print("stopped: the same command goes on from here")
                return STOPPED
    return 0


def _side_by_side(
    some: list[OneSAE], configs: dict, workspace, lm, cache, stream_seed: int
) -> None:
    """Trains SAEs of one site on one stream and publishes each.

    The stream's order is that of the sweep's first seed, whatever each SAE's own is.
    """
    import shutil
    from contextlib import ExitStack

    from commands import running
    from commands.estimate import expected
    from commands.progress import track
    from commands.rows import training_rows
    from sae import formats
    from sae.config import shape_for
    from sae.sweep import Sweep
    from sae.trainer import Trainer

    rows = training_rows(cache, stream_seed, configs[some[0].name].batch)
    with ExitStack() as stack:
        folders = [stack.enter_context(workspace.new_sae(cell.name)) for cell in some]
        unfinished = [workspace.unfinished(cell.name) for cell in some]
        trainers = []
        for cell, place in zip(some, unfinished, strict=True):
            config = configs[cell.name]
            shape = shape_for(cache.d_in, cell.d_sae, config)
            trainers.append(
                Trainer(
                    rows.source,
                    shape,
                    config,
                    rows.calibrate,
                    rows.heldout,
                    lm.device,
                    resume=running.checkpoint_in(place),
                )  # fmt: skip
            )
        print(f"{len(some)} SAEs of {some[0].site}: {expected(trainers)}")
        runs = [running.Run(t, place) for t, place in zip(trainers, unfinished, strict=True)]
        n_steps = trainers[0].n_steps
        steps = track(
            running.follow(Sweep(trainers), runs),
            some[0].site,
            lambda step: (step[1].step, n_steps),
            lambda step: f"{some[step[0]].name}  {told(step[1])}",
        )
        for _ in steps:
            pass
        for cell, trainer, folder, place in zip(some, trainers, folders, unfinished, strict=True):
            saved = metadata(cell, cell.site, lm, cache, configs[cell.name])
            formats.save(trainer.sae(), folder, saved)
            shutil.copy(place / running.LOG, folder / running.LOG)
    for place in unfinished:
        running.discard(place)
