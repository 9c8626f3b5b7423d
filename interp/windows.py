"""What a feature does in the whole context of each of its examples.

In:  a finished block and its chosen examples. Out: start, length and peak of each context and the
     activations in it, as lists of the tokens on which the feature is active.

Contexts are encoded again for the chosen features only: recording them during the pass would copy
every candidate that is later displaced. A fire within rounding of its threshold may come out silent
here; at the peak what the pass saw stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from interp.selection import Chosen, gap_to_pre
from sae.models import TopKSAE

CONTEXTS = 256  # between two reports of progress
ROUNDING = 1e-6  # of |x| |w|: more than two ways to sum x w differ by


@dataclass
class Cuts:
    """The examples `which` of the chosen ones, [n] each; lists end to end."""

    which: np.ndarray
    start: np.ndarray  # document position of the context's first token of that document
    length: np.ndarray
    peak: np.ndarray  # counted from start
    pre: np.ndarray
    counts: np.ndarray  # active tokens of each
    index: np.ndarray  # counted from start
    value: np.ndarray
    done: int
    total: int


@torch.inference_mode()
def cut(block, chosen: Chosen) -> Iterator[Cuts]:
    """The activations of all examples, some hundred contexts at a time."""
    cache, total = block.corpus.cache, len(chosen.row)
    context = np.asarray(cache.context)[chosen.row]
    order = np.argsort(context, kind="stable")
    bounds = np.flatnonzero(np.diff(context[order], prepend=-1, append=-2))
    encoder = _Encoder(block)
    known = gap_to_pre(block, chosen)
    for first in range(0, len(bounds) - 1, CONTEXTS):
        ends = bounds[first : first + CONTEXTS + 1]
        parts = [
            _cut(encoder, chosen, known, order[a:b], int(context[order[a]]))
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        yield Cuts(order[ends[0] : ends[-1]], *columns, int(ends[-1]), total)


class _Encoder:
    """Single features on the rows of one context."""

    def __init__(self, block) -> None:
        self.block, self.sae = block, block.sae
        self.W = block.weights[0].T.contiguous()  # [features, d_in]
        self.b = block.weights[1]
        self.floor = torch.from_numpy(block.floor).to(self.W.device)
        self.norms = self.W.norm(dim=1)
        self.is_topk = isinstance(block.sae, TopKSAE)

    def __call__(self, features: np.ndarray, first: int, last: int) -> tuple[np.ndarray, ...]:
        """Pre-activations and activations [features, rows] of rows first..last-1."""
        of = torch.from_numpy(features).to(self.W.device)
        x = torch.from_numpy(np.array(self.block.corpus.cache.x[first:last])).to(self.W)
        x = self.sae.token_frame(x)[0]
        pre = torch.addmm(self.b[of], x, self.W[of].T)  # [rows, features]
        f = self.sae.values(pre, of + self.block.lo)
        if self.is_topk:
            least = torch.from_numpy(self.block.row_floor[first:last]).to(pre)[:, None]
            # The k-th of a row is its own floor, which another rounding would put it under.
            slack = ROUNDING * x.norm(dim=1)[:, None] * self.norms[of]
            on = (pre >= least - slack) & (pre > 0)
        else:
            on = pre > self.floor[of]
        f = torch.where(on, f.relu(), 0.0)
        return pre.T.float().cpu().numpy(), f.T.float().cpu().numpy()


def _cut(
    encoder: _Encoder, chosen: Chosen, known: np.ndarray, members: np.ndarray, context: int
) -> tuple[np.ndarray, ...]:
    """start, length, peak, pre, counts, index, value of the examples of one context.

    Tokens that the mask leaves out belong to the context too; a packed one holds several documents.
    """
    cache = encoder.block.corpus.cache
    prefix, width = cache.mask.prefix, cache.ids.shape[1]
    first, last = cache.context_rows[context : context + 2]
    position, doc, column = (
        np.asarray(part[first:last]) for part in (cache.position, cache.doc, cache.column)
    )
    features, inverse = np.unique(chosen.feature[members], return_inverse=True)
    pre, f = (part[inverse] for part in encoder(features, first, last))
    rows = chosen.row[members] - first
    here, place = position[rows], column[rows]
    start = np.maximum(here - (place - prefix), 0)
    n_tokens = np.array([cache.documents[d].n_tokens for d in doc[rows]])
    length = np.minimum(n_tokens, here + width - place) - start
    member = np.arange(len(members))
    f[member, rows] = chosen.value[members]  # what the pass saw
    at_peak = np.where(np.isnan(known[members]), pre[member, rows], known[members])
    of, row = np.nonzero((f > 0) & (doc == doc[rows][:, None]))
    counts = np.bincount(of, minlength=len(members))
    return start, length, here - start, at_peak, counts, position[row] - start[of], f[of, row]
