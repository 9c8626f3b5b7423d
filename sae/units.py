"""Training units: what is taken off raw activations, and how weights come back from them.

In: the first raw rows and a recipe. Out: `Units`, which brings rows to x with E||x||^2 = 1 (or
E||x|| = sqrt(d_in)), and turns working weights into an SAE on raw activations and back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.config import Refused, SAEConfig, TrainConfig
from sae.losses import Weights
from sae.models import (
    MODELS,
    SAE,
    GatedSAE,
    JumpReLUSAE,
    ReLUSAE,
    blank,
    from_raw,
    gated_to_jumprelu,
    to_raw,
    unit_decoder,
)

SMALLEST_THETA = 1e-4  # training units
SMALLEST_SPREAD = 1e-12  # of the mean square, below which rows count as all alike


@dataclass(frozen=True)
class Units:
    """x = (r - centre) / scale, for rows r as token_norm leaves them."""

    scale: float  # raw units per training unit
    centre: Tensor  # [d_in]
    token_norm: str

    def __call__(self, raw: Tensor) -> Tensor:
        """Raw rows [n, d_in] on any device -> training units, float32, on the centre's."""
        rows = raw.to(self.centre.device, torch.float32)
        return (token_framed(rows, self.token_norm) - self.centre).div_(self.scale)


def token_framed(rows: Tensor, token_norm: str) -> Tensor:
    """The rows as the SAE's token_norm leaves them."""
    if token_norm == "none":
        return rows
    return blank(SAEConfig(rows.shape[1], 1, token_norm=token_norm)).token_frame(rows)[0]


def measure(raw: Tensor, c: TrainConfig) -> Units:
    """The units that the first raw rows [n, d_in] ask for. Refuses rows that are all alike."""
    rows = token_framed(raw.float(), c.token_norm)
    mean = rows.mean(0, dtype=torch.float64)
    square = rows.square().sum(1, dtype=torch.float64).mean()
    about = square - mean.square().sum() if c.centre else square
    if not bool(torch.isfinite(about)) or float(about) <= SMALLEST_SPREAD * float(square):
        raise Refused(
            f"the first {rows.shape[0]:,} rows have mean square {float(about)}: "
            "activations must be finite and not all alike"
        )
    centre = mean.float() if c.centre else torch.zeros_like(mean, dtype=torch.float32)
    if c.input_scale == "unit":
        return Units(float(about.sqrt()), centre, c.token_norm)
    norms = torch.linalg.vector_norm(rows - centre, dim=1)
    return Units(float(norms.double().mean()) / rows.shape[1] ** 0.5, centre, c.token_norm)


def saved_architecture(c: TrainConfig) -> str:
    """What a training architecture is saved as."""
    if c.architecture in ("batchtopk", "matryoshka"):
        return "jumprelu"
    if c.architecture == "jumprelu" and not c.has_theta:
        return "relu"
    return c.architecture


@torch.no_grad()
def to_sae(w: Weights, units: Units, shape: SAEConfig, c: TrainConfig) -> SAE:
    """Working weights -> an SAE on raw activations, on the CPU, decoder rows at norm 1."""
    sae = to_raw(in_units(w, shape, c), units.scale, units.centre.cpu(), c.pre_encoder_bias)
    if c.decoder_norm == "free" and c.architecture != "topk":
        sae = unit_decoder(sae)
    return sae.requires_grad_(False)


@torch.no_grad()
def in_units(w: Weights, shape: SAEConfig, c: TrainConfig) -> SAE:
    """Working weights -> an SAE for rows in training units, on the CPU."""
    model = MODELS[saved_architecture(c)]
    sae = model(shape.d_in, shape.d_sae, k=shape.k, token_norm=shape.token_norm)
    for name, value in w.items():
        if name == "W_enc":
            sae.W_enc.copy_(value.T)
        elif name != "theta":
            getattr(sae, name).copy_(value)
        elif isinstance(sae, JumpReLUSAE):
            sae.threshold.copy_(value)
    return sae


@torch.no_grad()
def to_weights(sae: SAE, units: Units, shape: SAEConfig, c: TrainConfig) -> Weights:
    """An SAE on raw activations -> working weights of a recipe that goes on from it.

    A ReLU SAE becomes a gate with r_mag = b_mag' = 0 for "gated" (rescale and shift, Gated SAE
    paper 5.2) and a JumpReLU whose thresholds are `theta` for "jumprelu". Refuses other pairs and
    other widths.
    """
    if (sae.d_in, sae.d_sae, sae.d_out) != (shape.d_in, shape.d_sae, shape.d_in):
        raise Refused(
            f"the SAE to start from is {sae.d_in} -> {sae.d_sae} -> {sae.d_out}, the one to train "
            f"{shape.d_in} -> {shape.d_sae}: they must be alike"
        )
    fits = {"relu": (ReLUSAE,), "gated": (ReLUSAE, GatedSAE)}
    fits["jumprelu"] = (ReLUSAE, GatedSAE, JumpReLUSAE)
    if not isinstance(sae, fits.get(c.architecture, ())):
        raise Refused(f"a {c.architecture} SAE cannot start from one that is {sae.architecture}")
    if isinstance(sae, GatedSAE) and c.architecture == "jumprelu":
        sae = gated_to_jumprelu(sae)
    sae = from_raw(sae, units.scale, units.centre.cpu(), c.pre_encoder_bias)

    def taken(value: Tensor) -> Tensor:
        return value.detach().to(units.centre.device, torch.float32).contiguous().clone()

    w = Weights(*(taken(v) for v in (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec)))
    zeros = torch.zeros_like(w.b_enc)
    if c.architecture == "gated":
        gated = isinstance(sae, GatedSAE)
        w.r_mag = taken(sae.r_mag) if gated else zeros
        w.b_mag = taken(sae.b_mag) if gated else w.b_enc.clone()
    if c.architecture == "jumprelu":
        jump = isinstance(sae, JumpReLUSAE)
        # Above 0, so that it has a logarithm.
        w.theta = (taken(sae.floor) if jump else zeros).clamp_min(c.theta or SMALLEST_THETA)
    return w
