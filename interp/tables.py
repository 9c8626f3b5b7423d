"""Arrow tables of a harvest, as data/schema.py names their columns.

In:  a finished block, its examples, the cache, the language model.
Out: token, doc, feature, band, example.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.activations import ActivationCache
from data.lm import LanguageModel
from data.tokens import token_bytes
from interp.effects import raised_most
from interp.selection import BANDS, KINDS, PARTS, STRONGEST, Chosen
from interp.stats import BEYOND
from interp.windows import Cuts

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
FEW = 10  # fires below which a feature is rare, whatever the size of the corpus
RARE = 1e-5  # density below which it is
SINGLE = 0.9  # share of the fires on one token
BOUND = 0.5  # share of the fires at few positions, or on few tokens of unusual norm
FEW_TOKENS = 0.05  # share of the tokens that counts as few


def tokens(lm: LanguageModel) -> pa.Table:
    pieces = token_bytes(lm.tokenizer)
    return pa.table(
        {
            "id": pa.array(range(len(pieces)), pa.int32()),
            "bytes": pa.array([raw for raw, _ in pieces], pa.binary()),
            "special": pa.array([special for _, special in pieces], pa.bool_()),
        }
    )


def documents(cache: ActivationCache) -> pa.Table:
    rows = cache.documents
    return pa.table(
        {
            "doc": pa.array([d.doc for d in rows], pa.int32()),
            "name": [d.name for d in rows],
            "split": [d.split for d in rows],
            "use": [d.use for d in rows],
            "min_hash": pa.array([d.min_hash for d in rows], pa.uint64()),
            "n_tokens": pa.array([d.n_tokens for d in rows], pa.int32()),
            "ids": pa.array(cache.document_ids, pa.list_(pa.int32())),
        }
    )


def features(block) -> pa.Table:
    """Columns of `feature` but top_logit, which `with_top_logit` adds."""
    s, n = block.stats, block.n
    alive = s.fires > 0
    token, share = peak_tokens(block)
    quantiles, error = s.quantiles(np.array(list(QUANTILES.values())))
    density = s.fires / int(s.n_rows)
    outlier_share = s.outliers / np.maximum(s.fires, 1)
    few_outliers = int(s.outlier_rows) < FEW_TOKENS * int(s.n_rows)
    hist = s.histogram.bins(s.cells)
    filled = hist > 0
    first = np.where(alive, filled.argmax(1), 0)
    last = np.where(alive, hist.shape[1] - filled[:, ::-1].argmax(1), 0)
    columns = {
        "feature": pa.array(np.arange(block.lo, block.hi), pa.int32()),
        "fires": pa.array(s.fires, pa.int64()),
        "density": density,
        "total": s.powers[0],
        "total_squares": s.powers[1],
        **{name: _optional(values) for name, values in s.moments().items()},
        "max": pa.array(s.max, pa.float32(), mask=~alive),
        **{name: _optional(quantiles[:, i]) for i, name in enumerate(QUANTILES)},
        "quantile_error": _optional(error.max(1)),
        "theta": pa.array(block.floor, pa.float32()),
        "first_doc": pa.array(s.first_doc, pa.int32(), mask=~alive),
        "last_doc": pa.array(s.last_doc, pa.int32(), mask=~alive),
        "peak_token": pa.array(token, pa.int32(), mask=~alive | (token < 0)),
        "peak_share": _optional(share),
        "dead": ~alive,
        "rare": alive & ((s.fires < FEW) | (density < RARE)),
        "dense_1": density > 0.01,
        "dense_10": density > 0.1,
        "single_token": (s.fires >= FEW) & (np.nan_to_num(share) >= SINGLE),
        "position_bound": (s.fires >= FEW) & _at_few_positions(s.positions, s.position_rows),
        "outlier_bound": (s.fires >= FEW) & (outlier_share > BOUND) & few_outliers,
        "outlier_share": pa.array(outlier_share, mask=~alive),
        "hist_first": pa.array(first, pa.int16()),
        "hist_counts": _lists([hist[i, first[i] : last[i]] for i in range(n)], pa.int64()),
        "pre_counts": _lists(list(s.pre), pa.int64()),
        "pre_unit": pa.array(s.pre_unit, pa.float32()),
        "positions": _lists(list(s.positions), pa.int64()),
    }
    return pa.table(columns)


def bands(block) -> pa.Table:
    """Columns of `band`: where each band of ranks begins, and how many fires it holds."""
    s, parts = block.stats, list(BANDS)
    alive = np.flatnonzero(s.fires)
    first, above = (found[alive] for found in s.strongest(STRONGEST))
    edges = np.concatenate([[0.0], s.histogram.cell_edges, [BEYOND]])
    order = np.argsort(parts)  # that of the store
    fires = np.diff(above, prepend=0, axis=1)
    return pa.table(
        {
            "feature": pa.array(np.repeat(alive + block.lo, len(parts)), pa.int32()),
            "part": np.tile(np.array(parts)[order], len(alive)),
            "low": edges[first[:, order]].ravel(),
            "fires": pa.array(fires[:, order].ravel(), pa.int64()),
        }
    )


def with_top_logit(table: pa.Table, logit: pa.Table | None) -> pa.Table:
    """The feature table with the token each feature raises most; NULL where that is not known."""
    raised = raised_most(logit, table["feature"].to_pylist())
    return table.append_column("top_logit", pa.array(raised, pa.int32()))


def peak_tokens(block) -> tuple[np.ndarray, np.ndarray]:
    """The commonest token of each feature's fires [n] (-1: none) and its share [n] (NaN).

    Estimated from the sampled fires; those of a cell stand for all fires in it. Without `quantile`
    examples those of a feature do.
    """
    n, by_cell = block.n, block.cells.k > 0
    kept = block.cells if by_cell else block.active
    group, copies = kept.group, kept.copies
    fires = (block.stats.cells if by_cell else block.stats.fires).reshape(-1)
    in_sample = np.bincount(group, weights=copies, minlength=len(fires))
    weight = copies * (fires[group] / in_sample[group])
    feature = group // block.stats.histogram.n_cells if by_cell else group
    token = block.corpus.token(kept.row).astype(np.int64)
    width = int(token.max(initial=0)) + 1
    pairs, inverse = np.unique(feature * width + token, return_inverse=True)
    total = np.bincount(inverse, weights=weight, minlength=len(pairs))
    order = np.lexsort((pairs, -total, pairs // width))
    owner, first = np.unique((pairs // width)[order], return_index=True)
    found, share = np.full(n, -1), np.full(n, np.nan)
    found[owner] = (pairs % width)[order][first]
    share[owner] = np.minimum(total[order][first] / np.maximum(block.stats.fires[owner], 1), 1.0)
    return found, share


def _at_few_positions(positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether the first positions of a context, few of all tokens, hold most of the fires."""
    few = np.cumsum(rows) <= FEW_TOKENS * rows.sum()
    fires = np.maximum(positions.sum(1), 1)
    return positions[:, few].sum(1) > BOUND * fires


def examples(block, chosen: Chosen, cuts: list[Cuts]) -> pa.Table:
    """Columns of `example`, in the order of its key."""
    n = len(chosen.row)
    place = np.empty(n, dtype=np.int64)  # where each example's cut lies
    place[np.concatenate([c.which for c in cuts] or [np.empty(0, np.int64)])] = np.arange(n)

    def of(name: str) -> np.ndarray:
        return np.concatenate([getattr(c, name) for c in cuts] or [np.empty(0, np.int64)])

    counts = of("counts")
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())

    def lists(name: str, kind: pa.DataType) -> pa.Array:
        array = pa.ListArray.from_arrays(offsets, pa.array(of(name), kind))
        return array.take(pa.array(place))

    def names(index: np.ndarray, known: tuple[str, ...]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(index, pa.int8()), known).cast(pa.string())

    return pa.table(
        {
            "feature": pa.array(chosen.feature + block.lo, pa.int32()),
            "kind": names(chosen.kind, KINDS),
            "part": names(chosen.part, PARTS),
            "rank": pa.array(chosen.rank, pa.int32()),
            "doc": pa.array(np.asarray(block.corpus.cache.doc)[chosen.row], pa.int32()),
            **{name: pa.array(of(name)[place], pa.int32()) for name in ("start", "length", "peak")},
            "max": pa.array(chosen.value, pa.float32()),
            "pre": pa.array(of("pre")[place], pa.float32()),
            "inclusion": _optional(chosen.inclusion),
            "copies": pa.array(chosen.copies, pa.int32()),
            "act_index": lists("index", pa.uint16()),
            "act_value": lists("value", pa.float32()),
        }
    )


def _optional(values: np.ndarray) -> pa.Array:
    """float64, NaN as NULL."""
    return pa.array(np.asarray(values, np.float64), mask=np.isnan(values))


def _lists(rows: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    flat = np.concatenate([*rows, np.empty(0, np.int64)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, kind))


# ---------------------------------------------------------------- on disk, between blocks


def write(table: pa.Table, path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    os.replace(part, path)


def read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
