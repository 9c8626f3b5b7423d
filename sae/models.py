"""Sparse autoencoders as they are saved and used: on raw activations.

One class an architecture, one contract: pre, encode, decode, forward; `floor` and `values` say the
same of single entries, for codes kept as lists. In: raw activations x [..., d_in]. Out: features
f [..., d_sae], reconstructions x_hat [..., d_out]. `to_raw` and `from_raw` fold the units of
training away and back; `gated_to_jumprelu` and its inverse are exact.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sae.config import Refused, SAEConfig

LAYER_NORM_EPS = 1e-5


class SAE(nn.Module):
    """The contract. Weights start at zero: a trainer or a loader fills them.

    pre = x W_enc + b_enc        x_hat = f W_dec + b_dec (+ x W_skip)

    d_out differs from d_in in a transcoder, which may have a W_skip. With `token_norm` each row is
    brought to one size first, and the reconstruction back to the row's own.
    """

    architecture: str

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        dtype: torch.dtype = torch.float32,
        *,
        k: int | None = None,
        d_out: int | None = None,
        token_norm: str = "none",
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.config = SAEConfig(d_in, d_sae, self.architecture, k, d_out, token_norm)
        d_out = self.config.width_out
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae, dtype=dtype))
        self.b_enc = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_out, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(d_out, dtype=dtype))
        self.W_skip = nn.Parameter(torch.zeros(d_in, d_out, dtype=dtype)) if skip else None

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @property
    def d_out(self) -> int:
        return self.config.width_out

    @property
    def is_transcoder(self) -> bool:
        """Whether the output is another place's activation; a splice would then mean nothing."""
        return self.W_skip is not None or self.config.d_out is not None

    @property
    def floor(self) -> Tensor:
        """Pre-activations at or below this are silent, [d_sae] float32."""
        return torch.zeros_like(self.b_enc, dtype=torch.float32)

    def token_frame(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x as token_norm leaves it, and the mean and size [..., 1] to bring it back (0 and 1).

        layer_norm divides by the deviation + LAYER_NORM_EPS and multiplies back by the deviation
        alone, as SAELens and OpenAI do.
        """
        if self.config.token_norm == "layer_norm":
            mean, size = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            return (x - mean) / (size + LAYER_NORM_EPS), mean, size
        if self.config.token_norm == "constant_norm_rescale":
            size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / self.d_in**0.5
            return x / size.clamp_min(torch.finfo(x.dtype).tiny), 0.0, size
        return x, 0.0, 1.0

    def pre(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> pre-activations [..., d_sae]."""
        return self.token_frame(x)[0] @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> features f [..., d_sae], in units of raw activations."""
        return self.activate(self.pre(x))

    def activate(self, pre: Tensor) -> Tensor:
        """Pre-activations [..., d_sae] -> features; what tells the architectures apart."""
        return self.values(pre, None) * (pre > self.floor)

    def values(self, pre: Tensor, features: Tensor | None) -> Tensor:
        """Activation of entries whose pre-activation lies above the floor.

        pre [n] with the entries' features [n], or pre [..., d_sae] with None: all features.
        """
        return pre

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """f [..., d_sae] -> x_hat [..., d_out], in units of raw activations.

        x [..., d_in], the rows that f came from, is needed with token_norm and with W_skip.
        """
        return self.finish(f @ self.W_dec, x)

    def finish(self, decoded: Tensor, x: Tensor | None = None) -> Tensor:
        """f W_dec [..., d_out] -> x_hat: the bias, the skip and each row's own size added."""
        x_hat = decoded + self.b_dec
        if self.config.token_norm == "none" and self.W_skip is None:
            return x_hat
        if x is None:
            raise Refused("this SAE needs the rows it encoded to decode: give x")
        normed, mean, size = self.token_frame(x)
        if self.W_skip is not None:
            x_hat = x_hat + normed @ self.W_skip
        return x_hat * size + mean

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> x_hat [..., d_out]."""
        return self.decode(self.encode(x), x)


class JumpReLUSAE(SAE):
    """f = ReLU(pre) H(pre - threshold)   (Rajamanoharan et al. 2024, eq. 4 and 8).

    `threshold` [d_sae] stays float32 whatever the other weights are cast to: in bfloat16 it
    would lose the small differences that training gave it.
    """

    architecture = "jumprelu"

    def __init__(self, d_in: int, d_sae: int, dtype: torch.dtype = torch.float32, **more) -> None:
        super().__init__(d_in, d_sae, dtype, **more)
        self.threshold = nn.Parameter(torch.zeros(d_sae, dtype=torch.float32))

    @property
    def floor(self) -> Tensor:
        return self.threshold.clamp_min(0)

    def _apply(self, fn, recurse=True):
        kept = self.threshold.data
        super()._apply(fn, recurse)
        self.threshold.data = kept.to(self.threshold.device)
        return self


class ReLUSAE(SAE):
    """f = ReLU(pre)   (Bricken et al. 2023; Conerly et al. 2024)."""

    architecture = "relu"


class GatedSAE(SAE):
    """f = 1[pre > 0] ReLU(exp(r_mag) (pre - b_enc) + b_mag)   (Rajamanoharan et al. 2024, 3.2).

    pre is the gate's pre-activation, so b_enc is the paper's b_gate and W_enc its W_gate.
    """

    architecture = "gated"

    def __init__(self, d_in: int, d_sae: int, dtype: torch.dtype = torch.float32, **more) -> None:
        super().__init__(d_in, d_sae, dtype, **more)
        self.r_mag = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        self.b_mag = nn.Parameter(torch.zeros(d_sae, dtype=dtype))

    def values(self, pre: Tensor, features: Tensor | None) -> Tensor:
        at = (lambda v: v) if features is None else (lambda v: v.index_select(0, features))
        return (at(self.r_mag).exp() * (pre - at(self.b_enc)) + at(self.b_mag)).relu()


class TopKSAE(SAE):
    """f = ReLU(pre) at the k largest pre-activations of each row (Gao et al. 2024)."""

    architecture = "topk"

    def activate(self, pre: Tensor) -> Tensor:
        values, features = pre.topk(self.config.k, dim=-1)
        return torch.zeros_like(pre).scatter_(-1, features, values.relu())


MODELS: dict[str, type[SAE]] = {
    model.architecture: model for model in (JumpReLUSAE, ReLUSAE, GatedSAE, TopKSAE)
}


def blank(config: SAEConfig, dtype: torch.dtype = torch.float32, skip: bool = False) -> SAE:
    """An SAE of that shape with zero weights. Refuses architectures that exist in training only."""
    if config.architecture not in MODELS:
        raise Refused(
            f"{config.architecture} is a way to train; it is saved as one of {', '.join(MODELS)}"
        )
    return MODELS[config.architecture](
        config.d_in,
        config.d_sae,
        dtype,
        k=config.k,
        d_out=config.d_out,
        token_norm=config.token_norm,
        skip=skip,
    )


def _copy_with_one_scale(sae: SAE) -> SAE:
    if sae.is_transcoder:
        raise Refused(
            "the input scale of a transcoder cannot be folded away: its output has its own"
        )
    return copy.deepcopy(sae)


@torch.no_grad()
def to_raw(sae: SAE, scale: float, centre: Tensor | float, pre_encoder_bias: bool) -> SAE:
    """An SAE made for x = (r - centre) / scale -> the same SAE on raw activations r.

    With C = scale and p = centre (+ C b_dec where the encoder subtracts it), features in raw units
    are C f(x):   b_enc' = C b_enc - p W_enc,  theta' = C theta,  b_dec' = C b_dec + centre
    (Gemma Scope App. A eq. 5-11, with the centre added). With token_norm r is a row as that leaves
    it. Sums in float64. Refuses transcoders.
    """
    raw = _copy_with_one_scale(sae)
    middle = torch.zeros_like(sae.b_dec, dtype=torch.float64) + centre
    b_dec = sae.b_dec.double()
    shift = (middle + scale * b_dec if pre_encoder_bias else middle) @ sae.W_enc.double()
    raw.b_enc.copy_(scale * sae.b_enc.double() - shift)
    raw.b_dec.copy_(scale * b_dec + middle)
    if isinstance(raw, JumpReLUSAE):
        raw.threshold.copy_(scale * sae.threshold.double())
    if isinstance(raw, GatedSAE):
        raw.b_mag.copy_(scale * sae.b_mag.double() - sae.r_mag.double().exp() * shift)
    return raw


@torch.no_grad()
def from_raw(sae: SAE, scale: float, centre: Tensor | float, pre_encoder_bias: bool) -> SAE:
    """The inverse of `to_raw`: an SAE on raw activations -> the same one for training units."""
    units = _copy_with_one_scale(sae)
    middle = torch.zeros_like(sae.b_dec, dtype=torch.float64) + centre
    b_dec = (sae.b_dec.double() - middle) / scale
    shift = (middle + scale * b_dec if pre_encoder_bias else middle) @ sae.W_enc.double()
    units.b_enc.copy_((sae.b_enc.double() + shift) / scale)
    units.b_dec.copy_(b_dec)
    if isinstance(units, JumpReLUSAE):
        units.threshold.copy_(sae.threshold.double() / scale)
    if isinstance(units, GatedSAE):
        units.b_mag.copy_((sae.b_mag.double() + sae.r_mag.double().exp() * shift) / scale)
    return units


@torch.no_grad()
def unit_decoder(sae: SAE) -> SAE:
    """The same function with decoder rows of norm 1; features take the norms (JumpReLU App. D).

    A row of zeros stays: nothing it does can be seen. Refuses TopK, whose choice would change.
    """
    if isinstance(sae, TopKSAE):
        raise Refused("decoder norms cannot be folded into a TopK SAE: its choice would change")
    folded = copy.deepcopy(sae)
    norms = torch.linalg.vector_norm(sae.W_dec.double(), dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    folded.W_dec.copy_(sae.W_dec.double() / norms[:, None])
    for name in ("W_enc", "b_enc", "threshold", "b_mag"):
        if hasattr(folded, name):
            getattr(folded, name).copy_(getattr(sae, name).double() * norms)
    return folded


@torch.no_grad()
def gated_to_jumprelu(sae: GatedSAE) -> JumpReLUSAE:
    """The JumpReLU SAE with the same features (Gated SAE paper, App. E; theta clamped at 0).

    W_enc' = exp(r_mag) W_enc,  b_enc' = b_mag,  theta = max(0, b_mag - exp(r_mag) b_gate)
    """
    jump = JumpReLUSAE(sae.d_in, sae.d_sae, sae.W_enc.dtype, token_norm=sae.config.token_norm)
    gain = sae.r_mag.double().exp()
    jump.W_enc.copy_(sae.W_enc.double() * gain)
    jump.b_enc.copy_(sae.b_mag)
    jump.threshold.copy_((sae.b_mag.double() - gain * sae.b_enc.double()).clamp_min(0))
    jump.W_dec.copy_(sae.W_dec)
    jump.b_dec.copy_(sae.b_dec)
    return jump


@torch.no_grad()
def jumprelu_to_gated(sae: JumpReLUSAE) -> GatedSAE:
    """The Gated SAE with the same features: r_mag = 0, b_mag = b_enc, b_gate = b_enc - theta."""
    gated = GatedSAE(sae.d_in, sae.d_sae, sae.W_enc.dtype, token_norm=sae.config.token_norm)
    gated.W_enc.copy_(sae.W_enc)
    gated.b_enc.copy_(sae.b_enc.double() - sae.floor.double())
    gated.b_mag.copy_(sae.b_enc)
    gated.W_dec.copy_(sae.W_dec)
    gated.b_dec.copy_(sae.b_dec)
    return gated
