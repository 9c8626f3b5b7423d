"""Sparse autoencoders as they are saved and used: on raw activations.

One class an architecture, one contract: pre, encode, decode, forward. In: raw activations
x [..., d_in]. Out: features f [..., d_sae], reconstructions x_hat [..., d_in]. `fold` makes one
from a trainer's working weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae.config import SAEConfig
from sae.losses import Weights


class SAE(nn.Module):
    """The contract. Weights start at zero: a trainer or a loader fills them.

    pre = x W_enc + b_enc        x_hat = f W_dec + b_dec
    """

    architecture: str

    def __init__(self, d_in: int, d_sae: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = SAEConfig(d_in, d_sae, self.architecture)
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae, dtype=dtype))
        self.b_enc = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(d_in, dtype=dtype))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    def pre(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> pre-activations [..., d_sae]."""
        return x @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> features f [..., d_sae], in units of raw activations."""
        return self.activate(self.pre(x))

    def activate(self, pre: Tensor) -> Tensor:
        """Pre-activations -> features; what tells the architectures apart."""
        raise TypeError(f"{type(self).__name__} has no activation of its own")

    def decode(self, f: Tensor) -> Tensor:
        """f [..., d_sae] -> x_hat [..., d_in], in units of raw activations."""
        return f @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> x_hat [..., d_in]."""
        return self.decode(self.encode(x))


class JumpReLUSAE(SAE):
    """f = ReLU(pre) H(pre - threshold)   (Rajamanoharan et al. 2024, eq. 4 and 8).

    `threshold` [d_sae] stays float32 whatever the other weights are cast to: in bfloat16 it
    would lose the small differences that training gave it.
    """

    architecture = "jumprelu"

    def __init__(self, d_in: int, d_sae: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(d_in, d_sae, dtype)
        self.threshold = nn.Parameter(torch.zeros(d_sae, dtype=torch.float32))

    def activate(self, pre: Tensor) -> Tensor:
        return pre.relu() * (pre > self.threshold)

    def _apply(self, fn, recurse=True):
        kept = self.threshold.data
        super()._apply(fn, recurse)
        self.threshold.data = kept.to(self.threshold.device)
        return self


MODELS: dict[str, type[SAE]] = {JumpReLUSAE.architecture: JumpReLUSAE}


@torch.no_grad()
def fold(
    w: Weights, architecture: str, scale: float, centre: Tensor, pre_encoder_bias: bool
) -> SAE:
    """Working weights -> an SAE on raw activations r, where training saw x = (r - centre) / scale.

    With C = scale and p = centre (+ C b_dec where the encoder subtracts it), features in raw units
    are C f(x):   b_enc' = C b_enc - p W_enc,  theta' = C theta,  b_dec' = C b_dec + centre
    (Gemma Scope App. A eq. 5-11, with the centre added). Sums in float64; result on the CPU.
    """
    d_sae, d_in = w.W_enc.shape
    sae = MODELS[architecture](d_in, d_sae)
    W_enc, b_enc = w.W_enc.double().cpu(), w.b_enc.double().cpu()
    b_dec, middle = w.b_dec.double().cpu(), centre.double().cpu()
    shifted = middle + scale * b_dec if pre_encoder_bias else middle
    sae.W_enc.copy_(W_enc.T)
    sae.b_enc.copy_(scale * b_enc - W_enc @ shifted)
    sae.W_dec.copy_(w.W_dec)
    sae.b_dec.copy_(scale * b_dec + middle)
    sae.threshold.copy_(scale * w.theta)
    return sae.requires_grad_(False)
