"""From tensors to an SAE on raw activations: shapes checked, conventions of others folded away.

In: tensors under this program's names, and how their library used them. Out: an SAE. A library
that subtracts b_dec before the encoder, chooses features by pre * ||d||, or works on scaled
activations is met by folding that into the weights, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sae.config import Refused, SAEConfig
from sae.models import SAE, GatedSAE, JumpReLUSAE, ReLUSAE, blank

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BLOCK = 8192  # features folded at once: a whole W_enc in float64 would double the memory


def check_tensors(where: Path, tensors: Mapping[str, object], names: tuple[str, ...]) -> None:
    """Refuses a mapping in which one of `names` is missing or is no tensor of floats."""
    for name in names:
        value = tensors.get(name)
        if value is None:
            raise Refused(f"{where} has no {name}, which is needed; it has {_listed(tensors)}")
        if not isinstance(value, Tensor) or value.dtype not in FLOATS:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise Refused(f"{where}: {name} is {what}, not a tensor of floats")


def matrix(where: Path, tensors: Mapping[str, object], name: str) -> Tensor:
    """tensors[name], which must be a matrix of floats."""
    check_tensors(where, tensors, (name,))
    if tensors[name].ndim != 2:
        raise Refused(f"{where}: {name} is {tuple(tensors[name].shape)}, not a matrix")
    return tensors[name]


def _listed(tensors: Mapping[str, object]) -> str:
    names = sorted(map(str, tensors))
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "nothing"


def whole(value: object) -> int | None:
    """A whole number, plain or in a tensor of one; None for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@torch.no_grad()
def assemble(
    where: Path,
    architecture: str,
    tensors: Mapping[str, Tensor],
    *,
    k: int | None = None,
    token_norm: str = "none",
    transcoder: bool = False,
    dtype: torch.dtype | None = None,
) -> SAE:
    """The SAE of those tensors, in `dtype` (None: that of W_enc; float64 becomes float32).

    W_enc [d_in, d_sae], W_dec [d_sae, d_out], vectors b_enc, b_dec and what the architecture
    needs, W_skip [d_in, d_out] where there is one. `transcoder` says that the output is another
    place's activation though it may be as wide. Nothing is allocated before the shapes are
    checked. Refuses, naming `where`, what is missing, of the wrong shape or not finite.
    """
    (d_in, d_sae), d_out = matrix(where, tensors, "W_enc").shape, None
    if matrix(where, tensors, "W_dec").shape[1] != d_in or transcoder:
        d_out = tensors["W_dec"].shape[1]
    try:
        config = SAEConfig(d_in, d_sae, architecture, k, d_out, token_norm)
    except Refused as error:
        raise Refused(f"{where}: {error}") from None
    wanted = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, config.width_out),
        "b_enc": (d_sae,),
        "b_dec": (config.width_out,),
    }
    extra = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}.get(architecture, ())
    wanted |= {name: (d_sae,) for name in extra}
    if "W_skip" in tensors:
        wanted["W_skip"] = (d_in, config.width_out)
    check_tensors(where, tensors, tuple(wanted))
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise Refused(
                f"{where}: {name} is {tuple(tensors[name].shape)}, but beside W_enc "
                f"{(d_in, d_sae)} it must be {shape}"
            )
    dtype = tensors["W_enc"].dtype if dtype is None else dtype
    sae = blank(config, torch.float32 if dtype == torch.float64 else dtype, "W_skip" in tensors)
    for name, parameter in sae.named_parameters():
        parameter.copy_(tensors[name])
    return check_finite(where, sae.requires_grad_(False))


def check_finite(where: Path, sae: SAE) -> SAE:
    """The SAE, unless a weight is not finite; folding may also overflow."""
    for name, parameter in sae.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Refused(f"{where}: {name} holds values that are not finite; the file is damaged")
    return sae


def writes_elsewhere(sae: SAE) -> bool:
    """Whether it is a transcoder, though its output may be as wide as its input."""
    return sae.config.d_out is not None or sae.W_skip is not None


def relu_to_jumprelu(sae: ReLUSAE) -> JumpReLUSAE:
    """ReLU is JumpReLU with theta = 0."""
    config = replace(sae.config, architecture="jumprelu")
    jump = blank(config, sae.W_enc.dtype, sae.W_skip is not None)
    jump.load_state_dict(sae.state_dict() | {"threshold": jump.threshold})
    return jump.requires_grad_(False)


@torch.no_grad()
def subtract_b_dec(sae: SAE) -> SAE:
    """An SAE whose encoder was given x - b_dec -> the same on x, in float32.

    b_enc' = b_enc - b_dec W_enc, and for a Gated SAE b_mag' = b_mag - exp(r_mag) (b_dec W_enc).
    With token_norm both stand in the frame of the normed row, so the same holds.
    """
    if sae.b_dec.shape[0] != sae.d_in:
        raise Refused("a transcoder's b_dec cannot be subtracted from its input")
    sae = sae.float()
    b_dec = sae.b_dec.double()
    shift = torch.cat([b_dec @ part.double() for part in sae.W_enc.split(BLOCK, dim=1)])
    sae.b_enc.copy_(sae.b_enc.double() - shift)
    if isinstance(sae, GatedSAE):
        sae.b_mag.copy_(sae.b_mag.double() - sae.r_mag.double().exp() * shift)
    return sae


@torch.no_grad()
def add_b_dec(sae: SAE) -> dict[str, Tensor]:
    """The inverse, for libraries that subtract b_dec: their b_enc, and b_mag of a Gated SAE."""
    b_dec = sae.b_dec.double()
    shift = torch.cat([b_dec @ part.double() for part in sae.W_enc.split(BLOCK, dim=1)])
    biases = {"b_enc": (sae.b_enc.double() + shift).float()}
    if isinstance(sae, GatedSAE):
        biases["b_mag"] = (sae.b_mag.double() + sae.r_mag.double().exp() * shift).float()
    return biases


def decoder_norms(sae: SAE) -> Tensor:
    """||d_i|| [d_sae] in float64."""
    blocks = sae.W_dec.split(BLOCK)
    return torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in blocks])


@torch.no_grad()
def take_decoder_norms(sae: SAE) -> SAE:
    """Features chosen by, and measured as, pre * ||d|| -> the same SAE with ||d|| = 1, in float32.

    A threshold in units of pre * ||d|| stays as it is. A feature whose decoder row is 0 falls
    silent, which is what its pre * ||d|| = 0 says.
    """
    sae = sae.float()
    norms = decoder_norms(sae)
    sae.W_enc.mul_(norms)
    sae.b_enc.mul_(norms)
    sae.W_dec.div_(torch.where(norms > 0, norms, 1.0)[:, None])
    return sae


@torch.no_grad()
def rescale(sae: SAE, scale_in: float, scale_out: float) -> SAE:
    """An SAE or transcoder made for r_in / scale_in -> r_out / scale_out, on raw r, in float32.

    Features come out in raw units, f' = scale_in f, as `sae.models.to_raw` has them:
    b_enc' = scale_in b_enc, theta' = scale_in theta, W_dec' = (scale_out / scale_in) W_dec,
    b_dec' = scale_out b_dec; with one scale for both this is to_raw without a centre.
    """
    sae = sae.float()
    ratio = scale_out / scale_in
    for name, factor in (("b_enc", scale_in), ("b_dec", scale_out), ("W_dec", ratio)):
        getattr(sae, name).mul_(factor)
    if isinstance(sae, JumpReLUSAE):
        sae.threshold.mul_(scale_in)
    if isinstance(sae, GatedSAE):
        sae.b_mag.mul_(scale_in)
    if sae.W_skip is not None:
        sae.W_skip.mul_(ratio)
    return sae
