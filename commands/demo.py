"""`demo`: the whole flow on the embedded language model and this installation's Python source.

In:  nothing but this repository. Out: a trained, evaluated, harvested and scored SAE, and the app.
Finished steps are used again; a step is made again when its settings changed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PER_DOCUMENT = 16  # contexts of one file at most: tables would crowd out the rest


@dataclass(frozen=True)
class Demo:
    """Train an SAE on the embedded language model, fill its store, score it, open the app."""

    no_app: bool = False  # end after scoring
    replace: bool = False  # train again where an SAE of that name has other settings
    name: str = "demo"  # of the SAE
    d_sae: int = 2048
    l0: float = 32.0
    corpus_tokens: float = 1e6  # tokens of standard-library source to read
    tokens: float = 2e6  # activations to train on: the corpus about twice
    device: str = "auto"
    seed: int = 0
    port: int = 8501
    workspace: Path = Path("workspace")


def run(args: Demo) -> int:
    from commands import app, evaluate, explain, harvest, score, train
    from data.workspace import Workspace

    began = time.monotonic()
    workspace = Workspace.open(args.workspace)
    common = {"workspace": args.workspace, "name": args.name}
    training = train.Train(
        **common,
        d_sae=args.d_sae,
        l0=args.l0,
        tokens=args.tokens,
        corpus_tokens=args.corpus_tokens,
        per_document=PER_DOCUMENT,
        device=args.device,
        seed=args.seed,
        replace=args.replace,
    )
    app.refuse_port(args.port)
    if not _trained_so(workspace, training):
        _step("1/4  training", lambda: train.run(training))
    folder = workspace.sae(args.name)
    if not (folder / "metrics.json").exists():
        _step(
            "2/4  evaluating on held-out documents",
            lambda: evaluate.run(evaluate.Evaluate(**common, device=args.device)),
        )
    if not (folder / "features.duckdb").exists():
        _step(
            "3/4  harvesting features",
            lambda: harvest.run(harvest.HarvestArgs(**common, device=args.device)),
        )
    if not _scored(workspace, args.name):
        _step(
            "4/4  explaining with the lexical baseline",
            lambda: explain.run(explain.Explain(**common)),
        )
        _step("     scoring it on text it never saw", lambda: score.run(score.ScoreArgs(**common)))
    print(f"\nready after {time.monotonic() - began:.0f} s")
    if args.no_app or not sys.stdout.isatty():
        print(f"open the app with: .venv/bin/python run.py app --workspace {args.workspace}")
        return 0
    return app.run(app.App(workspace=args.workspace, port=args.port))


def _step(title: str, work: Callable[[], int]) -> None:
    print(f"\n{title}", flush=True)
    work()


def _trained_so(workspace, training) -> bool:
    """Whether the SAE is there, made with these settings on the model as it is now."""
    if training.name not in workspace.saes:
        return False
    from data.lm import DEMO, folder_fingerprint

    config = workspace.config(training.name)
    made = (config.get("metadata") or {}).get("workbench") or {}
    options = made.get("training") or {}
    same = (
        config["d_sae"] == training.d_sae
        and (made.get("lm"), made.get("site"), made.get("text"))
        == (training.lm, training.site, training.text)
        and options.get("preset") == training.preset
        and made.get("lm_weights") == folder_fingerprint(DEMO)
        and made.get("rule", {}).get("per_document") == training.per_document
        and options.get("l0") == training.l0
        and options.get("seed") == training.seed
        and options.get("tokens") == int(training.tokens)
        and made.get("corpus_tokens") == int(training.corpus_tokens)
    )
    if same:
        print(f"{training.name} is trained already; its finished steps are used again")
    return same


def _scored(workspace, name: str) -> bool:
    """Whether the newest run belongs to the store as it is now and holds scores."""
    from data.features_store import FeatureStore
    from data.runs_store import read_results
    from data.schema import open_root

    results = workspace.results(name)
    if results is None:
        return False
    root = open_root()
    meta, _, scores = read_results(root, results)
    store = FeatureStore(root, workspace.feature_store(name))
    return bool(scores) and meta["store_content"] == store.meta["content_hash"]
