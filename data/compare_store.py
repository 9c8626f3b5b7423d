"""What the Compare page asks of neighbours files and of two harvests at once.

In:  NeighboursStores, a `Root` and the paths of features.duckdb files.
Out: every feature's best match as columns, and the pair of two features if it is among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.features_store import FeatureStore
from data.neighbours_store import Neighbour, NeighboursStore


@dataclass(frozen=True)
class Matches:
    """Each feature's nearest in the other SAE, the closest pairs first; features without one are
    left out."""

    feature: np.ndarray  # int32 [n]
    other: np.ndarray  # int32 [n]
    value: np.ndarray  # float32 [n]: cosine or correlation
    r: np.ndarray  # float32 [n]: correlation of their activations; NaN: not measured

    def place(self, feature: int, other: int) -> int | None:
        """Where that pair stands; None if it is not among them."""
        at = np.flatnonzero((self.feature == feature) & (self.other == other))
        return int(at[0]) if len(at) else None


def matches(store: NeighboursStore, kind: str) -> Matches:
    """By `kind`, decoder or correlation; read once for as long as the file is attached."""
    assert store.meta, "a file of other weights is refused here"

    def read() -> Matches:
        columns = cursor.execute(
            f"""SELECT feature, other, value, coalesce(r, 'nan'::FLOAT) AS r
                FROM {alias}.neighbour WHERE kind = ? AND rank = 0
                ORDER BY value DESC, feature""",
            [kind],
        ).fetchnumpy()
        return Matches(*(np.asarray(columns[n]) for n in ("feature", "other", "value", "r")))

    with store.root.reading(store.path) as (cursor, alias):
        return store.root.remember(alias, f"matches {kind}", read)


def pair(store: NeighboursStore, feature: int, other: int) -> dict[str, Neighbour]:
    """Kind -> what the file says of the two, where one is among the other's nearest."""
    lists = store.neighbours(feature)
    return {
        kind: found[0]
        for kind, near in lists.items()
        if (found := [one for one in near if one.other == other])
    }


def farthest(store: NeighboursStore, feature: int) -> dict[str, float]:
    """Kind -> the value of the last one listed: those that are not listed are below it."""
    return {kind: near[-1].value for kind, near in store.neighbours(feature).items() if near}


def alive(store: FeatureStore) -> np.ndarray:
    """bool by feature number: whether it fires in the corpus."""
    features, density, _ = store.densities()
    found = np.zeros(int(features.max(initial=-1)) + 1, dtype=bool)
    found[features] = density > 0
    return found
