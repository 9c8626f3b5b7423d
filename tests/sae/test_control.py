"""Schedules' numbers, the starts, the loops that hold L0, and the fit of theta's last factor."""

import pytest
import torch

from sae import control, start
from sae.config import SAEConfig
from sae.losses import Stats, Weights
from sae.presets import preset
from tests.sae.planted import planted


def test_deepmind_schedule():
    c = preset("deepmind")
    assert c.lr * control.lr_factor(0, c) == pytest.approx(7e-6)
    assert c.lr * control.lr_factor(500, c) == pytest.approx(7e-5 * 0.55)
    for step in (1000, 5000, c.n_steps - 1):
        assert c.lr * control.lr_factor(step, c) == 7e-5
    assert [control.coefficient_factor(s, c) for s in (0, 2500, 10_000, 500_000)] == [0, 0.25, 1, 1]


def test_small_budget_schedule():
    c = preset("small_budget", tokens=2048 * 1000)
    factors = [control.lr_factor(s, c) for s in (0, 24, 49, 50, 799, 800, 900, 999)]
    assert factors == pytest.approx([0.02, 0.5, 1, 1, 1, 1, 0.5, 0.005])
    assert control.coefficient_factor(0, c) == 1


def _x(n=4096):
    x, _ = planted(n, 16, 24, 3, seed=0)
    x = x - x.mean(0)
    return x / x.square().sum(1).mean().sqrt()


def test_paper_start():
    x, c = _x(), preset("deepmind", theta=0.002)
    w = start.starting_weights(x, SAEConfig(16, 40), c)
    assert torch.equal(w.W_enc, w.W_dec) and w.W_enc.data_ptr() != w.W_dec.data_ptr()
    assert torch.allclose(w.W_dec.norm(dim=1), torch.ones(40))
    assert w.b_enc.abs().max() == 0 and w.b_dec.abs().max() == 0
    assert torch.equal(w.theta, torch.full((40,), 0.002))
    other = start.starting_weights(x, SAEConfig(16, 40), preset("deepmind", seed=1))
    assert not torch.equal(w.W_dec, other.W_dec)


def test_calibrated_start_fires_each_feature_alike_and_fits_the_size():
    x, c = _x(), preset("small_budget", l0=4.0, start_share=1.0)
    w = start.starting_weights(x, SAEConfig(16, 40), c)
    z = x @ w.W_enc.T
    fires = (z > w.theta).float().mean(0)
    assert torch.allclose(fires, torch.full((40,), 0.1), atol=1e-3)
    x_hat = (z * (z > w.theta)) @ w.W_dec
    assert (x * x_hat).sum().item() == pytest.approx(x_hat.square().sum().item(), rel=1e-3)
    eps = start.starting_bandwidth(x, w, 4.0, each=False)
    inside = ((z - w.theta).abs() < eps / 2).float().sum(1).mean()
    assert inside.item() == pytest.approx(start.WINDOW_SHARE * 4, rel=0.01)


def test_threshold_scale_is_exact():
    x = _x()
    w = start.starting_weights(x, SAEConfig(16, 40), preset("small_budget", l0=4.0))
    z = torch.addmm(w.b_enc, x, w.W_enc.T)
    for wanted in (1.0, 3.7, 4.0, 12.0):
        scale = control.threshold_scale(x, w, wanted)
        reached = (z > w.theta * scale).float().sum(1).mean().item()
        assert reached == pytest.approx(wanted, abs=2e-3)
    assert control.threshold_scale(x, w, 39.0) == 0, "all that is positive is the most there is"


def _stats(l0, window=2.0, benefit=0.0, sensitivity=10.0, n=4):
    """Statistics of a batch of one row over n features alike."""
    zero = torch.zeros(())
    each = torch.full((n,), 1 / n)
    l0, benefit, sensitivity = map(torch.tensor, (l0, benefit, sensitivity))
    return Stats(zero, zero, l0, l0 * each, window * each, benefit, sensitivity, zero)


def test_shift_by_hand():
    shift = control.Shift(_stats(4.0, benefit=1.0))
    move = shift.update(_stats(9.0, benefit=3.0, sensitivity=2.0), aim=4.0)
    # EMA: 4 + .2 x 5 = 5, 25 % off: gain .05 + .5 (.25 - .05) = .15; factor 1 + .15 (5 - 4) / 2
    assert move.exp().item() == pytest.approx(1.075)
    near = control.Shift(_stats(4.0)).update(_stats(4.5, sensitivity=2.0), aim=4.0)
    assert near.exp().item() == pytest.approx(1 + 0.05 * 0.1 / 2), "2.5 % off: the small gain"
    assert shift.coefficient.item() == pytest.approx(1 + 0.05 * 2)


def test_shift_is_clipped_and_survives_an_empty_window():
    shift = control.Shift(_stats(4.0))
    move = shift.update(_stats(1e6, sensitivity=0.0), 4.0)
    assert move.exp().item() == pytest.approx(1.1)
    for _ in range(50):
        move = shift.update(_stats(0.0, sensitivity=0.0), 4.0)
    assert move.exp().item() == pytest.approx(0.9)


def _bandwidth(rule, first, x=None):
    x = _x(64) if x is None else x
    w = Weights(torch.eye(16)[:4].repeat(1, 1), torch.zeros(4), torch.eye(16)[:4], torch.zeros(16))
    eps = torch.full((4,), 0.1) if rule == "per_feature" else torch.tensor(0.1)
    return control.Bandwidth(rule, eps, x, w, first), x, w


def test_bandwidth_of_all_by_hand():
    one = _x(1)
    bandwidth, _, w = _bandwidth("occupancy", _stats(4.0))
    bandwidth.update(0, _stats(9.0, window=9.0), one, w)
    narrower = start.WINDOW_SHARE  # .05 log(WINDOW_SHARE x 9 / 9)
    assert bandwidth.eps.item() == pytest.approx(0.1 * narrower**0.05, rel=1e-4)
    fixed, _, _ = _bandwidth("fixed", _stats(4.0))
    fixed.update(0, _stats(9.0, window=900.0), one, w)
    assert fixed.eps.item() == pytest.approx(0.1)


def test_bandwidths_of_their_own_meet_each_features_share():
    """A feature whose window is crowded narrows, one whose window is empty widens."""
    crowded = _stats(4.0)._replace(
        fired=torch.tensor([40.0, 40.0, 40.0, 0.0]), window=torch.tensor([400.0, 20.0, 0.0, 0.0])
    )
    bandwidth, x, w = _bandwidth("per_feature", crowded)
    for i in range(20):
        bandwidth.update(i, crowded, x, w)
    narrow, right, wide, silent = bandwidth.eps.tolist()
    assert narrow < 0.09 and right == pytest.approx(0.1, rel=1e-3) and wide > 0.11
    assert silent == pytest.approx(0.1), "without evidence nothing moves"


def test_silverman_widths_follow_spread_and_count():
    """eps_i proportional to sd_i n_i^(-1/5)."""
    first = _stats(4.0)._replace(window=torch.tensor([0.0, 31.0, 0.0, 0.0]))
    x = torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))
    x[:, 2] *= 3
    bandwidth, _, _ = _bandwidth("silverman", first, x)
    ratio = bandwidth.eps / bandwidth.eps[0]
    assert ratio.tolist() == pytest.approx([1, 32**-0.2, 3, 1], rel=0.05)
    assert bandwidth.eps.mean().item() == pytest.approx(0.1)


def test_price_finds_lambda_of_a_slow_plant():
    """L0 = 100 lambda^-.6, reached with a lag of 30 steps: the loop lands within 2 % and holds."""
    level, seen = 100.0, []
    price = control.Price(0.1, _stats(level))
    for _ in range(900):
        level += (100 * price.coefficient.item() ** -0.6 - level) / 30
        price.update(_stats(level), 16.0)
        seen.append(level)
    assert max(abs(v / 16 - 1) for v in seen[600:]) < 0.02
    assert price.coefficient.item() == pytest.approx((100 / 16) ** (1 / 0.6), rel=0.05)
    assert not price.saturated


def test_price_does_not_wind_up():
    """L0 stands still for 3,000 steps whatever lambda is, then obeys: no long overshoot."""
    price, level, back = control.Price(0.01, _stats(50.0)), 50.0, None
    for i in range(6000):
        if i >= 3000:
            level += (16 * price.coefficient.item() ** -0.6 - level) / 30
        price.update(_stats(level), 16.0)
        if i == 2999:
            assert price.saturated, "lambda cannot grow without end"
        if i > 3000 and back is None and abs(level / 16 - 1) < 0.05:
            back = i
    assert abs(level / 16 - 1) < 0.02 and back is not None


def test_expected_gap_by_hand():
    """Blocks alike: the gap stands. Blocks that differ by 10 %: se 10 % / sqrt(32) = 1.77 %, so
    1 / (1 + 1.77^2) of it is left."""
    sure = control.expected_gap(torch.full((3200,), 17.6), torch.tensor(16.0))
    assert sure.exp().item() == pytest.approx(1.1)
    blocks = torch.tensor([0.9, 1.1]).repeat(16) * 17.6
    noise = (blocks.var() / 32 / 17.6**2).item()
    unsure = control.expected_gap(blocks.repeat_interleave(100), torch.tensor(16.0))
    assert unsure.item() == pytest.approx(sure.item() * 1e-4 / (1e-4 + noise), rel=1e-4)
    assert 0.2 < unsure / sure < 0.3


def test_price_takes_in_rows_not_trained_on():
    price = control.Price(0.1, _stats(16.0))
    price.correct(torch.full((320,), 17.6))
    assert price.offset.exp().item() == pytest.approx(1.1)
    before = price.coefficient.clone()
    price.update(_stats(16.0), 16.0)
    assert price.coefficient > before, "those rows are too dense: lambda rises"


def test_aim_rises_by_equal_factors():
    c = preset("small_budget", l0=16.0, start_share=0.25, start_until=0.5, tokens=2048 * 1000)
    assert [control.l0_aim(s, c) for s in (0, 250, 500, 999)] == pytest.approx([4, 8, 16, 16])
    c = preset("small_budget", l0=16.0, start_share=1.0)
    assert control.l0_aim(0, c) == 16


def test_warm_up_comes_again_after_resampling():
    c = preset("gated_paper")
    first, *_ = control.resample_steps(c)
    assert first == 25_000
    factors = [control.lr_factor(s, c) for s in (first - 1, first, first + 1000)]
    assert factors == pytest.approx([1.0, 0.1, 1.0])


def test_geometric_median_shrugs_off_an_outlier():
    x = torch.cat(
        [torch.randn(999, 3, generator=torch.Generator().manual_seed(0)), torch.full((1, 3), 1e4)]
    )
    assert start.geometric_median(x).abs().max() < 0.2 < x.mean(0).abs().max()


def test_encoder_bias_start_fires_each_feature_alike():
    x, c = _x(20_000), preset("anthropic_2025")
    w = start.starting_weights(x, SAEConfig(16, 40_000 // 10), c)
    fires = (x @ w.W_enc.T + w.b_enc > w.theta).float().mean(0)
    assert torch.allclose(fires, torch.ones(()), atol=2e-3)  # 10,000 / 4,000 is more than all
    w = start.starting_weights(x, SAEConfig(16, 40_000), c)
    fires = (x @ w.W_enc.T + w.b_enc > w.theta).float().mean(0)
    assert torch.allclose(fires, torch.full_like(fires, 0.25), atol=2e-3)


def test_bias_takes_the_thresholds_place_without_a_theta():
    x = _x()
    for name in ("relu", "gated"):
        w = start.starting_weights(
            x, SAEConfig(16, 40, name), preset("small_budget", name, l0=4.0, start_share=1.0)
        )
        assert w.theta is None and bool((w.b_enc < 0).all())
        fires = (x @ w.W_enc.T + w.b_enc > 0).float().mean(0)
        assert torch.allclose(fires, torch.full((40,), 0.1), atol=1e-3)


def test_window_of_each_feature_holds_its_share():
    x, c = _x(), preset("small_budget", l0=4.0, start_share=1.0)
    w = start.starting_weights(x, SAEConfig(16, 40), c)
    eps = start.starting_bandwidth(x, w, 4.0, each=True)
    inside = ((x @ w.W_enc.T - w.theta).abs() < eps / 2).float().mean(0)
    assert torch.allclose(inside, torch.full((40,), start.WINDOW_SHARE * 0.1), atol=1e-3)


def test_dead_directions_get_a_positive_threshold():
    x = torch.zeros(100, 4)
    x[:, 0] = torch.linspace(-1, 0, 100)
    theta = start._quantiles(x, torch.eye(4), 0.1)
    assert bool((theta > 0).all())
