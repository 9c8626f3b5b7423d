"""`harvest`: every feature's statistics and examples into one DuckDB file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HarvestArgs:
    """Fill the feature store of a trained SAE, in one pass over the corpus."""

    name: str  # of the SAE
    tokens: float | None = None  # tokens to read (default: the corpus it was trained on)
    top: int = 20  # strongest examples per feature, one per document
    active: int = 20  # uniformly sampled examples per feature
    random: int = 10  # stretches placed at random per feature
    device: str = "auto"
    seed: int = 0
    workspace: Path = Path("workspace")


def run(args: HarvestArgs) -> int:
    import time
    from dataclasses import replace

    from commands.capture import capture, spec_of
    from commands.progress import track
    from data.features_store import write_features
    from data.workspace import Workspace
    from interp.engine import join
    from interp.harvest import Harvest, HarvestConfig

    workspace = Workspace.open(args.workspace)
    folder = workspace.sae(args.name)
    options = HarvestConfig(args.top, args.active, args.random, args.seed)
    sae, lm, training = join(folder, args.device)
    spec = spec_of(training)
    if args.tokens is not None:
        spec = replace(spec, tokens=int(args.tokens))
    cache = capture(workspace, lm, spec)
    began = time.monotonic()
    harvest = Harvest(sae, cache, lm, options)
    for _ in track(
        harvest,
        "harvest",
        # Cutting windows takes about as long as encoding.
        lambda s: (s.done / s.total + (s.phase == "examples"), 2.0),
        lambda s: f"{s.phase} {s.done:,} of {s.total:,}",
    ):
        pass
    meta = _meta(args, harvest, training, folder)
    meta["wall_s"] = round(time.monotonic() - began, 2)
    content = write_features(folder / "features.duckdb", meta, **harvest.tables())
    print(f"wrote {folder / 'features.duckdb'}  content {content[:16]}")
    return 0


def _meta(args: HarvestArgs, harvest, training: dict, folder: Path) -> dict:
    """Provenance: everything needed to make the store again."""
    import hashlib
    import platform
    from importlib.metadata import version

    import numpy as np
    import torch
    import transformers

    cache, stats = harvest.cache, harvest.stats
    l0 = np.trim_zeros(stats.l0, "b")
    weights = (folder / "sae_weights.safetensors").read_bytes()
    return {
        "sae": args.name,
        "model": training["lm"],
        "lm_weights": training["lm_weights"],
        "site": training["site"],
        "text": cache.manifest["spec"]["text"],
        "context": cache.manifest["spec"]["rule"]["context"],
        "rule": cache.manifest["spec"]["rule"],
        "masks": cache.manifest["mask"],
        "high_norm": cache.manifest["high_norm"],
        "tokens": stats.n_rows,
        "documents": len(cache.documents),
        "d_in": cache.d_in,
        "d_sae": stats.d_sae,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "seed": args.seed,
        "examples": {"top": args.top, "active": args.active, "random": args.random},
        "hist_edges": stats.hist_edges.tolist(),
        "pre_edges": stats.pre_edges.tolist(),
        "pre_tokens": stats.n_pre,
        "l0_counts": l0.tolist(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "duckdb": version("duckdb"),
            "numpy": np.__version__,
        },
    }
