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
    quantile: int = 8  # examples of each of four bands of ranks among a feature's fires
    active: int = 20  # uniformly sampled fires per feature
    near_miss: int = 10  # just under the threshold, or silent on a token of the top examples
    random: int = 20  # uniformly sampled silent tokens per feature
    shards: int | None = None  # parts after which --resume can go on (default: 2M tokens each)
    block: int = 16_384  # features at once: memory grows with it
    resume: bool = False  # go on with a harvest that was interrupted
    device: str = "auto"
    seed: int = 0
    workspace: Path = Path("workspace")


SHARD_TOKENS = 2_000_000


def run(args: HarvestArgs) -> int:
    import time
    from dataclasses import replace

    from commands.capture import capture, spec_of
    from commands.progress import track
    from data.errors import WorkspaceError
    from data.features_store import write_features
    from data.workspace import Workspace
    from interp.engine import join
    from interp.harvest import Harvest, HarvestConfig, same_harvest

    workspace = Workspace.open(args.workspace)
    folder = workspace.sae(args.name)
    options = {name: getattr(args, name) for name in (*KINDS, "seed", "block")}
    HarvestConfig(**options, shards=1 if args.shards is None else args.shards)  # refused early
    sae, lm, training = join(folder, args.device)
    spec = spec_of(training)
    if args.tokens is not None:
        spec = replace(spec, tokens=int(args.tokens))
    cache = capture(workspace, lm, spec)
    shards = args.shards or -(-cache.n_rows // SHARD_TOKENS)
    documents = len(cache.documents)
    print(f"harvest: {cache.n_rows:,} tokens of {documents:,} documents")
    config = HarvestConfig(**options, shards=shards)
    began = time.monotonic()
    with workspace.unfinished_harvest(args.name, keep=args.resume) as scratch:
        made_from = {**_made_from(folder, cache), **vars(config), "d_sae": sae.d_sae}
        if not same_harvest(scratch, made_from):
            raise WorkspaceError(
                f"the interrupted harvest of {args.name} was of other settings or activations: "
                "give the same again, or leave --resume out to start anew"
            )
        harvest = Harvest(sae, cache, lm, config, scratch)
        for _ in track(
            harvest,
            "harvest",
            # Cutting examples takes about a quarter of the time of encoding.
            lambda s: (s.done / s.total * (0.8 if s.phase == "encode" else 0.2)
                       + 0.8 * (s.phase == "examples"), 1.0),
            lambda s: f"{s.phase} {s.done:,} of {s.total:,}",
        ):  # fmt: skip
            pass
        meta = _meta(args, harvest, training, folder)
        meta["wall_s"] = round(time.monotonic() - began, 2)
        content = write_features(folder / "features.duckdb", meta, harvest.tables())
    print(f"wrote {folder / 'features.duckdb'}  content {content[:16]}")
    return 0


KINDS = ("top", "quantile", "active", "near_miss", "random")


def _made_from(folder: Path, cache) -> dict:
    import hashlib

    weights = (folder / "sae_weights.safetensors").read_bytes()
    return {
        "activations": cache.folder.name,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "code": code_version(),
    }


def code_version() -> str:
    """SHA-256 over the program's own source, so that a number can be traced to what made it."""
    import hashlib

    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for room in ("sae", "data", "interp"):
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _meta(args: HarvestArgs, harvest, training: dict, folder: Path) -> dict:
    """Provenance: everything needed to make the store again."""
    import hashlib
    import platform
    from importlib.metadata import version

    import numpy as np
    import torch
    import transformers

    from interp.stats import Histogram, pre_edges

    cache, corpus = harvest.cache, harvest.corpus
    vocabulary = harvest.lm.tokenizer.backend_tokenizer.to_str()
    return {
        "sae": args.name,
        "model": training["lm"],
        "lm_weights": training["lm_weights"],
        "dtype": training["dtype"],
        "site": training["site"],
        "text": cache.manifest["spec"]["text"],
        "text_field": cache.manifest["spec"]["text_field"],
        "context": cache.manifest["spec"]["rule"]["context"],
        "rule": cache.manifest["spec"]["rule"],
        "masks": cache.manifest["mask"],
        "high_norm": cache.manifest["high_norm"],
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "tokens": cache.n_rows,
        "documents": len(cache.documents),
        "d_in": cache.d_in,
        "d_sae": harvest.sae.d_sae,
        **_made_from(folder, cache),
        "seed": args.seed,
        "examples": {kind: getattr(args, kind) for kind in KINDS},
        "hist_edges": Histogram(corpus.scale).edges.tolist(),
        "pre_edges": pre_edges().tolist(),
        "pre_tokens": int(harvest.facts["n_pre"]),
        "position_edges": corpus.edges.tolist(),
        "position_tokens": harvest.facts["position_rows"].tolist(),
        "outlier_norm": corpus.outlier_norm,
        "l0_counts": np.bincount(harvest.l0).tolist(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "duckdb": version("duckdb"),
            "numpy": np.__version__,
        },
    }
