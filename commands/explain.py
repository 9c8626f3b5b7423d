"""`explain`: a judge says what features stand for, from text of the `explain` split only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from interp.judges.service import Service


@dataclass(frozen=True)
class Explain:
    """Explain features of a harvested SAE."""

    name: str  # of the SAE
    features: str = "all"  # all, or numbers and ranges, as 0:100,205
    judge: str = "lexical"  # or people, gemini:MODEL, openai:MODEL@URL, hf:PATH, scripted:FILE
    run: str | None = None  # name of the auto-interp run (default: NAME-JUDGE)
    protocol: str = "activations"  # activations, marked, max_and_logits, contrastive
    candidates: int = 1  # explanations of each; the best on the calibrate split is taken
    top: int = 10  # strongest examples shown, one a document
    band: int = 2  # examples shown from each band of ranks
    silent: int = 5  # silent examples shown; near misses in `contrastive`
    width: int = 32  # tokens of an example
    estimate: bool = False  # say what it would take, and ask nobody
    json: bool = False
    service: Annotated[Service, OmitArgPrefixes] = field(default_factory=Service)
    workspace: Path = Path("workspace")


def run(args: Explain) -> int:
    from commands import judging
    from commands.feature_list import feature_list
    from commands.judging_rows import candidate_row
    from data.records import Explanation
    from interp.autointerp import Plan
    from interp.items import Mix, Shown

    plan = Plan(
        args.protocol, args.candidates,
        shown=Shown(args.top, args.band, args.silent, args.silent, args.width),
        mix=Mix(width=args.width),
    )  # fmt: skip
    desk = judging.open_desk(args.workspace, args.name, args.judge, args.run, args.service)
    features = feature_list(args.features, desk.store.n_features)
    if args.judge == "people":
        written = desk.written_by_people(features)
        said = [Explanation(f, "people", text, {}) for f, text in written.items()]
        return desk.keep_explanations(plan, said, [], args.json)
    if args.estimate or desk.judge.is_language_model:
        done = desk.tell_estimate(plan, lambda run: run.explain(features), args.json, args.estimate)
        if args.estimate:
            return done
    run, found = desk.run(plan), []

    def blocks():
        for block in run.explain(features):
            found.extend(block)
            yield len(found)

    desk.follow(blocks(), "explaining", len(features))
    chosen = [group[0].explanation for group in found]
    rows = [
        candidate_row(place, one) for group in found if len(group) > 1
        for place, one in enumerate(group)
    ]  # fmt: skip
    return desk.keep_explanations(plan, chosen, rows, args.json)
