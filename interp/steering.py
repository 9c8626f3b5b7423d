"""Generation with one feature held up, pushed down or taken away, beside the unsteered text.

In:  a language model, an SAE at one of its sites, a prompt's token ids, a Plan.
Out: one `Continuation` a way: token ids and the probability of each.

    add      x + strength * max_act * d_i    at every position but the prefix, in every way its own
             strength, in units of the feature's largest activation max_act
    ablate   x - f_i d_i                     where the mask keeps the position and f_i > 0

(d_i times the row's own size with token_norm.) All ways run as one batch and share their random
numbers: token t of each is argmax(log p + g_t), with one seeded vector g_t of Gumbel noise over the
vocabulary, which samples from p exactly (Gumbel-max, Maddison et al. 2014, 2.1). Where two ways
agree on p they write the same token, so differences come from steering alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data.errors import WorkbenchError
from data.lm import LanguageModel
from data.tokens import MaskRule
from interp.ablation import Joined, first_run
from interp.splice import PLAIN

MODES = ("add", "ablate")
MOST_STRENGTHS = 4
MOST_TOKENS = 512


@dataclass(frozen=True)
class Plan:
    """What to do to a feature, and how to sample. WorkbenchError for what cannot be."""

    feature: int
    mode: str = "add"
    strengths: tuple[float, ...] = ()  # add: 1 to 4, in units of max_act
    max_act: float | None = None  # add: the feature's largest activation in its corpus
    n_tokens: int = 40
    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0  # sample from the fewest tokens that hold this much probability
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise WorkbenchError(f"no mode {self.mode!r}: choose from {', '.join(MODES)}")
        if self.mode == "ablate" and self.strengths:
            raise WorkbenchError("mode 'ablate' clamps the feature to zero: give no strengths")
        if self.mode == "add":
            self._check_strengths()
        if not 1 <= self.n_tokens <= MOST_TOKENS:
            raise WorkbenchError(f"{self.n_tokens} new tokens: give 1 to {MOST_TOKENS}")
        if not 0 <= self.temperature <= 10:
            raise WorkbenchError(f"temperature {self.temperature}: give a number from 0 to 10")
        if not 0 < self.top_p <= 1:
            raise WorkbenchError(f"top-p {self.top_p}: give a number above 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise WorkbenchError(f"seed {self.seed}: give a whole number from 0 to 2^63 - 1")

    def _check_strengths(self) -> None:
        if not 1 <= len(self.strengths) <= MOST_STRENGTHS:
            raise WorkbenchError(
                f"{len(self.strengths)} strengths: give 1 to {MOST_STRENGTHS} of them"
            )
        if not np.isfinite(self.strengths).all():
            raise WorkbenchError(f"strengths {self.strengths}: give finite numbers")
        if self.max_act is None or not 0 < self.max_act < np.inf:
            raise WorkbenchError(
                f"feature {self.feature} has no largest activation to measure strengths in "
                f"({self.max_act}): it never fired; harvest over more text, or choose another"
            )

    @property
    def ways(self) -> tuple[float | None, ...]:
        """The strength of each text: 0 for the unsteered one, first; None: clamped to zero."""
        return (0.0, None) if self.mode == "ablate" else (0.0, *self.strengths)


@dataclass
class Continuation:
    """One continuation."""

    strength: float | None
    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)  # at temperature 1, before top-p
    ended: bool = False  # by an end-of-text token, the last of ids


@torch.inference_mode()
def generate(joined: Joined, prompt: list[int], plan: Plan) -> list[Continuation]:
    """Continues prefix and prompt in all ways of the plan at once.

    Each step runs on the newest tokens only where the family's cache of keys and values is known
    to hold all there is of the past (splice.PLAIN), and on all of them elsewhere.
    """
    lm = joined.lm
    written = [Continuation(strength) for strength in plan.ways]
    ids = torch.tensor([[*joined.prefix, *prompt]] * len(written), device=lm.device)
    noise = torch.Generator().manual_seed(plan.seed)
    ends = _end_tokens(lm)
    with _cached(lm) as cached:
        done = 0  # columns that the cache holds
        for _ in range(plan.n_tokens):
            new = ids[:, done:]
            change = first_run(_steered(joined, plan, new, done))
            logits = lm.logits_replacing(new, joined.site, change)[:, -1]
            done = ids.shape[1] if cached else 0
            chosen, probability = _choose(logits, len(lm.tokenizer), plan, noise)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            for text, token, p in zip(written, chosen.tolist(), probability.tolist(), strict=True):
                if not text.ended:
                    text.ids.append(token)
                    text.probabilities.append(p)
                    text.ended = token in ends
            if all(text.ended for text in written):
                break
    return written


def _steered(joined: Joined, plan: Plan, ids: Tensor, done: int) -> Callable[[Tensor], Tensor]:
    """The change at the site for columns `done` on, ids [ways, n_new]."""
    sae = joined.sae
    direction = sae.W_dec[plan.feature].float()

    def change(x: Tensor) -> Tensor:
        rows = x.to(sae.W_enc)
        amount = torch.zeros(x.shape[:2], device=x.device)
        if plan.mode == "add":
            strengths = torch.tensor(plan.ways, device=x.device) * plan.max_act
            amount[:, max(len(joined.prefix) - done, 0) :] = strengths[:, None]
        else:
            f = sae.encode(rows[1])[:, plan.feature].float()
            amount[1] = -f * _kept(joined.mask, ids[1], done, rows[1])
        amount = amount[..., None] * sae.token_frame(rows)[2]
        return (x.float() + amount.float() * direction).to(x.dtype)

    return change


def _kept(mask: MaskRule, ids: Tensor, done: int, x: Tensor) -> Tensor:
    """Which positions the mask of training keeps, bool [n_new]; ids [n_new], x [n_new, d_in]."""
    keep = ~torch.isin(ids, torch.tensor(mask.special, device=ids.device, dtype=ids.dtype))
    keep[: max(mask.prefix + mask.skip_first - done, 0)] = False
    if mask.norm_limit is not None:
        keep &= x.float().norm(dim=-1) <= mask.norm_limit
    return keep


def _choose(
    logits: Tensor, n_tokens: int, plan: Plan, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The next token of each way [ways] and its probability at temperature 1; logits [ways, V]."""
    log_p = logits.double().log_softmax(dim=-1)
    log_p = log_p[:, :n_tokens]  # output matrices may be padded beyond the tokens there are
    score = log_p
    if plan.temperature > 0:
        score = (log_p / plan.temperature).log_softmax(dim=-1)
        if plan.top_p < 1:
            score = score.masked_fill(~_nucleus(score, plan.top_p), -torch.inf)
        gumbel = torch.empty(n_tokens, dtype=torch.float64).exponential_(generator=generator)
        score = score - gumbel.log().to(score.device)
    chosen = score.argmax(dim=-1)
    return chosen, log_p.gather(1, chosen[:, None])[:, 0].exp()


def _nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens that hold top_p of the probability, bool [ways, n_tokens].

    Holtzman et al. 2020, 3.1; always at least one token.
    """
    ordered, order = log_p.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    return torch.zeros_like(log_p, dtype=torch.bool).scatter(1, order, before < top_p)


def _end_tokens(lm: LanguageModel) -> set[int]:
    """Tokens that end a text, by the model's generation settings and by its tokenizer."""
    settings = getattr(lm.model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return {int(i) for i in (*listed, lm.tokenizer.eos_token_id) if i is not None}


@contextmanager
def _cached(lm: LanguageModel) -> Iterator[bool]:
    """Inside, where it yields True, each run of the model goes on from where the last one ended."""
    if lm.model.config.get_text_config().model_type not in PLAIN:
        yield False
        return
    from transformers import DynamicCache

    more = {"past_key_values": DynamicCache(config=lm.model.config), "use_cache": True}
    handle = lm.model.register_forward_pre_hook(
        lambda _module, args, given: (args, {**given, **more}), with_kwargs=True
    )
    try:
        yield True
    finally:
        handle.remove()
