"""The activations of a data set, split by document: to train on, to choose by, to report.

In: a data set, a workspace, a language model and a text. Out: rows to train on (a file, shared by
all processes and by the peers), two halves of the calibrate documents, the held-out contexts.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.quality.arms import DataSet
from commands.capture import capture
from commands.rows import CALIBRATION_ROWS
from data import lm as language_models
from data.activations import ActivationCache, ActivationSpec
from data.lm import LanguageModel
from data.tokens import ContextRule
from data.workspace import Workspace

CONTEXT = 256


@dataclass(frozen=True)
class Rows:
    lm: LanguageModel
    cache: ActivationCache
    train_file: Path  # .npy, raw rows [n, d_in] in corpus order
    fit: Tensor  # raw rows of every other calibrate document: the trainer's correction of L0
    choose: Tensor  # of the others: tuned settings are chosen on them
    heldout: np.ndarray  # contexts, in a fixed shuffled order: the first ones come from all over

    @property
    def train(self) -> Tensor:
        return torch.from_numpy(np.load(self.train_file, mmap_mode="c"))


def load(data: DataSet, workspace: Workspace, lm: str, text: str) -> Rows:
    """Captures the activations if the workspace has none yet; the split is that of `train`."""
    model = language_models.load(lm, "cpu", "float32")
    rule = ContextRule(CONTEXT, False, False, 0, data.per_document)
    spec = ActivationSpec(lm, data.site, text, "text", data.corpus_tokens, rule, "float32")
    cache = capture(workspace, model, spec)
    return split(cache, model, workspace.root / "bench" / cache.folder.name)


def split(cache: ActivationCache, lm: LanguageModel, folder: Path) -> Rows:
    """The rows of a cache; those to train on are written into `folder` if they are not there."""
    calibrate = cache.contexts_where("train", use="calibrate")
    document = cache.doc[cache.context_rows[calibrate]]
    even = np.unique(document, return_inverse=True)[1] % 2 == 0
    halves = [_rows(cache, calibrate[which]) for which in (even, ~even)]
    heldout = np.random.default_rng(0).permutation(cache.contexts_where("heldout"))
    train = _train_file(cache, folder / "train.npy")
    return Rows(lm, cache, train, halves[0][:CALIBRATION_ROWS], halves[1], heldout)


def _rows(cache: ActivationCache, contexts: np.ndarray) -> Tensor:
    return torch.from_numpy(cache.x[np.sort(cache.rows_of(contexts))])


def _train_file(cache: ActivationCache, path: Path) -> Path:
    """Writes the rows of the train split without its calibrate documents, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            contexts = cache.contexts_where("train", not_use="calibrate")
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, cache.x[np.sort(cache.rows_of(contexts))])
            os.replace(part, path)
    return path
