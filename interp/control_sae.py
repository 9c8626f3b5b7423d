"""A control for an SAE: one that nobody trained, on the same activations and as sparse.

In:  an SAE, rows of raw activations at its site, a seed. Out: a `JumpReLUSAE` with random
     directions, whose thresholds make its features fire as often as the other's.

Scores of such an SAE say what a judge makes of any sparse projection of the activations: what a
trained one gets beyond that is its own (the baseline of the JumpReLU paper; Rajamanoharan et al.
2024, whose figures name a randomly initialised SAE and say no more of it: the rest here is own).
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.config import Refused
from sae.models import SAE, JumpReLUSAE

DIRECTIONS = ("uniform", "covariance", "rotated")
THRESHOLDS = ("matched", "shared")
BLOCK = 2**24  # pre-activations held at once
BINS, ROUNDS = 4096, 3  # of the search for one threshold


@torch.no_grad()
def control_sae(
    like: SAE, rows: Tensor, directions: str = "uniform", thresholds: str = "matched", seed: int = 0
) -> JumpReLUSAE:
    """The control of `like`. rows: raw activations [n, d_in] that thresholds are set on.

    directions   uniform     decoder rows uniform on the sphere
                 covariance  normal with the rows' covariance, then of norm 1: they lie where the
                             activations vary
                 rotated     the decoder rows of `like`, of norm 1, all turned by one random
                             rotation: they keep their angles to each other
    thresholds   matched     feature i fires on as many of the rows as feature i of `like`
                 shared      one for all, with as many fires in total

    The encoder is the decoder's transpose on rows less their mean, b_dec the mean; one factor on
    encoder and thresholds fits the reconstruction in size (as sae/start.py), which changes no fire.
    Refuses a transcoder, unknown options, and fewer than 100 rows.
    """
    for name, given, known in (
        ("directions", directions, DIRECTIONS), ("thresholds", thresholds, THRESHOLDS)
    ):  # fmt: skip
        if given not in known:
            raise Refused(f"no {name} {given!r}: choose from {', '.join(known)}")
    if like.is_transcoder:
        raise Refused("a transcoder has no control of this kind: it writes elsewhere than it reads")
    if len(rows) < 100:
        raise Refused(f"{len(rows)} rows of activations set no thresholds: use a longer text")
    fires = fires_of(like, rows)
    x = like.token_frame(rows)[0]
    b_dec = x.mean(0)
    centred = x - b_dec
    W = drawn(directions, like, centred, seed)  # [d_sae, d_in], rows of norm 1
    find = _own_cuts if thresholds == "matched" else _one_cut
    cut = find(W, centred, fires)
    # A threshold below 0 would be read as 0: such features get a bias that lifts both.
    lift = (1e-3 * cut.abs().mean() - cut).clamp_min(0)
    sae = JumpReLUSAE(like.d_in, like.d_sae, token_norm=like.config.token_norm).to(rows.device)
    alpha = _fitting_scale(centred, W, cut, lift)
    sae.W_enc.copy_(alpha * W.T)
    sae.b_enc.copy_(alpha * (lift - W @ b_dec))
    sae.threshold.copy_(alpha * (cut + lift))
    sae.W_dec.copy_(W)
    sae.b_dec.copy_(b_dec)
    return sae.requires_grad_(False)


def drawn(directions: str, like: SAE, centred: Tensor, seed: int) -> Tensor:
    """Random rows of norm 1, [d_sae, d_in]; the same on every device.

    Of a seed of its own: under the number itself the noise that training began with might be drawn.
    """
    own = int(hashlib.sha256(f"control {seed}".encode()).hexdigest()[:15], 16)
    generator = torch.Generator().manual_seed(own)
    if directions == "rotated":
        # QR of a normal matrix, signs fixed, is uniform among rotations (Mezzadri 2007).
        Q, R = torch.linalg.qr(torch.randn(like.d_in, like.d_in, generator=generator))
        Q = (Q * R.diagonal().sign()).to(centred.device)
        return F.normalize(F.normalize(like.W_dec.float(), dim=1) @ Q, dim=1)
    normal = torch.randn(like.d_sae, like.d_in, generator=generator).to(centred.device)
    if directions == "covariance":
        size, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        normal = (normal * size.clamp_min(0).sqrt()) @ axes.T
    return F.normalize(normal, dim=1)


def fires_of(sae: SAE, rows: Tensor) -> Tensor:
    """On how many rows each feature is active, int64 [d_sae]."""
    fires = torch.zeros(sae.d_sae, dtype=torch.int64, device=rows.device)
    for some in rows.split(max(1, BLOCK // sae.d_sae)):
        fires += (sae.encode(some) > 0).sum(0)
    return fires


def mean_l0(sae: SAE, rows: Tensor) -> float:
    """Active features a row."""
    return float(fires_of(sae, rows).sum()) / len(rows)


def _own_cuts(W: Tensor, centred: Tensor, fires: Tensor) -> Tensor:
    """For each direction a value that `fires[i]` of the rows' projections exceed: half-way between
    that one and the next. Where none is to, twice the largest; where all are, under the least."""
    n = len(centred)
    out = []
    for some, wanted in zip(
        W.split(max(1, BLOCK // n)), fires.split(max(1, BLOCK // n)), strict=True
    ):
        ordered = (some @ centred.T).sort(dim=1, descending=True).values  # [some, n]
        least = ordered[:, -1:] - ordered[:, -1:].abs() - 1e-6
        ordered = torch.cat([2 * ordered[:, :1].abs(), ordered, least], dim=1)
        # Place k + 1 now holds the k-th largest; places 0 and n + 1 bound them.
        above = ordered.gather(1, wanted[:, None])
        below = ordered.gather(1, wanted[:, None] + 1)
        middle = (above + below) / 2
        out.append(torch.where(wanted[:, None] == 0, above, middle)[:, 0])
    return torch.cat(out)


def _one_cut(W: Tensor, centred: Tensor, fires: Tensor) -> Tensor:
    """One value for all directions that as many projections exceed as `fires` has in all: a
    histogram of all of them, looked into ever more closely."""
    wanted, blocks = int(fires.sum()), W.split(max(1, BLOCK // len(centred)))
    ends = [(p.min(), p.max()) for p in (some @ centred.T for some in blocks)]
    low = float(min(least for least, _ in ends))
    high = float(max(most for _, most in ends))
    above = 0  # projections beyond `high`
    for _ in range(ROUNDS):
        edges = torch.linspace(low, high, BINS + 1, device=W.device)
        counts = sum(torch.histc(some @ centred.T, BINS, low, high) for some in blocks).cpu()
        beyond = above + counts.double().flip(0).cumsum(0).flip(0)  # at or above each bin's start
        at = int((beyond >= wanted).nonzero().max()) if (beyond >= wanted).any() else 0
        above = int(beyond[at + 1]) if at + 1 < BINS else above
        low, high = float(edges[at]), float(edges[at + 1])
    return torch.full((len(W),), (low + high) / 2, device=W.device)


def _fitting_scale(centred: Tensor, W: Tensor, cut: Tensor, lift: Tensor) -> Tensor:
    """alpha that minimises ||centred - alpha f W||^2 over the rows; 1 where nothing helps."""
    dot, square = centred.new_zeros(()), centred.new_zeros(())
    for some in centred.split(max(1, BLOCK // len(W))):
        pre = some @ W.T
        decoded = ((pre + lift) * (pre > cut)) @ W
        dot += (some * decoded).sum()
        square += decoded.square().sum()
    return torch.where(dot > 0, dot / square, torch.ones_like(dot))
