"""`explain`: a judge says what features stand for, from text of the `explain` split only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 256  # features whose examples are read together


@dataclass(frozen=True)
class Explain:
    """Explain features of a harvested SAE."""

    name: str  # of the SAE
    features: str = "all"  # all, a number, or A:B
    judge: str = "lexical"  # lexical: the token-lookup baseline
    run: str | None = None  # name of the auto-interp run (default: NAME-JUDGE)
    workspace: Path = Path("workspace")


def run(args: Explain) -> int:
    import json

    from commands.judges import feature_range, judge_named
    from commands.progress import track
    from data.errors import WorkspaceError
    from data.features_store import FeatureStore
    from data.runs_store import read_results, write_results
    from data.schema import open_root
    from data.workspace import Workspace, publish
    from interp.explain import explain

    workspace = Workspace.open(args.workspace)
    root = open_root()
    store = FeatureStore(root, workspace.feature_store(args.name))
    judge = judge_named(args.judge, store)
    features = feature_range(args.features, store.n_features)
    name = args.run or f"{args.name}-{judge.name}"
    folder = workspace.run(name)
    content = store.meta["content_hash"]
    earlier, scores = {}, {}  # of the same run, on the same harvest: they stay
    if (folder / "results.duckdb").exists():
        old, earlier, scores = read_results(root, folder / "results.duckdb")
        if (old["sae"], old["judge"]) != (args.name, judge.name):
            raise WorkspaceError(
                f"run {name!r} explains {old['sae']} by {old['judge']}: choose another --run"
            )
        if old["store_content"] != content:
            print(f"run {name} explained an older harvest: it is made anew")
            earlier, scores = {}, {}
    explanations = []

    def blocks():
        for start in range(0, len(features), AT_ONCE):
            block = features[start : start + AT_ONCE]
            explanations.extend(explain(judge, store.examples_for(block, "explain"), block))
            yield len(explanations)

    for _ in track(blocks(), "explaining", lambda done: (done, len(features))):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "sae": args.name,
        "judge": judge.name,
        "is_language_model": judge.is_language_model,
        "store_content": content,
    }
    new = {e.feature: e for e in explanations}
    merged = [e for _, e in sorted((earlier | new).items())]
    kept = [score for feature, score in sorted(scores.items()) if feature not in new]
    write_results(folder / "results.duckdb", meta, merged, kept)
    with publish(folder / "run.json") as part:
        part.write_text(json.dumps(meta, indent=1) + "\n")
    good = sum(e.status == "ok" for e in explanations)
    print(f"{good:,} of {len(explanations):,} features explained by {judge.name}; run {name}")
    return 0
