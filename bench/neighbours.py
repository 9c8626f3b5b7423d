"""Neighbours of features: seconds and peak memory, by cosine and by co-activation.

    python -m bench.neighbours [--features 16384 131072] [--d-in 256 768] [--tokens 1e6] [--json]

Random directions; synthetic codes in which features fire independently, the i-th commonest with a
frequency of about i^-0.8, so that many pairs meet and none counts, plus groups of 32 that fire
together. L0 is 32 up to 16,384 features and 64 beyond. Each row is a process of its own; memory is
its peak resident set, of which torch alone takes some 250 MB. Not in it is the encoding of the
tokens: one product [tokens, d_in] x [d_in, features], as in a harvest. `store` writes lists of all
four kinds and reads those of one feature. CPU seconds say more where other work runs beside.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data.neighbours_store import NEIGHBOUR_KINDS, NeighboursStore, write_neighbours
from data.schema import open_root
from interp.coactivation import CoActivation
from interp.feature_map import principal_plane
from interp.neighbours import Cosines, directions
from interp.sampled_codes import Codes
from run import keep_freed_memory

GROUP = 32  # features that fire together


def synthetic(features: int, tokens: int, l0: int, seed: int = 0) -> Codes:
    """Codes with the frequencies above; one entry in five is of a group's common firing."""
    rng = np.random.default_rng(seed)
    frequency = np.arange(1, features + 1) ** -0.8
    frequency = rng.permutation(np.minimum(0.8 * l0 * frequency / frequency.sum(), 0.5))
    shared = 0.2 * l0 / features
    parts = []
    for start in range(0, features, GROUP):
        common = rng.integers(0, tokens, rng.binomial(tokens, shared))
        for feature in range(start, min(start + GROUP, features)):
            own = rng.integers(0, tokens, rng.binomial(tokens, frequency[feature]))
            token = np.unique(np.concatenate([own, common]))
            parts.append((token * features + feature).astype(np.int64))
    cells = np.sort(np.concatenate(parts))
    del parts
    token, feature = np.divmod(cells, features)
    ends = np.concatenate([[0], np.cumsum(np.bincount(token, minlength=tokens))])
    values = rng.random(len(cells), dtype=np.float32) + 0.1
    return Codes(ends, feature.astype(np.int32), values, features)


def measured(kind: str, features: int, size: int) -> dict:
    """One row: `size` is d_in of cosine and map, tokens of co-activation, neighbours of store."""
    keep_freed_memory()
    row = {"kind": kind, "features": features, "size": size}
    work, more = {"cosine": cosine, "map": plane, "coactivation": pairs, "store": store}[kind](
        features, size
    )
    began, busy = time.perf_counter(), time.process_time()
    found = work()
    row["seconds"] = round(time.perf_counter() - began, 1)
    row["cpu_seconds"] = round(time.process_time() - busy, 1)
    row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row | more | (found if isinstance(found, dict) else {})


def random_directions(features: int, d_in: int) -> torch.Tensor:
    return torch.randn(features, d_in, generator=torch.Generator().manual_seed(0))


def cosine(features: int, d_in: int):
    W = random_directions(features, d_in)

    def work():
        cosines = Cosines(directions(W))
        for _ in cosines:
            pass
        cosines.lists()

    return work, {}


def plane(features: int, d_in: int):
    W = random_directions(features, d_in)
    return lambda: principal_plane(directions(W)), {}


def pairs(features: int, tokens: int):
    codes = synthetic(features, tokens, 32 if features <= 16_384 else 64)
    lengths = np.diff(codes.ends).astype(np.float64)
    n_pairs = float((lengths * (lengths - 1)).sum() / 2)

    def work():
        counting = CoActivation(codes)
        for _ in counting:
            pass
        counting.lists()

    return work, {"l0": round(lengths.mean(), 1), "pairs": n_pairs}


def store(features: int, keep: int):
    """Writes the lists of every kind, and reads those of features one by one."""
    rng, n = np.random.default_rng(0), features * keep
    feature = np.repeat(np.arange(features, dtype=np.int32), keep)
    rank = np.tile(np.arange(keep, dtype=np.int32), features)
    names = ("value", "given_this", "given_other", "r")
    lists = {
        kind: {"feature": feature, "rank": rank}
        | {name: rng.integers(0, features, n, dtype=np.int32) for name in ("other", "together")}
        | {name: rng.random(n) for name in names}
        for kind in NEIGHBOUR_KINDS
    }
    meta = {"sae": "random", "weights_sha256": ""}

    def work():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "neighbours.duckdb"
            write_neighbours(path, meta, lists)
            root = open_root()
            reader, times = NeighboursStore(root, path, ""), []
            for some in rng.integers(0, features, 50).tolist():
                began = time.perf_counter()
                reader.neighbours(some)
                times.append(1000 * (time.perf_counter() - began))
            root.close()
            file_mb = round(path.stat().st_size / 1e6)
        return {"file_mb": file_mb, "read_ms": round(float(np.median(times)), 1)}

    return work, {}


def apart(*case) -> dict:
    """`measured` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[16_384, 131_072])
    parser.add_argument("--d-in", type=int, nargs="*", default=[256, 768])
    parser.add_argument("--tokens", type=float, nargs="*", default=[300_000, 1_000_000])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = [("cosine", n, d) for n in args.features for d in args.d_in]
    cases += [("map", n, d) for n in args.features for d in args.d_in]
    cases += [("coactivation", n, int(t)) for n in args.features for t in args.tokens]
    cases += [("store", n, 32) for n in args.features]
    print(
        f"{'':<14}{'features':>9}{'d_in | tokens | kept':>22}{'L0':>6}{'pairs':>9}{'seconds':>9}"
        f"{'CPU s':>8}{'peak MB':>9}{'file MB':>9}{'read ms':>9}",
        flush=True,
    )
    rows = []
    for case in cases:
        row = apart(*case)
        met = f"{row['pairs']:.1e}" if "pairs" in row else ""
        print(
            f"{row['kind']:<14}{row['features']:>9,}{row['size']:>22,}{row.get('l0', ''):>6}"
            f"{met:>9}{row['seconds']:>9}{row['cpu_seconds']:>8}{row['peak_mb']:>9,}"
            f"{row.get('file_mb', ''):>9}{row.get('read_ms', ''):>9}",
            flush=True,
        )
        rows.append(row)
    if args.json:
        machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads()}
        print(json.dumps({"bench": "neighbours", "rows": rows, **machine}))


if __name__ == "__main__":
    main()
