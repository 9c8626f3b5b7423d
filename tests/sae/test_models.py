"""The contract of every architecture, exact conversions, and the folding of units."""

import pytest
import torch

from sae.config import Refused, SAEConfig, shape_for
from sae.losses import Weights
from sae.models import (
    MODELS,
    GatedSAE,
    JumpReLUSAE,
    ReLUSAE,
    TopKSAE,
    blank,
    from_raw,
    gated_to_jumprelu,
    jumprelu_to_gated,
    to_raw,
    unit_decoder,
)
from sae.presets import preset
from sae.units import Units, in_units, measure, to_sae, to_weights

D_IN, D_SAE, ROWS = 6, 20, 400


def _fill(sae, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g).abs() * 0.4 if name == "threshold"
                    else torch.randn(p.shape, generator=g) * 0.5)  # fmt: skip
    return sae.double().requires_grad_(False)


def _rows():
    return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _make(name):
    return _fill(blank(SAEConfig(D_IN, D_SAE, name, k=4 if name == "topk" else None)))


def test_jumprelu_by_hand():
    sae = JumpReLUSAE(1, 3)
    with torch.no_grad():
        sae.W_enc[:] = 1
        sae.b_enc[:] = torch.tensor([0.0, 1.0, -3.0])
        sae.threshold[:] = torch.tensor([2.0, 2.5, -9.0])
    assert sae.encode(torch.tensor([[2.0]])).tolist() == [[0.0, 3.0, 0.0]]


def test_gated_by_hand():
    """gate .5 > 0; magnitude 2 (0.5 - .1) + .3 = 1.1; a closed gate hides a large magnitude."""
    sae = GatedSAE(1, 2)
    with torch.no_grad():
        sae.W_enc[:] = torch.tensor([[0.4, 0.4]])
        sae.b_enc[:] = torch.tensor([0.1, -1.0])
        sae.r_mag[:] = torch.tensor(2.0).log()
        sae.b_mag[:] = torch.tensor([0.3, 9.0])
    assert sae.encode(torch.ones(1, 1)).tolist()[0] == pytest.approx([1.1, 0.0])


def test_topk_keeps_the_largest_positive_ones():
    sae = TopKSAE(1, 4, k=2)
    with torch.no_grad():
        sae.b_enc[:] = torch.tensor([3.0, -1.0, 5.0, 4.0])
    assert sae.encode(torch.zeros(1, 1)).tolist() == [[0.0, 0.0, 5.0, 4.0]]
    with torch.no_grad():
        sae.b_enc[:] = torch.tensor([-3.0, -1.0, -5.0, 4.0])
    assert sae.encode(torch.zeros(1, 1)).tolist() == [[0.0, 0.0, 0.0, 4.0]], "never a negative one"


@pytest.mark.parametrize("seed", range(3))
def test_gated_is_exactly_a_jumprelu(seed):
    gated, x = _fill(GatedSAE(D_IN, D_SAE), seed), _rows()
    jump = gated_to_jumprelu(gated)
    theta = gated.b_mag - gated.r_mag.exp() * gated.b_enc
    assert bool((theta < 0).any()), "the test must have thresholds to clamp"
    assert bool((jump.threshold >= 0).all())
    # Rounded to float32, a threshold may part two equal codes at the boundary only.
    far = ((jump.pre(x) - jump.floor).abs() > 1e-5).all(1)
    assert far.float().mean() > 0.95
    assert torch.allclose(jump.encode(x)[far], gated.encode(x)[far], atol=1e-12)
    assert torch.allclose(jump(x)[far], gated(x)[far], atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_jumprelu_is_exactly_a_gated(seed):
    jump, x = _fill(JumpReLUSAE(D_IN, D_SAE), seed), _rows()
    gated = jumprelu_to_gated(jump)
    assert torch.allclose(gated.encode(x), jump.encode(x), atol=1e-12)
    back = gated_to_jumprelu(gated)
    assert torch.allclose(back.threshold, jump.threshold, atol=1e-6)


@pytest.mark.parametrize("pre_encoder_bias", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_units_fold_away_and_back(name, pre_encoder_bias):
    sae, r = _make(name), 3 * _rows() + 2
    scale, centre = 3.7, torch.randn(D_IN, dtype=torch.float64)
    raw = to_raw(sae, scale, centre, pre_encoder_bias)
    x = (r - centre) / scale
    entering = x - sae.b_dec if pre_encoder_bias else x
    f = sae.encode(entering)
    assert torch.allclose(raw.encode(r), scale * f, atol=1e-6), "features come in raw units"
    assert torch.allclose(raw(r), scale * sae.decode(f) + centre, atol=1e-6)
    again = from_raw(raw, scale, centre, pre_encoder_bias)
    for key, value in sae.state_dict().items():
        assert torch.allclose(again.state_dict()[key], value, atol=1e-6), key


@pytest.mark.parametrize("name", ["jumprelu", "relu", "gated"])
def test_decoder_norms_fold_into_the_features(name):
    sae, x = _make(name), _rows()
    unit = unit_decoder(sae)
    norms = sae.W_dec.norm(dim=1)
    assert torch.allclose(unit.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    near = ((sae.pre(x) - sae.floor).abs() < 1e-5).any(1)
    assert torch.allclose(unit(x)[~near], sae(x)[~near], atol=1e-6)
    assert torch.allclose(unit.encode(x)[~near], (sae.encode(x) * norms)[~near], atol=1e-6)
    with pytest.raises(Refused, match="choice would change"):
        unit_decoder(_make("topk"))


def test_a_decoder_row_of_zeros_stays():
    sae = _make("relu")
    sae.W_dec[3] = 0
    assert bool(torch.isfinite(unit_decoder(sae).W_dec).all())
    assert unit_decoder(sae).W_dec[3].norm() == 0


@pytest.mark.parametrize("token_norm", ["layer_norm", "constant_norm_rescale"])
def test_token_norm_by_hand(token_norm):
    """layer_norm: about the mean, by the unbiased deviation; the other: to norm sqrt(d_in)."""
    sae, x = ReLUSAE(4, 4, token_norm=token_norm), torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.W_dec.copy_(torch.eye(4))
    if token_norm == "layer_norm":
        mean, size, eps = 3.0, (14 / 3) ** 0.5, 1e-5
    else:
        mean, size, eps = 0.0, 50**0.5 / 2, 0.0
    expected = [max(0.0, (v - mean) / (size + eps)) for v in x[0].tolist()]
    assert sae.encode(x)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert sae(x)[0].tolist() == pytest.approx([e * size + mean for e in expected], rel=1e-6)
    with pytest.raises(Refused, match="give x"):
        sae.decode(sae.encode(x))


def test_transcoders_have_an_output_of_their_own():
    sae = JumpReLUSAE(4, 8, d_out=3, skip=True)
    assert sae.is_transcoder and sae(torch.zeros(2, 4)).shape == (2, 3)
    with torch.no_grad():
        sae.W_skip[0, 0] = 2
    assert sae(torch.tensor([[1.0, 0, 0, 0]])).tolist() == [[2.0, 0.0, 0.0]]
    with pytest.raises(Refused, match="cannot be folded"):
        to_raw(sae, 2.0, 0.0, False)


def test_training_only_architectures_have_no_saved_form():
    with pytest.raises(Refused, match="batchtopk is a way to train"):
        blank(SAEConfig(4, 8, "batchtopk"))


def test_thresholds_stay_float32():
    sae = JumpReLUSAE(4, 8).to(torch.bfloat16)
    assert sae.W_enc.dtype == torch.bfloat16 and sae.threshold.dtype == torch.float32


@pytest.mark.parametrize("scale", ["unit", "sqrt_d"])
@pytest.mark.parametrize("centre", [True, False])
def test_measured_units(scale, centre):
    raw = (5 * _rows() + 3).float()
    units = measure(raw, preset("small_budget", input_scale=scale, centre=centre))
    x = units(raw)
    if scale == "unit":
        assert x.square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)
    else:
        assert x.norm(dim=1).mean().item() == pytest.approx(D_IN**0.5, rel=1e-4)
    assert (x.mean(0).abs().max() < 1e-4) == centre


@pytest.mark.parametrize("architecture", ["jumprelu", "relu", "gated", "batchtopk"])
@pytest.mark.parametrize("free", ["unit", "free"])
def test_working_weights_become_an_sae_on_raw_rows(architecture, free):
    c = preset("small_budget", architecture, l0=4.0, decoder_norm=free, pre_encoder_bias=True)
    shape, g = shape_for(D_IN, D_SAE, c), torch.Generator().manual_seed(1)
    W = torch.randn(D_SAE, D_IN, generator=g)
    w = Weights(W, torch.randn(D_SAE, generator=g) * 0.1, W * 1.5, torch.randn(D_IN, generator=g))
    if architecture in ("jumprelu", "batchtopk"):
        w.theta = torch.full((D_SAE,), 0.3)
    if architecture == "gated":
        w.r_mag, w.b_mag = torch.zeros(D_SAE) + 0.1, torch.zeros(D_SAE) + 0.2
    units = Units(2.5, torch.randn(D_IN, generator=g), "none")
    raw = _rows().float() * 4
    sae, inner = to_sae(w, units, shape, c), in_units(w, shape, c)
    x = units(raw)
    wanted = inner.decode(inner.encode(x - w.b_dec)) * 2.5 + units.centre
    near = ((inner.pre(x - w.b_dec) - inner.floor).abs() < 1e-4).any(1)
    assert torch.allclose(sae(raw)[~near], wanted[~near], atol=1e-3)
    if free == "free":
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)


@pytest.mark.parametrize(
    ("saved", "into"),
    [("relu", "gated"), ("relu", "jumprelu"), ("relu", "relu"), ("jumprelu", "jumprelu"),
     ("gated", "gated"), ("gated", "jumprelu")],
)  # fmt: skip
def test_going_on_from_an_sae_begins_with_its_function(saved, into):
    sae = _fill(blank(SAEConfig(D_IN, D_SAE, saved)))
    c = preset("small_budget", into, l0=4.0)
    units = Units(2.0, torch.randn(D_IN, generator=torch.Generator().manual_seed(0)), "none")
    shape, raw = shape_for(D_IN, D_SAE, c), _rows().float() * 3
    w = to_weights(sae, units, shape, c)
    again = to_sae(w, units, shape, c)
    near = ((sae.pre(raw.double()) - sae.floor).abs() < 1e-3).any(1)
    assert torch.allclose(again(raw)[~near], sae(raw.double()).float()[~near], atol=1e-3)


def test_pairs_that_cannot_go_on_are_refused():
    c, units = preset("small_budget", "gated", l0=4.0), Units(1.0, torch.zeros(D_IN), "none")
    with pytest.raises(Refused, match="gated SAE cannot start from one that is jumprelu"):
        to_weights(_make("jumprelu"), units, shape_for(D_IN, D_SAE, c), c)
    with pytest.raises(Refused, match="6 -> 20 -> 6, the one to train 6 -> 21"):
        to_weights(_make("relu"), units, shape_for(D_IN, D_SAE + 1, c), c)
