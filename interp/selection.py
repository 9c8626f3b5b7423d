"""Which tokens become examples, once a block of features has been through the corpus.

In:  a finished `Block`.
Out: `Chosen`, one entry an example, with the probability it was taken with.

    top        the strongest fires, one per document, every text once; taken with certainty
    quantile   in each band of ranks among the fires, those of smallest hash; a band begins and ends
               at edges of cells, the nearest to its ranks, so that it is known how many it holds
    active     a uniform sample of all fires: those of smallest hash
    near_miss  under: silent, pre-activation nearest to the threshold; token: silent on a token that
               the top examples fire on. Picked for contrast, no sample
    random     a uniform sample of the silent tokens, out of one pool for all features

A bottom-k sample holds what has a hash below the (k+1)-th smallest; that hash is the probability
with which it was taken, given the others (Cohen and Kaplan 2007).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from interp.sampling import NEVER, Smallest, joined, order_by, place_in_run, run_starts
from sae.models import TopKSAE

KINDS = ("top", "quantile", "active", "near_miss", "random")
BANDS = {"0.99-1": (0.99, 1.0), "0.9-0.99": (0.9, 0.99), "0.5-0.9": (0.5, 0.9), "0-0.5": (0.0, 0.5)}
STRONGEST = (1, 10, 50, 100)  # percent of the fires from where each begins
PARTS = ("", *BANDS, "under", "token")
TOKENS = 3  # commonest tokens of the top examples that a near miss may share
TRIES = (1, 2, 6)  # places of a token looked at, in rounds, for each such near miss
ROUNDING = 1e-5  # of |x| |w|: more than two ways to sum x w differ by
SLICE = 1_024  # features whose pool is encoded at once


class Chosen(NamedTuple):
    """Examples of a block, [n] each; sorted by feature, kind, part and rank."""

    feature: np.ndarray  # within the block
    kind: np.ndarray  # index into KINDS
    part: np.ndarray  # index into PARTS
    rank: np.ndarray
    row: np.ndarray
    value: np.ndarray  # activation, float32
    gap: np.ndarray  # how far below the threshold, float32; NaN where it is not known yet
    inclusion: np.ndarray  # NaN: no sample
    copies: np.ndarray


def choose(block, pool) -> Chosen:
    """All examples of the block's features. pool: Corpus.pool(), None for no `random` ones."""
    config = block.config
    n_under = (config.near_miss + 1) // 2
    top = _top(block, config.top)
    pieces = [
        top,
        *_quantiles(block, config.quantile),
        _active(block, config.active),
        _under(block, n_under),
        _same_token(block, top, config.near_miss - n_under),
    ]
    if pool is not None:
        pieces.append(_random(block, pool, config.random))
    found = Chosen(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    names = np.array([*KINDS, *PARTS])
    # In the order of the store: by the names, not by these lists.
    by_name = np.argsort(np.argsort(names))
    kind, part = by_name[found.kind], by_name[len(KINDS) + found.part]
    order = np.lexsort((found.rank, part, kind, found.feature))
    return Chosen(*(column[order] for column in found))


def _made(
    kind: str, part: str, feature, rank, row, value, gap=None, inclusion=None, copies=None
) -> Chosen:
    n = len(feature)
    return Chosen(
        np.asarray(feature, np.int64),
        np.full(n, KINDS.index(kind)),
        np.full(n, PARTS.index(part)),
        np.asarray(rank, np.int64),
        np.asarray(row, np.int64),
        np.asarray(value, np.float32),
        np.full(n, np.nan, np.float32) if gap is None else np.asarray(gap, np.float32),
        np.full(n, np.nan) if inclusion is None else np.asarray(inclusion, np.float64),
        np.ones(n, np.int64) if copies is None else np.asarray(copies, np.int64),
    )


# ---------------------------------------------------------------- fires


def _top(block, n: int) -> Chosen:
    feature, row, value, copies = _texts_once(block, block.top)
    rank = place_in_run(feature)
    keep = rank < n
    inclusion = np.ones(int(keep.sum()))
    columns = (feature[keep], rank[keep], row[keep], value[keep])
    return _made("top", "", *columns, inclusion=inclusion, copies=copies[keep])


def _texts_once(block, kept: Smallest) -> tuple[np.ndarray, ...]:
    """(feature, row, value, copies) of what is kept, each text once, in the kept order."""
    feature, row, value = kept.group, kept.row, kept.value
    text = block.corpus.text(row)
    order = np.lexsort((np.arange(len(row)), text, feature))
    starts = run_starts(feature[order], text[order])
    first = order[starts]
    copies = np.diff(starts, append=len(order))
    back = np.argsort(first)
    first, copies = first[back], copies[back]
    return feature[first], row[first], value[first], copies


class _Fires(NamedTuple):
    """Sampled fires, sorted by feature, then by hash; a text of a feature once."""

    feature: np.ndarray
    key: np.ndarray
    row: np.ndarray
    value: np.ndarray
    copies: np.ndarray


def _sorted(feature, key, tie, row, value, copies) -> _Fires:
    """Of the copies of a text in several cells the one of smallest tie stays, as in each cell: any
    of them is as likely."""
    words = joined(feature, key, int(feature.max(initial=0)) + 1)
    order = order_by(words, (key, tie, row))
    columns = [column[order] for column in (feature, key, row, value, copies)]
    starts = run_starts(columns[0], columns[1])
    if len(starts) < len(order):
        copies = np.add.reduceat(columns[4], starts)
        columns = [column[starts] for column in columns[:4]] + [copies]
    return _Fires(*columns)


def _take(kind: str, part: str, fires: _Fires, n: int, n_features: int) -> Chosen:
    """The n of smallest hash of each feature; the next one says how likely they were."""
    rank = place_in_run(fires.feature)
    threshold = np.ones(n_features)
    at = rank == n
    threshold[fires.feature[at]] = fires.key[at].astype(np.float64) / 2.0**64
    keep = rank < n
    columns = (fires.feature[keep], rank[keep], fires.row[keep], fires.value[keep])
    more = {"inclusion": threshold[fires.feature[keep]], "copies": fires.copies[keep]}
    return _made(kind, part, *columns, **more)


def _active(block, n: int) -> Chosen:
    kept = block.active
    fires = _Fires(kept.group, kept.key, kept.row, kept.value, kept.copies)
    return _take("active", "", fires, n, block.n)


def _quantiles(block, n: int) -> list[Chosen]:
    """Of each cell the smallest hashes are kept, and a band is made of whole cells."""
    if n == 0:
        return []
    first, _ = block.stats.strongest(STRONGEST)
    kept, n_cells = block.cells, block.stats.histogram.n_cells
    feature, cell = kept.group // n_cells, kept.group % n_cells
    columns = (feature, kept.key, kept.tie, kept.row, kept.value, kept.copies)
    pieces, above = [], np.full(block.n, n_cells)
    for number, part in enumerate(BANDS):
        inside = (cell >= first[feature, number]) & (cell < above[feature])
        fires = _sorted(*(column[inside] for column in columns))
        pieces.append(_take("quantile", part, fires, n, block.n))
        above = first[:, number]
    return pieces


# ---------------------------------------------------------------- silent tokens


def _under(block, n: int) -> Chosen:
    feature, row, gap, copies = _texts_once(block, block.near)
    rank = place_in_run(feature)
    keep = rank < n
    columns = (feature[keep], rank[keep], row[keep], np.zeros(int(keep.sum())))
    return _made("near_miss", "under", *columns, gap=gap[keep], copies=copies[keep])


def _same_token(block, top: Chosen, n: int) -> Chosen:
    """Silent places of the commonest tokens of the top examples, from a seeded start in the list of
    the token's places."""
    nothing = _made("near_miss", "token", *(np.empty(0) for _ in range(4)))
    if n == 0 or len(top.row) == 0:
        return nothing
    corpus = block.corpus
    places, ends = corpus.places
    feature, token = _commonest(top.feature, corpus.token(top.row))
    first, count = ends[token], ends[token + 1] - ends[token]
    start = (block.salt[feature] % count.astype(np.uint64)).astype(np.int64)
    owner, row = np.empty(0, np.int64), np.empty(0, np.int64)
    # Few places are looked at first: most are silent, so for most features they are enough.
    for begin, end in zip((0, *TRIES[:-1]), TRIES, strict=True):
        lacking = np.bincount(owner, minlength=block.n)[feature] < n
        turn = np.arange(begin * n, end * n)
        inside = lacking[:, None] & (turn < count[:, None])  # a rare token's places only once
        which, step = np.nonzero(inside)
        of = feature[which]
        new = places[first[which] + (start[which] + turn[step]) % count[which]]
        order = np.lexsort((new, step, of))  # the features' tokens in turns
        of, new = of[order], new[order]
        silent = _pre_at(block, of, new) <= _floor_at(block, of, new)
        owner, row = np.concatenate([owner, of[silent]]), np.concatenate([row, new[silent]])
        owner, row = _once(owner, corpus.group(row), row)
        owner, row = _once(owner, corpus.text(row), row)
    order = np.argsort(owner, kind="stable")
    owner, row = owner[order], row[order]
    rank = place_in_run(owner)
    keep = rank < n
    return _made("near_miss", "token", owner[keep], rank[keep], row[keep], np.zeros(keep.sum()))


def _commonest(feature: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The TOKENS commonest tokens of each feature; of equally common ones the smaller ids."""
    order = np.lexsort((token, feature))
    feature, token = feature[order], token[order]
    starts = run_starts(feature, token)
    count = np.diff(starts, append=len(feature))
    feature, token = feature[starts], token[starts]
    order = np.lexsort((token, -count, feature))
    feature, token = feature[order], token[order]
    keep = place_in_run(feature) < TOKENS
    return feature[keep], token[keep]


def _once(owner: np.ndarray, what: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each (owner, what), in the order given."""
    order = np.lexsort((np.arange(len(owner)), what, owner))
    first = np.sort(order[run_starts(owner[order], what[order])])
    return owner[first], row[first]


@torch.inference_mode()
def _pre_at(block, feature: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Pre-activation of single (feature, row) pairs [n], float32."""
    W, b = block.weights
    found = np.empty(len(feature), dtype=np.float32)
    order = np.argsort(row, kind="stable")  # reads the cache in its own order
    W = W.T
    for start in range(0, len(order), 1 << 14):
        part = order[start : start + (1 << 14)]
        rows, which = np.unique(row[part], return_inverse=True)
        x = torch.from_numpy(np.array(block.corpus.cache.x[rows])).to(W)
        x = block.sae.token_frame(x)[0][torch.from_numpy(which).to(W.device)]
        of = torch.from_numpy(feature[part]).to(W.device)
        found[part] = ((x * W[of]).sum(1) + b[of]).float().cpu().numpy()
    return found


def _floor_at(block, feature: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A pre-activation at or below it is silent, of pairs that broadcast.

    In a TopK SAE that is what lies clearly below the row's k-th largest: another rounding may put
    the k-th itself a little under it.
    """
    if not isinstance(block.sae, TopKSAE):
        return block.floor[feature]
    norms = block.weights[0].norm(dim=0).cpu().numpy()[feature]
    return np.maximum(block.row_floor[row], 0) - ROUNDING * block.corpus.scale * norms


def _random(block, pool: tuple, n: int) -> Chosen:
    rows, copies, second, probability = pool
    # The n + 1 smallest hashes of silent tokens nearly always lie in the first few of the pool.
    likely = np.uint64(min(4 * (n + 1) * (NEVER // len(rows)), NEVER))
    pieces = []
    for lo in range(0, block.n, SLICE):
        part = np.arange(lo, min(lo + SLICE, block.n))
        pre, floor = _pool_pre(block, rows, part)
        silent = pre <= floor  # [features, pool]
        key = second ^ block.salt[part][:, None]
        small = silent & (key <= likely)
        lacking = small.sum(1) <= n
        small[lacking] = silent[lacking]
        which, at = np.nonzero(small)
        hashes = key[which, at]
        order = order_by(joined(which, hashes, len(part)), (hashes,))
        which, at, hashes = which[order], at[order], hashes[order]
        rank = place_in_run(which)
        threshold = np.ones(len(part))
        threshold[which[rank == n]] = hashes[rank == n].astype(np.float64) / 2.0**64
        keep = rank < n
        which, at = which[keep], at[keep]
        columns = (part[which], rank[keep], rows[at], np.zeros(len(at)))
        # From the row's own k-th largest, as `gap_to_pre` takes it: that may lie below 0.
        least = block.row_floor[rows] if isinstance(block.sae, TopKSAE) else floor
        gap = np.broadcast_to(least, pre.shape)[which, at] - pre[which, at]
        more = {"inclusion": probability * threshold[which], "copies": copies[at]}
        pieces.append(_made("random", "", *columns, gap=gap, **more))
    return Chosen(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


@torch.inference_mode()
def _pool_pre(block, rows: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations of the pool [features of the part, pool] and what they must exceed."""
    W, b = block.weights
    x = torch.from_numpy(np.array(block.corpus.cache.x[np.sort(rows)])).to(W)
    x = block.sae.token_frame(x[torch.from_numpy(np.argsort(np.argsort(rows))).to(W.device)])[0]
    span = slice(int(part[0]), int(part[-1]) + 1)
    pre = torch.addmm(b[span, None], W[:, span].T, x.T).float().cpu().numpy()
    return pre, _floor_at(block, part[:, None], rows)


def gap_to_pre(block, chosen: Chosen) -> np.ndarray:
    """Pre-activation where the gap is known, float32 [n]; NaN elsewhere."""
    if isinstance(block.sae, TopKSAE):
        return block.row_floor[chosen.row] - chosen.gap
    return block.floor[chosen.feature] - chosen.gap
