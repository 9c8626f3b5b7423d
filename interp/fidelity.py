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

from data.activations import ActivationCache
from data.lm import LanguageModel
from sae.metrics import Metrics
from sae.models import SAE
from sae.sparse import Buffers, decode_sparse, encode_sparse

BATCH_ROWS = 8_192
LOGITS_AT_ONCE = 2**25  # elements of one [batch, context, vocabulary] tensor


@dataclass(frozen=True)
class FidelityStep:
    """Progress of an evaluation, in tokens of both of its parts together."""

    done: int
    total: int


class Evaluation:
    """One evaluation: iterate for progress, then read `result`."""

    def __init__(
        self,
        sae: SAE,
        cache: ActivationCache,
        lm: LanguageModel,
        contexts: np.ndarray,
        loss_tokens: int = 65_536,
    ) -> None:
        """contexts: numbers of the contexts to use [n]; the loss uses the first of them."""
        self.sae, self.cache, self.lm, self.contexts = sae, cache, lm, contexts
        self.site = cache.manifest["spec"]["site"]
        width = cache.ids.shape[1]
        self.loss_contexts = contexts[: max(loss_tokens // width, 1)]
        self.result: dict[str, float | int | None] = {}

    @torch.inference_mode()
    def __iter__(self) -> Iterator[FidelityStep]:
        rows = np.sort(self.cache.rows_of(self.contexts))
        loss_tokens = len(self.loss_contexts) * self.cache.ids.shape[1]
        total = len(rows) + loss_tokens
        metrics, buffers = Metrics(self.sae.d_in, self.sae.d_sae), Buffers()
        for start in range(0, len(rows), BATCH_ROWS):
            x = torch.from_numpy(self.cache.x[rows[start : start + BATCH_ROWS]])
            x = x.to(self.sae.W_enc.device)
            code = encode_sparse(self.sae, x, buffers)
            metrics.update(x, decode_sparse(self.sae, code), code)
            yield FidelityStep(min(start + BATCH_ROWS, len(rows)), total)
        sums = np.zeros(5)
        vocabulary = self.lm.readout().head.shape[0]
        at_once = max(LOGITS_AT_ONCE // (vocabulary * self.cache.ids.shape[1]), 1)
        for start in range(0, len(self.loss_contexts), at_once):
            batch = self.loss_contexts[start : start + at_once]
            sums += self._losses(batch)
            done = len(rows) + (start + len(batch)) * self.cache.ids.shape[1]
            yield FidelityStep(done, total)
        self.result = metrics.result() | loss_metrics(*sums)

    def _losses(self, contexts: np.ndarray) -> np.ndarray:
        """Sums over scored positions: [positions, CE original, CE spliced, CE zeroed, KL]."""
        ids = torch.from_numpy(self.cache.ids[contexts].astype(np.int64)).to(self.lm.device)
        kept, scored = (mask.to(ids.device) for mask in self._positions(contexts))

        def spliced(x: torch.Tensor) -> torch.Tensor:
            x_hat = self.sae(x.flatten(0, 1).to(self.sae.W_enc)).view_as(x).to(x)
            return torch.where(kept[..., None], x_hat, x)

        def zeroed(x: torch.Tensor) -> torch.Tensor:
            return torch.where(kept[..., None], torch.zeros_like(x), x)

        targets = ids[:, 1:][scored[:, :-1]]

        def log_probabilities(change: Callable | None) -> torch.Tensor:
            logits = (
                self.lm.logits(ids)
                if change is None
                else self.lm.logits_replacing(ids, self.site, change)
            )
            return torch.log_softmax(logits[:, :-1][scored[:, :-1]], dim=-1)

        def cross_entropy(log_p: torch.Tensor) -> float:
            return -log_p.gather(1, targets[:, None]).double().sum().item()

        original = log_probabilities(None)
        ours = log_probabilities(spliced)
        kl = (original.exp() * (original - ours)).sum(dim=-1).double().sum().item()
        zero = cross_entropy(log_probabilities(zeroed))
        return np.array([len(targets), cross_entropy(original), cross_entropy(ours), zero, kl])

    def _positions(self, contexts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """bool [n, context]: kept by the masks; and scored: the next token follows in the text."""
        cache = self.cache
        shape = (len(contexts), cache.ids.shape[1])
        doc = np.full(shape, -1, dtype=np.int64)
        rows = cache.rows_of(contexts)
        number = np.repeat(np.arange(len(contexts)), np.diff(cache.context_rows)[contexts])
        doc[number, cache.column[rows]] = cache.doc[rows]
        scored = np.zeros(shape, dtype=bool)
        scored[:, :-1] = (doc[:, :-1] >= 0) & (doc[:, 1:] == doc[:, :-1])
        return torch.from_numpy(doc >= 0), torch.from_numpy(scored)


def loss_metrics(
    n: float, original: float, spliced: float, zeroed: float, kl: float
) -> dict[str, float | None]:
    """Delta LM loss (nats a token), loss recovered against zero ablation, KL (Rajamanoharan et
    al. 2024, Gated SAEs, eq. 5; Lieberum et al. 2024, Gemma Scope, 4.1), from sums over n tokens.

    None where undefined: without a scored token, or where zero ablation changes nothing.
    """
    if n == 0:
        return dict.fromkeys(("ce", "delta_loss", "loss_recovered", "kl"))
    lost, ablated = float(spliced - original), float(zeroed - original)
    return {
        "ce": float(original / n),
        "delta_loss": float(lost / n),
        "loss_recovered": 1.0 - lost / ablated if ablated != 0 else None,
        "kl": float(kl / n),
    }
