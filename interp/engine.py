"""A language model and an SAE joined: text in; features, what they do, or steered text out.

In:  an SAE folder's configuration and weights, the model it was trained on.
Out: `LiveCode`, `LiveEffect` and `Steering` for the live pages, with the same contexts and masks as
     training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data import lm as language_models
from data.errors import ModelError, TextError, WorkbenchError
from data.lm import LanguageModel
from data.records import (
    LiveChange,
    LiveCode,
    LiveEffect,
    LiveToken,
    SteeredText,
    SteeredToken,
    Steering,
    Stretch,
)
from data.text import encodable
from data.tokens import ContextBatch, ContextRule, MaskRule, prefix_of, token_bytes
from interp.ablation import Ablation, Joined
from interp.steering import Plan, generate
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
        began = time.perf_counter()
        tokens, truncated = self._tokens(text, self.rule.context)
        ids, keep, f = self._code(tokens)
        values, features = f.topk(min(top, f.shape[1]), dim=-1)
        result = []
        for place, token in enumerate(ids):
            raw, special = self.bytes[token]
            active = [
                (int(feature), float(value))
                for feature, value in zip(features[place], values[place], strict=True)
                if value > 0 and keep[place]
            ]
            result.append(LiveToken(raw, special, bool(keep[place]), tuple(active)))
        return LiveCode(tuple(result), truncated, _ms_since(began))

    def ablate(self, text: str, feature: int, seed: int = 0) -> LiveEffect:
        """What changes in one context of text when `feature` is taken away (interp/ablation.py)."""
        began = time.perf_counter()
        self._refuse_unknown(feature)
        ablation = Ablation(self.lm, self.sae, self.site, self.prefix, self.mask, seed)
        tokens, truncated = self._tokens(text, self.rule.context)
        ids, keep, f = self._code(tokens)
        own = torch.where(torch.from_numpy(keep), f[:, feature], 0.0).tolist()
        start = len(self.prefix)
        peak = max(int(np.argmax(own[start:])), 0)
        found = ablation.measure([Stretch(feature, "live", "", 0, 0, 0, peak, tuple(tokens))])[0]
        at = zip(found.scored, found.delta_losses, found.kls, strict=True)
        changes = {start + place: (delta, kl) for place, delta, kl in at}
        changed = tuple(
            LiveChange(*self.bytes[token], bool(keep[place]), own[place],
                       *changes.get(place, (None, None)))
            for place, token in enumerate(ids)
        )  # fmt: skip
        up, down = (
            tuple((self.bytes[i][0], value) for i, value in zip(which, by, strict=True))
            for which, by in (
                (found.up_ids, found.up_logits),
                (found.down_ids, found.down_logits),
            )
        )
        return LiveEffect(
            feature, found.status, changed, None if found.peak is None else start + found.peak,
            found.delta_loss, found.kl, found.peak_kl, found.attribution, found.random_kl, up, down,
            truncated, _ms_since(began),
        )  # fmt: skip

    def steer(self, text: str, plan: Plan) -> Steering:
        """Continues text in the ways of the plan, the unsteered one first (interp/steering.py)."""
        began = time.perf_counter()
        self._refuse_unknown(plan.feature)
        joined = Joined(self.lm, self.sae, self.site, self.prefix, self.mask)
        limit = self.lm.context_limit or self.rule.context + plan.n_tokens
        room = min(self.rule.context, limit - plan.n_tokens)
        if room <= len(self.prefix):
            raise WorkbenchError(
                f"{plan.n_tokens} new tokens leave no room for a prompt in the model's {limit} "
                "positions: ask for fewer"
            )
        tokens, truncated = self._tokens(text, room)
        texts = tuple(
            SteeredText(
                written.strength,
                tuple(
                    SteeredToken(token, *self.bytes[token], p)
                    for token, p in zip(written.ids, written.probabilities, strict=True)
                ),
                written.ended,
            )
            for written in generate(joined, tokens, plan)
        )
        prompt = tuple(self.bytes[token] for token in (*self.prefix, *tokens))
        return Steering(plan.feature, prompt, texts, truncated, _ms_since(began))

    def _tokens(self, text: str, context: int) -> tuple[list[int], bool]:
        """Token ids of text, cut to what a context has room for after the prefix; whether it was
        cut. TextError for an empty text."""
        if not text.strip():
            raise TextError("the prompt is empty: type some text")
        room = context - len(self.prefix)
        text = encodable(text)
        tokens = self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens[:room], len(tokens) > room

    @torch.inference_mode()
    def _code(self, tokens: list[int]) -> tuple[list[int], np.ndarray, torch.Tensor]:
        """Ids with the prefix [context], which of them the mask keeps, f [context, d_sae] on the
        CPU."""
        ids = np.asarray([[*self.prefix, *tokens]], dtype=np.int32)
        doc = np.zeros_like(ids)
        doc[:, : len(self.prefix)] = -1
        captured = self.lm.capture(torch.from_numpy(ids.astype(np.int64)), [self.site])
        x = captured[self.site][0].float()
        keep = self.mask.keep_ids(ContextBatch(ids, doc, doc))[0]
        if self.mask.norm_limit is not None:
            keep &= x.norm(dim=-1).cpu().numpy() <= self.mask.norm_limit
        return ids[0].tolist(), keep, self.sae.encode(x.to(self.sae.W_enc)).cpu()

    def _refuse_unknown(self, feature: int) -> None:
        if not 0 <= feature < self.sae.d_sae:
            raise WorkbenchError(
                f"no feature {feature} in this SAE: it has 0 to {self.sae.d_sae - 1}"
            )


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


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
