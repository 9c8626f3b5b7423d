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
    total = len(chosen.row)
    context = np.asarray(block.corpus.cache.context)[chosen.row]
    order = np.argsort(context, kind="stable")
    bounds = np.flatnonzero(np.diff(context[order], prepend=-1, append=-2))
    cutter = _Cutter(block, chosen)
    for first in range(0, len(bounds) - 1, CONTEXTS):
        ends = bounds[first : first + CONTEXTS + 1]
        parts = [
            cutter(order[a:b], int(context[order[a]]))
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        yield Cuts(order[ends[0] : ends[-1]], *columns, int(ends[-1]), total)


class _Cutter:
    """The examples of one context after another."""

    def __init__(self, block, chosen: Chosen) -> None:
        self.block, self.sae, self.chosen = block, block.sae, chosen
        self.known = gap_to_pre(block, chosen)
        self.W = block.weights[0].T.contiguous()  # [features, d_in]
        self.b = block.weights[1]
        self.floor = torch.from_numpy(block.floor).to(self.W.device)
        self.norms = self.W.norm(dim=1)
        self.is_topk = isinstance(block.sae, TopKSAE)
        # Plain views: a memory map pays several microseconds for each slice.
        cache = block.corpus.cache
        self.rows_of = cache.context_rows
        self.x, self.position, self.doc, self.column = map(
            np.asarray, (cache.x, cache.position, cache.doc, cache.column)
        )
        self.n_tokens = np.array([d.n_tokens for d in cache.documents])
        self.prefix, self.width = cache.mask.prefix, cache.ids.shape[1]

    def __call__(self, members: np.ndarray, context: int) -> tuple[np.ndarray, ...]:
        """start, length, peak, pre, counts, index, value of the examples of one context.

        Tokens that the mask leaves out belong to the context too; a packed one holds several
        documents.
        """
        first, last = self.rows_of[context : context + 2]
        position, doc = self.position[first:last], self.doc[first:last]
        features, of = np.unique(self.chosen.feature[members], return_inverse=True)
        rows, seen = self.chosen.row[members] - first, self.chosen.value[members]
        here, place = position[rows], self.column[first:last][rows]
        start = np.maximum(here - (place - self.prefix), 0)
        length = np.minimum(self.n_tokens[doc[rows]], here + self.width - place) - start
        pre, on = self._encoded(features, first, last)
        known = self.known[members]
        at_peak = np.where(np.isnan(known), pre[of, rows], known)
        fires = seen > 0
        on[of, rows] = fires
        peaks = of[fires] * len(doc) + rows[fires]
        entry, value = self._entries(pre, on, features, peaks, seen[fires])
        # Each example takes its feature's entries; in a packed context those of its document.
        ends = np.searchsorted(entry, np.arange(len(features) + 1) * len(doc))
        counts = np.diff(ends)[of]
        owner = np.repeat(np.arange(len(of)), counts)
        which = np.arange(len(owner)) + np.repeat(ends[of] - np.cumsum(counts) + counts, counts)
        row = entry[which] % len(doc)
        if doc[0] != doc[-1]:
            same = np.flatnonzero(doc[row] == doc[rows][owner])
            owner, which, row = owner[same], which[same], row[same]
            counts = np.bincount(owner, minlength=len(of))
        return (
            start,
            length,
            here - start,
            at_peak,
            counts,
            position[row] - start[owner],
            value[which],
        )

    def _encoded(self, features: np.ndarray, first: int, last: int) -> tuple[np.ndarray, ...]:
        """Pre-activations [features, rows] of rows first..last-1, and which are active."""
        of = torch.from_numpy(features).to(self.W.device)
        x = self.sae.token_frame(torch.from_numpy(self.x[first:last].copy()).to(self.W))[0]
        pre = torch.addmm(self.b[of, None], self.W[of], x.T)
        if self.is_topk:
            least = torch.from_numpy(self.block.row_floor[first:last]).to(pre)
            # The k-th of a row is its own floor, which another rounding would put it under.
            slack = ROUNDING * x.norm(dim=1) * self.norms[of, None]
            on = (pre >= least - slack) & (pre > 0)
        else:
            on = pre > self.floor[of, None]
        return pre.float().cpu().numpy(), on.cpu().numpy()

    def _entries(
        self, pre: np.ndarray, on: np.ndarray, features: np.ndarray, peaks: np.ndarray,
        seen: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Places in [features, rows], laid end to end, of what is active, and its activations; at
        the places `peaks` those that the pass has `seen`."""
        entry = np.flatnonzero(on)
        of = torch.from_numpy(features[entry // on.shape[1]] + self.block.lo).to(self.W.device)
        z = torch.from_numpy(pre.reshape(-1)[entry]).to(self.W)
        value = self.sae.values(z, of).float().cpu().numpy()
        value[np.searchsorted(entry, peaks)] = seen
        if value.min(initial=1) <= 0:  # a gate may be open over a magnitude of 0
            entry, value = entry[value > 0], value[value > 0]
        return entry, value
