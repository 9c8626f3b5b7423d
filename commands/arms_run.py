"""`arms run`: explains and scores the features of a planned study, arm by arm.

In:  a frozen plan, what ran of it before. Out: results.duckdb of each arm in the study's folder,
     and how many calls went unanswered. Replies are kept in the workspace's cache, so that a study
     goes on at no cost for what was answered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

from interp.judges.service import Service


@dataclass(frozen=True)
class Go:
    """Explain and score the features of a planned study; goes on where it was stopped."""

    study: str
    estimate: bool = False  # say what it would take, and ask nobody
    service: Annotated[Service, OmitArgPrefixes] = field(default_factory=Service)
    workspace: Path = Path("workspace")


def run(args: Go) -> int:
    from commands.arms import ASKING, refuse_changed, refuse_given
    from commands.harvest import code_version
    from data.arms import StudyFolder
    from data.schema import open_root
    from data.workspace import Workspace
    from interp import arms

    workspace, root = Workspace.open(args.workspace), open_root()
    folder = StudyFolder.of(workspace, args.study)
    text, sha = folder.plan()
    study = arms.of_text(text)
    refuse_given(args.service, ASKING, "is frozen in the plan")
    refuse_changed(workspace, root, study)
    for arm in study.arms:
        ran = folder.ran()
        if ran.get(arm.sae, {}).get("unanswered") == 0:
            print(f"{arm.sae}: answered already")
            continue
        bench = _bench(
            workspace, root, folder, arm.sae, study, _left(args.service, study, ran, arm)
        )
        print(f"{arm.sae} ({arm.group}), {len(arm.features):,} features")
        if bench.judge.is_language_model:
            rehearsal = _rehearsed(bench, arm.features)
            caller = bench.judge.caller
            print("\n".join(rehearsal.lines(caller.budget, caller.limits)))
        if args.estimate:
            continue
        unanswered = _work(bench, study, arm)
        folder.note(arm.sae, {
            "plan_sha256": sha, "unanswered": unanswered, "code": code_version(),
            "spent": _spent(bench.judge), "judge": bench.judge.name,
        })  # fmt: skip
        if unanswered:
            print(f"{arm.sae}: {unanswered:,} calls are without an answer: run it again")
    if not args.estimate:
        print(f"compare with: python run.py arms report {args.study}")
    return 0


def _left(service: Service, study: Any, ran: dict, arm: Any) -> Service:
    """The service as the plan asks it, with what other arms spent taken off the caps."""
    spent = [one["spent"] for name, one in ran.items() if name != arm.sae and one["spent"]]
    caps = {}
    for cap, names in (
        ("max_calls", ("calls",)), ("max_tokens", ("prompt", "reply", "thoughts")),
        ("max_money", ("money",)),
    ):  # fmt: skip
        most = getattr(service, cap)
        if most is not None:
            caps[cap] = max(0, most - sum(one.get(name) or 0 for one in spent for name in names))
    return replace(service, **study.asking, **caps)


@dataclass(frozen=True)
class _Bench:
    """One arm's store, judges and plan at hand."""

    root: Any
    store: Any
    judge: Any
    lookup: Any
    plan: Any
    folder: Path


def _bench(
    workspace: Any, root: Any, folder: Any, sae: str, study: Any, service: Service
) -> _Bench:
    """Replies are kept in the workspace's cache, calls in the study's folder."""
    from data.features_store import FeatureStore
    from interp.arms import plan_of
    from interp.judges.lexical import LexicalJudge
    from interp.judges.opened import open_judge

    service.check()
    store = FeatureStore(root, workspace.feature_store(sae))
    vocabulary = store.vocabulary()
    place = folder.run(sae)
    place.mkdir(parents=True, exist_ok=True)
    record = place / "calls.jsonl"
    judge = open_judge(study.judge, vocabulary, workspace.llm_cache, record, service)
    return _Bench(root, store, judge, LexicalJudge(vocabulary), plan_of(study), place)


def _rehearsed(bench: _Bench, features: tuple[int, ...]) -> Any:
    """What explaining and scoring will take beyond what is in the cache; in place of explanations
    to come, such of usual length."""
    from interp.autointerp import Run
    from interp.judges.rehearsal import Rehearsal

    rehearsal = Rehearsal(bench.judge)
    run = Run(bench.store, rehearsal, bench.lookup, bench.plan)
    groups = [group for block in run.explain(features) for group in block]
    for _ in run.score({group[0].explanation.feature: group[0].explanation for group in groups}):
        pass
    return rehearsal.estimate_of_all()


def _work(bench: _Bench, study: Any, arm: Any) -> int:
    """Explains and scores one arm and writes its results.duckdb; returns how many calls went
    unanswered: for a cap, or for a service that failed."""
    from commands.judging_rows import candidate_row
    from commands.progress import track
    from data.judged_store import tables
    from data.runs_store import write_results
    from interp.arms_left import unanswered
    from interp.autointerp import Run, rows_of

    run, n = Run(bench.store, bench.judge, bench.lookup, bench.plan), len(arm.features)
    groups: list = []
    judged: list = []

    def gathered(blocks, found):
        for block in blocks:
            found.extend(block)
            yield len(found)

    explaining = gathered(run.explain(arm.features), groups)
    for _ in track(explaining, "explaining", lambda done: (done, n)):
        pass
    said = {group[0].explanation.feature: group[0].explanation for group in groups}
    for _ in track(gathered(run.score(said), judged), "scoring", lambda done: (done, n)):
        pass
    candidates = [
        candidate_row(place, one) for group in groups if len(group) > 1
        for place, one in enumerate(group)
    ]  # fmt: skip
    meta = {
        "sae": arm.sae, "judge": bench.judge.name, "study": study.name, "plan": study.plan,
        "is_language_model": bench.judge.is_language_model, "store_content": arm.store_content,
    }  # fmt: skip
    path = bench.folder / "results.duckdb"
    write_results(path, meta, list(said.values()), [], tables(candidates, *rows_of(judged, True)))
    return unanswered(bench.store, bench.judge, bench.lookup, bench.plan, groups)


def _spent(judge: Any) -> dict | None:
    """Calls, tokens and money of the arm so far; None of the lexical baseline."""
    return asdict(judge.caller.budget.spent) if judge.is_language_model else None
