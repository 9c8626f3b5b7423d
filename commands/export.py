"""`export`: an SAE's weights as the files of another program, or its features out of the store.

In: its name, a format and, for features, which. Out: a folder that appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.features_store import FeatureStore
    from data.records import Example
    from data.workspace import Workspace

WEIGHTS = ("saelens", "gemma_scope", "dictionary_learning", "gated")
TABLES = ("parquet", "csv", "jsonl")
FEATURES = (*TABLES, "neuronpedia", "html")
AT_ONCE = 64  # features whose examples are in memory together


@dataclass(frozen=True)
class Export:
    """Write an SAE, or what its feature store knows, for another program."""

    name: str  # of the SAE
    format: str = "saelens"  # its weights: saelens, gemma_scope (params.npz), dictionary_learning
    # (ae.pt), or gated: SAELens's layout, as a Gated SAE with the same features. Its features:
    # parquet, csv, jsonl (one file a table), neuronpedia (its import), html (one page a feature)
    out: Path | None = None  # the folder to write; it must not exist yet
    features: str | None = None  # of the feature formats: all, numbers and ranges, as 0:100,205
    workspace: Path = Path("workspace")


def run(args: Export) -> int:
    from data.errors import WorkspaceError
    from data.workspace import Workspace, publish

    workspace = Workspace.open(args.workspace)
    if args.format not in (*WEIGHTS, *FEATURES):
        known = ", ".join((*WEIGHTS, *FEATURES))
        raise WorkspaceError(f"format {args.format!r} is unknown: use one of {known}")
    if args.out is None:
        raise WorkspaceError("export needs a folder to write: give --out DIR")
    out = args.out.expanduser().resolve()
    if out.exists():
        raise WorkspaceError(f"{out} exists already: name a folder that does not, with --out")
    if args.format in WEIGHTS:
        if args.features is not None:
            raise WorkspaceError(
                f"--features chooses what goes into {', '.join(FEATURES)}; "
                f"{args.format} holds the weights of all: leave it out"
            )
        write = _weights(workspace, args)
    else:
        write = _features(workspace, args)
    try:
        with publish(out) as part:
            part.mkdir()
            write(part)
    except OSError as error:
        raise WorkspaceError(f"{out} cannot be written ({error.strerror or error})") from None
    names = sorted(path.name for path in out.iterdir())
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    print(f"wrote {out}: {', '.join(names[:8])}{more}")
    return 0


def _weights(workspace: Workspace, args: Export):
    """What writes the weights into a folder."""
    from sae import formats

    sae, config = formats.load(workspace.sae(args.name))
    about = config.get("metadata") or {}
    return lambda folder: formats.write(sae, folder, args.format, about)


def _features(workspace: Workspace, args: Export):
    """What writes the chosen features into a folder; everything that can be refused is, before."""
    from commands.feature_list import feature_list
    from data.errors import WorkspaceError
    from data.export_store import write_tables
    from data.features_store import FeatureStore
    from data.schema import open_root

    root = open_root()
    path = workspace.feature_store(args.name)
    store = FeatureStore(root, path, workspace.results(args.name))
    if args.features is None and args.format == "html":
        raise WorkspaceError(
            f"html is one page a feature, and {args.name} has {store.n_features:,}: "
            "say which with --features, as 0:100,205"
        )
    chosen = feature_list(args.features or "all", store.n_features)
    everything = len(chosen) == store.n_features
    if args.format in TABLES:
        features = None if everything else chosen
        return lambda folder: write_tables(root, path, folder, args.format, features)
    if args.format == "html":
        return lambda folder: _pages(folder, store, chosen)
    return lambda folder: _neuronpedia(folder, store, chosen)


def _pages(folder: Path, store: FeatureStore, chosen: Sequence[int]) -> None:
    from commands.progress import track
    from ui.reports.feature_page import feature_page

    meta, tokens = store.meta, store.vocabulary()
    digits = len(str(chosen[-1]))
    steps = enumerate(_examples(store, chosen), start=1)
    for _, (i, examples) in track(steps, "export", lambda step: (step[0], len(chosen))):
        page = feature_page(
            store.feature(i), store.logits(i), examples, tokens, meta,
            store.explanation(i), store.score(i),
        )  # fmt: skip
        (folder / f"feature-{i:0{digits}}.html").write_text(page, encoding="utf-8")


def _neuronpedia(folder: Path, store: FeatureStore, chosen: Sequence[int]) -> None:
    import json

    from commands.progress import track
    from data import neuronpedia
    from data.neuronpedia import FeaturePage

    source = neuronpedia.source_of(store.meta, store.vocabulary())
    where = neuronpedia.write_source(folder, source)
    starts = range(0, len(chosen), neuronpedia.AT_ONCE)
    steps = enumerate(starts, start=1)
    for _, start in track(steps, "export", lambda step: (step[0], len(starts))):
        pages = (
            FeaturePage(
                store.feature(i), store.logits(i), examples, store.explanation(i), store.bands(i)
            )
            for i, examples in _examples(store, chosen[start : start + neuronpedia.AT_ONCE])
        )
        neuronpedia.write_batch(where, start // neuronpedia.AT_ONCE, source, pages)
    about = json.dumps(store.meta, indent=1, ensure_ascii=False)
    (folder / "meta.json").write_text(about + "\n", encoding="utf-8")


def _examples(store: FeatureStore, chosen: Sequence[int]) -> Iterator[tuple[int, list[Example]]]:
    """(feature, all its examples in the store's order), read in blocks."""
    from data.features_store import BANDS, KINDS, MISSES
    from data.schema import USES

    parts = ("", *BANDS, *MISSES)
    for start in range(0, len(chosen), AT_ONCE):
        block = chosen[start : start + AT_ONCE]
        by_use = [store.examples_for(block, use) for use in USES]
        for i in block:
            found = [example for examples in by_use for example in examples[i]]
            found.sort(key=lambda e: (KINDS.index(e.kind), parts.index(e.part), e.rank))
            yield i, found
