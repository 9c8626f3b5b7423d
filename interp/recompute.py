"""Activations computed anew from the text in a store, and how far float noise may move them.

In:  documents and token ids as a store keeps them, its context rule and masks, the language model,
     the SAE. Out: the contexts of the harvest in its order; for any of them the activations, which
     tokens count, and by how much a pre-activation clears what it takes to fire.

Nothing of the activation cache is read, and contexts are built from ids and not from text, so that
a fault in either shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.lm import LanguageModel
from data.tokens import ContextBatch, ContextRule, MaskRule, bos_of, prefix_of
from sae.models import SAE, GatedSAE, TopKSAE

BATCH = 32  # contexts at once, as many as a capture takes: the same shapes round the same way
ALONE = 4  # contexts that are also run on their own, to see the model's noise
NOISE = 4.0  # how many times the noise measured, and the rounding below, count as noise
ROUNDING = 2.0**-20  # of a float32 forward pass: 1.1e-6 of |x| on the demo, against float64

ReadIds = Callable[[Sequence[int]], Mapping[int, np.ndarray]]


class Documents(NamedTuple):
    """The documents of a store, in their order."""

    doc: np.ndarray  # int [n]
    n_tokens: np.ndarray  # int [n]
    stream: np.ndarray  # int [n]; only documents of one stream are packed together

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> Documents:
        """From columns of the table `doc`. Splits stay apart, and so does what calibrates."""
        numbers: dict[tuple[str, bool], int] = {}
        parts = zip(columns["split"].tolist(), columns["use"].tolist(), strict=True)
        stream = [numbers.setdefault((s, use == "calibrate"), len(numbers)) for s, use in parts]
        doc, n_tokens = (columns[name].astype(np.int64) for name in ("doc", "n_tokens"))
        return cls(doc, n_tokens, np.array(stream, dtype=np.int64))


class StoredContexts:
    """The contexts a harvest saw, rebuilt from documents.

    A context is named by two numbers: its document and start or, packed, its stream and its place
    in it. `order` names all of them, in the order they were made.
    """

    def __init__(
        self,
        rule: ContextRule,
        prefix: Sequence[int],
        separator: int,
        documents: Documents,
        read_ids: ReadIds,
    ) -> None:
        self.rule, self.prefix, self.separator = rule, tuple(prefix), separator
        self.documents, self.room = documents, rule.context - len(prefix)
        self._read, self._ids = read_ids, dict[int, np.ndarray]()
        self._place = {int(doc): i for i, doc in enumerate(documents.doc)}
        if rule.pack:
            self._begin, self.order = self._packing()
        else:
            counts = -(-documents.n_tokens // self.room)
            first = np.repeat(np.cumsum(counts) - counts, counts)
            start = (np.arange(len(first)) - first) * self.room
            self.order = np.stack([np.repeat(documents.doc, counts), start], axis=1)

    def names(self, doc: np.ndarray, start: np.ndarray) -> np.ndarray:
        """int [n, 2]: the contexts that hold position start [n] of document doc [n]."""
        if not self.rule.pack:
            return np.stack([doc, start // self.room * self.room], axis=1)
        place = np.array([self._place[int(d)] for d in doc], dtype=np.int64)
        where = self._begin[place] + start
        return np.stack([self.documents.stream[place], where // self.room], axis=1)

    def build(self, names: np.ndarray) -> ContextBatch:
        """The contexts of those names [n, 2], filled up on the right with the separator."""
        shape = (len(names), self.rule.context)
        ids = np.full(shape, self.separator, dtype=np.int32)
        doc, position = (np.full(shape, -1, dtype=np.int32) for _ in range(2))
        ids[:, : len(self.prefix)] = self.prefix
        parts = [self._parts(*name) for name in names.tolist()]
        self._fetch({d for some in parts for d, *_ in some})
        for row, some in enumerate(parts):
            for d, start, stop, column in some:
                here = slice(column, column + stop - start)
                ids[row, here] = self._ids[d][start:stop]
                doc[row, here], position[row, here] = d, np.arange(start, stop)
        return ContextBatch(ids, doc, position)

    def _parts(self, first: int, second: int) -> list[tuple[int, int, int, int]]:
        """(document, start, stop, column) of each piece of text in a context."""
        lead = len(self.prefix)
        if not self.rule.pack:
            n = int(self.documents.n_tokens[self._place[first]])
            return [(first, second, min(second + self.room, n), lead)]
        low, high = second * self.room, (second + 1) * self.room
        members, begin = self._streams[first]
        end = begin + self.documents.n_tokens[members]
        found = []
        for i in range(int(np.searchsorted(end, low, side="right")), len(members)):
            if begin[i] >= high:
                break
            start, stop = max(low - int(begin[i]), 0), min(high, int(end[i])) - int(begin[i])
            if stop > start:
                column = lead + int(begin[i]) + start - low
                found.append((int(self.documents.doc[members[i]]), start, stop, column))
        return found

    def _packing(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each document begins in its stream [n], and the contexts in order [contexts, 2].

        A separator stands before a document that does not begin a context.
        """
        begin, order = np.zeros(len(self.documents.doc), dtype=np.int64), []
        at: dict[int, int] = {}
        for i, (n, stream) in enumerate(
            zip(self.documents.n_tokens.tolist(), self.documents.stream.tolist(), strict=True)
        ):
            old = at.get(stream, 0)
            begin[i] = old + (old % self.room > 0)
            at[stream] = int(begin[i]) + n
            full = range(old // self.room, at[stream] // self.room)
            order += [(stream, number) for number in full]
        order += [(s, end // self.room) for s, end in at.items() if end % self.room]
        streams = np.unique(self.documents.stream).tolist()
        members = {s: np.flatnonzero(self.documents.stream == s) for s in streams}
        self._streams = {s: (which, begin[which]) for s, which in members.items()}
        return begin, np.array(order, dtype=np.int64).reshape(-1, 2)

    def _fetch(self, docs: set[int]) -> None:
        """Reads the ids of those documents; only what the last call used is kept beside."""
        missing = sorted(docs - self._ids.keys())
        self._ids = {d: self._ids[d] for d in docs & self._ids.keys()}
        if missing:
            self._ids |= self._read(missing)


class Activations(NamedTuple):
    """What the model gave for a batch of contexts."""

    contexts: ContextBatch
    x: Tensor  # float32 [n, context, d_in]
    keep: np.ndarray  # bool [n, context]: tokens that the masks leave
    unsure: np.ndarray  # bool [n, context]: whose norm is within noise of the limit


class Recomputer:
    """The language model and the SAE over stored contexts. Raises what `LanguageModel.capture`
    does."""

    def __init__(
        self, sae: SAE, lm: LanguageModel, site: str, mask: MaskRule, contexts: StoredContexts
    ) -> None:
        self.sae, self.lm, self.site, self.mask, self.contexts = sae, lm, site, mask, contexts
        self.W, self.b = sae.W_enc.detach(), sae.b_enc.detach()
        self.lengths = torch.linalg.vector_norm(self.W, dim=0)  # [d_sae]
        self.noise = NOISE * (self._model_noise() + ROUNDING)

    @torch.inference_mode()
    def activations(self, names: np.ndarray) -> Activations:
        """Of the contexts of those names [n, 2]."""
        contexts = self.contexts.build(names)
        x = self._capture(contexts.ids)
        keep = self._counted(contexts)
        unsure = np.zeros_like(keep)
        if self.mask.norm_limit is not None:
            over = torch.linalg.vector_norm(x, dim=-1).cpu().numpy() / self.mask.norm_limit - 1
            unsure = keep & (np.abs(over) <= self.noise)
            keep &= over <= 0
        return Activations(contexts, x, keep, unsure)

    def batches(self, rows: int) -> Iterator[tuple[Activations, int]]:
        """All contexts in their order, with how many are done, until the harvest's `rows` tokens,
        loud ones included, are through: it read no further."""
        seen = 0
        for start in range(0, len(self.contexts.order), BATCH):
            found = self.activations(self.contexts.order[start : start + BATCH])
            seen += int(self._counted(found.contexts).sum())
            yield found, min(start + BATCH, len(self.contexts.order))
            if seen >= rows:
                return

    def _counted(self, contexts: ContextBatch) -> np.ndarray:
        """bool [n, context]: tokens that the masks leave, whatever their norm."""
        counted = (contexts.doc >= 0) & ~np.isin(contexts.ids, self.mask.special)
        counted[:, : self.mask.prefix + self.mask.skip_first] = False
        return counted

    def _capture(self, ids: np.ndarray) -> Tensor:
        tokens = torch.from_numpy(ids.astype(np.int64))
        return self.lm.capture(tokens, [self.site])[self.site].float()

    @torch.inference_mode()
    def _model_noise(self) -> float:
        """By how much activations move, relative to their length, when a context is run alone."""
        contexts = self.contexts.build(self.contexts.order[:BATCH])
        together, largest = self._capture(contexts.ids), 0.0
        for row in range(min(ALONE, len(contexts.ids))):
            length = int((contexts.position[row] >= 0).nonzero()[0].max(initial=0)) + 1
            alone = self._capture(contexts.ids[row : row + 1, :length])[0]
            moved = torch.linalg.vector_norm(together[row, :length] - alone, dim=-1)
            largest = max(largest, float((moved / torch.linalg.vector_norm(alone, dim=-1)).max()))
        return largest


def recomputer_of(
    sae: SAE, lm: LanguageModel, meta: Mapping, documents: Documents, read_ids: ReadIds
) -> Recomputer:
    """By the rules that a store's meta records."""
    rule = ContextRule(**meta["rule"])
    mask = MaskRule(**{**meta["masks"], "special": tuple(meta["masks"]["special"])})
    prefix, separator = prefix_of(lm.tokenizer, rule.chat), bos_of(lm.tokenizer)
    contexts = StoredContexts(rule, prefix, separator, documents, read_ids)
    return Recomputer(sae, lm, meta["site"], mask, contexts)


def margin(sae: SAE, pre: Tensor, features: Tensor | None) -> Tensor:
    """By how much pre-activations [rows, n] clear what it takes to fire, in their own units.

    Positive: the feature fires. features [n]; None: all d_sae, which a TopK SAE needs.
    """
    at = (lambda v: v) if features is None else (lambda v: v.index_select(0, features))
    if isinstance(sae, GatedSAE):
        return torch.minimum(pre, pre - at(sae.b_enc) + at(sae.b_mag) * at(sae.r_mag).neg().exp())
    if not isinstance(sae, TopKSAE):
        return pre - at(sae.floor)
    assert features is None, "a TopK SAE chooses among all features"
    k = sae.config.k
    best = pre.topk(min(k + 1, pre.shape[1]), dim=1).values
    least = best[:, k - 1 : k]
    rival = best[:, k:] if best.shape[1] > k else torch.full_like(least, -torch.inf)
    return torch.minimum(pre, torch.where(pre >= least, pre - rival, pre - least))
