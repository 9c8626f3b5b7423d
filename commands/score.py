"""`score`: how well a run's explanations predict activations on the `score` split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 256


@dataclass(frozen=True)
class ScoreArgs:
    """Score the explanations of a run."""

    name: str  # of the SAE
    run: str | None = None  # the auto-interp run (default: NAME-JUDGE)
    method: str = "simulate"  # simulate: Pearson's r of predicted and real activations
    judge: str = "lexical"
    seed: int = 0
    workspace: Path = Path("workspace")


def run(args: ScoreArgs) -> int:
    import numpy as np

    from commands.judges import judge_named
    from commands.progress import track
    from data.errors import WorkbenchError
    from data.features_store import FeatureStore
    from data.runs_store import read_results, write_results
    from data.schema import open_root
    from data.workspace import Workspace
    from interp.simulate import simulate

    if args.method != "simulate":
        raise WorkbenchError(f"no method {args.method!r}: there is simulate")
    workspace = Workspace.open(args.workspace)
    root = open_root()
    store = FeatureStore(root, workspace.feature_store(args.name))
    judge = judge_named(args.judge, store)
    name = args.run or f"{args.name}-{judge.name}"
    results = workspace.run(name) / "results.duckdb"
    if not results.exists():
        raise WorkbenchError(
            f"no run {name!r}: make it with: python run.py explain {args.name} --judge {args.judge}"
        )
    meta, explanations, _ = read_results(root, results)
    if meta["store_content"] != store.meta["content_hash"]:
        raise WorkbenchError(
            f"run {name!r} explains an older harvest of {args.name}: explain it again"
        )
    scores, features = [], sorted(explanations)

    def blocks():
        for start in range(0, len(features), AT_ONCE):
            block = features[start : start + AT_ONCE]
            chosen = {feature: explanations[feature] for feature in block}
            examples = store.examples_for(block, "score")
            scores.extend(simulate(judge, chosen, examples, args.seed))
            yield len(scores)

    for _ in track(blocks(), "scoring", lambda done: (done, len(features))):
        pass
    write_results(results, meta, [explanations[f] for f in features], scores)
    values = np.array([s.value for s in scores if s.status == "ok"])
    missing = len(scores) - len(values)
    median = f"median r {np.median(values):.3f}" if len(values) else "no score"
    print(f"{judge.name}: {median} over {len(values):,} features ({missing:,} not scored)")
    return 0
