"""A tiny model, its activations packed and unpacked, and SAEs on them, made once for the folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from data.activations import ActivationCache
from tests import tiny
from tests.tiny import one_thread  # noqa: F401

# Special tokens stand inside documents; some are equal, some shorter than a context.
TEXTS = [
    *tiny.sentences(40, words=16),
    *tiny.sentences(6, words=16),
    f"open file {tiny.EOS} read line {tiny.EOS}{tiny.EOS} write token",
    "x",
    "return",
]


@pytest.fixture(scope="session")
def lm():
    return tiny.language_model("llama")


@pytest.fixture(scope="session")
def cache(lm, tmp_path_factory) -> ActivationCache:
    """Contexts of 16 with the first two positions after BOS left out."""
    return tiny.cache(tmp_path_factory.mktemp("cache"), lm, TEXTS, skip_first=2)


@pytest.fixture(scope="session")
def packed(lm, tmp_path_factory) -> ActivationCache:
    return tiny.cache(tmp_path_factory.mktemp("packed"), lm, TEXTS, pack=True)


def rounded(cache: ActivationCache, folder) -> ActivationCache:
    """The same with activations in quarters: sums are exact, and equal values are frequent."""
    shutil.copytree(cache.folder, folder, dirs_exist_ok=True)
    (np.round(np.array(cache.x) * 4) / 4).astype(np.float32).tofile(folder / "activations.f32")
    return ActivationCache(folder)


def dyadic(sae):
    """The SAE with weights in eighths, so that float32 computes it exactly."""
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_((parameter * 8).round() / 8)
    return sae


@pytest.fixture(scope="session")
def exact(cache, packed, tmp_path_factory) -> dict:
    """kind of context -> (cache, SAE), in which every number is exact."""
    found = {}
    for name, which in (("separate", cache), ("packed", packed)):
        made = rounded(which, tmp_path_factory.mktemp(name))
        found[name] = made, dyadic(tiny.random_sae(made.x, 40, share=0.08))
    return found
