"""A language model and an SAE joined: text in; features, what they do, or steered text out.

In:  an SAE folder's configuration and weights, the model it was trained on.
Out: `LiveCode`, `LiveEffect`, `FeatureEffect` and `Steering` for the live pages, with the same
     contexts and masks as training.

What takes long tells how far it has come; whatever `tell` raises ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from data import lm as language_models
from data.errors import ModelError, TextError, WorkbenchError
from data.lm import LanguageModel
from data.records import (
    FeatureEffect,
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

EFFECTS_AT_ONCE = 8  # features ablated side by side
CHARACTERS_A_TOKEN = 64  # read first; more only where they give too few tokens
Tell = Callable[[int, int], None]  # (done, of so many)

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

    def encode(self, text: str, top: int = 20) -> LiveCode:
        """Features of one context of text, the strongest `top` of each token."""
        return encode_together([self], text, top)[0]

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

    def effects(
        self, text: str, features: Sequence[int], seed: int = 0
    ) -> Iterator[list[FeatureEffect]]:
        """What ablating each of `features` alone does to one context of text, some at a time.

        As `ablate`, without what it says of single tokens; a feature's one example is the text.
        """
        for feature in features:
            self._refuse_unknown(feature)
        ablation = Ablation(self.lm, self.sae, self.site, self.prefix, self.mask, seed)
        tokens, _ = self._tokens(text, self.rule.context)
        _, keep, f = self._code(tokens)
        start = len(self.prefix)
        own = torch.where(torch.from_numpy(keep)[:, None], f[:, list(features)], 0.0)[start:]
        peaks = own.argmax(dim=0).tolist() if features else []
        stretches = [
            Stretch(feature, "live", "", 0, 0, 0, peak, tuple(tokens))
            for feature, peak in zip(features, peaks, strict=True)
        ]
        for at in range(0, len(stretches), EFFECTS_AT_ONCE):
            found = ablation.measure(stretches[at : at + EFFECTS_AT_ONCE])
            yield [_of_one_text(effect) for effect in found]

    def steer(self, text: str, plan: Plan, tell: Tell | None = None) -> Steering:
        """Continues text in the ways of the plan, the unsteered one first (interp/steering.py).

        tell: called before each new token.
        """
        began = time.perf_counter()
        self._refuse_unknown(plan.feature)
        lm = self.lm if tell is None else _watched(self.lm, tell, plan.n_tokens)
        joined = Joined(lm, self.sae, self.site, self.prefix, self.mask)
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
        text, length = encodable(text), CHARACTERS_A_TOKEN * room
        while True:  # a book is not tokenised for the sake of its first page
            tokens = self.lm.tokenizer(text[:length], add_special_tokens=False, verbose=False)
            tokens = tokens["input_ids"]
            if length >= len(text) or len(tokens) > 2 * room:
                return tokens[:room], len(tokens) > room
            length *= 4

    @torch.inference_mode()
    def _code(self, tokens: list[int]) -> tuple[list[int], np.ndarray, torch.Tensor]:
        """Ids with the prefix [context], which of them the mask keeps, f [context, d_sae] on the
        CPU."""
        ids = self._ids(tokens)
        x = self.lm.capture(torch.from_numpy(ids.astype(np.int64)), [self.site])[self.site]
        return self._code_of(ids, x[0].float())

    def _ids(self, tokens: list[int]) -> np.ndarray:
        """[1, context]"""
        return np.asarray([[*self.prefix, *tokens]], dtype=np.int32)

    def _code_of(
        self, ids: np.ndarray, x: torch.Tensor
    ) -> tuple[list[int], np.ndarray, torch.Tensor]:
        """As `_code`, of x [context, d_in] at the site."""
        doc = np.zeros_like(ids)
        doc[:, : len(self.prefix)] = -1
        keep = self.mask.keep_ids(ContextBatch(ids, doc, doc))[0]
        if self.mask.norm_limit is not None:
            keep &= x.norm(dim=-1).cpu().numpy() <= self.mask.norm_limit
        return ids[0].tolist(), keep, self.sae.encode(x.to(self.sae.W_enc)).float().cpu()

    def _live(self, ids: np.ndarray, x: torch.Tensor, top: int) -> tuple[LiveToken, ...]:
        """The strongest `top` features of each token; x [context, d_in] at the site."""
        listed, keep, f = self._code_of(ids, x)
        values, features = f.topk(min(top, f.shape[1]), dim=-1)
        rows = zip(listed, keep.tolist(), features.tolist(), values.tolist(), strict=True)
        return tuple(
            LiveToken(*self.bytes[token], kept, tuple(
                (i, value) for i, value in zip(which, by, strict=True) if value > 0 and kept
            ))
            for token, kept, which, by in rows
        )  # fmt: skip

    def _refuse_unknown(self, feature: int) -> None:
        if not 0 <= feature < self.sae.d_sae:
            raise WorkbenchError(
                f"no feature {feature} in this SAE: it has 0 to {self.sae.d_sae - 1}"
            )


@torch.inference_mode()
def encode_together(engines: Sequence[Engine], text: str, top: int = 20) -> list[LiveCode]:
    """`encode` of SAEs of one language model, which runs once for all that read the same tokens."""
    began = time.perf_counter()
    cut = [engine._tokens(text, engine.rule.context) for engine in engines]
    runs: dict[tuple[int, ...], list[int]] = {}
    for i, (engine, (tokens, _)) in enumerate(zip(engines, cut, strict=True)):
        runs.setdefault((*engine.prefix, *tokens), []).append(i)
    found: dict[int, tuple[LiveToken, ...]] = {}
    for numbers in runs.values():
        ids = engines[numbers[0]]._ids(cut[numbers[0]][0])
        sites = sorted({engines[i].site for i in numbers})
        x = engines[numbers[0]].lm.capture(torch.from_numpy(ids.astype(np.int64)), sites)
        for i in numbers:
            found[i] = engines[i]._live(ids, x[engines[i].site][0].float(), top)
    ms = _ms_since(began)
    return [LiveCode(found[i], truncated, ms) for i, (_, truncated) in enumerate(cut)]


@dataclass
class _Watched(LanguageModel):
    """The same model; it tells before each run in which a site is replaced."""

    tell: Tell
    total: int
    done: int = field(default=0, init=False)

    def logits_replacing(self, *given):
        self.tell(self.done, self.total)
        self.done += 1
        return super().logits_replacing(*given)


def _watched(lm: LanguageModel, tell: Tell, total: int) -> _Watched:
    own = {one.name: getattr(lm, one.name) for one in fields(LanguageModel)}
    return _Watched(**own, tell=tell, total=total)


def _of_one_text(effect) -> FeatureEffect:
    """An ExampleEffect as the mean over the one text it is of."""
    n = int(effect.status == "ok")
    exceeds = float(effect.kl > effect.random_kl) if n else None
    return FeatureEffect(
        effect.feature, effect.status, n, effect.delta_loss, effect.kl, effect.attribution,
        effect.random_kl, exceeds,
    )  # fmt: skip


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


def recorded(folder: Path) -> tuple[SAE, dict]:
    """The SAE in `folder`, and what `train` recorded of its making; errors as in `join`."""
    sae, config = formats.load(folder)
    made = (config.get("metadata") or {}).get("workbench") or {}
    missing = [key for key in RECORDED if key not in made]
    if missing:
        raise ModelError(
            f"{folder} does not record its {', '.join(missing)}: import it again with --lm MODEL, "
            "--text TEXT and, where its files do not name it, --site SITE"
        )
    return sae, made


def join(folder: Path, device: str = "auto") -> tuple[SAE, LanguageModel, dict]:
    """The SAE in `folder`, the model it was trained on, and what `train` recorded of both.

    The SAE works in float32 whatever it is stored in. Raises Refused for a damaged SAE, ModelError
    for one trained elsewhere, or whose model is gone, has changed, or has another width.
    """
    sae, made = recorded(folder)
    lm = language_models.load_again(made["lm"], made["lm_weights"], made["dtype"], device)
    formats.check_width(sae, lm.width(made["site"]), f"{made['site']} of {made['lm']}")
    return sae.float().to(lm.device), lm, made


def open_engine(folder: Path, device: str = "auto") -> Engine:
    """Joins the SAE in `folder` with the model its configuration names."""
    return engine_of(*join(folder, device))


def engine_of(sae: SAE, lm: LanguageModel, made: dict) -> Engine:
    """An SAE that works in float32 on the model's device, and that model; made: as recorded."""
    mask = {**made["mask"], "special": tuple(made["mask"]["special"])}
    return Engine(lm, sae, made["site"], ContextRule(**made["rule"]), MaskRule(**mask))
