"""What `explain` and `score` share: the desk of one auto-interp run.

In:  an SAE's name, a judge's, a run's. Out: store, judge and earlier results at hand; what was
     found is written as one file, and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commands.judging_progress import Calls
from commands.judging_rows import line, reasons, score_of

ABOUT_SCORES = ("scorer", "headline", "score_plan", "score_service")  # in a run's meta
KEPT_ASKED = 4096  # features of which a baseline's windows are kept too; a language model's always


@dataclass
class Desk:
    """An auto-interp run under work."""

    name: str  # of the SAE
    workspace: Any
    root: Any
    store: Any
    judge: Any  # None: people
    lookup: Any
    run_name: str
    judge_name: str
    folder: Path
    service: Any  # how the judge is asked; no secret in it
    calls: Calls

    @property
    def results(self) -> Path:
        return self.folder / "results.duckdb"

    def run(self, plan: Any) -> Any:
        from interp.autointerp import Run

        return Run(self.store, self.judge, self.lookup, plan)

    def tell_estimate(
        self, plan: Any, go: Callable[[Any], Iterable], as_json: bool, alone: bool
    ) -> int:
        """What a run will take, before anything is asked: it is gone through by a judge that asks
        nobody. alone: that is all that was wanted."""
        from data.errors import WorkbenchError
        from interp.autointerp import Run
        from interp.judges.rehearsal import Rehearsal

        if not self.judge.is_language_model:
            raise WorkbenchError(f"the {self.judge.name} judge costs nothing: there is no estimate")
        rehearsal = Rehearsal(self.judge)
        for _ in go(Run(self.store, rehearsal, self.lookup, plan)):
            pass
        estimate = rehearsal.estimate_of_all()
        self.calls.expected = estimate.requests
        caller = self.judge.caller
        lines = estimate.lines(caller.budget, caller.limits)
        if not as_json:
            print("\n".join(lines))
        elif alone:
            print(json.dumps({**asdict(estimate), "calls": estimate.calls, "lines": lines}))
        return 0

    def follow(self, blocks: Iterable, title: str, total: int) -> None:
        """Goes through the blocks and tells how far it is: in calls, or in features where nobody is
        called."""
        from commands.progress import track

        if self.judge is not None and self.judge.is_language_model:
            steps = track(blocks, title, lambda _: self.calls.position(),
                          lambda _: self.calls.note())  # fmt: skip
        else:
            steps = track(blocks, title, lambda done: (done, total))
        for _ in steps:
            pass

    def written_by_people(self, features: Sequence[int]) -> dict[int, str]:
        """People's own labels, from the lab."""
        from data.errors import WorkbenchError
        from data.lab import open_lab

        lab = open_lab(self.root, self.workspace, own=False)
        marks = lab.marks(self.name)
        found = {f: marks[f].label for f in features if f in marks and marks[f].label}
        if not found:
            raise WorkbenchError(
                f"nobody labelled any of these features of {self.name}: write labels on their pages"
            )
        return found

    def keep_explanations(
        self, plan: Any, said: Sequence[Any], candidates: list, as_json: bool
    ) -> int:
        """Writes explanations; scores of features explained anew go, others stay."""
        from data.errors import WorkspaceError
        from data.judged_store import read_all, tables
        from data.runs_store import read_results, write_results

        content = self.store.meta["content_hash"]
        earlier, scores, old_rows, scored = {}, {}, ([], [], []), {}
        if self.results.exists():
            old, earlier, scores = read_results(self.root, self.results)
            if (old["sae"], old["judge"]) != (self.name, self.judge_name):
                raise WorkspaceError(
                    f"run {self.run_name!r} explains {old['sae']} by {old['judge']}: choose "
                    "another --run"
                )
            if old["store_content"] == content:
                old_rows = read_all(self.root, self.results)
                scored = {name: old[name] for name in ABOUT_SCORES if name in old}
            else:
                print(f"run {self.run_name} explained an older harvest: it is made anew")
                earlier, scores = {}, {}
        new = {one.feature: one for one in said}
        kept = [score for feature, score in sorted(scores.items()) if feature not in new]
        rows = [[row for row in part if row.feature not in new] for part in old_rows]
        judged = tables([*rows[0], *candidates], rows[1], rows[2])
        meta = {
            "sae": self.name, "judge": self.judge_name,
            "is_language_model": self.judge is not None and self.judge.is_language_model,
            "store_content": content, "protocol": plan.protocol, "plan": plan.as_json(),
            "service": asdict(self.service), "spent": self._spent(), **scored,
            "features": len(earlier | new),
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        merged = [e for _, e in sorted((earlier | new).items())]
        write_results(self.results, meta, merged, kept, judged)
        self._write_about(meta)
        good = sum(e.status == "ok" for e in new.values())
        failed = reasons(new.values())
        if as_json:
            told = {"run": self.run_name, "judge": self.judge_name, "explained": good,
                    "of": len(new), "failed": failed, "spent": self._spent()}  # fmt: skip
            print(json.dumps(told))
            return 0
        print(f"{good:,} of {len(new):,} features explained by {self.judge_name}; "
              f"run {self.run_name}")  # fmt: skip
        for reason, n in failed.items():
            print(f"  {n:,} not: {reason}")
        return 0

    def rehearsed(self, features: Sequence[int]) -> dict[int, Any]:
        """The run's explanations of these features, and stand-ins of usual length for those to
        come: what scoring will take can be told before anything is explained."""
        from data.records import Explanation
        from data.runs_store import read_results
        from interp.judges.rehearsal import IN_PLACE_OF_ONE

        known: dict[int, Any] = {}
        if self.results.exists():
            meta, found, _ = read_results(self.root, self.results)
            known = found if meta["store_content"] == self.store.meta["content_hash"] else {}
        stand_in = {f: Explanation(f, self.judge_name, IN_PLACE_OF_ONE, {}) for f in features}
        return {f: known.get(f, stand_in[f]) for f in features}

    def explained(self, features: Sequence[int]) -> dict[int, Any]:
        """The run's explanations of these features. WorkbenchError where there are none, or they
        are of an older harvest."""
        from data.errors import WorkbenchError
        from data.runs_store import read_results

        if not self.results.exists():
            raise WorkbenchError(
                f"no run {self.run_name!r}: make it with: python run.py explain {self.name} "
                f"--judge {self.judge_name}"
            )
        meta, explanations, _ = read_results(self.root, self.results)
        if meta["store_content"] != self.store.meta["content_hash"]:
            raise WorkbenchError(
                f"run {self.run_name!r} explains an older harvest of {self.name}: explain it again"
            )
        found = {f: explanations[f] for f in features if f in explanations}
        if not found:
            raise WorkbenchError(
                f"run {self.run_name!r} explains none of these features: explain them first"
            )
        return found

    def keep_scores(self, plan: Any, judged: Sequence[Any], as_json: bool) -> int:
        """Writes results beside the run's explanations; those of other features, and of other
        methods on the same ones, stay."""
        from data.judged_store import read_all, tables
        from data.runs_store import read_results, write_results
        from interp.autointerp import rows_of

        meta, explanations, scores = read_results(self.root, self.results)
        candidates, results, asked = read_all(self.root, self.results)
        new = {(one.explanation.feature, method) for one in judged for method in plan.methods}
        keep = self.judge.is_language_model or len(judged) <= KEPT_ASKED
        new_results, new_asked = rows_of(judged, keep)
        results = [row for row in results if (row.feature, row.method) not in new] + new_results
        asked = [row for row in asked if (row.feature, row.method) not in new] + new_asked
        method = plan.methods[0]
        for row in new_results:
            if row.method == method and row.arm == "own":
                scores[row.feature] = score_of(row)
        found = self._totals(plan, results)
        totals = {**meta.get("totals", {}), **{m: asdict(one) for m, one in found.items()}}
        meta |= {
            "scorer": self.judge.name, "headline": method, "score_plan": plan.as_json(),
            "score_service": asdict(self.service), "totals": totals,
            "spent": self._spent() or meta.get("spent"),
        }  # fmt: skip
        said = [explanation for _, explanation in sorted(explanations.items())]
        kept = [score for _, score in sorted(scores.items())]
        write_results(self.results, meta, said, kept, tables(candidates, results, asked))
        self._write_about(meta)
        return self._tell_scores(plan, judged, as_json, found)

    def _totals(self, plan: Any, results: Sequence[Any]) -> dict[str, Any]:
        """Means over all features of the run by each method, kept so that a page need not resample
        thousands of features again."""
        from interp.totals import totals

        density = self.store.densities()[1]
        out = {}
        for method in plan.methods:
            arms: dict[int, dict] = {}
            for row in results:
                if row.method == method:
                    arms.setdefault(row.feature, {})[row.arm] = row
            features = sorted(f for f, found in arms.items() if "own" in found)
            rows = [arms[f] for f in features]
            if rows:
                out[method] = totals(method, density[features], rows, plan.seed)
        return out

    def _tell_scores(self, plan: Any, judged: Sequence[Any], as_json: bool, whole: dict) -> int:
        from interp.totals import totals

        density = self.store.densities()[1]
        features = [one.explanation.feature for one in judged]
        out = {
            "run": self.run_name,
            "judge": self.judge.name,
            "spent": self._spent(),
            "methods": {},
        }
        for method in plan.methods:
            rows = [
                {arm: r for (m, arm), r in one.results.items() if m == method} for one in judged
            ]
            found = whole.get(method)
            if found is None or sum(found.statuses.values()) != len(rows):  # of some features only
                found = totals(method, density[features], rows, plan.seed)
            values = sorted(r["own"].value for r in rows if r["own"].value is not None)
            median = values[len(values) // 2] if values else None
            out["methods"][method] = {**asdict(found), "median": median}
            if not as_json:
                print(line(self.judge.name, method, found, median, len(rows)))
        if as_json:
            print(json.dumps(out))
        return 0

    def _spent(self) -> dict | None:
        """Calls, tokens and money of the run so far; None of a baseline."""
        if self.judge is None or not self.judge.is_language_model:
            return None
        return asdict(self.judge.caller.budget.spent)

    def _write_about(self, meta: dict) -> None:
        from data.workspace import publish

        with publish(self.folder / "run.json") as part:
            part.write_text(json.dumps(meta, indent=1) + "\n")


def open_desk(
    workspace: Path,
    name: str,
    judge: str,
    run: str | None,
    service: Any,
    key: str | None = None,
    phase: str = "explaining",
) -> Desk:
    """Everything at hand for one run. WorkbenchError for a name that is not there. phase: what is
    done at it, in a job's progress."""
    from data.features_store import FeatureStore
    from data.schema import open_root
    from data.workspace import Workspace
    from interp.judges.lexical import LexicalJudge
    from interp.judges.opened import open_judge

    service.check()
    place = Workspace.open(workspace)
    root = open_root()
    store = FeatureStore(root, place.feature_store(name))
    vocabulary = store.vocabulary()
    lookup = LexicalJudge(vocabulary)
    run_name = run or f"{name}-{_as_name(judge)}"
    folder = place.run(run_name)
    opened, calls = None, Calls(phase)
    if judge != "people":
        record = folder / "calls.jsonl"
        opened = open_judge(
            judge, vocabulary, place.llm_cache, record, service, key, on_progress=calls.came
        )
    told = "people" if opened is None else opened.name
    return Desk(
        name, place, root, store, opened, lookup, run_name, told, folder, service, calls
    )  # fmt: skip


def _as_name(judge: str) -> str:
    """A judge's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", judge).strip("-.")[:80]
