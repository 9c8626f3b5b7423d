"""What each feature adds to the logits directly, read through the unembedding.

In:  decoder directions of a site that writes to the residual stream, and a language model.
Out: the tokens that one unit of each feature moves most, with moments and a histogram over the
     vocabulary, in two variants; as the store's table `logit`.

    scaled    W_dec diag(scale of the final norm) W_U^T; a LayerNorm's centring first
    unscaled  W_dec W_U^T, the unembedding alone

Both are centred over the vocabulary, since softmax ignores a shift. Directions read before an
output projection pass through it first. The final norm's division by the token's own RMS is left
out of both, so values compare within a feature (own, after the logit lens, nostalgebraist 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from data.lm import LanguageModel
from data.sites import locate, named_site

TOP = 10
BINS = 40
BLOCK_BYTES = 2**26  # of one [block, vocabulary] matrix of float32; about five are alive at once
HEAD_ROWS = 16_384  # rows of an output matrix of half precision made float32 at once


@dataclass(frozen=True)
class VocabularyEffect:
    """What one unit of each of n features adds to the logits of the vocabulary, in one variant."""

    top_ids: np.ndarray  # int32 [n, TOP], fewer in a smaller vocabulary
    top_logits: np.ndarray  # float32 [n, TOP], largest first
    bottom_ids: np.ndarray
    bottom_logits: np.ndarray  # smallest first
    sd: np.ndarray  # float32 [n], over the vocabulary; 0: the feature moves no logit
    skew: np.ndarray  # nan where sd is 0, like kurtosis
    kurtosis: np.ndarray  # excess over the normal distribution's
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray  # int32 [n, BINS], tokens in even bins from low to high


@torch.inference_mode()
def vocabulary_effect(
    lm: LanguageModel, site: str, W_dec: Tensor, scaled: bool
) -> VocabularyEffect | None:
    """Effects of directions W_dec [n, d_in], computed in float32 whatever the model's dtype.

    None where the site is not known to write to the residual stream.
    """
    directions = _into_the_stream(lm, site, W_dec)
    if directions is None:
        return None
    readout = lm.readout()
    if scaled and readout.centres:
        directions = directions - directions.mean(dim=1, keepdim=True)
    if scaled and readout.scale is not None:
        directions = directions * readout.scale.float()
    # Output matrices may be padded beyond the tokens there are.
    head = readout.head[: len(lm.tokenizer)]
    block = max(BLOCK_BYTES // (4 * len(head)), 1)
    parts = [tuple(_described(_logits(some, head))) for some in directions.split(block)]
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return VocabularyEffect(*columns)


def logit_table(lm: LanguageModel, site: str, W_dec: Tensor, first: int = 0) -> pa.Table | None:
    """The rows of table `logit` (data/schema.py), sorted by (feature, scaled).

    W_dec: [n, d_in], the directions of features `first` to first + n. None where the site is not
    known to write to the residual stream. A feature that moves no logit (a direction of zeros) has
    no rows: it raises no token, and its skew is undefined.
    """
    plain, scaled = (vocabulary_effect(lm, site, W_dec, scaled) for scaled in (False, True))
    if plain is None or scaled is None:
        return None
    n = len(plain.sd)
    feature, variant = np.divmod(np.arange(2 * n), 2)
    both = {
        field.name: np.stack([getattr(plain, field.name), getattr(scaled, field.name)], axis=1)
        for field in fields(VocabularyEffect)
    }
    moves = both["sd"].ravel() > 0
    columns = {
        "feature": pa.array((feature + first)[moves], pa.int32()),
        "scaled": pa.array(variant[moves].astype(bool)),
    }
    for name, values in both.items():
        columns[name] = _column(values.reshape(2 * n, *values.shape[2:])[moves])
    return pa.table(columns)


def raised_most(table: pa.Table | None, features: Iterable[int]) -> list[int | None]:
    """The token whose logit each of `features` raises most, through the final norm's scale.

    table: of `logit_table`. None for a feature without rows there, and for all without a table.
    """
    if table is None:
        return [None for _ in features]
    scaled = table.filter(table["scaled"])
    tokens = pc.list_element(scaled["top_ids"], 0).to_pylist()
    of_feature = dict(zip(scaled["feature"].to_pylist(), tokens, strict=True))
    return [of_feature.get(feature) for feature in features]


def _into_the_stream(lm: LanguageModel, site: str, W_dec: Tensor) -> Tensor | None:
    """The directions as they reach the residual stream, [n, d_model] float32."""
    known = named_site(lm.model, site)
    if known is None:
        return None
    directions = W_dec.detach().to(lm.device).float()
    hook = locate(lm.model, known)
    if hook.side == "input":
        weight = hook.module.weight.float()
        # nn.Linear stores [out, in]; GPT-2's Conv1D stores [in, out].
        is_linear = isinstance(hook.module, torch.nn.Linear)
        directions = directions @ (weight.T if is_linear else weight)
    return directions


def _logits(directions: Tensor, head: Tensor) -> Tensor:
    """directions [block, d_model] -> centred effects [block, vocabulary]."""
    if head.dtype == torch.float32:
        effect = directions @ head.T
    else:
        effect = torch.cat([directions @ some.float().T for some in head.split(HEAD_ROWS)], dim=1)
    return effect.sub_(effect.mean(dim=1, keepdim=True))


def _described(effect: Tensor) -> Iterator[Tensor]:
    """The columns of VocabularyEffect for effects [block, vocabulary]."""
    top = min(TOP, effect.shape[1])
    high, low = effect.topk(top), effect.topk(top, largest=False)
    largest, smallest = high.values[:, 0], low.values[:, 0]
    yield from (high.indices.int(), high.values, low.indices.int(), low.values)
    # A direction of zeros is exactly 0 everywhere: 0 / 0 leaves nan for its moments.
    sd = effect.square().mean(dim=1).sqrt()
    z = effect / sd[:, None]
    squares = z.square()
    yield from (sd, (squares * z).mean(dim=1), squares.square_().mean(dim=1) - 3)
    del z, squares
    yield from (smallest, largest, _histogram(effect, smallest, largest))


def _histogram(effect: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """int32 [block, BINS]: entries of each row in even bins from low to high, both within."""
    width = torch.where(high > low, high - low, 1.0)
    bins = effect.sub(low[:, None]).mul_((BINS / width)[:, None]).long().clamp_(0, BINS - 1)
    bins += BINS * torch.arange(len(bins), device=bins.device)[:, None]
    return bins.flatten().bincount(minlength=bins.shape[0] * BINS).view(-1, BINS).int()


def _column(values: np.ndarray) -> pa.Array:
    """values [n] or [n, k] as Arrow numbers, or lists of k."""
    flat = pa.array(values.ravel())
    if values.ndim == 1:
        return flat
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), flat)
