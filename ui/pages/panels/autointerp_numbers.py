"""A run's numbers over all its features: means by method, lifts, medians, differences of two runs.

In:  a Shell, the path of a run's results. Out: plain dictionaries; computed once for each version
     of the file, or read where the command that scored has written them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from data import autointerp_page_store as page_store
from data import runs_store
from interp.outcomes import Result
from interp.totals import paired, totals
from ui.shell import Shell

SEED = 0


def totals_of(shell: Shell, path: Path, method: str) -> dict | None:
    """interp.totals of one method, as a dictionary; None without a result."""
    kept = runs_store.summary(shell.root, path).meta.get("totals") or {}
    found = page_store.arms(shell.root, path, method)
    if "own" not in found:
        return None
    if method in kept and sum(kept[method]["statuses"].values()) == len(found["own"].features):
        return kept[method]
    return page_store.kept(shell.root, path, f"totals {method}",
                           lambda: _totals(shell, method, found))  # fmt: skip


def _totals(shell: Shell, method: str, found: dict[str, page_store.Arm]) -> dict:
    densities = shell.store().densities()[1]
    features = found["own"].features
    rows: list[dict] = [{} for _ in features]
    for arm, one in found.items():
        results = dict(zip(one.features.tolist(), _results(method, one), strict=True))
        for row, feature in zip(rows, features.tolist(), strict=True):
            if feature in results:
                row[arm] = results[feature]
    inside = features < len(densities)  # a run of an older harvest may name others
    density = np.where(inside, densities[np.where(inside, features, 0)], 0.0)
    told = asdict(totals(method, density, rows, SEED))
    return {**told, "statuses": dict(found["own"].statuses)}


def median(shell: Shell, path: Path, method: str) -> float | None:
    """Over features, constants as 0."""
    own = page_store.arms(shell.root, path, method).get("own")
    values = np.array([]) if own is None else own.values[np.isfinite(own.values)]
    return float(np.median(values)) if len(values) else None


def difference(shell: Shell, path: Path, other: Path, method: str) -> dict | None:
    """Mean of `path` minus `other` over the features that both have by that method."""
    own, theirs = (page_store.arms(shell.root, p, method).get("own") for p in (path, other))
    if own is None or theirs is None:
        return None
    both, a, b = np.intersect1d(own.features, theirs.features, return_indices=True)
    if not len(both):
        return None
    first, second = _results(method, own), _results(method, theirs)
    made = f"{other} {other.stat().st_mtime_ns}"
    return page_store.kept(
        shell.root, path, f"against {method} {made}",
        lambda: asdict(paired([first[i] for i in a], [second[i] for i in b], SEED)),
    )  # fmt: skip


def _results(method: str, one: page_store.Arm) -> list[Result]:
    """Light Results: value and status are all that means look at."""
    out = []
    for value, sure in zip(one.values.tolist(), one.sure.tolist(), strict=True):
        status = "ok" if sure else "constant" if value == 0.0 else "failed"
        out.append(Result(method, value if sure else None, None, None, 0, 0, 0, status))
    return out
