"""One training step: weights and a batch in, gradients and statistics out, for every architecture.

After the encoder's matrix product only entries that are active or inside the straight-through
window matter (sae.losses.SUPPORT): about 1.5 L0 a row. Every architecture is written once over
sae.entries, whose two classes list those entries or keep all of them. tests/sae ties each gradient
to autograd through the papers' formulas. In: Weights, x [batch, d_in] in training units, an
Objective. Out: Gradients, Stats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sae.entries import Buffers, Entries, entries_above, top_of_batch, top_of_rows
from sae.jump import kernel_weight
from sae.losses import (
    NORM_WEIGHTED,
    Gradients,
    Objective,
    Stats,
    Weights,
    reconstruction,
    step_penalty,
    value_penalty,
)


@torch.no_grad()
def step(
    w: Weights, x: Tensor, o: Objective, buffers: Buffers, z: Tensor | None = None
) -> tuple[Gradients, Stats]:
    """Gradients and statistics of one batch x [batch, d_in].

    z [batch, d_sae]: the pre-activations, where another SAE's matrix product gave them as well.
    """
    if z is None:
        z = pre_activations(w, x, o, buffers)
    rule = {
        "jumprelu": _thresholded,
        "relu": _thresholded,
        "gated": _gated,
        "topk": _selected,
        "batchtopk": _selected,
        "matryoshka": _matryoshka,
    }[o.architecture]
    gradients, stats, x_hat = rule(w, x, z, o, buffers)
    if o.dead is not None and o.aux_coefficient:
        value = _revive(w, x, x - x_hat, o, gradients)
        stats = stats._replace(penalty=stats.penalty + value)
    return gradients, stats


def encoder_bias(w: Weights, o: Objective) -> Tensor:
    """What is added to x W_enc: b_enc, less W_enc b_dec where b_dec is subtracted first. [d_sae]"""
    return w.b_enc - w.W_enc @ w.b_dec if o.pre_encoder_bias else w.b_enc


def pre_activations(w: Weights, x: Tensor, o: Objective, buffers: Buffers) -> Tensor:
    """pre [batch, d_sae], valid until the buffers are used again."""
    bias, out = encoder_bias(w, o), buffers.z(x.shape[0], w.b_enc.shape[0], x)
    if not o.bfloat16:
        return torch.addmm(bias, x, w.W_enc.T, out=out)
    product = x.bfloat16() @ w.W_enc.bfloat16().T  # theta, biases and sums stay float32
    return torch.add(product, bias, out=out)


def _thresholded(
    w: Weights, x: Tensor, z: Tensor, o: Objective, buffers: Buffers
) -> tuple[Gradients, Stats, Tensor]:
    """JumpReLU and ReLU (theta = 0, no window): equations of sae.jump and sae.losses."""
    n_rows = x.shape[0]
    theta = torch.zeros_like(w.b_enc) if w.theta is None else w.theta
    floor = theta
    if o.bandwidth is not None:
        floor = theta - o.bandwidth * (o.kernel.width * o.kernel.reach)
    if o.pre_relu:  # ReLU lifts every entry of such a feature into its window
        floor = floor.masked_fill(floor < 0, -torch.inf)
    e = entries_above(z, floor, buffers)
    z = e.z.relu() if o.pre_relu else e.z
    theta_e = e.at_feature(theta)
    active = (z > theta_e).to(x.dtype)
    f = z * active
    x_hat = e.decode(f, w.W_dec).add_(w.b_dec)
    error, g = reconstruction(x, x_hat)
    df = e.project(g, w.W_dec)
    parallel = e.by_feature(f * df)
    fired = e.by_feature(active)
    l0 = fired.sum() / n_rows
    penalty = _penalty(w, o, e, f, active, l0, fired)

    df_all = df + o.coefficient * penalty.df
    dz = active * df_all
    zero = torch.zeros_like(fired)
    theta_error, dtheta, inside, sensitivity, benefit = zero, zero, zero, zero[0], zero[0]
    if o.bandwidth is not None:
        eps = o.bandwidth
        eps = e.at_feature(eps) if isinstance(eps, Tensor) else eps
        K = kernel_weight(z, theta_e, eps, o.kernel)
        from_error = K * theta_e * df
        from_penalty = K * (penalty.price + theta_e * penalty.df)  # for lambda = 1
        push = from_error + o.coefficient * from_penalty
        theta_error, dtheta = -e.by_feature(from_error), -e.by_feature(push)
        inside = e.by_feature((K > 0).to(x.dtype))
        sensitivity = e.by_feature(K * theta_e).sum() / n_rows
        per_price = e.by_feature(from_penalty).sum()
        benefit = theta_error.sum() / torch.where(per_price == 0, torch.inf, per_price)
        if o.pre_activation_gradient:
            straight = push * (z > 0) if o.pre_relu else push
            dz = dz + o.pre_activation_gradient * straight

    W_dec, everywhere = e.outer(f, g), None
    value = o.coefficient * penalty.value
    if penalty.dnorm is not None and o.penalty_decoder_free:
        W_dec.addcmul_((o.coefficient * penalty.dnorm / penalty.norms)[:, None], w.W_dec)
    if o.pre_activation_coefficient:
        silent = _pre_activation(w, x, o, e, active, fired, theta)
        value = value + silent.value
        dz, everywhere = dz + active * e.at_feature(silent.each), -silent.each
        dtheta = dtheta + silent.each * (n_rows - fired)
        if o.penalty_decoder_free:
            W_dec.addcmul_(silent.norm_factor[:, None], w.W_dec)
    W_enc, b_enc, b_dec = _encoder(w, x, o, e, dz, g.sum(0), everywhere)
    gradients = Gradients(
        W_enc, b_enc, W_dec, b_dec,
        theta=None if w.theta is None else dtheta,
        W_dec_parallel=parallel,
        theta_from_error=theta_error,
    )  # fmt: skip
    nan = torch.full_like(error, math.nan)
    stats = Stats(error, error * 0 + value, l0, fired, inside, benefit, sensitivity, nan)
    return gradients, stats, x_hat


class _Penalty(NamedTuple):
    """S(f) for lambda = 1: its value and gradients by entries of whichever kind it depends on."""

    value: Tensor
    price: Tensor | float  # dS / d(active indicator)
    df: Tensor | float  # dS / df
    dnorm: Tensor | None  # dS / d||d_i|| [d_sae], with the norms
    norms: Tensor | None


def _penalty(
    w: Weights, o: Objective, e: Entries, f: Tensor, active: Tensor, l0: Tensor, fired: Tensor
) -> _Penalty:
    if o.penalty == "none":
        return _Penalty(torch.zeros_like(l0), 0.0, 0.0, None, None)
    if o.penalty.endswith(("l0", "frequency")):
        value, price = step_penalty(o, l0, e.by_row(active), fired)
        if price.ndim:
            price = e.at_row(price[:, 0]) if price.ndim == 2 else e.at_feature(price)
        return _Penalty(value, price, 0.0, None, None)
    if o.penalty not in NORM_WEIGHTED:
        value, slope = value_penalty(o, f)
        return _Penalty(value.sum() / e.n_rows, 0.0, slope / e.n_rows, None, None)
    norms = torch.linalg.vector_norm(w.W_dec, dim=1)
    norm = e.at_feature(norms)
    value, slope = value_penalty(o, f * norm)
    dnorm = e.by_feature(slope * f) / e.n_rows
    return _Penalty(value.sum() / e.n_rows, 0.0, slope * norm / e.n_rows, dnorm, norms)


class _Silent(NamedTuple):
    value: Tensor
    each: Tensor  # [d_sae] -dL/dz at every silent entry of a feature
    norm_factor: Tensor  # [d_sae] times W_dec: the gradient of decoder norms


def _pre_activation(
    w: Weights, x: Tensor, o: Objective, e: Entries, active: Tensor, fired: Tensor, theta: Tensor
) -> _Silent:
    """coefficient * mean over rows of sum_i ReLU(theta_i - z_i) ||d_i||  (Anthropic, January 2025).

    Its gradient at a silent entry depends on the feature alone, so nothing dense is needed: sums
    over all rows come from the rows' sum, and active entries are taken off again.
    """
    n_rows = x.shape[0]
    norms = torch.linalg.vector_norm(w.W_dec, dim=1)
    each = o.pre_activation_coefficient * norms / n_rows
    everything = n_rows * theta - (w.W_enc @ x.sum(0) + n_rows * encoder_bias(w, o))
    missing = everything + e.by_feature(active * (e.z - e.at_feature(theta)))
    return _Silent((each * missing).sum(), each, each * missing / norms.square())


def _encoder(
    w: Weights, x: Tensor, o: Objective, e: Entries, dz: Tensor, b_dec: Tensor,
    everywhere: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of W_enc, b_enc and b_dec from dL/dz at entries, b_dec being its own so far.

    everywhere [d_sae]: what dL/dz is at all entries beside those. The gradient through a
    pre-encoder bias is one sum and one matrix-vector product.
    """
    W_enc, b_enc = e.outer(dz, x), e.by_feature(dz)
    if everywhere is not None:
        W_enc.addr_(everywhere, x.sum(0))
        b_enc = b_enc + x.shape[0] * everywhere
    if o.pre_encoder_bias:
        W_enc.addr_(b_enc, w.b_dec, alpha=-1)
        b_dec = b_dec - b_enc @ w.W_enc
    return W_enc, b_enc, b_dec


def _gated(
    w: Weights, x: Tensor, z: Tensor, o: Objective, buffers: Buffers
) -> tuple[Gradients, Stats, Tensor]:
    """Gated SAE (arXiv 2404.16014, sec. 3.2), from one encoder product: z is the gate's
    pre-activation, the magnitude's is exp(r_mag) (z - b_gate) + b_mag."""
    e = entries_above(z, torch.zeros_like(w.b_enc), buffers)
    gate = e.z.relu()
    gain = e.at_feature(w.r_mag).exp()
    tied = e.z - e.at_feature(w.b_enc)
    magnitude = gain * tied + e.at_feature(w.b_mag)
    on = ((e.z > 0) & (magnitude > 0)).to(x.dtype)
    f = magnitude * on
    x_hat = e.decode(f, w.W_dec).add_(w.b_dec)
    error, g = reconstruction(x, x_hat)
    df = e.project(g, w.W_dec)
    dmagnitude = df * on
    # The auxiliary reconstruction from the gate trains the gate; by default W_dec, b_dec not.
    auxiliary, g_gate = reconstruction(x, e.decode(gate, w.W_dec).add_(w.b_dec))
    from_gate = e.project(g_gate, w.W_dec)
    open_ = (e.z > 0).to(x.dtype)
    fired = e.by_feature(on)
    l0 = fired.sum() / x.shape[0]
    penalty = _penalty(w, o, e, gate, open_, l0, fired)
    dgate = open_ * (from_gate + o.coefficient * penalty.df)

    W_dec, parallel, b_dec = e.outer(f, g), e.by_feature(f * df), g.sum(0)
    if o.aux_decoder_free:
        W_dec, b_dec = W_dec + e.outer(gate, g_gate), b_dec + g_gate.sum(0)
        parallel = parallel + e.by_feature(gate * from_gate)
    if penalty.dnorm is not None and o.penalty_decoder_free:
        W_dec.addcmul_((o.coefficient * penalty.dnorm / penalty.norms)[:, None], w.W_dec)
    dz = gain * dmagnitude + dgate
    W_enc, _, b_dec = _encoder(w, x, o, e, dz, b_dec)
    gradients = Gradients(
        W_enc, e.by_feature(dgate), W_dec, b_dec,
        r_mag=e.by_feature(dmagnitude * gain * tied),
        b_mag=e.by_feature(dmagnitude),
        W_dec_parallel=parallel,
    )  # fmt: skip
    value = auxiliary + o.coefficient * penalty.value
    return gradients, _plain_stats(error, value, l0, fired), x_hat


def _selected(
    w: Weights, x: Tensor, z: Tensor, o: Objective, buffers: Buffers
) -> tuple[Gradients, Stats, Tensor]:
    """TopK and BatchTopK: the largest entries of each row, or of the batch, if positive."""
    e, f, on, threshold = _select(x, z, o, buffers)
    x_hat = e.decode(f, w.W_dec).add_(w.b_dec)
    error, g = reconstruction(x, x_hat)
    df = e.project(g, w.W_dec)
    fired = e.by_feature(on)
    W_enc, b_enc, b_dec = _encoder(w, x, o, e, on * df, g.sum(0))
    gradients = Gradients(W_enc, b_enc, e.outer(f, g), b_dec, W_dec_parallel=e.by_feature(f * df))
    l0 = fired.sum() / x.shape[0]
    stats = _plain_stats(error, torch.zeros_like(error), l0, fired)
    return gradients, stats._replace(threshold=threshold), x_hat


def _select(
    x: Tensor, z: Tensor, o: Objective, buffers: Buffers
) -> tuple[Entries, Tensor, Tensor, Tensor]:
    """The selected entries, their f, 1 or 0 for f > 0, and the least positive f. 0-d."""
    if o.architecture == "topk":
        e, chosen = top_of_rows(z, int(o.l0))
    else:
        e, chosen = top_of_batch(z, round(o.l0 * x.shape[0]), buffers)
    f = e.z.relu() * chosen
    on = (f > 0).to(x.dtype)
    least = torch.where(f > 0, f, torch.inf)
    threshold = least.min() if least.numel() else torch.full((), torch.inf, device=x.device)
    return e, f, on, threshold


def _matryoshka(
    w: Weights, x: Tensor, z: Tensor, o: Objective, buffers: Buffers
) -> tuple[Gradients, Stats, Tensor]:
    """Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547): the mean loss of nested
    prefixes of the dictionary, each reconstructing on its own, and of b_dec alone."""
    e, f, on, threshold = _select(x, z, o, buffers)
    bounds = tuple(zip((0, *o.groups), o.groups, strict=False))
    parts = [e.between(lo, hi) for lo, hi in bounds]
    share = 1 / (len(bounds) + 1)
    x_hat = w.b_dec.expand_as(x)
    error, g = reconstruction(x, x_hat)
    total, gs = share * error, [share * g]
    for (part, where), (lo, hi) in zip(parts, bounds, strict=True):
        x_hat = x_hat + part.decode(e.select(f, where), w.W_dec[lo:hi])
        error, g = reconstruction(x, x_hat)
        total = total + share * error
        gs.append(share * g)
    df, W_dec, later = torch.zeros_like(f), [], torch.zeros_like(x)
    for (part, where), (lo, hi), g in zip(parts[::-1], bounds[::-1], gs[:0:-1], strict=True):
        later = later + g  # of this prefix and of all that contain it
        e.put(df, where, part.project(later, w.W_dec[lo:hi]))
        W_dec.append(part.outer(e.select(f, where), later))
    W_enc, b_enc, b_dec = _encoder(w, x, o, e, on * df, (later + gs[0]).sum(0))
    gradients = Gradients(
        W_enc, b_enc, torch.cat(W_dec[::-1]), b_dec, W_dec_parallel=e.by_feature(f * df)
    )
    fired = e.by_feature(on)
    stats = _plain_stats(error, total - error, fired.sum() / x.shape[0], fired)
    return gradients, stats._replace(threshold=threshold), x_hat


def _plain_stats(error: Tensor, other: Tensor, l0: Tensor, fired: Tensor) -> Stats:
    """Stats of an architecture without a window."""
    zeros, nan = torch.zeros_like(fired), torch.full_like(error, math.nan)
    return Stats(error, other, l0, fired, zeros, nan, nan, nan)


def _revive(w: Weights, x: Tensor, error: Tensor, o: Objective, gradients: Gradients) -> Tensor:
    """AuxK: the error, as far as the dead features' largest activations can reconstruct it.

        alpha * mean over rows of ||e - e_hat||^2 / ||e||^2,  e = x - x_hat held fixed

    (Gao et al. 2024, arXiv 2406.04093, App. A.2). Adds its gradients in place; returns its value.
    """
    n_rows, dead = x.shape[0], o.dead
    k = min(o.aux_k, dead.numel())
    W_enc, W_dec = w.W_enc[dead], w.W_dec[dead]
    z = torch.addmm(encoder_bias(w, o)[dead], x, W_enc.T)  # [batch, n_dead]
    f = z.relu()
    if k < dead.numel():
        values, features = f.topk(k, dim=1)
        f = torch.zeros_like(f).scatter_(1, features, values)
    size = error.square().sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    missing = f @ W_dec - error
    value = o.aux_coefficient * (missing.square().sum(1, keepdim=True) / size).mean()
    g = missing * (2 * o.aux_coefficient / n_rows) / size
    dz = (g @ W_dec.T) * (f > 0)
    dW_enc, db_enc = dz.T @ x, dz.sum(0)
    if o.pre_encoder_bias:
        dW_enc.addr_(db_enc, w.b_dec, alpha=-1)
        gradients.b_dec = gradients.b_dec - db_enc @ W_enc
    gradients.W_enc.index_add_(0, dead, dW_enc)
    gradients.b_enc = gradients.b_enc.index_add(0, dead, db_enc)
    dW_dec = f.T @ g
    gradients.W_dec.index_add_(0, dead, dW_dec)
    parallel = (dW_dec * W_dec).sum(1)
    gradients.W_dec_parallel = gradients.W_dec_parallel.index_add(0, dead, parallel)
    return value
