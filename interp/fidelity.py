"""How much of the activations, and of the language model's predictions, an SAE keeps.

In:  an SAE, a cache of activations, the language model, the contexts to use (held-out ones).
Out: the metrics every evaluation reports, defined in docs/METHODS.md.

Splice: at positions the masks keep, the activation is replaced by x_hat (the SAE's error is
dropped); prefix, special and high-norm positions keep the original. Loss and KL are averaged over
kept positions whose next token is a kept token of the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.activations import ActivationCache
from data.errors import ModelError
from data.lm import LanguageModel
from interp.attribution import Attribution
from interp.splice import prefix_once
from sae.metrics import Metrics
from sae.models import SAE
from sae.sparse import Buffers, decode_sparse, encode_sparse

BATCH_ROWS = 8_192
LOGITS_AT_ONCE = 2**24  # elements of one [batch, context, vocabulary] tensor


@dataclass(frozen=True)
class FidelityStep:
    """Progress of an evaluation, in tokens of all its parts together."""

    done: int
    total: int


def refuse_transcoder(sae: SAE) -> None:
    """ModelError for an SAE whose output is another place's activation."""
    if sae.is_transcoder:
        raise ModelError(
            "a transcoder cannot be evaluated: its output is another place's activation and cannot "
            "be spliced in where its input was read; evaluate an SAE instead"
        )


def position_edges(context: int) -> np.ndarray:
    """Where the bins of positions in a context begin, and the context's end: 1, 2, 4, 8, ..."""
    return np.array([*(2**b for b in range((context - 1).bit_length())), context])


class Evaluation:
    """One evaluation: iterate for progress, then read `result`."""

    def __init__(
        self,
        sae: SAE,
        cache: ActivationCache,
        lm: LanguageModel,
        contexts: np.ndarray,
        loss_tokens: int = 65_536,
        attribution_tokens: int = 0,
    ) -> None:
        """contexts: numbers of the contexts to use [n]; loss and attribution use the first of them
        (attribution_tokens 0: none). Raises ModelError for a transcoder."""
        refuse_transcoder(sae)
        self.sae, self.cache, self.lm, self.contexts = sae, cache, lm, contexts
        self.site = cache.manifest["spec"]["site"]
        width = cache.ids.shape[1]
        self.edges = position_edges(width)
        self.loss_contexts = contexts[: max(loss_tokens // width, 1)]
        n_attributed = max(attribution_tokens // width, 1) if attribution_tokens else 0
        self.attribution_contexts = contexts[:n_attributed]
        self.buffers = Buffers()
        self.result: dict = {}

    @torch.inference_mode()
    def __iter__(self) -> Iterator[FidelityStep]:
        rows = np.sort(self.cache.rows_of(self.contexts))
        width = self.cache.ids.shape[1]
        total = len(rows) + width * (len(self.loss_contexts) + len(self.attribution_contexts))
        done = 0
        metrics = Metrics(self.sae.d_in, self.sae.d_sae, len(self.edges) - 1)
        for start in range(0, len(rows), BATCH_ROWS):
            some = rows[start : start + BATCH_ROWS]
            x = torch.from_numpy(self.cache.x[some]).to(self.sae.W_enc.device)
            code = encode_sparse(self.sae, x, self.buffers)
            metrics.update(x, decode_sparse(self.sae, code, x), code, self._bin(some))
            done += len(some)
            yield FidelityStep(done, total)
        sums = np.zeros((len(self.edges) - 1, 6))
        for batch in self._batches(self.loss_contexts, self._vocabulary()):
            sums += self._losses(batch, metrics.mean)
            done += width * len(batch)
            yield FidelityStep(done, total)
        attribution = Attribution(self.sae, self.lm, self.site)
        widest = max(self._vocabulary(), self.sae.d_sae)
        for batch in self._batches(self.attribution_contexts, widest):
            attribution.update(*self._inputs(batch))
            done += width * len(batch)
            yield FidelityStep(done, total)
        self.result = metrics.result() | loss_metrics(*sums.sum(0)) | {
            "by_position": by_position(self.edges, metrics.by_group(), sums),
            "attribution": attribution.result() if len(self.attribution_contexts) else None,
        }  # fmt: skip

    def _vocabulary(self) -> int:
        return self.lm.readout().head.shape[0]

    def _batches(self, contexts: np.ndarray, width: int) -> Iterator[np.ndarray]:
        """The contexts in pieces with at most LOGITS_AT_ONCE elements of [.., context, width]."""
        at_once = max(LOGITS_AT_ONCE // (width * self.cache.ids.shape[1]), 1)
        for start in range(0, len(contexts), at_once):
            yield contexts[start : start + at_once]

    def _bin(self, rows: np.ndarray) -> Tensor:
        """The bin of each row's position in its context, [n] int64."""
        return torch.from_numpy(np.searchsorted(self.edges, self.cache.column[rows], "right") - 1)

    def _losses(self, contexts: np.ndarray, mean: Tensor) -> np.ndarray:
        """Sums over the scored positions of each bin, [bins, 6]: positions, CE of the model, with
        x_hat, with zeros, with the mean activation [d_in]; KL."""
        ids, kept, scored = self._inputs(contexts)
        targets = ids[:, 1:][scored[:, :-1]]

        def log_p(logits: Tensor) -> Tensor:
            return torch.log_softmax(logits[:, :-1][scored[:, :-1]], dim=-1)

        def replacing(new: Callable[[Tensor], Tensor]) -> Tensor:
            def change(x: Tensor) -> Tensor:
                changed = x.clone()
                changed[kept] = new(x[kept]).to(x)
                return changed

            return log_p(self.lm.logits_replacing(ids, self.site, change))

        def loss(log_p: Tensor) -> Tensor:
            return -log_p.gather(1, targets[:, None])[:, 0].double()

        with prefix_once(self.lm, self.site):
            original = log_p(self.lm.logits(ids))
            ours = replacing(self._reconstruct)
            kl = (original.exp() * (original - ours)).sum(dim=-1).double()
            columns = [torch.ones_like(kl), loss(original), loss(ours)]
            del original, ours
            columns.append(loss(replacing(torch.zeros_like)))
            columns.append(loss(replacing(lambda x: mean.to(x).expand_as(x))))
        column = scored.nonzero()[:, 1].cpu().numpy()
        bins = np.searchsorted(self.edges, column, "right") - 1
        member = bins == np.arange(len(self.edges) - 1)[:, None]
        return member.astype(np.float64) @ torch.stack([*columns, kl], dim=1).cpu().numpy()

    def _reconstruct(self, x: Tensor) -> Tensor:
        """x_hat of rows x [n, d_in] of the model's dtype."""
        x = x.to(self.sae.W_enc)
        return decode_sparse(self.sae, encode_sparse(self.sae, x, self.buffers), x)

    def _inputs(self, contexts: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """ids [n, context]; bool of that shape: kept by the masks; and scored: a kept token whose
        next one is kept too and follows it in the text."""
        cache = self.cache
        ids = torch.from_numpy(cache.ids[contexts].astype(np.int64))
        doc = np.full(ids.shape, -1, dtype=np.int64)
        rows = cache.rows_of(contexts)
        number = np.repeat(np.arange(len(contexts)), np.diff(cache.context_rows)[contexts])
        doc[number, cache.column[rows]] = cache.doc[rows]
        scored = np.zeros(ids.shape, dtype=bool)
        scored[:, :-1] = (doc[:, :-1] >= 0) & (doc[:, 1:] == doc[:, :-1])
        masks = torch.from_numpy(doc >= 0), torch.from_numpy(scored)
        return tuple(part.to(self.lm.device) for part in (ids, *masks))


def loss_metrics(
    n: float, original: float, spliced: float, zeroed: float, averaged: float, kl: float
) -> dict[str, float | None]:
    """Delta LM loss (nats a token), loss recovered against zero ablation (Rajamanoharan et al.
    2024, Gated SAEs, eq. 5; Lieberum et al. 2024, Gemma Scope, 4.1) and against ablation to the
    mean activation, KL; from sums over n tokens.

    None where undefined: without a scored token, or where the ablation changes nothing.
    """
    if n == 0:
        keys = ("ce", "delta_loss", "loss_recovered", "loss_recovered_mean", "kl")
        return dict.fromkeys(keys)
    lost = float(spliced - original)

    def recovered(ablated: float) -> float | None:
        return 1.0 - lost / float(ablated - original) if ablated != original else None

    return {
        "ce": float(original / n),
        "delta_loss": lost / float(n),
        "loss_recovered": recovered(zeroed),
        "loss_recovered_mean": recovered(averaged),
        "kl": float(kl / n),
    }


def by_position(edges: np.ndarray, groups: list[dict], sums: np.ndarray) -> list[dict]:
    """The reconstruction's and the model's loss by position in the context (Gemma Scope 4.2), in
    bins that hold a token; groups: Metrics.by_group, sums: of Evaluation._losses."""
    rows = []
    for first, end, group, (n, original, spliced, *_) in zip(
        edges[:-1], edges[1:], groups, sums, strict=True
    ):
        if group["n"]:
            delta = float((spliced - original) / n) if n else None
            where = {"position_from": int(first), "position_to": int(end) - 1}
            rows.append(where | group | {"delta_loss": delta, "n_loss": int(n)})
    return rows
