"""A feature store made up at any size, with the shape of a real one.

In:  a `Plan`. Out: the tables of `write_features`, block by block, in the order of their keys.

Lengths of documents are log-normal but for one very long one; examples fall on tokens evenly, so a
page of features has some from that one. Densities are log-normal, contexts sparse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.features_store import BANDS, KINDS, MISSES
from data.schema import USES

BLOCK = 2_048
FULL = {"top": 20, "quantile": 8, "active": 20, "near_miss": 10, "random": 20}
SMALL = {"top": 20, "quantile": 0, "active": 0, "near_miss": 0, "random": 0}
# Tokens of a context of 64 on which the feature is active beside the sampled one, on average.
ACTIVE = {"top": 6.0, "quantile": 3.0, "active": 2.0, "near_miss": 0.7, "random": 0.3}


@dataclass(frozen=True)
class Plan:
    """What to make up. `longest`: tokens of the longest document."""

    features: int
    context: int
    kinds: dict[str, int]
    documents: int = 4_000
    longest: int = 300_000
    vocabulary: int = 50_257
    seed: int = 0


class MadeUp:
    """The tables of a plan, in blocks; the `seconds` and `cpu` it took to make them up."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.seconds, self.cpu = plan, 0.0, 0.0
        rng = np.random.default_rng(plan.seed)
        lengths = np.minimum(rng.lognormal(6.4, 1.0, plan.documents).astype(int) + 8, plan.longest)
        lengths[len(lengths) // 2] = plan.longest
        self.lengths = lengths
        self.share = np.cumsum(lengths) / lengths.sum()

    def tables(self) -> dict[str, Iterator[pa.Table]]:
        blocks = [
            (lo, min(lo + BLOCK, self.plan.features)) for lo in range(0, self.plan.features, BLOCK)
        ]

        def timed(make: Callable[..., pa.Table], parts: list) -> Iterator[pa.Table]:
            for part in parts:
                began, cpu = time.perf_counter(), time.process_time()
                table = make(*part)
                self.seconds += time.perf_counter() - began
                self.cpu += time.process_time() - cpu
                yield table

        docs = [(lo, min(lo + 500, len(self.lengths))) for lo in range(0, len(self.lengths), 500)]
        return {
            "token": timed(self._tokens, [()]),
            "doc": timed(self._docs, docs),
            "feature": timed(self._features, blocks),
            "logit": timed(self._logits, blocks),
            "band": timed(self._bands, blocks),
            "example": timed(self._examples, blocks),
        }

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.plan.seed, *key])

    def _ids(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Tokens, the low ids more often."""
        return (self.plan.vocabulary * rng.random(n) ** 3).astype(np.int32)

    def _tokens(self) -> pa.Table:
        letters = self._rng(1).integers(97, 123, (self.plan.vocabulary, 8), dtype=np.uint8)
        names = [b" " * (i % 2) + bytes(row[: 1 + i % 7]) for i, row in enumerate(letters)]
        ids = pa.array(np.arange(self.plan.vocabulary), pa.int32())
        special = np.arange(self.plan.vocabulary) == self.plan.vocabulary - 1
        return pa.table({"id": ids, "bytes": pa.array(names, pa.binary()), "special": special})

    def _docs(self, lo: int, hi: int) -> pa.Table:
        rng, lengths = self._rng(2, lo), self.lengths[lo:hi]
        ids = self._ids(rng, lengths.sum())
        return pa.table({
            "doc": pa.array(np.arange(lo, hi), pa.int32()),
            "name": [f"corpus/part-{doc % 7}/{doc}.txt" for doc in range(lo, hi)],
            "split": [("train", "heldout")[doc % 10 == 0] for doc in range(lo, hi)],
            "use": [USES[doc % 3] for doc in range(lo, hi)],
            "min_hash": rng.integers(0, 2**63, hi - lo).astype(np.uint64),
            "n_tokens": pa.array(lengths, pa.int32()), "ids": _lists(ids, lengths, pa.int32()),
        })  # fmt: skip

    def _features(self, lo: int, hi: int) -> pa.Table:
        rng, n = self._rng(3, lo), hi - lo
        tokens = int(self.lengths.sum())
        fires = self._fires(rng, n)
        density = fires / tokens
        dead = fires == 0
        bins = np.where(dead, 0, rng.integers(1, 40, n))
        hist = np.repeat(fires / np.maximum(bins, 1), bins).astype(np.int64)
        pre = rng.poisson(np.tile(np.exp(-(np.linspace(-3, 3, 102) ** 2)) * tokens / 160, n))
        places = rng.poisson(np.repeat(fires / 10, 10))

        def optional(values, kind=pa.float64()) -> pa.Array:  # noqa: B008
            return pa.array(values, kind, mask=dead)

        flags = ("rare", "single_token", "position_bound", "outlier_bound")
        numbers = ("mean", "sd", "skew", "kurtosis", "q10", "q50", "q90", "q99", "outlier_share")
        return pa.table({
            "feature": pa.array(np.arange(lo, hi), pa.int32()), "fires": fires,
            "density": density, "total": fires * 1.7, "total_squares": fires * 3.9,
            **{name: optional(rng.lognormal(0, 1, n)) for name in numbers},
            "max": optional(rng.lognormal(1, 1, n), pa.float32()),
            "quantile_error": optional(np.full(n, 0.0625)),
            "theta": pa.array(rng.random(n), pa.float32()),
            "first_doc": optional(rng.integers(0, 20, n), pa.int32()),
            "last_doc": optional(rng.integers(20, self.plan.documents, n), pa.int32()),
            "peak_token": optional(self._ids(rng, n), pa.int32()),
            "peak_share": optional(rng.random(n)), "dead": dead, "dense_1": density > 0.01,
            "dense_10": density > 0.1, **{name: rng.random(n) < 0.03 for name in flags},
            "top_logit": pa.array(rng.integers(0, self.plan.vocabulary, n), pa.int32()),
            "hist_first": pa.array(rng.integers(0, 100, n), pa.int16()),
            "hist_counts": _lists(hist, bins, pa.int64()),
            "pre_counts": _lists(pre, np.full(n, 102), pa.int64()),
            "pre_unit": pa.array(rng.random(n), pa.float32()),
            "positions": _lists(places, np.full(n, 10), pa.int64()),
        })  # fmt: skip

    def _fires(self, rng: np.random.Generator, n: int) -> np.ndarray:
        density = np.where(rng.random(n) < 0.02, 0, np.exp(rng.normal(-7, 2, n)).clip(1e-7, 0.6))
        return (density * int(self.lengths.sum())).astype(np.int64)

    def _bands(self, lo: int, hi: int) -> pa.Table:
        fires = self._fires(self._rng(3, lo), hi - lo)  # the same as in `_features`
        alive = np.flatnonzero(fires)
        above = np.round(fires[alive, None] * [0.5, 0.1, 0.01]).astype(np.int64)
        held = -np.diff(above, prepend=fires[alive, None], append=0, axis=1)
        return pa.table({
            "feature": pa.array(np.repeat(alive + lo, 4), pa.int32()),
            "part": np.tile(np.array(sorted(BANDS)), len(alive)),
            "low": np.tile([0.0, 1.0, 3.5, 9.0], len(alive)), "fires": held.ravel(),
        })  # fmt: skip

    def _logits(self, lo: int, hi: int) -> pa.Table:
        rng, n = self._rng(4, lo), 2 * (hi - lo)
        ten, forty = np.full(n, 10), np.full(n, 40)
        ids = {
            name: _lists(rng.integers(0, self.plan.vocabulary, 10 * n), ten, pa.int32())
            for name in ("top_ids", "bottom_ids")
        }
        logits = {
            name: _lists(rng.normal(0, 1, 10 * n), ten, pa.float32())
            for name in ("top_logits", "bottom_logits")
        }
        one = {name: pa.array(rng.random(n), pa.float32())
               for name in ("sd", "skew", "kurtosis", "low", "high")}  # fmt: skip
        return pa.table({
            "feature": pa.array(np.repeat(np.arange(lo, hi), 2), pa.int32()),
            "scaled": np.arange(n) % 2 == 1, **ids, **logits, **one,
            "counts": _lists(rng.poisson(self.plan.vocabulary / 40, 40 * n), forty, pa.int32()),
        })  # fmt: skip

    def _examples(self, lo: int, hi: int) -> pa.Table:
        """Every feature has the same kinds in the order of the key; what they say is drawn."""
        rng, (kinds, parts, ranks, means) = self._rng(5, lo), self._pattern()
        n, each = (hi - lo) * len(kinds), hi - lo
        kind, fires = (
            np.tile(kinds, each),
            np.tile(np.isin(kinds, ("top", "quantile", "active")), each),
        )
        doc = np.searchsorted(self.share, rng.random(n)).astype(np.int32)
        at = (rng.random(n) * self.lengths[doc]).astype(np.int64)
        start = at // self.plan.context * self.plan.context
        length = np.minimum(self.plan.context, self.lengths[doc] - start)
        peak = at - start
        more = rng.poisson(np.tile(means, each))
        row = np.repeat(np.arange(n), more)
        key = row * self.plan.context + (rng.random(len(row)) * length[row]).astype(np.int64)
        whole = np.unique(
            np.concatenate([key, np.flatnonzero(fires) * self.plan.context + peak[fires]])
        )
        row = whole // self.plan.context
        counts = np.bincount(row, minlength=n)
        value = rng.lognormal(0, 1, n).astype(np.float32)
        values = rng.lognormal(0, 1, len(row)).astype(np.float32)
        bins = rng.random((each, 8))[np.repeat(np.arange(each), len(kinds)), rng.integers(0, 8, n)]
        names = pa.array(kind).dictionary_encode().cast(pa.string())
        return pa.table({
            "feature": pa.array(np.repeat(np.arange(lo, hi), len(kinds)), pa.int32()),
            "kind": names, "part": pa.array(np.tile(parts, each)),
            "rank": pa.array(np.tile(ranks, each), pa.int32()), "doc": doc,
            "start": pa.array(start, pa.int32()), "length": pa.array(length, pa.int32()),
            "peak": pa.array(peak, pa.int32()), "max": np.where(fires, value, np.float32(0)),
            "pre": np.where(fires, value, -value),
            "inclusion": pa.array(np.where(kind == "top", 1, bins), mask=kind == "near_miss"),
            "copies": pa.array(1 + (rng.random(n) < 0.03) * rng.integers(1, 9, n), pa.int32()),
            "act_index": _lists(whole % self.plan.context, counts, pa.uint16()),
            "act_value": _lists(values, counts, pa.float32()),
        })  # fmt: skip

    def _pattern(self) -> tuple[np.ndarray, ...]:
        """kind, part, rank and active tokens of a feature's examples, in the order of the key."""
        found = []
        for kind in KINDS:
            parts = {"quantile": BANDS, "near_miss": MISSES}.get(kind, ("",))
            each = self.plan.kinds[kind] // (2 if kind == "near_miss" else 1)
            active = ACTIVE[kind] * (self.plan.context / 64) ** 0.5
            found += [(kind, part, rank, active) for part in parts for rank in range(each)]
        return tuple(np.array(column) for column in zip(*sorted(found), strict=True))


def _lists(flat: np.ndarray, counts: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(flat.astype(kind.to_pandas_dtype()), kind))
