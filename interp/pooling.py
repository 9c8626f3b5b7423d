"""One vector a document, from the language model and from SAEs at several of its sites.

In:  a language model, SAEs with their sites and masks, documents. Out: for each SAE the raw
     activations and the features of every document, pooled over the tokens the masks keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.errors import TextError
from data.lm import LanguageModel
from data.records import Document
from data.tokens import ContextBatch, ContextMaker, ContextRule, MaskRule
from sae.models import SAE

POOLS = ("mean", "max", "last")
FEATURES_AT_ONCE = 2**25  # elements of one [rows, d_sae] tensor


@dataclass(frozen=True)
class Reader:
    """An SAE, where it reads, and which tokens it was trained on."""

    name: str
    sae: SAE
    site: str
    mask: MaskRule


class Pooled:
    """The vectors of one SAE: raw [n, d_in] and features [n, d_sae] float32, on the CPU."""

    def __init__(self, n_documents: int, sae: SAE, pool: str) -> None:
        self.pool = pool
        blank = -torch.inf if pool == "max" else 0.0
        self.raw = torch.full((n_documents, sae.d_in), blank)
        self.features = torch.full((n_documents, sae.d_sae), blank)
        self.tokens = torch.zeros(n_documents, dtype=torch.int64)  # kept ones of each document
        self.on = torch.zeros(sae.d_sae, dtype=torch.bool)  # features active on any kept token

    def update(self, doc: Tensor, x: Tensor, f: Tensor) -> None:
        """doc [n] int64; x [n, d_in]; f [n, d_sae]; tokens of a document in their order."""
        self.tokens += doc.bincount(minlength=len(self.tokens))
        self.on |= (f > 0).any(0).cpu()
        docs, member = doc.unique(return_inverse=True)
        for table, rows in ((self.raw, x), (self.features, f)):
            if self.pool == "mean":
                # A product adds in one order on every device.
                which = torch.nn.functional.one_hot(member, len(docs)).T.to(rows)
                table[docs] += (which @ rows).cpu()
            elif self.pool == "max":
                index = member[:, None].to(rows.device).expand_as(rows)
                largest = rows.new_full((len(docs), rows.shape[1]), -torch.inf)
                largest.scatter_reduce_(0, index, rows, "amax")
                table[docs] = torch.maximum(table[docs], largest.cpu())
            else:
                last = torch.ones_like(doc, dtype=torch.bool)
                last[:-1] = doc[1:] != doc[:-1]
                table[doc[last]] = rows[last.to(rows.device)].cpu()

    def finish(self) -> None:
        """Sums become means."""
        if self.pool == "mean":
            for table in (self.raw, self.features):
                table /= self.tokens.clamp_min(1)[:, None]


class Pooling:
    """Reads the documents once for all SAEs: iterate for progress, then take `pooled`."""

    def __init__(
        self,
        lm: LanguageModel,
        readers: Sequence[Reader],
        documents: Sequence[Document],
        rule: ContextRule,
        pool: str = "mean",
    ) -> None:
        """rule: how text becomes contexts; never packed, so that no document sees another."""
        if pool not in POOLS:
            raise TextError(f"--pool {pool!r} is unknown: use {', '.join(POOLS)}")
        self.lm, self.readers, self.documents = lm, readers, documents
        self.maker = ContextMaker(lm.tokenizer, replace(rule, pack=False), 2**62)
        self.pooled = {r.name: Pooled(len(documents), r.sae, pool) for r in readers}

    @torch.inference_mode()
    def __iter__(self) -> Iterator[int]:
        """Yields how many documents have been begun."""
        sites = sorted({reader.site for reader in self.readers})
        for contexts in self.maker(self.documents):
            ids = torch.from_numpy(contexts.ids.astype(np.int64))
            found = self.lm.capture(ids, sites)
            for reader in self.readers:
                self._read(reader, contexts, found[reader.site].float())
            yield int(contexts.doc.max()) + 1
        for pooled in self.pooled.values():
            pooled.finish()

    def _read(self, reader: Reader, contexts: ContextBatch, x: Tensor) -> None:
        """Adds the kept tokens of the contexts; x [n, context, d_in]."""
        keep = torch.from_numpy(reader.mask.keep_ids(contexts))
        if reader.mask.norm_limit is not None:
            keep &= (x.norm(dim=-1) <= reader.mask.norm_limit).cpu()
        doc = torch.from_numpy(contexts.doc.astype(np.int64))[keep]
        rows = x[keep.to(x.device)].to(reader.sae.W_enc)
        at_once = max(FEATURES_AT_ONCE // reader.sae.d_sae, 1)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            f = reader.sae.encode(some)
            self.pooled[reader.name].update(doc[start : start + at_once], some, f)
