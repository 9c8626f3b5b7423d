"""Schedules' numbers, the calibrated start, and the exact fit of theta's last factor."""

import pytest
import torch

from sae import control
from sae.config import Refused, SAEConfig, preset
from sae.losses import Stats
from tests.sae.planted import planted


def test_deepmind_schedule():
    c = preset("deepmind")
    assert c.lr * control.lr_factor(0, c) == pytest.approx(7e-6)
    assert c.lr * control.lr_factor(500, c) == pytest.approx(7e-5 * 0.55)
    for step in (1000, 5000, c.n_steps - 1):
        assert c.lr * control.lr_factor(step, c) == 7e-5
    assert [control.l0_factor(s, c) for s in (0, 2500, 10_000, 500_000)] == [0, 0.25, 1, 1]


def test_small_budget_schedule():
    c = preset("small_budget", tokens=2048 * 1000)
    factors = [control.lr_factor(s, c) for s in (0, 24, 49, 50, 799, 800, 900, 999)]
    assert factors == pytest.approx([0.02, 0.5, 1, 1, 1, 1, 0.5, 0.005])
    assert control.l0_factor(0, c) == 1


def _x(n=4096):
    x, _ = planted(n, 16, 24, 3, seed=0)
    x = x - x.mean(0)
    return x / x.square().sum(1).mean().sqrt()


def test_paper_start():
    x, c = _x(), preset("deepmind", theta=0.002)
    w = control.starting_weights(x, SAEConfig(16, 40), c)
    assert torch.equal(w.W_enc, w.W_dec) and w.W_enc.data_ptr() != w.W_dec.data_ptr()
    assert torch.allclose(w.W_dec.norm(dim=1), torch.ones(40))
    assert w.b_enc.abs().max() == 0 and w.b_dec.abs().max() == 0
    assert torch.equal(w.theta, torch.full((40,), 0.002))
    other = control.starting_weights(x, SAEConfig(16, 40), preset("deepmind", seed=1))
    assert not torch.equal(w.W_dec, other.W_dec)


def test_calibrated_start_fires_each_feature_alike_and_fits_the_size():
    x, c = _x(), preset("small_budget", l0=4.0)
    w = control.starting_weights(x, SAEConfig(16, 40), c)
    z = x @ w.W_enc.T
    fires = (z > w.theta).float().mean(0)
    assert torch.allclose(fires, torch.full((40,), 0.1), atol=1e-3)
    x_hat = (z * (z > w.theta)) @ w.W_dec
    assert (x * x_hat).sum().item() == pytest.approx(x_hat.square().sum().item(), rel=1e-3)
    eps = control.starting_bandwidth(x, w, 4.0)
    inside = ((z - w.theta).abs() < eps / 2).float().sum(1).mean()
    assert inside.item() == pytest.approx(control.WINDOW_SHARE * 4, rel=0.01)


def test_threshold_scale_is_exact():
    x = _x()
    w = control.starting_weights(x, SAEConfig(16, 40), preset("small_budget", l0=4.0))
    z = torch.addmm(w.b_enc, x, w.W_enc.T)
    for wanted in (1.0, 3.7, 4.0, 12.0):
        scale = control.threshold_scale(x, w, wanted)
        reached = (z > w.theta * scale).float().sum(1).mean().item()
        assert reached == pytest.approx(wanted, abs=2e-3)
    with pytest.raises(Refused, match="at most"):
        control.threshold_scale(x, w, 39.0)


def _stats(l0, window=2.0, benefit=0.0, sensitivity=10.0):
    return Stats(torch.zeros(()), *map(torch.tensor, (l0, window, benefit, sensitivity)), None)


def test_shift_by_hand():
    shift = control.Shift(4.0, torch.tensor(0.1), True, _stats(4.0, benefit=1.0))
    move = shift.update(_stats(9.0, window=9.0, benefit=3.0, sensitivity=2.0))
    # EMA: 4 + .2 x 5 = 5; factor 1 + .05 (5 - 4) / 2
    assert move.exp().item() == pytest.approx(1.025)
    assert shift.l0_coefficient.item() == pytest.approx(1 + 0.05 * 2)
    narrower = control.WINDOW_SHARE  # .05 log(WINDOW_SHARE x 9 / 9)
    assert shift.bandwidth.item() == pytest.approx(0.1 * narrower**0.05, rel=1e-4)


def test_shift_is_clipped_and_survives_an_empty_window():
    shift = control.Shift(4.0, torch.tensor(0.1), False, _stats(4.0))
    move = shift.update(_stats(1e6, window=0.0, sensitivity=0.0))
    assert move.exp().item() == pytest.approx(1.1)
    assert shift.bandwidth.item() == pytest.approx(0.1)  # fixed
    for _ in range(50):
        move = shift.update(_stats(0.0, window=0.0, sensitivity=0.0))
    assert move.exp().item() == pytest.approx(0.9)


def test_dead_directions_get_a_positive_threshold():
    x = torch.zeros(100, 4)
    x[:, 0] = torch.linspace(-1, 0, 100)
    theta = control._quantiles(x, torch.eye(4), 0.1)
    assert bool((theta > 0).all())
