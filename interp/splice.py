"""A language model run several times over the same contexts, each time changed at one site.

In:  a language model and a site. Out: a context manager under which everything before the site is
     computed in the first pass only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from data.lm import LanguageModel
from data.sites import blocks, locate

# Families whose blocks take from the earlier ones nothing but the stream (all of them were run;
# Gemma 3n, whose later blocks share keys and values, would go wrong). Others run whole each time.
PLAIN = (
    "llama", "mistral", "gpt2", "gpt_neox", "gpt_neo", "gptj", "gemma", "gemma2", "gemma3_text",
    "qwen2", "qwen3", "olmo", "olmo2", "phi", "phi3", "opt", "bloom", "mpt", "falcon", "stablelm",
    "cohere", "starcoder2", "smollm3", "granite",
)  # fmt: skip


@contextmanager
def prefix_once(lm: LanguageModel, site: str) -> Iterator[None]:
    """Inside, the blocks before `site` repeat what they gave in the first pass.

    Every pass inside must be over the same ids. Three passes of four save what stands before the
    site; the numbers are the same.
    """
    before = _before(lm.model, site)
    given: list = []
    for block in before:
        block.forward = _repeating(block.forward, block is before[-1], given)
    try:
        yield
    finally:
        for block in before:
            del block.forward  # the instance's; the class's comes back


def _before(model: nn.Module, site: str) -> list[nn.Module]:
    """The blocks whose output no change at `site` reaches; [] where that is not known."""
    path, layers = blocks(model)
    hook = locate(model, site)
    inside = re.match(rf"{re.escape(path)}\.(\d+)(\.|$)", hook.path)
    if inside is None or model.config.get_text_config().model_type not in PLAIN:
        return []
    at_the_end = hook.module is layers[int(inside[1])] and hook.side == "output"
    found = list(layers[: int(inside[1]) + at_the_end])
    return [] if any("forward" in vars(block) for block in found) else found


def _repeating(plain: Callable, is_last: bool, given: list) -> Callable:
    """`plain` until the last block has given its output, which then answers for all of them."""

    def forward(*args, **kwargs):
        if not given:
            output = plain(*args, **kwargs)
            if is_last:
                given.append(_copy(output))
            return output
        return _copy(given[0]) if is_last else given[0]

    return forward


def _copy(output: torch.Tensor | tuple) -> torch.Tensor | tuple:
    """Some families add to this very tensor afterwards."""
    if torch.is_tensor(output):
        return output.clone()
    return (output[0].clone(), *output[1:])
