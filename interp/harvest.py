"""Statistics and examples of every feature, in one pass over recorded activations.

In:  an SAE, an activation cache, the language model (for tokens and logit effects).
Out: Arrow tables for the feature store. Nothing depends on the order or size of chunks, nor on how
     many parts the corpus is read in.

Features go in blocks, so that memory does not grow with their number; rows go in shards, after
each of which the state can be kept on disk and taken up again. Which examples are kept:
interp/selection.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse

from data.activations import ActivationCache
from data.errors import WorkbenchError
from data.lm import LanguageModel
from data.text import mix64
from interp import tables
from interp.corpus import Corpus
from interp.effects import logit_table
from interp.sampling import (
    NEVER,
    Smallest,
    ascending,
    best_of_runs,
    descending,
    distance_of,
    largest_below,
    salts,
)
from interp.selection import choose
from interp.stats import PRE_SAMPLE, Entries, StreamingStats
from interp.windows import cut
from sae.entries import Buffers, above
from sae.models import SAE, TopKSAE

BATCH = 4_096  # rows encoded at once
CHUNK = 65_536  # rows whose entries are looked at together, at most
ENTRIES = 1 << 21  # entries of a chunk after which it is closed
SPARE = 3  # candidates a kept example, from which texts seen before are dropped
REACH_ROWS, REACH = 1_024, 2  # near misses are looked for as far as the REACH-th of so many rows


@dataclass(frozen=True)
class HarvestConfig:
    """How many examples of each kind a feature keeps, and how the work is cut up."""

    top: int = 20
    quantile: int = 8  # in each of the four bands
    active: int = 20
    near_miss: int = 10  # half just under theta, half the same token as a top example
    random: int = 20
    seed: int = 0
    shards: int = 1  # parts of the corpus, after each of which the state is kept
    block: int = 16_384  # features at once

    def __post_init__(self) -> None:
        for name, least in (("shards", 1), ("block", 1)):
            if getattr(self, name) < least:
                raise WorkbenchError(f"--{name} {getattr(self, name)}: give {least} or more")
        for name in ("top", "quantile", "active", "near_miss", "random", "seed"):
            number = getattr(self, name)
            if not 0 <= number < 2**63:
                raise WorkbenchError(f"--{name.replace('_', '-')} {number}: give 0 or more")


@dataclass(frozen=True)
class HarvestStep:
    """Progress: rows encoded, or examples whose activations were cut, over all blocks."""

    phase: str
    done: int
    total: int


class Active(NamedTuple):
    """Active entries of consecutive rows, sorted by row."""

    lengths: np.ndarray  # [rows], entries of each
    features: np.ndarray  # [n] int32, within the block
    values: np.ndarray  # [n] float32, above 0
    norms: np.ndarray  # [rows], of the activations


class Block:
    """Features lo..hi-1: what one pass over rows finds out about them."""

    KEPT = ("top", "active", "cells", "near")

    def __init__(self, sae: SAE, corpus: Corpus, config: HarvestConfig, lo: int, hi: int) -> None:
        self.sae, self.corpus, self.config, self.lo, self.hi = sae, corpus, config, lo, hi
        self.n, self.buffers = hi - lo, Buffers()
        self.weights = sae.W_enc.detach()[:, lo:hi], sae.b_enc.detach()[lo:hi]
        self.floor = sae.floor.detach()[lo:hi].cpu().numpy().astype(np.float32)
        pre_unit = np.where(self.floor > 0, self.floor, corpus.scale)
        self.stats = StreamingStats(self.n, corpus.scale, pre_unit, corpus.cache.ids.shape[1])
        self.top = Smallest(self.n, SPARE * config.top)
        # One more than is kept: its hash says how likely the kept ones were. A band of ranks is
        # made of whole cells, so that those of each cell are enough.
        self.active = Smallest(self.n, config.active + (config.active > 0), counted=True)
        n_cells = self.n * self.stats.histogram.n_cells
        self.cells = Smallest(n_cells, config.quantile + (config.quantile > 0), counted=True)
        self.near = Smallest(self.n, SPARE * ((config.near_miss + 1) // 2))
        self.salt = salts(sae.d_sae, config.seed)[lo:hi]
        self.row_l0 = np.zeros(corpus.n_rows, dtype=np.int32)
        # The activation a row's features must reach in a TopK SAE; no other has one.
        self.row_floor = np.zeros(corpus.n_rows if self.is_topk else 0, dtype=np.float32)
        self.reach = self._reach() if config.near_miss else np.full(self.n, -1, np.float32)

    @property
    def is_topk(self) -> bool:
        return isinstance(self.sae, TopKSAE)

    # ------------------------------------------------------------ the pass

    @torch.inference_mode()
    def read(self, start: int, stop: int) -> Iterator[int]:
        """Looks at rows start..stop-1; yields how far it is."""
        first, parts, n_entries = start, [], 0
        for row in range(start, stop, BATCH):
            end = min(row + BATCH, stop)
            parts.append(self._batch(row, end))
            n_entries += len(parts[-1].features)
            if end == stop or end - first >= CHUNK or n_entries > ENTRIES:
                self._chunk(parts, first, end)
                first, parts, n_entries = end, [], 0
                yield end

    def _pre(self, x: np.ndarray) -> torch.Tensor:
        """Pre-activations [n, features of the block]; valid until the next call."""
        W, b = self.weights
        rows = torch.from_numpy(x).to(W)
        out = self.buffers.z(len(x), self.n, W)
        return torch.addmm(b, self.sae.token_frame(rows)[0], W, out=out)

    def _batch(self, row: int, end: int) -> Active:
        """What is active in rows row..end-1; near misses and sampled rows are dealt with here."""
        about = slice(row, end)
        x = np.array(self.corpus.cache.x[about])
        pre, tie = self._pre(x), self.corpus.tie(about)
        sampled = np.flatnonzero(tie % PRE_SAMPLE == 0)
        self.stats.update_pre(pre[torch.from_numpy(sampled).to(pre.device)])
        find = self._top_entries if self.is_topk else self._candidates
        rows, features, z, gap = find(pre, row)
        if self.near.k:
            silent = np.flatnonzero(gap >= 0)
            self._near(rows[silent], features[silent], gap[silent], tie, row)
        on = np.flatnonzero(gap < 0)
        rows, features = rows[on], features[on]
        values = self._values(z[on], features)
        if values.min(initial=1) <= 0:  # a gate may be open over a magnitude of 0
            on = np.flatnonzero(values > 0)
            rows, features, values = rows[on], features[on], values[on]
        lengths = np.bincount(rows, minlength=len(x))
        norms = torch.linalg.vector_norm(torch.from_numpy(x), dim=1).numpy()
        return Active(lengths, features.astype(np.int32), values, norms)

    def _candidates(self, pre: torch.Tensor, row: int) -> tuple[np.ndarray, ...]:
        """Entries that are active or may be near misses: row, feature, pre-activation and how far
        below the threshold, sorted by row."""
        floor = self.floor.astype(np.float64)
        # A little lower than the reach: which entries count is decided later, exactly.
        low = floor - np.maximum(self.reach, 0) * (1 + 1e-6) - 1e-6 * np.abs(floor)
        low = np.where(self.reach >= 0, low, floor).astype(np.float32)
        found = above(pre, torch.from_numpy(low).to(pre.device), self.buffers)
        rows, features, z = (part.cpu().numpy() for part in (*found[:2], found[2].float()))
        return rows, features, z, self.floor[features] - z

    def _top_entries(self, pre: torch.Tensor, row: int) -> tuple[np.ndarray, ...]:
        """The k active entries of each row and those next to it, against the row's k-th."""
        k = self.sae.config.k
        extra = max(1, k // 4) if self.config.near_miss else 0
        z, features = pre.topk(min(k + extra, pre.shape[1]), dim=1)
        least = z[:, k - 1 : k]
        self.row_floor[row : row + len(pre)] = least[:, 0].cpu().float().numpy()
        gap = (least - z).float()
        gap[:, :k] = torch.where(z[:, :k] > 0, -1.0, torch.inf)  # what is not positive is silent
        rows = torch.arange(len(pre))[:, None].expand_as(features)
        return tuple(part.reshape(-1).cpu().numpy() for part in (rows, features, z.float(), gap))

    def _values(self, z: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Activations of entries above their thresholds, float32 [n]."""
        like = self.weights[0]
        of = torch.from_numpy(features + self.lo).to(like.device)
        return self.sae.values(torch.from_numpy(z).to(like), of).float().cpu().numpy()

    def _chunk(self, parts: list[Active], first: int, stop: int) -> None:
        lengths, features, values, norms = (np.concatenate(p) for p in zip(*parts, strict=True))
        about = slice(first, stop)
        text, tie = self.corpus.text(about), self.corpus.tie(about)
        group = self.corpus.group(about)
        self.row_l0[about] = lengths
        # A sparse matrix's change of order, one pass, takes a quarter of a sort's time.
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        by_row = sparse.csr_array((values, features, ends), shape=(stop - first, self.n))
        by_feature = by_row.tocsc()
        r, v, counts = by_feature.indices, by_feature.data, np.diff(by_feature.indptr)
        f = np.repeat(np.arange(self.n), counts)
        cells = self.stats.update(Entries(f, r, v), self.corpus.rows(first, stop, norms))
        good = np.flatnonzero(v >= np.repeat(largest_below(self.top.bound), counts))
        good = good[best_of_runs(v[good], f[good], group[r[good]])]
        F, R, V = f[good], r[good], v[good]
        own = mix64(tie[R] ^ self.salt[F])
        self.top.offer(F, descending(V, own), group[R], own, R + first, V)
        if self.active.k or self.cells.k:
            key = text[r] ^ np.repeat(self.salt, counts)
            cells += f * self.stats.histogram.n_cells
            for kept, group in ((self.active, f), (self.cells, cells)):
                good = np.flatnonzero(key <= kept.bound[group])
                K, R = key[good], r[good]
                kept.offer(group[good], K, K, tie[R], R + first, v[good])

    def _near(self, rows, features, gap, tie, first: int) -> None:
        within = np.flatnonzero(gap <= self.reach[features])
        rows, features, gap = rows[within], features[within], gap[within]
        own = mix64(tie[rows] ^ self.salt[features])
        key = ascending(gap, own)
        good = np.flatnonzero(key <= self.near.bound[features])
        group = self.corpus.group(rows[good] + first)
        columns = (part[good] for part in (features, key, own, rows, gap))
        features, key, own, rows, gap = columns
        self.near.offer(features, key, group, own, rows + first, gap)
        full = self.near.bound != NEVER
        self.reach[full] = distance_of(self.near.bound[full])

    def _reach(self) -> np.ndarray:
        """float32 [n]: how far below its threshold a near miss of each feature may lie.

        The distance within which REACH of the first REACH_ROWS rows lie: a rule of the corpus, not
        of the order it is read in. -1 for a feature that is hardly ever silent.
        """
        if self.is_topk:
            return np.full(self.n, np.inf, dtype=np.float32)
        with torch.inference_mode():
            pre = self._pre(np.array(self.corpus.cache.x[:REACH_ROWS])).float().cpu()
            gap = torch.from_numpy(self.floor) - pre
            gap = torch.where(gap >= 0, gap, torch.inf)
            reach = gap.kthvalue(min(REACH, len(gap)), dim=0).values.numpy()
        return np.where(np.isfinite(reach), reach, -1).astype(np.float32)

    # ------------------------------------------------------------ state

    def arrays(self) -> dict[str, np.ndarray]:
        found = {f"stats.{name}": value for name, value in self.stats.arrays().items()}
        for which in self.KEPT:
            kept = getattr(self, which).arrays()
            found |= {f"{which}.{name}": value for name, value in kept.items()}
        return found | {"row_l0": self.row_l0, "row_floor": self.row_floor}

    def merge(self, arrays: dict[str, np.ndarray]) -> None:
        """Adds what another part of the corpus gave."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, value in arrays.items():
            which, _, column = name.partition(".")
            parts.setdefault(which, {})[column] = value
        self.stats.merge(parts["stats"])
        for which in self.KEPT:
            getattr(self, which).load(parts[which])
        full = self.near.bound != NEVER
        self.reach[full] = distance_of(self.near.bound[full])
        self.row_l0 += parts["row_l0"][""]  # 0 where the other part did not look
        self.row_floor += parts["row_floor"][""]


class Harvest:
    """One harvest: iterate for progress, then ask for `tables()`.

    scratch: a folder where the state is kept after each shard and each finished block; a harvest of
    the same settings goes on from there. Without one everything stays in memory.
    """

    def __init__(
        self,
        sae: SAE,
        cache: ActivationCache,
        lm: LanguageModel,
        config: HarvestConfig,
        scratch: Path | None = None,
    ) -> None:
        self.sae, self.cache, self.lm, self.config, self.scratch = sae, cache, lm, config, scratch
        self.corpus = Corpus(cache, config.seed)
        # A TopK SAE chooses among all features of a row, so they cannot be apart.
        size = sae.d_sae if isinstance(sae, TopKSAE) else config.block
        self.blocks = [(lo, min(lo + size, sae.d_sae)) for lo in range(0, sae.d_sae, size)]
        self.l0 = np.zeros(cache.n_rows, dtype=np.int64)
        self.facts: dict[str, np.ndarray] = {}  # n_pre, position_rows: of every block alike
        self._tables: dict[int, dict[str, pa.Table]] = {}

    def __iter__(self) -> Iterator[HarvestStep]:
        pool = self.corpus.pool() if self.config.random else None
        for number, (lo, hi) in enumerate(self.blocks):
            if not self._finished(lo):
                yield from self._one(number, lo, hi, pool)

    def _one(self, number: int, lo: int, hi: int, pool: tuple | None) -> Iterator[HarvestStep]:
        """A block of features; apart, so that nothing of it is in memory beside the next."""
        total = len(self.blocks) * self.cache.n_rows
        block = Block(self.sae, self.corpus, self.config, lo, hi)
        done = self._take_up(block)
        for start, stop in self._shards():
            if stop <= done:
                continue
            for end in block.read(start, stop):
                yield HarvestStep("encode", number * self.cache.n_rows + end, total)
            self._keep(block, stop)
        chosen = choose(block, pool)
        made = []
        for cuts in cut(block, chosen):
            made.append(cuts)
            yield HarvestStep("examples", cuts.done, cuts.total)
        self._finish(
            block,
            {
                "feature": tables.features(block),
                "band": tables.bands(block),
                "example": tables.examples(block, chosen, made),
            },
        )

    def _shards(self) -> list[tuple[int, int]]:
        """Rows of each part, cut between batches: a product of other rows rounds otherwise."""
        batches = -(-self.cache.n_rows // BATCH)
        places = np.linspace(0, batches, self.config.shards + 1).round().astype(int) * BATCH
        places = np.minimum(places, self.cache.n_rows).tolist()
        return [(a, b) for a, b in zip(places[:-1], places[1:], strict=True) if a < b]

    def tables(self) -> dict[str, object]:
        """token, doc, feature, logit, band, example, as data/features_store.py takes them."""
        order = [lo for lo, _ in self.blocks]
        logit = logit_table(self.lm, self.cache.manifest["spec"]["site"], self.sae.W_dec)
        return {
            "token": tables.tokens(self.lm),
            "doc": tables.documents(self.cache),
            "feature": [tables.with_top_logit(self._table(lo, "feature"), logit) for lo in order],
            "logit": logit if logit is not None else [],
            "band": (self._table(lo, "band") for lo in order),
            "example": (self._table(lo, "example") for lo in order),
        }

    # ------------------------------------------------------------ what survives a kill

    def _table(self, lo: int, name: str) -> pa.Table:
        if self.scratch is None:
            return self._tables[lo][name]
        return tables.read(self.scratch / f"{name}-{lo}.arrow")

    def _finish(self, block: Block, made: dict[str, pa.Table]) -> None:
        stats = block.stats
        self.facts = {"n_pre": stats.n_pre, "position_rows": stats.position_rows,
                      "outlier_rows": stats.outlier_rows}  # fmt: skip
        self.l0 += block.row_l0
        if self.scratch is None:
            self._tables[block.lo] = made
            return
        for name, table in made.items():
            tables.write(table, self.scratch / f"{name}-{block.lo}.arrow")
        _save(self.scratch / f"block-{block.lo}.npz", {**self.facts, "row_l0": block.row_l0})
        (self.scratch / f"state-{block.lo}.npz").unlink(missing_ok=True)

    def _finished(self, lo: int) -> bool:
        """Whether an earlier run finished that block; its counts are taken over."""
        path = self.scratch / f"block-{lo}.npz" if self.scratch is not None else None
        if path is None or not path.exists():
            return False
        with np.load(path) as kept:
            self.facts = {name: kept[name] for name in kept.files if name != "row_l0"}
            self.l0 += kept["row_l0"]
        return True

    def _keep(self, block: Block, row: int) -> None:
        if self.scratch is not None and len(self._shards()) > 1:
            _save(self.scratch / f"state-{block.lo}.npz", {**block.arrays(), "next": row})

    def _take_up(self, block: Block) -> int:
        """Rows an earlier run has been through."""
        path = self.scratch / f"state-{block.lo}.npz" if self.scratch is not None else None
        if path is None or not path.exists():
            return 0
        with np.load(path) as kept:
            arrays = {name: kept[name] for name in kept.files}
        done = int(arrays.pop("next"))
        block.merge(arrays)
        return done


def same_harvest(scratch: Path, what: dict) -> bool:
    """Whether `scratch` holds an unfinished harvest of the same SAE, activations and settings.

    An empty folder becomes one of them.
    """
    note, text = scratch / "harvest.json", json.dumps(what, sort_keys=True)
    if not note.exists():
        _publish(note, lambda file: file.write(text.encode()))
    return note.read_text() == text


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    _publish(path, lambda file: np.savez(file, **arrays))


def _publish(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
