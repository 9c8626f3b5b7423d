"""Controls that nobody trained: as sparse as what they are like, random, and told by their seed."""

from __future__ import annotations

import pytest
import torch

from interp import control_sae as controls
from interp.control_sae import DIRECTIONS, THRESHOLDS, control_sae, fires_of, mean_l0
from sae.config import Refused
from sae.models import JumpReLUSAE, TopKSAE
from tests import tiny
from tests.tiny import one_thread  # noqa: F401

WIDTH, D_SAE = 12, 40


def rows(n: int, seed: int) -> torch.Tensor:
    """Normal rows of unequal variances, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.2, 3.0, WIDTH)
    return 5.0 + scale * torch.randn(n, WIDTH, generator=generator)


@pytest.fixture(scope="module")
def like() -> JumpReLUSAE:
    return tiny.random_sae(rows(2000, 0).numpy(), D_SAE, share=0.1)


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_it_is_as_sparse_on_held_out_rows(like, directions, thresholds):
    made = control_sae(like, rows(30_000, 1), directions, thresholds, seed=3)
    heldout = rows(30_000, 2)
    assert mean_l0(made, heldout) == pytest.approx(mean_l0(like, heldout), rel=0.02)


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_matched_thresholds_give_each_feature_the_very_fires(like, directions):
    x = rows(1500, 1)
    made = control_sae(like, x, directions)
    wanted, found = fires_of(like, x), fires_of(made, x)
    assert wanted[-2] == 0 and wanted[-1] == len(x), "a dead one and one that always fires"
    assert (wanted - found).abs().max() <= 1  # two rows may lie nearer than float32 can tell
    assert found[-2] == 0 and found[-1] == len(x)


def test_a_shared_threshold_is_one(like):
    x = rows(1500, 1)
    made = control_sae(like, x, "covariance", "shared")
    assert (made.threshold == made.threshold[0]).all()
    assert mean_l0(made, x) == pytest.approx(mean_l0(like, x), rel=0.002)


def test_fires_by_hand():
    sae = JumpReLUSAE(2, 3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        sae.threshold.copy_(torch.tensor([0.5, 0.5, 3.0]))
    x = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.1, 0.6]])
    assert fires_of(sae, x).tolist() == [2, 2, 1] and mean_l0(sae, x) == pytest.approx(5 / 3)


def test_what_is_like_a_topk_fires_as_often():
    x = rows(3000, 1)
    like = TopKSAE(WIDTH, D_SAE, k=5)
    with torch.no_grad():
        like.W_enc.copy_(torch.randn(WIDTH, D_SAE, generator=torch.Generator().manual_seed(1)))
        like.W_dec.copy_(like.W_enc.T)
    made = control_sae(like, x)
    assert made.architecture == "jumprelu"
    assert mean_l0(made, x) == pytest.approx(mean_l0(like, x), rel=0.002)


def test_the_encoder_is_the_decoder_turned_and_the_scale_fits(like):
    x = rows(3000, 1)
    made = control_sae(like, x)
    assert torch.allclose(made.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)
    ratio = made.W_enc.T / made.W_dec
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)
    assert torch.allclose(made.b_dec, x.mean(0), atol=1e-4)
    left = (x - made(x)).square().sum()
    assert 0 < left < (x - x.mean(0)).square().sum(), "no worse than saying the mean"
    assert (made.threshold > 0).all()


def test_the_seed_tells(like):
    x = rows(500, 1)
    one, same, other = (control_sae(like, x, seed=s).W_dec for s in (4, 4, 5))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.1)


def test_rotated_directions_keep_their_angles(like):
    made = controls.drawn("rotated", like, rows(500, 1), 0)
    own = torch.nn.functional.normalize(like.W_dec, dim=1)
    assert torch.allclose(made @ made.T, own @ own.T, atol=1e-5)
    assert not torch.allclose(made, own, atol=0.1)


def test_directions_lie_as_they_are_said_to():
    like = JumpReLUSAE(WIDTH, 4000)
    x = rows(4000, 1)
    centred = x - x.mean(0)
    uniform = controls.drawn("uniform", like, centred, 0).square().mean(0)
    shaped = controls.drawn("covariance", like, centred, 0).square().mean(0)
    assert uniform.numpy() == pytest.approx(1 / WIDTH, rel=0.15)
    assert shaped[-1] > 10 * shaped[0], "most where the rows vary most"


def test_what_cannot_be_is_refused(like):
    x = rows(200, 1)
    with pytest.raises(Refused, match="no directions 'up': choose from uniform"):
        control_sae(like, x, "up")
    with pytest.raises(Refused, match="no thresholds 'x'"):
        control_sae(like, x, thresholds="x")
    with pytest.raises(Refused, match="99 rows"):
        control_sae(like, x[:99])
    with pytest.raises(Refused, match="transcoder"):
        control_sae(JumpReLUSAE(WIDTH, 5, d_out=3), x)
