"""Dead features: who they are, and how resampling lets them start anew.

In: rows since each feature fired, a batch with its errors. Out: the list that the auxiliary loss
trains, or weights set to what the SAE reconstructs worst.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.losses import Weights

ENCODER_SHARE = 0.2  # of the alive features' mean encoder norm (Bricken et al. 2023)


def dead_features(silent_rows: Tensor, dead_after: int) -> Tensor | None:
    """Features [n] that have not fired for that many rows; None where there are none.

    Reads how many there are back to the host: for log steps only.
    """
    dead = (silent_rows >= dead_after).nonzero().squeeze(1)
    return dead if dead.numel() else None


def resample(
    w: Weights, x: Tensor, error: Tensor, dead: Tensor, moments: list[Tensor], seed: int
) -> None:
    """Points dead features at rows that are reconstructed badly (Bricken et al. 2023; App. D of
    the Gated SAE paper), in place.

    x, error [batch, d_in]: rows and x - x_hat. Rows are drawn with probability in proportion to
    their squared loss; a feature's decoder row becomes the row's direction, its encoder row the
    same at ENCODER_SHARE of the alive features' mean norm, its bias 0. `moments` are Adam's, of
    tensors whose first dimension is d_sae.
    """
    generator = torch.Generator().manual_seed(seed)
    chance = error.square().sum(1).double().square().cpu()
    rows = torch.multinomial(chance, dead.numel(), replacement=True, generator=generator)
    rows = rows.to(x.device)
    alive = torch.ones(w.b_enc.shape[0], dtype=torch.bool, device=x.device)
    alive[dead] = False
    some = alive if bool(alive.any()) else ~alive
    size = torch.linalg.vector_norm(w.W_enc[some], dim=1).mean() * ENCODER_SHARE
    directions = x[rows] - w.b_dec
    directions = torch.nn.functional.normalize(directions, dim=1)
    w.W_dec[dead] = directions
    w.W_enc[dead] = directions * size
    w.b_enc[dead] = 0
    for name in ("r_mag", "b_mag"):
        if getattr(w, name) is not None:
            getattr(w, name)[dead] = 0
    for moment in moments:
        moment[dead] = 0
