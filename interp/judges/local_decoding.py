"""Several prompts continued together, each with its own limit, temperature and random numbers.

In:  a causal LM of transformers, `Row`s. Out: the rows with their tokens and why they ended.

The model's own `generate` runs the loop, since it knows every kind of cache and position; a logits
processor does the choosing, because the library draws all rows from one stream of random numbers,
so that a reply would depend on what else is in its batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp.judges.client import CallFailed


@dataclass
class Row:
    """One reply in the making."""

    prompt: list[int]
    limit: int  # new tokens at most
    temperature: float  # 0: always the likeliest token
    top_p: float
    seed: bytes
    stops_at: Callable[[list[int]], bool] | None = None  # whether these tokens are enough
    given_up: Callable[[], bool] | None = None  # whether nobody waits for it any more
    begun_thinking: bool = False  # the prompt ends inside the thoughts
    tokens: list[int] = field(default_factory=list)  # without the one that ends it
    finish: str = ""  # stop | max_tokens


def decode(model: Any, rows: Sequence[Row]) -> None:
    """Fills in `tokens` and `finish`. CallFailed if the model computes no numbers."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    if not rows:
        return
    ends = _ends(model)
    width = max(len(row.prompt) for row in rows)
    padding = ends[0] if ends else 0
    ids = torch.tensor([[padding] * (width - len(r.prompt)) + r.prompt for r in rows])
    mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in rows])
    for row in rows:  # another try after a lack of memory begins anew
        row.tokens, row.finish = [], ""
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max(row.limit for row in rows),
        pad_token_id=padding,
        eos_token_id=ends or None,
    )
    with torch.inference_mode():
        model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Chooser(rows, ends)]),
        )
    for row in rows:
        row.finish = row.finish or "max_tokens"


def _ends(model: Any) -> list[int]:
    """Ids of tokens that end a reply."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = model.config.get_text_config().eos_token_id
    return list(ends) if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]


class _Chooser:
    """Chooses a token for every row and leaves nothing but it possible."""

    def __init__(self, rows: Sequence[Row], ends: list[int]) -> None:
        self.rows, self.ends = rows, ends
        self.dice = [random.Random(row.seed) for row in rows]

    def __call__(self, ids: Any, scores: Any) -> Any:
        """scores: [rows, vocabulary]."""
        import torch

        if torch.isnan(scores).any():
            reason = f"the model computes no numbers in {scores.dtype}: use bfloat16 or float32"
            raise CallFailed(reason.replace("torch.", ""), again=False)
        chosen = self._drawn(scores.float())
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            self._take(row, token)
        if self.ends:
            over = torch.tensor([bool(row.finish) for row in self.rows], device=scores.device)
            chosen = torch.where(over, self.ends[0], chosen)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _take(self, row: Row, token: int) -> None:
        if row.finish:
            return
        if token in self.ends:
            row.finish = "stop"
            return
        row.tokens.append(token)
        if row.stops_at is not None and row.stops_at(row.tokens):
            row.finish = "stop"
        elif len(row.tokens) >= row.limit or (row.given_up is not None and row.given_up()):
            row.finish = "max_tokens"

    def _drawn(self, scores: Any) -> Any:
        """[rows] token ids: by temperature and top_p, through the inverse of the distribution."""
        import torch

        dice = torch.tensor([die.random() for die in self.dice], device=scores.device)
        greedy = torch.tensor([row.temperature <= 0 for row in self.rows], device=scores.device)
        likeliest = scores.argmax(-1)
        if greedy.all():
            return likeliest
        heat = [max(row.temperature, 1e-6) for row in self.rows]
        heat = torch.tensor(heat, device=scores.device)[:, None]
        shares, order = torch.softmax(scores / heat, -1).sort(dim=-1, descending=True, stable=True)
        top = torch.tensor([row.top_p for row in self.rows], device=scores.device)[:, None]
        before = shares.cumsum(-1) - shares  # the likeliest has nothing before it and is kept
        kept = shares * ((before < top) | (before == 0))
        reached = kept.cumsum(-1)
        place = (reached <= dice[:, None] * reached[:, -1:]).sum(-1)
        place = torch.minimum(place, (kept > 0).sum(-1) - 1)
        return torch.where(greedy, likeliest, order.gather(1, place[:, None])[:, 0])
