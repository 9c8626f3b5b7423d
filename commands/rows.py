"""A cache's rows as training uses them: train, calibrate and held-out documents kept apart.

In:  an ActivationCache. Out: a source that never ends, and two tensors of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.activations import ActivationCache, ShuffledRows
from data.errors import TextError

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATION_ROWS = 65_536
HELDOUT_ROWS = 16_384  # of the looks at held-out rows while training


@dataclass(frozen=True)
class TrainingRows:
    source: ShuffledRows  # documents of the train split, without those of use calibrate
    calibrate: Tensor | None  # in the order of their text; None where there are none
    heldout: Tensor | None


def training_rows(cache: ActivationCache, seed: int, batch: int) -> TrainingRows:
    """Refuses a cache with less than a batch to train on."""
    source = ShuffledRows(cache, cache.contexts_where("train", not_use="calibrate"), seed=seed)
    if source.n_rows < batch:
        raise TextError(
            f"{cache.manifest['spec']['text']!r} gives {source.n_rows:,} training activations, "
            f"less than a batch of {batch:,}: use a longer text, or raise --corpus-tokens"
        )
    calibrate = _spread(cache, cache.contexts_where("train", use="calibrate"), CALIBRATION_ROWS)
    return TrainingRows(
        source, calibrate, _spread(cache, cache.contexts_where("heldout"), HELDOUT_ROWS)
    )


def _spread(cache: ActivationCache, contexts: np.ndarray, n: int) -> Tensor | None:
    """At most n rows of those contexts, evenly from all of them: neighbours tell little new."""
    rows = np.sort(cache.rows_of(contexts))
    if len(rows) == 0:
        return None
    import torch

    return torch.from_numpy(cache.x[rows[:: -(-len(rows) // n)]])
