"""What a feature does to the model's output.

In:  decoder directions and a language model. Out: the tokens whose logits each of them moves most.
"""

from __future__ import annotations

import numpy as np
import torch

from data.lm import LanguageModel
from data.sites import locate, named_site

TOP = 10
BLOCK = 512  # features at once, so that [block, vocabulary] stays small


@torch.inference_mode()
def logit_effects(
    lm: LanguageModel, site: str, W_dec: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Direct effect of one unit of each feature on the logits, through the final norm's scale.

    effect = W_dec diag(norm scale) W_U^T, centred over the vocabulary (softmax ignores a shift).
    W_dec: [d_sae, d_in]. Directions read before an output projection pass through it first; where
    the final norm is a LayerNorm their mean is subtracted, as it does.
    Returns ids and values of the 10 largest and 10 smallest, each [d_sae, 10]; None where the
    site is not known to write to the residual stream. Own definition, after the logit lens
    (nostalgebraist 2020); the norm's division by the token's RMS is left out, so values compare
    within a feature.
    """
    known = named_site(lm.model, site)
    if known is None:
        return None
    readout = lm.readout()
    directions = W_dec.to(readout.head)
    hook = locate(lm.model, known)
    if hook.side == "input":
        weight = hook.module.weight
        # nn.Linear stores [out, in]; GPT-2's Conv1D stores [in, out].
        is_linear = isinstance(hook.module, torch.nn.Linear)
        directions = directions @ (weight.T if is_linear else weight)
    if readout.centres:
        directions = directions - directions.mean(dim=1, keepdim=True)
    if readout.scale is not None:
        directions = directions * readout.scale
    # Output matrices may be padded beyond the tokens there are.
    head = readout.head[: len(lm.tokenizer)]
    top = min(TOP, head.shape[0])
    parts = []
    for start in range(0, len(directions), BLOCK):
        effect = directions[start : start + BLOCK] @ head.T
        effect -= effect.mean(dim=1, keepdim=True)
        high, low = effect.topk(top), effect.topk(top, largest=False)
        parts.append((high.indices, high.values.float(), low.indices, low.values.float()))
    return tuple(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
