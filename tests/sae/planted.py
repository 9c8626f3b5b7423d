"""Data whose true features are known: sparse non-negative codes on random unit directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def planted(
    n: int, d_in: int, n_features: int, l0: float, seed: int, noise: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Rows [n, d_in] about a mean that is not 0, and their true directions [n_features, d_in]."""
    directions = F.normalize(
        torch.randn(n_features, d_in, generator=torch.Generator().manual_seed(1)), dim=1
    )
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, n_features, generator=generator) < l0 / n_features
    size = 0.5 + torch.rand(n, n_features, generator=generator)
    x = (active * size) @ directions
    return 3 * (x + noise * torch.randn(n, d_in, generator=generator)) + 0.5, directions
