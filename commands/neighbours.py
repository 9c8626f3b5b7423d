"""`neighbours`: which features point the same way or fire together, and a map of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NeighboursArgs:
    """Find each feature's nearest others in a trained SAE, or across two, and draw a map."""

    name: str  # of the SAE
    other: str | None = None  # another SAE: its features are the neighbours, and the reverse
    tokens: float = 1e6  # tokens sampled to see which fire together; 0: directions alone
    keep: int = 32  # neighbours of each feature and kind
    seed: int = 0  # of the sample, and of umap
    map: str = "pca"  # pca, or umap where umap-learn is installed
    replace: bool = False  # find again what was found with the same arguments
    device: str = "auto"
    workspace: Path = Path("workspace")


ARGUMENTS = ("tokens", "keep", "seed")  # what the lists depend on, with the weights and the text


def run(args: NeighboursArgs) -> int:
    from data.workspace import Workspace

    _refuse(args)
    workspace = Workspace.open(args.workspace)
    names = [args.name] if args.other is None else [args.name, args.other]
    pair = _Pair(workspace, names, args)
    paths = [workspace.new_extra(name, "neighbours", pair.hash(i)) for i, name in enumerate(names)]
    if not args.replace and all(map(_readable, paths)):
        print(f"{paths[0].name} was made before; --replace makes it again")
    else:
        _write_lists(pair, paths)
    _write_map(args, workspace, pair)
    return 0


def _refuse(args: NeighboursArgs) -> None:
    """WorkbenchError for arguments that make no sense, before anything is loaded."""
    from data.errors import WorkbenchError
    from interp.feature_map import refuse_map

    if args.keep < 1:
        raise WorkbenchError(f"--keep {args.keep}: give 1 or more")
    if args.tokens and args.tokens < 1:
        raise WorkbenchError(f"--tokens {args.tokens:g}: give a number of tokens, or 0 for none")
    if args.other == args.name:
        raise WorkbenchError(f"--other {args.other} is the SAE itself: leave it out")
    refuse_map(args.map)


class _Pair:
    """One SAE, or two whose features are compared; with tokens, the language model of both."""

    def __init__(self, workspace, names: list[str], args: NeighboursArgs) -> None:
        from interp.engine import join
        from interp.neighbours import refuse_other_widths
        from sae import formats

        self.workspace, self.names, self.args = workspace, names, args
        folders = [workspace.sae(name) for name in names]
        self.lm, self.specs = None, []
        if args.tokens:
            first, self.lm, made = join(folders[0], args.device)
            records = [made]
        else:
            first, records = formats.load(folders[0])[0].float(), []
        self.saes = [first]
        for folder in folders[1:]:
            sae, config = formats.load(folder)
            self.saes.append(sae.float().to(first.W_enc.device))
            records.append((config.get("metadata") or {}).get("workbench") or {})
        refuse_other_widths(self.saes[0], self.saes[-1])
        if args.tokens:
            self.specs = _specs(self.names, records, self.saes, self.lm)
        self.sha256 = [_sha256(folder / "sae_weights.safetensors") for folder in folders]

    def made_from(self, i: int) -> dict:
        """What the lists of SAE i are determined by."""
        two = len(self.names) > 1
        return {
            "sae": self.names[i],
            "weights_sha256": self.sha256[i],
            "other": self.names[1 - i] if two else None,
            "other_weights_sha256": self.sha256[1 - i] if two else None,
            "lm_weights": self.lm.fingerprint if self.lm else None,
            "activations": [spec.key(self.lm) for spec in self.specs],
            "arguments": {name: getattr(self.args, name) for name in ARGUMENTS},
        }

    def hash(self, i: int) -> str:
        """16 hex digits of that."""
        import hashlib
        import json

        text = json.dumps(self.made_from(i), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _specs(names: list[str], records: list[dict], saes: list, lm) -> list:
    """The activations of each SAE's site, all on the first one's text and contexts.

    ModelError where the second reads another model.
    """
    from dataclasses import replace

    from commands.capture import spec_of
    from data.errors import ModelError
    from sae import formats

    specs = [spec_of(records[0])]
    for name, made, sae in zip(names[1:], records[1:], saes[1:], strict=True):
        if any(made.get(key) != records[0][key] for key in ("lm_weights", "dtype")):
            raise ModelError(
                f"{name} reads another model than {names[0]}, or does not record which: they "
                "cannot fire together; give --tokens 0 to compare directions alone"
            )
        formats.check_width(sae, lm.width(made["site"]), f"{made['site']} of {made['lm']}")
        specs.append(replace(specs[0], site=made["site"]))
    return specs


def _write_lists(pair: _Pair, paths: list[Path]) -> None:
    """Finds the lists of every kind, and writes a file for each SAE."""
    import time

    from data.neighbours_store import write_neighbours
    from interp.neighbours import Cosines, decoder, encoder

    began = time.monotonic()
    cosines = {}
    for kind, of in (("decoder", decoder), ("encoder", encoder)):
        cosines[kind] = Cosines(*map(of, pair.saes), keep=pair.args.keep)
        _finish(cosines[kind], kind)
    sides = range(len(paths))
    lists = [{kind: c.lists(reverse=bool(i)) for kind, c in cosines.items()} for i in sides]
    sample = {"tokens": 0, "pairs_tested": None}
    if pair.args.tokens:
        counting = _counted(pair, lists)
        sample = {"tokens": counting.n_tokens, "pairs_tested": counting.significance.tested}
        for i in sides:
            for columns in lists[i].values():
                columns |= counting.describe(columns["feature"], columns["other"], bool(i))
            lists[i] |= counting.lists(reverse=bool(i))
    for i, path in enumerate(paths):
        wall = {"wall_s": round(time.monotonic() - began, 2)}
        meta = {**pair.made_from(i), **sample, **wall, **_versions()}
        content = write_neighbours(path, meta, lists[i])
        print(f"wrote {path}  content {content[:16]}")


def _counted(pair: _Pair, lists: list[dict]):
    """The co-activation of the SAEs' features on the sampled tokens; it is asked of the pairs in
    `lists` too."""
    import numpy as np

    from commands.capture import capture_all
    from interp.coactivation import CoActivation
    from interp.sampled_codes import Encoding

    caches = capture_all(pair.workspace, pair.lm, pair.specs)
    encoding = Encoding(pair.saes, caches, int(pair.args.tokens), pair.args.seed)
    _finish(encoding, "sample")
    pairs = [
        np.stack([columns["feature"], columns["other"]][:: -1 if i else 1], axis=1)
        for i, of_kind in enumerate(lists)
        for columns in of_kind.values()
    ]
    counting = CoActivation(*encoding.codes, keep=pair.args.keep, asked=np.concatenate(pairs))
    _finish(counting, "together")
    return counting


def _write_map(args: NeighboursArgs, workspace, pair: _Pair) -> None:
    """The map of the named SAE alone; nothing to do where it was drawn before."""
    import hashlib
    import json

    from data.neighbours_store import write_map
    from interp.feature_map import feature_map
    from interp.neighbours import decoder

    seed = args.seed if args.map == "umap" else None
    made_from = {"sae": args.name, "weights_sha256": pair.sha256[0], "method": args.map}
    made_from["seed"] = seed
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    path = workspace.new_extra(args.name, "map", digest[:16])
    if not args.replace and _readable(path):
        return
    found = feature_map(decoder(pair.saes[0]), args.map, args.seed)
    meta = {**made_from, "explained": found.explained, **_versions()}
    content = write_map(path, meta, found.features, found.places)
    print(f"wrote {path}  content {content[:16]}")


def _readable(path: Path) -> bool:
    """Whether it is there and whole; one that is damaged, or of an older program, is made anew."""
    from data.errors import StoreError
    from data.schema import open_root

    root = open_root()
    try:
        with root.reading(path):
            return True
    except StoreError:
        return False
    finally:
        root.close()


def _finish(steps: Iterator, title: str) -> None:
    """Runs through steps of `done` and `total`, with a bar."""
    from commands.progress import track

    for _ in track(steps, title, lambda step: (step.done, step.total)):
        pass


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


def _versions() -> dict:
    """What else a result is traced by."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from commands.harvest import code_version

    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "duckdb", "umap-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # umap-learn is optional
            continue
    return {"code": code_version(), "versions": versions}
