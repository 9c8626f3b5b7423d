"""Statistics and examples of every feature, in one pass over the cached activations.

In:  an SAE, an activation cache, the language model (for tokens and logit effects).
Out: Arrow tables for the feature store. Nothing depends on the order or size of chunks.

Kinds of examples:
    top      the strongest fires, one per document, ties by seeded hash; taken with certainty
    active   a uniform sample of all fires (bottom-k hashes)
    random   a systematic sample of all tokens, whether the feature fires or not
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from data.activations import ActivationCache
from data.errors import WorkbenchError
from data.lm import LanguageModel
from data.text import mix64
from data.tokens import token_bytes
from interp.effects import logit_effects
from interp.sampling import BestPerFeature
from interp.stats import StreamingStats, in_pre_sample, token_hash
from sae.models import SAE
from sae.sparse import Buffers, encode_sparse

SCALE_ROWS = 4_096  # rows whose mean square sets the scale of the histograms
BATCH = 4_096  # rows encoded at once
CHUNK = 65_536  # rows whose entries are merged at once, at most


@dataclass(frozen=True)
class HarvestConfig:
    """How many examples of each kind a feature keeps."""

    top: int = 20
    active: int = 20
    random: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("top", "active", "random", "seed"):
            number = getattr(self, name)
            if not 0 <= number < 2**63:
                raise WorkbenchError(f"--{name} {number}: give a whole number from 0 on")


@dataclass(frozen=True)
class HarvestStep:
    """Progress: rows encoded, or contexts whose windows were cut."""

    phase: str
    done: int
    total: int


class Harvest:
    """One harvest: iterate for progress, then ask for `tables()`."""

    def __init__(
        self, sae: SAE, cache: ActivationCache, lm: LanguageModel, config: HarvestConfig
    ) -> None:
        self.sae, self.cache, self.lm, self.config = sae, cache, lm, config
        d_sae = sae.d_sae
        first = np.asarray(cache.x[:SCALE_ROWS], dtype=np.float64)
        scale = float(np.sqrt((first**2).sum(1).mean()))
        theta = sae.threshold.detach().cpu().numpy()
        pre_unit = np.where(theta > 0, theta, scale)
        self.stats = StreamingStats(d_sae, scale, pre_unit)
        self.buffers = Buffers()
        self.top = BestPerFeature(d_sae, config.top, one_per_document=True)
        # One more than is kept: its hash says how likely the kept ones were.
        self.active = BestPerFeature(d_sae, config.active + 1, one_per_document=False)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[HarvestStep]:
        start = 0
        while start < self.cache.n_rows:
            # Chunks that double keep merging cheap: once n rows are seen, few of the next n
            # entries of a feature can still be among its best.
            stop = min(start + min(max(start, BATCH), CHUNK), self.cache.n_rows)
            self._chunk(start, stop)
            yield HarvestStep("encode", stop, self.cache.n_rows)
            start = stop
        yield from self._windows()

    def _chunk(self, start: int, stop: int) -> None:
        cache, seed = self.cache, self.config.seed
        doc = np.asarray(cache.doc[start:stop])
        hashes = token_hash(doc, np.asarray(cache.position[start:stop]), seed)
        in_sample = in_pre_sample(doc, np.asarray(cache.position[start:stop]), seed)
        entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for first in range(start, stop, BATCH):
            last = min(first + BATCH, stop)
            x = torch.from_numpy(np.array(cache.x[first:last])).to(self.sae.W_enc.device)
            code = encode_sparse(self.sae, x, self.buffers)
            self.stats.update(code)
            sampled = torch.from_numpy(np.flatnonzero(in_sample[first - start : last - start]))
            self.stats.update_pre(self.sae.pre(x[sampled.to(x.device)]))
            rows = code.rows.cpu().numpy().astype(np.int64) + (first - start)
            entries.append((rows, code.features.cpu().numpy(), code.values.cpu().numpy()))
        rows, features, values = (np.concatenate(part) for part in zip(*entries, strict=True))
        features = features.astype(np.int64)
        # Filter before hashing: after a few chunks hardly any entry can still enter the top.
        good = -values <= self.top.bound[features]
        r, f = rows[good], features[good]
        salts = mix64(np.arange(len(self.stats.fires)))  # per feature
        tie = mix64(hashes[r] ^ salts[f])
        self.top.offer(f, -values[good].astype(np.float64), tie, doc[r], r + start)
        hashed = mix64(hashes[rows] ^ salts[features])
        score = hashed.astype(np.float64) / 2.0**64
        self.active.offer(features, score, hashed, doc[rows], rows + start)

    # ------------------------------------------------------------ windows

    def _chosen(self) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """(kind, feature, rank, row, inclusion) of every example."""
        fires = self.stats.fires
        top, active, k = self.top, self.active, self.config.active
        d_sae = len(fires)
        rank = active.ranks()
        # Conditional inclusion probability of a bottom-k sample: the (k+1)-th smallest hash.
        threshold = np.ones(d_sae)
        beyond = rank == k
        threshold[active.feature[beyond]] = active.score[beyond]
        keep = rank < k
        rng = np.random.default_rng([self.config.seed, 3])
        n_random = min(self.config.random, self.cache.n_rows)
        # Systematic sampling: distinct rows spread over the corpus, each equally likely.
        offset = (np.arange(n_random) + rng.random((d_sae, 1))) / max(n_random, 1)
        random_rows = (offset * self.cache.n_rows).astype(np.int64)
        return [
            ("top", top.feature, top.ranks(), top.row, np.ones(len(top.row))),
            (
                "active",
                active.feature[keep],
                rank[keep],
                active.row[keep],
                threshold[active.feature[keep]],
            ),
            (
                "random",
                np.repeat(np.arange(d_sae), n_random),
                np.tile(np.arange(n_random), d_sae),
                random_rows.ravel(),
                np.full(random_rows.size, n_random / self.cache.n_rows),
            ),
        ]

    def _windows(self) -> Iterator[HarvestStep]:
        """Activations of each chosen feature over the whole context of its example."""
        chosen = self._chosen()
        self.kind = np.repeat([c[0] for c in chosen], [len(c[1]) for c in chosen])
        self.feature, self.rank, self.row, self.inclusion = (
            np.concatenate([c[i] for c in chosen]) for i in range(1, 5)
        )
        context = np.asarray(self.cache.context)[self.row]
        order = np.argsort(context, kind="stable")
        weights = (
            self.sae.W_enc.detach().T.contiguous().cpu(),  # [d_sae, d_in]
            self.sae.b_enc.detach().cpu(),
            self.sae.threshold.detach().cpu(),
        )
        n = len(order)
        self.start, self.length, self.peak = (np.zeros(n, dtype=np.int64) for _ in range(3))
        self.value = np.zeros(n, dtype=np.float32)
        # (counts, indices, values) context by context; the first, empty one stands for no example
        self.cut_order = order
        self.cuts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        bounds = np.flatnonzero(np.diff(context[order], prepend=-1, append=-2))
        for number, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            self._cut(order[a:b], int(context[order[a]]), *weights)
            if number % 256 == 0 or b == n:
                yield HarvestStep("examples", int(b), n)

    def _cut(
        self,
        members: np.ndarray,
        context: int,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        theta: torch.Tensor,
    ) -> None:
        """Start, length, peak and sparse activations of the examples `members` of one context.

        `start` is the document position of the context's first token of that document, masked
        ones included; a packed context holds several documents.
        """
        cache, prefix, width = self.cache, self.cache.mask.prefix, self.cache.ids.shape[1]
        first, last = cache.context_rows[context : context + 2]
        position, doc, column = (
            np.asarray(part[first:last]) for part in (cache.position, cache.doc, cache.column)
        )
        features = torch.from_numpy(self.feature[members])
        x = torch.from_numpy(np.array(cache.x[first:last]))
        pre = torch.addmm(b_enc[features], x, W_enc[features].T)  # [rows, members]
        f = torch.where(pre > theta[features], pre.relu_(), 0.0).T.numpy()
        rows = self.row[members] - first
        here, place = position[rows], column[rows]
        start = np.maximum(here - (place - prefix), 0)
        n_tokens = np.array([cache.documents[d].n_tokens for d in doc[rows]])
        self.start[members] = start
        self.length[members] = np.minimum(n_tokens, here + width - place) - start
        self.peak[members] = here - start
        self.value[members] = f[np.arange(len(members)), rows]
        member, row = np.nonzero((f > 0) & (doc == doc[rows][:, None]))
        counts = np.bincount(member, minlength=len(members))
        self.cuts.append((counts, position[row] - start[member], f[member, row]))

    # ------------------------------------------------------------ tables

    def tables(self) -> dict[str, pa.Table]:
        """`tokens`, `docs`, `features`, `examples`, as data/schema.py names their columns."""
        return {
            "tokens": self._token_table(),
            "docs": self._document_table(),
            "features": self._feature_table(),
            "examples": self._example_table(),
        }

    def _token_table(self) -> pa.Table:
        pieces = token_bytes(self.lm.tokenizer)
        return pa.table(
            {
                "id": pa.array(range(len(pieces)), pa.int32()),
                "bytes": pa.array([raw for raw, _ in pieces], pa.binary()),
                "special": pa.array([special for _, special in pieces], pa.bool_()),
            }
        )

    def _document_table(self) -> pa.Table:
        rows = self.cache.documents
        return pa.table(
            {
                "doc": pa.array([d.doc for d in rows], pa.int32()),
                "name": [d.name for d in rows],
                "split": [d.split for d in rows],
                "use": [d.use for d in rows],
                "min_hash": pa.array([d.min_hash for d in rows], pa.uint64()),
                "n_tokens": pa.array([d.n_tokens for d in rows], pa.int32()),
                "ids": pa.array(self.cache.document_ids, pa.list_(pa.int32())),
            }
        )

    def _peak_tokens(self) -> tuple[list[int | None], list[float | None]]:
        """The commonest token among the uniformly sampled fires of each feature, and its share."""
        d_sae = len(self.stats.fires)
        tokens: list[int | None] = [None] * d_sae
        shares: list[float | None] = [None] * d_sae
        of_active = self.kind == "active"
        rows = self.row[of_active]
        ids = self.cache.ids[self.cache.context[rows], self.cache.column[rows]]
        pairs, counts = np.unique(
            np.stack([self.feature[of_active], ids]), axis=1, return_counts=True
        )
        totals = np.bincount(self.feature[of_active], minlength=d_sae)
        for (feature, token), count in zip(pairs.T, counts, strict=True):
            share = count / totals[feature]
            if shares[feature] is None or share > shares[feature]:
                tokens[feature], shares[feature] = int(token), float(share)
        return tokens, shares

    def _feature_table(self) -> pa.Table:
        s = self.stats
        d_sae = len(s.fires)
        alive = s.fires > 0
        peak_token, peak_share = self._peak_tokens()
        effects = logit_effects(self.lm, self.cache.manifest["spec"]["site"], self.sae.W_dec)
        names = ("top_ids", "top_logits", "bottom_ids", "bottom_logits")
        kinds = (pa.int32(), pa.float32(), pa.int32(), pa.float32())
        columns = effects if effects is not None else [np.empty((d_sae, 0))] * 4
        table = {
            "feature": pa.array(np.arange(d_sae), pa.int32()),
            "fires": pa.array(s.fires, pa.int64()),
            "density": s.fires / s.n_rows,
            "total": s.total,
            "mean": pa.array(s.total / np.maximum(s.fires, 1), mask=~alive),
            "max": pa.array(s.max, pa.float32(), mask=~alive),
            "theta": pa.array(self.sae.threshold.detach().cpu().numpy(), pa.float32()),
            "peak_token": pa.array(peak_token, pa.int32()),
            "peak_share": pa.array(peak_share, pa.float64()),
            "hist_counts": pa.array(list(s.hist), pa.list_(pa.int64())),
            "pre_counts": pa.array(list(s.pre), pa.list_(pa.int64())),
            "pre_unit": pa.array(s.pre_unit, pa.float32()),
        }
        for name, kind, values in zip(names, kinds, columns, strict=True):
            table[name] = pa.array(list(values), pa.list_(kind))
        return pa.table(table)

    def _example_table(self) -> pa.Table:
        counts, index, value = (np.concatenate(part) for part in zip(*self.cuts, strict=True))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        order = np.lexsort((self.rank, self.kind, self.feature))
        cut_place = np.empty(len(order), dtype=np.int64)  # where each example's cut lies
        cut_place[self.cut_order] = np.arange(len(order))
        doc = np.asarray(self.cache.doc)[self.row]

        def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
            array = pa.ListArray.from_arrays(offsets, pa.array(values, kind))
            return array.take(pa.array(cut_place[order]))

        return pa.table(
            {
                "feature": pa.array(self.feature[order], pa.int32()),
                "kind": pa.array(self.kind[order]),
                "rank": pa.array(self.rank[order], pa.int32()),
                "doc": pa.array(doc[order], pa.int32()),
                "start": pa.array(self.start[order], pa.int32()),
                "length": pa.array(self.length[order], pa.int32()),
                "peak": pa.array(self.peak[order], pa.int32()),
                "max": pa.array(self.value[order], pa.float32()),
                "inclusion": pa.array(self.inclusion[order], pa.float64()),
                "act_index": lists(index, pa.uint16()),
                "act_value": lists(value, pa.float32()),
            }
        )
