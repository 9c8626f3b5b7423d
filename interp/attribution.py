"""How many features share in what the model predicts at a token, and how evenly.

In:  an SAE, the language model, contexts with their masks. Out: the effective number of features a
     token's attribution is spread over, and that number's share of the active features.

Own definition (gradient times activation; no published one was found). With the SAE spliced in,
M the sum of log-probabilities of the correct next tokens at the scored positions of a context, at
each scored token

    a_i = f_i dM/df_i = f_i d_i . dM/dx_hat          (times the row's own size with token_norm)
    p_i = |a_i| / sum_j |a_j|
    effective number = exp(-sum_i p_i ln p_i)        from 1 to the number of active features
    uniformity       = effective number / number of active features

M holds the token's own prediction and all later ones that read it. Both are averaged over scored
tokens; a token without an active feature, or whose attributions are all 0, has neither: it is left
out and counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.lm import LanguageModel
from sae.models import SAE


class Attribution:
    """Accumulates over update(); result() may be called at any time."""

    def __init__(self, sae: SAE, lm: LanguageModel, site: str) -> None:
        self.sae, self.lm, self.site = sae, lm, site
        self._number = self._uniformity = 0.0
        self.n_tokens = self.n_left_out = 0

    def update(self, ids: Tensor, kept: Tensor, scored: Tensor) -> None:
        """ids [n, context]; kept, scored: bool of that shape, on the model's device.

        kept positions are spliced; scored ones (kept, the next token of the text follows) are
        measured.
        """
        if not bool(scored.any()):
            return
        a, active = self._attributions(ids, kept, scored)
        number, total = effective_number(a)
        measured = (total > 0) & (active > 0)
        self._number += float(number[measured].sum())
        self._uniformity += float((number / active)[measured].sum())
        self.n_tokens += int(measured.sum())
        self.n_left_out += int((~measured).sum())

    def result(self) -> dict[str, float | int | None]:
        """effective_number and uniformity (None without a measured token), n_tokens, n_left_out."""
        n = self.n_tokens
        return {
            "effective_number": self._number / n if n else None,
            "uniformity": self._uniformity / n if n else None,
            "n_tokens": n,
            "n_left_out": self.n_left_out,
        }

    # Not in inference mode, wherever the caller is: its tensors have no gradients.
    @torch.inference_mode(False)
    def _attributions(self, ids: Tensor, kept: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        """a [n_scored, d_sae] float64 and the number of active features [n_scored]."""
        ids, kept, scored = ids.clone(), kept.clone(), scored.clone()
        held: list[Tensor] = []

        def spliced(x: Tensor) -> Tensor:
            with torch.no_grad():
                rows = x[kept].to(self.sae.W_enc)
                f = self.sae.encode(rows)
                decoded = f @ self.sae.W_dec
            held.extend((f, decoded.requires_grad_()))
            new = x.detach().clone()
            new[kept] = self.sae.finish(decoded, rows).to(x)
            return new

        with torch.enable_grad():
            logits = self.lm.logits_replacing(ids, self.site, spliced)
            log_p = logits[:, :-1][scored[:, :-1]].log_softmax(dim=-1)
            targets = ids[:, 1:][scored[:, :-1]]
            f, decoded = held
            (gradient,) = torch.autograd.grad(log_p.gather(1, targets[:, None]).sum(), decoded)
        of_scored = scored[kept]  # scored positions are kept ones: their rows among those
        f, gradient = f[of_scored], gradient[of_scored]
        a = f.double() * (gradient @ self.sae.W_dec.detach().T).double()
        return a, (f > 0).sum(dim=1)


def effective_number(a: Tensor) -> tuple[Tensor, Tensor]:
    """exp of the entropy of |a| / sum |a| in each row of a [n, d], and that sum; [n] each.

    1 in a row of zeros, whose shares are undefined.
    """
    size = a.abs()
    total = size.sum(dim=1)
    p = size / torch.where(total > 0, total, 1.0)[:, None]
    return torch.special.entr(p).sum(dim=1).exp(), total
