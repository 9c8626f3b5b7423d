"""A language model that learned nothing: the same architecture with weights drawn again.

In:  a `LanguageModel`, a way of drawing, a seed. Out: its weights replaced in place, and a model
     folder that `--lm` takes, with the same tokenizer and a note of what it was made from.

SAEs trained on such a model have been found to get auto-interp scores not far from those on the
trained one (Heap et al. 2025, arXiv 2501.17727): a high score alone proves little.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from data.errors import ModelError, WorkspaceError
from data.lm import LanguageModel, folder_fingerprint
from data.workspace import publish

WAYS = ("moments", "init")
NOTE = "control.json"


@torch.no_grad()
def redraw(lm: LanguageModel, way: str, seed: int, keep_embeddings: bool = False) -> int:
    """Draws every parameter again, in place; returns how many numbers were drawn.

    moments   each tensor normal with its own mean and standard deviation: layers keep their sizes,
              so that the stream is neither drowned nor starved, in any family
    init      as the model's own class initialises them: what training would have begun from

    Shared tensors stay shared. keep_embeddings: those of tokens, in and out, stay as they are.
    ModelError for an unknown way, or where the model then gives no finite logits.
    """
    if way not in WAYS:
        raise ModelError(f"no way {way!r} to draw weights: choose from {', '.join(WAYS)}")
    kept = set()
    if keep_embeddings:
        ends = (lm.model.get_input_embeddings(), lm.model.get_output_embeddings())
        kept = {id(p) for end in ends if end is not None for p in end.parameters()}
    fresh = _initialised(lm, seed) if way == "init" else None
    drawn = 0
    for name, parameter in sorted(lm.model.named_parameters()):  # a shared one comes once
        if id(parameter) in kept:
            continue
        if fresh is not None:
            new = fresh[name]
        else:
            old = parameter.double()
            generator = torch.Generator().manual_seed(_seed(seed, name))
            noise = torch.randn(parameter.shape, generator=generator).to(old)
            new = old.mean() + old.std(correction=0) * noise
        parameter.copy_(new)
        drawn += parameter.numel()
    if not bool(torch.isfinite(lm.logits(torch.zeros(1, 8, dtype=torch.long))).all()):
        raise ModelError(
            f"{lm.name!r} gives no finite logits with weights drawn by {way}: try the other way"
        )
    return drawn


def _initialised(lm: LanguageModel, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(_seed(seed, "init"))
        fresh = AutoModelForCausalLM.from_config(lm.model.config, dtype=torch.float32)
    return dict(fresh.named_parameters())


def _seed(seed: int, name: str) -> int:
    """One of its own: under a small number the very noise that a model began with could be drawn
    again, and be what it still holds."""
    return int(hashlib.sha256(f"control {seed} {name}".encode()).hexdigest()[:15], 16)


def write(lm: LanguageModel, folder: Path, note: dict) -> str:
    """The model folder, whole or not at all; returns its fingerprint. WorkspaceError if taken."""
    if folder.exists():
        raise WorkspaceError(f"{folder} exists already; choose another name")
    with publish(folder) as part:
        part.mkdir()
        lm.model.save_pretrained(part)
        lm.tokenizer.save_pretrained(part)
        (part / NOTE).write_text(json.dumps(note, indent=1, sort_keys=True) + "\n")
    return folder_fingerprint(folder)
