"""The feature store at full size: seconds and bytes to write it, milliseconds to read a page of it.

    python -m bench.store [--features 131072] [--contexts 64 256] [--pages 200] [--json]

Made-up documents, one of them of 300,000 tokens, and for every feature the full set of examples
(102) or the smaller one (20 of 64 tokens); labels and scores for all. Tables are made block by
block; that time is taken off. Memory is the peak of the writing process. Cold: a process's first
page of a file that the system's cache does not hold. Warm: random features not asked for before;
lists by every column, both ways, under every filter. CPU: of all threads, where the machine is
shared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from bench.made_up.feature_store import FULL, SMALL, MadeUp, Plan
from data.features_store import EXAMPLE, FeatureStore, write_features
from data.list_store import SORTS
from data.records import FLAGS, Explanation, FeatureFilter, Score
from data.runs_store import write_results
from data.schema import open_root

# What an idle machine of two cores should keep to: seconds and MB, milliseconds.
WRITTEN = {"full": (120, 2500), "small": (30, 600)}
READ = {"page, no text": 5, "page, 102 windows": 20, "page, one kind": 20, "list": 50}

# ---------------------------------------------------------------- writing


def written(plan: Plan, path: Path) -> dict:
    """Seconds, CPU seconds, MB of the file and peak MB of this process."""
    made = MadeUp(plan)
    began, cpu = time.perf_counter(), time.process_time()
    write_features(path, {"context": plan.context}, made.tables())
    return {
        "seconds": time.perf_counter() - began - made.seconds,
        "cpu_s": time.process_time() - cpu - made.cpu,
        "mb": path.stat().st_size / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(work: Callable, *args) -> dict:
    """`work` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def write_labels(path: Path, features: int) -> None:
    """A label of eight words and a score for most features; one in 13 failed."""
    rng = np.random.default_rng(6)
    words = [f"word{n}" for n in range(3000)]
    chosen = rng.integers(0, len(words), (features, 8)).tolist()
    value = rng.random(features).tolist()
    explained, scored = [], []
    for i in range(features):
        if i % 13 == 0:
            explained.append(Explanation(i, "lexical", "", {}, "failed", "no example"))
            scored.append(Score(i, "simulate", None, None, None, 0, 0, "not_run", "no label"))
        else:
            explained.append(Explanation(i, "lexical", " ".join(words[w] for w in chosen[i]), {}))
            scored.append(Score(i, "simulate", value[i], value[i] - 0.1, value[i] + 0.1, 900, 20))
    write_results(path, {}, explained, scored)


# ---------------------------------------------------------------- reading


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu)


def summed(times: list[tuple[float, float]]) -> dict:
    wall, cpu = (sorted(column) for column in zip(*times, strict=True))
    at = min(int(0.95 * len(wall)), len(wall) - 1)
    return {"median": statistics.median(wall), "p95": wall[at], "cpu": statistics.median(cpu),
            "cpu_p95": cpu[at], "worst": wall[-1]}  # fmt: skip


def page(store: FeatureStore, i: int, what: str) -> None:
    """What a page of feature i asks the store for."""
    store.feature(i)
    if what == "page, no text":
        with store.root.reading(store.path) as (cursor, alias):
            cursor.execute(f"SELECT {EXAMPLE} FROM {alias}.example WHERE feature = {i}")
            cursor.fetchall()
    else:
        store.examples(i, "top" if what == "page, one kind" else None)


def filters() -> list[dict]:
    bounds = [{}, {"page": 900}, {"text": "word12"}, {"text": "1"}, {"alive": True},
              {"density_min": 1e-4, "density_max": 1e-2}, {"max_min": 2.0}, {"score_min": 0.5},
              *({flag: True} for flag in FLAGS)]  # fmt: skip
    everything = {key: value for some in bounds[2:8] for key, value in some.items()}
    return [*bounds, everything | {"page_size": 100}]


def forget(path: Path) -> None:
    """Has the system drop the file's pages from its cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path, labels: Path, features: int, pages: int) -> dict:
    """ms by what is asked for: cold, and warm median and p95."""
    rng, found = np.random.default_rng(7), {}
    for what in [*READ][:3]:
        cold = []
        for i in rng.integers(0, features, 7).tolist():
            forget(path)
            with closing(open_root()) as root:
                store = FeatureStore(root, path, labels)
                cold.append(milliseconds(lambda s=store, i=i, w=what: page(s, i, w)))
        with closing(open_root()) as root:
            store = FeatureStore(root, path, labels)
            page(store, 0, what)
            warm = [milliseconds(lambda s=store, i=i, w=what: page(s, i, w))
                    for i in rng.integers(0, features, pages).tolist()]  # fmt: skip
        found[what] = {"cold": summed(cold)["median"], **summed(warm)}
    return found | {"list": lists(path, labels)}


def lists(path: Path, labels: Path) -> dict:
    """Every sort column, both ways, under every filter: of three runs the median."""
    asked = [FeatureFilter(**bounds, sort=sort, descending=down)
             for bounds in filters() for sort in SORTS for down in (False, True)]  # fmt: skip
    forget(path)
    forget(labels)
    with closing(open_root()) as root:
        store = FeatureStore(root, path, labels)
        cold = milliseconds(lambda: store.rows(FeatureFilter()))[0]
        first = [milliseconds(lambda f=f: store.rows(f)) for f in asked]
        again = [
            sorted(milliseconds(lambda f=f: store.rows(f)) for _ in range(3))[1] for f in asked
        ]
    worst = asked[max(range(len(asked)), key=lambda n: again[n])]
    return {"cold": cold, "first_p95": summed(first)["p95"], "first_worst": summed(first)["worst"],
            **summed(again), "queries": len(asked), "slowest": str(vars(worst))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--longest", type=int, default=300_000)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="keep the stores there (default: thrown away)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        labels = folder / "results.duckdb"
        apart(write_labels, labels, args.features)
        rows = []
        cases = [("full", c, FULL) for c in args.contexts] + [("small", 64, SMALL)]
        print(f"{'':<28}{'seconds':>9}{'CPU s':>8}{'MB':>8}{'peak MB':>9}{'limits':>12}")
        for name, context, kinds in cases:
            path = folder / f"{name}-{context}.duckdb"
            plan = Plan(args.features, context, kinds, args.documents, args.longest)
            row = {"set": name, "context": context, **apart(written, plan, path)}
            limits = "{} s, {} MB".format(*WRITTEN[name])
            print(f"{f'write {name}, {context} tokens':<28}{row['seconds']:>9.1f}"
                  f"{row['cpu_s']:>8.1f}{row['mb']:>8.0f}{row['peak_mb']:>9.0f}{limits:>16}",
                  flush=True)  # fmt: skip
            rows.append(row)
        head = f"{'cold':>8}{'median':>8}{'p95':>8}{'CPU':>8}{'CPU p95':>8}{'limit':>7}"
        print(f"\n{'ms':<28}{head}")
        for row, (name, context, _) in zip(rows, cases, strict=True):
            if name == "small":
                continue
            path = folder / f"{name}-{context}.duckdb"
            row["read"] = apart(read, path, labels, args.features, args.pages)
            for what, ms in row["read"].items():
                numbers = "".join(
                    f"{ms[key]:>8.1f}" for key in ("cold", "median", "p95", "cpu", "cpu_p95")
                )
                print(f"{f'{what}, {context} tokens':<28}{numbers}{READ[what]:>7}", flush=True)
    if args.json:
        machine = {"cpus": os.cpu_count(), "features": args.features}
        print(json.dumps({"bench": "store", "rows": rows, **machine}))


if __name__ == "__main__":
    main()
