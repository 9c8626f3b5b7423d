"""`probe`: what can be read off SAEs' features of a labelled text set, beside raw activations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Probe:
    """Probe trained SAEs on labelled documents: features against raw activations and a PCA."""

    names: tuple[str, ...]  # of the SAEs; of several layers of one model, to compare them
    labels: str = ""  # a .jsonl or .csv file, or a folder with one subfolder a label
    text_field: str = "text"  # the column of the documents
    label_field: str = "label"  # the column of their labels
    k: tuple[int, ...] = (1, 5, 20)  # features chosen, and components of the PCA
    pool: str = "mean"  # a document's vector from its tokens: mean, max or last
    seed: int = 0  # of the split and of the bootstrap
    json: bool = False  # print one JSON object
    device: str = "auto"
    workspace: Path = Path("workspace")


def run(args: Probe) -> int:
    import json

    import numpy as np
    import torch

    from commands.progress import track
    from data.errors import TextError
    from data.labels import labelled
    from data.text import min_hash
    from data.workspace import Workspace
    from interp.pooling import Pooling
    from interp.probing import split

    _refuse(args)
    workspace = Workspace.open(args.workspace)
    folders = {name: workspace.sae(name) for name in args.names}
    documents, labels = labelled(args.labels, args.text_field, args.label_field)
    hashes = np.array([min_hash(document.text) for document in documents], dtype=np.uint64)
    split(hashes, labels, args.seed)  # refuses hopeless labels before any long work
    lm, readers, rule = _readers(folders, args.device)
    pooling = Pooling(lm, readers, documents, rule, args.pool)
    for _ in track(pooling, "documents", lambda begun: (begun, len(documents))):
        pass
    # The same documents for every SAE, so that their numbers compare.
    read = torch.stack([p.tokens > 0 for p in pooling.pooled.values()]).all(0).numpy()
    if not read.any():
        raise TextError(f"no token of {args.labels!r} is left after the masks; use longer texts")
    kept = [label for label, use in zip(labels, read, strict=True) if use]
    result = _probed(args, pooling, read, kept, split(hashes[read], kept, args.seed))
    if args.json:
        print(json.dumps(result))
    else:
        _print_table(result)
    return 0


def _probed(args: Probe, pooling, read, labels: list[str], parts) -> dict:
    """Every representation of every SAE; `labels` and `parts` are of the documents `read` marks."""
    import torch

    from data.errors import TextError
    from interp.probing import majority

    kinds = sorted(set(labels))
    y = torch.tensor([kinds.index(label) for label in labels])
    smallest = min(min(reader.sae.d_in, reader.sae.d_sae) for reader in pooling.readers)
    largest = min(len(parts.fit), smallest)
    if max(args.k, default=1) > largest:
        raise TextError(f"--k {max(args.k)}: give at most {largest} with these documents and SAEs")
    rows = []
    for reader in pooling.readers:
        pooled = pooling.pooled[reader.name]
        x = {"raw": pooled.raw[read], "features": pooled.features[read]}
        rows += _rows(args, reader, x, int(pooled.on.sum()), y, parts)
    return {
        "labels": args.labels,
        "pool": args.pool,
        "seed": args.seed,
        "classes": {kind: labels.count(kind) for kind in kinds},
        "n_train": len(parts.train),
        "n_test": len(parts.test),
        "n_left_out": int((~read).sum()),
        "majority": asdict(majority(y, parts, args.seed)),
        "rows": rows,
    }


def _refuse(args: Probe) -> None:
    """TextError for arguments that make no sense, before anything is loaded."""
    from data.errors import TextError
    from interp.pooling import POOLS

    if not args.names:
        raise TextError("no SAE is named: run.py probe NAME... --labels FILE")
    if len(set(args.names)) < len(args.names):
        raise TextError("an SAE is named twice: name each once")
    if not args.labels:
        raise TextError("--labels is missing: give a .jsonl or .csv file, or a folder of folders")
    if args.pool not in POOLS:
        raise TextError(f"--pool {args.pool!r} is unknown: use {', '.join(POOLS)}")
    if any(k < 1 for k in args.k) or len(set(args.k)) < len(args.k):
        raise TextError(f"--k {' '.join(map(str, args.k))}: give different numbers, 1 or more")


def _readers(folders: dict[str, Path], device: str) -> tuple:
    """The language model, a Reader of each SAE by layer, and the rule of their contexts.

    ModelError where the SAEs belong to different models or were trained on other contexts.
    """
    from data.errors import ModelError
    from data.tokens import ContextRule, MaskRule
    from interp.engine import join
    from interp.pooling import Reader
    from sae import formats

    (first, folder), *others = folders.items()
    sae, lm, made_of_first = join(folder, device)
    found = [(first, sae, made_of_first)]
    for name, folder in others:
        sae, config = formats.load(folder)
        made = (config.get("metadata") or {}).get("workbench") or {}
        if any(made.get(key) != made_of_first[key] for key in ("lm_weights", "dtype", "rule")):
            raise ModelError(
                f"{name} reads another model than {first}, or other contexts of it: probe them "
                "apart"
            )
        formats.check_width(sae, lm.width(made["site"]), f"{made['site']} of {made['lm']}")
        found.append((name, sae.float().to(lm.device), made))
    readers = []
    for name, sae, made in found:
        mask = MaskRule(**{**made["mask"], "special": tuple(made["mask"]["special"])})
        readers.append(Reader(name, sae, made["site"], mask))
    readers.sort(key=lambda reader: (_layer(reader.site) or 0, reader.name))
    return lm, readers, ContextRule(**made_of_first["rule"])


def _layer(site: str) -> int | None:
    """The layer a site names; None if it names none."""
    import re

    found = re.search(r"\.(\d+)(\D|$)", site)
    return int(found[1]) if found else None


def _rows(args: Probe, reader, x: dict, on: int, y, parts) -> list[dict]:
    """What every representation of one SAE gives."""
    from interp.probing import as_they_are, best_features, choose, principal_components, probe

    about = {"name": reader.name, "site": reader.site, "layer": _layer(reader.site)}
    about |= {"d_sae": reader.sae.d_sae, "features_ever_on": on}
    kinds = [("raw", None, x["raw"], as_they_are), ("features", None, x["features"], as_they_are)]
    for k in args.k:
        kinds.append(("raw_pca", k, x["raw"], principal_components(k)))
        kinds.append(("k_features", k, x["features"], best_features(k)))
    rows = []
    for representation, k, vectors, prepare in kinds:
        row = about | {"representation": representation, "k": k}
        row |= asdict(probe(vectors, y, parts, prepare, args.seed))
        if representation == "k_features":
            row["chosen"] = choose(vectors[parts.train], y[parts.train], k).tolist()
        rows.append(row)
    return rows


def _print_table(result: dict) -> None:
    classes = ", ".join(f"{kind} {n:,}" for kind, n in result["classes"].items())
    print(f"classes: {classes}")
    print(
        f"documents: {result['n_train']:,} to train on, {result['n_test']:,} to test on, "
        f"{result['n_left_out']:,} left out; a document is the {result['pool']} of its tokens"
    )
    widest = max(len(row["name"]) for row in result["rows"])
    head = f"{'name':<{widest}}  {'representation':<15}{'inputs':>7}"
    print(f"{head}  {'accuracy':<21}{'balanced':<21}auc")
    baseline = {"name": "-", "representation": "majority", "k": None, **result["majority"]}
    seen = set()
    for row in [baseline, *result["rows"]]:
        if row["name"] not in seen and row is not baseline:
            share = row["features_ever_on"] / row["d_sae"]
            print(
                f"{row['name']} at {row['site']}: {row['features_ever_on']:,} of {row['d_sae']:,} "
                f"features ({share:.1%}) ever on"
            )
            seen.add(row["name"])
        kind = row["representation"] + (f" {row['k']}" if row["k"] else "")
        cells = [f"{_shown(row[key]):<21}" for key in ("accuracy", "balanced_accuracy", "auc")]
        print(f"{row['name']:<{widest}}  {kind:<15}{row['inputs']:>7}  {''.join(cells)}".rstrip())


def _shown(estimate: dict | None) -> str:
    if estimate is None:
        return "undefined"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
