"""What other libraries do beside the weights, folded into them: exact to 1e-6 in float64."""

from __future__ import annotations

import pytest
import torch

from sae.layouts import build
from sae.models import to_raw
from tests.sae.test_formats import rows, some_sae


def top(pre, k):
    values, features = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, features, values)


def _worst(sae, reference, x):
    """Largest error of features and reconstructions, relative to the largest value."""
    f, x_hat = reference(x.double())
    found = sae.encode(x.double()), sae(x.double())
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, (f, x_hat),
                                                                          strict=True))  # fmt: skip


@pytest.mark.parametrize("architecture", ["jumprelu", "relu", "gated", "topk"])
@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_subtracted_b_dec_is_folded_to_1e_6(architecture, token_norm):
    sae = some_sae(architecture, 64, 96, token_norm=token_norm)
    plain = some_sae(architecture, 64, 96).double()

    def theirs(x):
        normed, mean, size = sae.token_frame(x)
        f = plain.encode(normed - plain.b_dec)
        return f, plain.decode(f) * size + mean

    folded = build.subtract_b_dec(some_sae(architecture, 64, 96, token_norm=token_norm)).double()
    assert _worst(folded, theirs, rows(64)) < 1e-6


@pytest.mark.parametrize("architecture", ["jumprelu", "gated", "topk"])
def test_an_input_scale_is_folded_to_1e_6(architecture):
    plain = some_sae(architecture, 64, 96).double()
    scaled = build.rescale(some_sae(architecture, 64, 96), 7.0, 7.0).double()

    def theirs(r):
        f = plain.encode(r / 7)
        return 7 * f, 7 * plain.decode(f)

    assert _worst(scaled, theirs, 7 * rows(64)) < 1e-6
    raw = to_raw(some_sae(architecture, 64, 96), 7.0, 0.0, pre_encoder_bias=False)
    torch.testing.assert_close(scaled.float()(rows(64)), raw(rows(64)), rtol=1e-5, atol=1e-5)


def test_the_scales_of_a_transcoder_are_folded_to_1e_6():
    plain = some_sae("jumprelu", 64, 96, d_out=5, skip=True).double()
    scaled = build.rescale(some_sae("jumprelu", 64, 96, d_out=5, skip=True), 7.0, 0.3).double()

    def theirs(r):
        return 7 * plain.encode(r / 7), 0.3 * plain(r / 7)

    assert _worst(scaled, theirs, 7 * rows(64)) < 1e-6


def test_a_choice_by_decoder_norms_is_folded_to_1e_6():
    plain = some_sae("topk", 64, 96).double()
    plain.W_dec[3] = 0
    norms = plain.W_dec.norm(dim=1)
    folded = some_sae("topk", 64, 96)
    folded.W_dec[3] = 0
    folded = build.take_decoder_norms(folded).double()

    def theirs(x):
        f = top(plain.pre(x) * norms, 3)
        return f, f / norms.clamp_min(1e-300) @ plain.W_dec + plain.b_dec

    assert _worst(folded, theirs, rows(64)) < 1e-6
    norms = folded.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, (norms > 0).double(), rtol=0, atol=1e-6)


def test_half_precision_is_folded_in_single():
    sae = build.subtract_b_dec(some_sae("gated", dtype=torch.bfloat16))
    assert sae.W_enc.dtype == sae.b_mag.dtype == torch.float32
