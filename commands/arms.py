"""`arms new` and `arms report`: the plan of a study over several SAEs, and what came of it.

The plan (whose features, which judge and protocols) is drawn and frozen before anything is asked;
`arms run` (commands/arms_run.py) explains and scores each arm by it; the report compares them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

from interp.judges.service import Service

ASKING = ("temperature", "top_p", "model_seed", "thinking", "reply_tokens", "together")


@dataclass(frozen=True)
class New:
    """Plan a study over several SAEs, and freeze the plan."""

    study: str  # its name
    arms: tuple[str, ...] = ()  # SAE or SAE=GROUP ...; the group is its architecture by default
    n: int = 100  # features of each
    least_fires: int = 50  # features that fire less often in the corpus are not drawn
    strata: int = 1  # groups of equally many features by frequency, to draw equally from
    judge: str = "lexical"  # or gemini:MODEL, openai:MODEL@URL, hf:PATH, scripted:FILE
    protocol: str = "activations"  # activations, marked, max_and_logits, contrastive
    candidates: int = 1  # explanations of each; the best on the calibrate split is taken
    method: str = "simulate"  # simulate, estimate, detect, fuzz, intruder; several with commas
    baselines: str = "lexical,shuffled,empty"  # judged on the same windows; "" for none
    mode: str = "held-out"  # or paper: on the very windows that were explained
    each: int = 10  # windows of either sort to detect and to fuzz
    rounds: int = 8  # of the intruder task
    width: int = 32  # tokens of a window
    seed: int = 0
    service: Annotated[Service, OmitArgPrefixes] = field(default_factory=Service)
    workspace: Path = Path("workspace")


@dataclass(frozen=True)
class Report:
    """Compare the arms of a study: figures, means, intervals, differences."""

    study: str
    json: bool = False  # print the report's JSON
    workspace: Path = Path("workspace")


def run(args: New | Report) -> int:
    return plan(args) if isinstance(args, New) else report(args)


# ---------------------------------------------------------------- new


def plan(args: New) -> int:
    from data.arms import StudyFolder
    from data.schema import open_root
    from data.workspace import Workspace
    from interp import arms
    from interp.autointerp import Plan
    from interp.items import Mix, Shown

    args.service.check()
    speed = tuple(f.name for f in fields(Service) if f.name not in ASKING)
    refuse_given(args.service, speed, "is for arms run: the plan says what is asked, not how fast")
    workspace, root = Workspace.open(args.workspace), open_root()
    folder = StudyFolder.of(workspace, args.study)
    methods = tuple(name.strip() for name in args.method.split(",") if name.strip())
    others = tuple(name.strip() for name in args.baselines.split(",") if name.strip())
    _refuse_unknown(args.judge, methods)
    if args.judge == "lexical":  # it is the baseline, and reads nobody's words
        others = ()
    asked = Plan(
        args.protocol, args.candidates, methods, ("own", *others), args.mode,
        Shown(width=args.width), Mix(width=args.width), args.each, args.rounds, args.seed,
    )  # fmt: skip
    found = [_candidate(workspace, root, given) for given in args.arms]
    drawn = arms.arms_of(found, args.n, args.least_fires, args.strata, args.seed)
    asking = {name: getattr(args.service, name) for name in ASKING}
    study = arms.Study(
        args.study, drawn, args.judge, asked.as_json(), asking, args.seed, args.n,
        args.least_fires, args.strata,
    )  # fmt: skip
    sha = folder.freeze(arms.as_text(study))
    for arm in drawn:
        match = f", the very numbers of {arm.matched_to}" if arm.matched_to else ""
        print(f"{arm.sae} ({arm.group}): {len(arm.features):,} of {arm.eligible:,} features{match}")
    print(f"frozen: {folder.path / 'plan.json'}  sha256 {sha}")
    print(f"go on with: python run.py arms run {args.study}")
    return 0


def _refuse_unknown(judge: str, methods: tuple[str, ...]) -> None:
    """A plan cannot be changed: what is wrong with it is told before it is frozen."""
    from data.errors import WorkbenchError
    from interp.judges.named import KINDS

    if judge != "lexical" and judge.partition(":")[0] not in KINDS:
        known = ", ".join(f"{kind}:..." for kind in KINDS)
        raise WorkbenchError(f"no judge {judge!r} for a study: choose lexical, {known}")
    if not methods:
        raise WorkbenchError("no method to score by: give --method simulate")


def _candidate(workspace: Any, root: Any, given: str) -> Any:
    """An SAE of the command line, as SAE or SAE=GROUP."""
    from data.features_store import FeatureStore
    from interp.arms import Candidates

    name, _, group = given.partition("=")
    store = FeatureStore(root, workspace.feature_store(name))
    meta = store.meta
    config = workspace.config(name)
    made = (config.get("metadata") or {}).get("workbench") or {}
    control = made.get("control") or {}
    same = control.get("like") if control.get("thresholds") == "matched" else None
    trained = (made.get("training") or {}).get("architecture")
    usual = f"random {config['architecture']}" if control else trained or config["architecture"]
    fires = (store.densities()[1] * meta["tokens"]).round().astype("int64")
    return Candidates(
        name, group or usual, fires, meta["content_hash"], meta["weights_sha256"],
        same or made.get("start_from"),
    )  # fmt: skip


# ---------------------------------------------------------------- report


def report(args: Report) -> int:
    from data.arms import StudyFolder
    from data.errors import WorkbenchError
    from data.schema import open_root
    from data.workspace import Workspace
    from interp import arms, arms_report
    from ui.reports.arms_page import arms_page
    from ui.reports.arms_tables import arms_markdown

    workspace, root = Workspace.open(args.workspace), open_root()
    folder = StudyFolder.of(workspace, args.study)
    text, sha = folder.plan()
    study, ran = arms.of_text(text), folder.ran()
    refuse_changed(workspace, root, study)
    if len(ran) < 2:
        raise WorkbenchError(
            f"{len(ran)} of {len(study.arms)} arms of {study.name!r} have run: run it first, with: "
            f"python run.py arms run {study.name}"
        )
    methods = study.plan["methods"]
    found = [
        _results(workspace, root, folder, arm, methods) for arm in study.arms if arm.sae in ran
    ]
    told = {
        "study": study.name, "plan_sha256": sha, "judge": study.judge,
        "protocol": study.plan["protocol"], "mode": study.plan["mode"], "seed": study.seed,
        "wanted": study.wanted, "least_fires": study.least_fires, "strata": study.strata,
        "asking": study.asking, "plan": study.plan,
        "not_run": [arm.sae for arm in study.arms if arm.sae not in ran],
        "unanswered": {sae: one["unanswered"] for sae, one in sorted(ran.items())},
        "codes": len({one["code"] for one in ran.values()}),
        "arms": [{**asdict(arm), "features": len(arm.features)} for arm in study.arms],
        "methods": arms_report.analysed(found, methods, study.seed),
    }  # fmt: skip
    as_json = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    folder.write("report.json", as_json)
    markdown = arms_markdown(told)
    folder.write("report.md", markdown)
    page = folder.write("report.html", arms_page(told))
    print(as_json if args.json else markdown, end="")
    if not args.json:
        print(f"\nwrote {page}, report.md and report.json")
    return 0


def _results(workspace: Any, root: Any, folder: Any, arm: Any, methods: list[str]) -> Any:
    """What was found of one arm, from its run's tables."""
    import numpy as np

    from data.features_store import FeatureStore
    from data.judged_store import results_by
    from interp.arms_report import ArmResults

    store = FeatureStore(root, workspace.feature_store(arm.sae))
    density = store.densities()[1]
    path = folder.run(arm.sae) / "results.duckdb"
    by_method = {}
    for method in methods:
        rows: dict[int, dict] = {feature: {} for feature in arm.features}
        for row in results_by(root, path, method):
            if row.feature in rows:
                rows[row.feature][row.arm] = row
        by_method[method] = [rows[feature] for feature in arm.features]
    counts = np.asarray(store.meta.get("l0_counts") or [0])
    l0 = float(counts @ np.arange(len(counts)) / counts.sum()) if counts.sum() else None
    return ArmResults(
        arm.sae, arm.group, l0, arm.features, tuple(float(density[f]) for f in arm.features),
        by_method, arm.matched_to,
    )  # fmt: skip


def refuse_given(service: Service, names: tuple[str, ...], why: str) -> None:
    """WorkbenchError where one of these options is not as it is by default."""
    from data.errors import WorkbenchError

    usual = Service()
    for name in names:
        if getattr(service, name) != getattr(usual, name):
            raise WorkbenchError(f"--{name.replace('_', '-')} {why}: leave it out")


def refuse_changed(workspace: Any, root: Any, study: Any) -> None:
    """WorkbenchError where an arm's feature store is not the one that was planned with."""
    from data.errors import WorkbenchError
    from data.features_store import FeatureStore

    for arm in study.arms:
        meta = FeatureStore(root, workspace.feature_store(arm.sae)).meta
        if meta["content_hash"] != arm.store_content:
            raise WorkbenchError(
                f"{arm.sae} was harvested anew since study {study.name!r} was planned: plan another"
            )
