"""A language model and an SAE joined: text in, features per token out.

In:  an SAE folder's configuration and weights, the model it was trained on.
Out: `LiveCode`s for the Prompt page, with the same contexts and masks as training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data import lm as language_models
from data.errors import ModelError, TextError
from data.lm import LanguageModel
from data.records import LiveCode, LiveToken
from data.text import encodable
from data.tokens import ContextBatch, ContextRule, MaskRule, prefix_of, token_bytes
from sae import formats
from sae.models import SAE

# What a saved SAE must say of its making, under metadata.workbench.
RECORDED = (
    "lm", "lm_weights", "dtype", "site", "text", "text_field", "corpus_tokens", "rule", "mask",
)  # fmt: skip


@dataclass
class Engine:
    """One language model, one SAE, and the rules both were joined by in training."""

    lm: LanguageModel
    sae: SAE
    site: str
    rule: ContextRule
    mask: MaskRule

    def __post_init__(self) -> None:
        self.bytes = token_bytes(self.lm.tokenizer)
        self.prefix = prefix_of(self.lm.tokenizer, self.rule.chat)

    @torch.inference_mode()
    def encode(self, text: str, top: int = 20) -> LiveCode:
        """Features of one context of text, the strongest `top` of each token."""
        if not text.strip():
            raise TextError("the prompt is empty: type some text")
        began = time.perf_counter()
        room = self.rule.context - len(self.prefix)
        text = encodable(text)
        tokens = self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        truncated, tokens = len(tokens) > room, tokens[:room]
        ids = np.asarray([[*self.prefix, *tokens]], dtype=np.int32)
        doc = np.zeros_like(ids)
        doc[:, : len(self.prefix)] = -1
        captured = self.lm.capture(torch.from_numpy(ids.astype(np.int64)), [self.site])
        x = captured[self.site][0].float()
        keep = self.mask.keep_ids(ContextBatch(ids, doc, doc))[0]
        if self.mask.norm_limit is not None:
            keep &= x.norm(dim=-1).cpu().numpy() <= self.mask.norm_limit
        f = self.sae.encode(x.to(self.sae.W_enc)).cpu()
        values, features = f.topk(min(top, f.shape[1]), dim=-1)
        result = []
        for place, token in enumerate(ids[0]):
            raw, special = self.bytes[token]
            active = [
                (int(feature), float(value))
                for feature, value in zip(features[place], values[place], strict=True)
                if value > 0 and keep[place]
            ]
            result.append(LiveToken(raw, special, bool(keep[place]), tuple(active)))
        return LiveCode(tuple(result), truncated, 1000 * (time.perf_counter() - began))


def join(folder: Path, device: str = "auto") -> tuple[SAE, LanguageModel, dict]:
    """The SAE in `folder`, the model it was trained on, and what `train` recorded of both.

    The SAE works in float32 whatever it is stored in. Raises Refused for a damaged SAE, ModelError
    for one trained elsewhere, or whose model is gone, has changed, or has another width.
    """
    sae, config = formats.load(folder)
    made = (config.get("metadata") or {}).get("workbench") or {}
    missing = [key for key in RECORDED if key not in made]
    if missing:
        raise ModelError(
            f"{folder} does not record its {', '.join(missing)}: import it again with --lm MODEL, "
            "--text TEXT and, where its files do not name it, --site SITE"
        )
    lm = language_models.load_again(made["lm"], made["lm_weights"], made["dtype"], device)
    formats.check_width(sae, lm.width(made["site"]), f"{made['site']} of {made['lm']}")
    return sae.float().to(lm.device), lm, made


def open_engine(folder: Path, device: str = "auto") -> Engine:
    """Joins the SAE in `folder` with the model its configuration names."""
    sae, lm, made = join(folder, device)
    mask = {**made["mask"], "special": tuple(made["mask"]["special"])}
    return Engine(lm, sae, made["site"], ContextRule(**made["rule"]), MaskRule(**mask))
