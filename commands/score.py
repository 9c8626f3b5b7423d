"""`score`: how well a run's explanations predict activations on the `score` split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from interp.judges.service import Service


@dataclass(frozen=True)
class ScoreArgs:
    """Score the explanations of a run."""

    name: str  # of the SAE
    features: str = "all"  # all, or numbers and ranges, as 0:100,205; others keep their scores
    run: str | None = None  # the auto-interp run (default: NAME-JUDGE)
    method: str = "simulate"  # simulate, estimate, detect, fuzz, intruder; several with commas
    judge: str = "lexical"  # or gemini:MODEL, openai:MODEL@URL, hf:PATH, scripted:FILE
    baselines: str = "lexical,shuffled,empty"  # judged on the same windows; "" for none
    mode: str = "held-out"  # or paper: on the very windows that were explained
    top: int = 10  # windows simulated: strongest, from each band of ranks, and silent ones
    band: int = 5
    silent: int = 10
    each: int = 10  # windows of either sort to detect and to fuzz
    rounds: int = 8  # of the intruder task
    width: int = 32  # tokens of a window
    seed: int = 0
    estimate: bool = False  # say what it would take, and ask nobody
    json: bool = False
    service: Annotated[Service, OmitArgPrefixes] = field(default_factory=Service)
    workspace: Path = Path("workspace")


def run(args: ScoreArgs) -> int:
    from commands import judging
    from commands.feature_list import feature_list
    from interp.autointerp import Plan
    from interp.items import Mix

    methods = tuple(name.strip() for name in args.method.split(",") if name.strip())
    others = tuple(name.strip() for name in args.baselines.split(",") if name.strip())
    desk = judging.open_desk(
        args.workspace, args.name, args.judge, args.run, args.service, phase="scoring"
    )  # fmt: skip
    others = others if desk.judge is not None and desk.judge.is_language_model else ()
    plan = Plan(
        methods=methods, arms=("own", *others), mode=args.mode, each=args.each, rounds=args.rounds,
        mix=Mix(args.top, args.band, args.silent, args.width), seed=args.seed,
    )  # fmt: skip
    features = feature_list(args.features, desk.store.n_features)
    said = (desk.rehearsed if args.estimate else desk.explained)(features)
    if args.estimate or desk.judge.is_language_model:
        done = desk.tell_estimate(plan, lambda run: run.score(said), args.json, args.estimate)
        if args.estimate:
            return done
    run, judged = desk.run(plan), []

    def blocks():
        for block in run.score(said):
            judged.extend(block)
            yield len(judged)

    desk.follow(blocks(), "scoring", len(said))
    return desk.keep_scores(plan, judged, args.json)
