"""FVE and delta loss at equal L0: every architecture here, and two libraries' JumpReLU.

    python -m bench.quality [--workspace PATH] [--stories-lm PATH --stories-text PATH]
        [--data NAME ...] [--arms NAME ...] [--seeds N ...] [--results FILE]
    python -m bench.quality --plan | --table | --points | --choices   [--json]

Three data sets: the demo model after layer 2 and in its MLP's output (d_sae 2,048, 2M tokens), and
the public 260K-parameter story model with stories of its kind (d_sae 1,024, 3,000 steps), whose
folder and text are given, or named by QUALITY_STORIES_LM and QUALITY_STORIES_TEXT. Every arm gets
the same tokens in the same order, starting weights, warm-up, decay and number of learning rates
(three; SAELens also the choice between two losses); a library's own recipe, as its documentation
has it, runs beside its tuned one. Settings are chosen on one half of the calibrate documents,
thresholds and prices of ours are fitted on the other, and what is reported was measured on held-out
documents. How values are read at one L0, and what the intervals mean: bench/quality/table.py.

Without a flag it makes one run after the other until none is left and appends each to the results,
so it can be stopped and goes on where it was; several processes share one file. Results of an older
recipe stay in the file and are not shown. runs.jsonl beside this file holds the runs made so far:
give it as --results to go on from there. ms/step: of ours the whole step; of a peer without the
feeding of batches. The peers need `make peers`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes side by side

import argparse
import json
import statistics
import sys
import time
from functools import cache
from pathlib import Path

import torch

from bench.quality import table
from bench.quality.arms import ARMS, DATA, SEEDS, Peer, Run
from bench.quality.plan import Plan
from bench.quality.results import Results
from bench.quality.rows import Rows, load
from bench.quality.training import perform, python_of
from commands.capture import anywhere
from data.workspace import Workspace
from run import keep_freed_memory

WAIT_S = 20.0  # until the plan is looked at again, where other processes make the runs left


def main() -> int:
    args = _parser().parse_args()
    results = Results(args.results or args.workspace / "bench" / "quality.jsonl")
    data, arms = _possible(args)
    plan = Plan(results.lines(), data, arms, tuple(args.seeds), args.steps)
    if args.plan:
        print(remaining(plan))
    elif args.points:
        _show("points", table.points(plan), table.points_text, args.json)
    elif args.choices:
        for row in table.choices(plan):
            print(json.dumps(row))
    elif args.table:
        _show("quality", table.rows(plan), table.text, args.json)
    else:
        _work(args, results, plan)
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bench.quality", description=__doc__, formatter_class=form)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--results", type=Path, help="default: WORKSPACE/bench/quality.jsonl")
    parser.add_argument("--stories-lm", default=os.environ.get("QUALITY_STORIES_LM"))
    parser.add_argument("--stories-text", default=os.environ.get("QUALITY_STORIES_TEXT"))
    parser.add_argument("--data", nargs="+", choices=[*DATA], default=[*DATA])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--steps", type=int, help="of every run, to try the bench out")
    parser.add_argument("--most", type=int, help="runs after which to stop")
    for name, what in (
        ("plan", "how many runs are left, and about how many hours"),
        ("table", "the comparison"),
        ("points", "every reported run"),
        ("choices", "every run that settings were chosen by"),
        ("json", "one JSON line besides"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=what)
    return parser


def _possible(args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The data sets and arms asked for; those to be run that cannot be here are left out aloud."""
    data, arms = list(args.data), list(args.arms)
    reading = args.plan or args.table or args.points or args.choices
    if not reading and "stories" in data and not (args.stories_lm and args.stories_text):
        print("stories is left out: give --stories-lm and --stories-text", file=sys.stderr)
        data.remove("stories")
    for arm in args.arms:
        if not reading and isinstance(ARMS[arm], Peer) and not python_of(ARMS[arm]).exists():
            print(f"{arm} is left out: its environment is made by make peers", file=sys.stderr)
            arms.remove(arm)
    return tuple(data), tuple(arms)


def _show(name: str, rows: list[dict], as_text, as_json: bool) -> None:
    print(as_text(rows) if rows else "no finished run yet")
    if as_json:
        print(json.dumps({"bench": name, "rows": rows}))


def _work(args: argparse.Namespace, results: Results, plan: Plan) -> None:
    """Makes runs until none is left, or `--most` of them."""
    keep_freed_memory()
    torch.set_num_threads(1)
    workspace = Workspace.open(args.workspace)

    @cache
    def rows_of(name: str) -> Rows:
        if name == "stories":
            lm, text = anywhere(args.stories_lm), anywhere(args.stories_text)
        else:
            lm, text = "demo", "python:stdlib"
        return load(DATA[name], workspace, lm, text)

    made = 0
    while (to_do := _planned(plan, results).to_do()) and made != args.most:
        for run in to_do:
            with results.claim(run) as mine:
                if mine:
                    line = perform(run, rows_of(run.data))
                    results.append(line)
                    made += 1
                    print(_said(run, line), flush=True)
                    break
        else:
            time.sleep(WAIT_S)


def _planned(plan: Plan, results: Results) -> Plan:
    return Plan(results.lines(), plan.data, plan.arms, plan.seeds, plan.steps)


def _said(run: Run, line: dict) -> str:
    about = f"{run.data} {run.arm} {run.loss or ''} l0 {run.l0:.4g} lr {run.lr} seed {run.seed}"
    if "error" in line:
        return f"{about}: {line['error']}"
    heldout = line["heldout"]
    return (
        f"{about}: L0 {heldout['l0']:.2f} FVE {heldout['fve']:.4f} "
        f"d loss {heldout['delta_loss']:.4f} dead {heldout['dead']:.1%} {line['seconds']:.0f} s"
    )


def remaining(plan: Plan) -> str:
    """Runs left and hours of one process, from the seconds of those there are.

    A search not ended is counted by what one usually takes."""
    lines, hours, unknown = [], 0.0, 0
    for data in plan.data:
        for arm in plan.arms:
            left = plan.left(DATA[data], arm)
            seconds = [
                line["seconds"]
                for line in plan.lines.values()
                if line["data"] == data and line["arm"] == arm
            ]
            if left and seconds:
                each = statistics.fmean(seconds)
                hours += left * each / 3600
                lines.append(f"{data:<10}{arm:<26}{left:>5} runs of {each:>6.0f} s")
            elif left:
                unknown += left
                lines.append(f"{data:<10}{arm:<26}{left:>5} runs, none timed yet")
    lines.append(
        f"{hours:.1f} hours of one process" + f" and {unknown} runs not timed" * bool(unknown)
    )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
