"""Configurations that contradict themselves are refused, with the cure."""

import pytest

from sae.config import PRESETS, Refused, SAEConfig, TrainConfig, check_pair, preset


@pytest.mark.parametrize("bad", [0, -1, 2**22 + 1, 1.5, None])
def test_absurd_shapes_are_refused(bad):
    with pytest.raises(Refused, match="d_sae"):
        SAEConfig(8, bad)
    with pytest.raises(Refused, match="d_in"):
        SAEConfig(bad, 8)


def test_unknown_architecture_is_refused():
    with pytest.raises(Refused, match="jumprelu"):
        SAEConfig(8, 8, "perceptron")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("small_budget", {"tokens": 100}, "do not fill one batch"),
        ("small_budget", {"tokens": 2048 * 50}, "warm-up"),
        ("small_budget", {"l0": None}, "target l0"),
        ("small_budget", {"l0": 0.5}, "at least 1"),
        ("small_budget", {"l0_coefficient": 1e-3}, "deepmind preset"),
        ("small_budget", {"theta": 0.1}, "no theta"),
        ("small_budget", {"start": "paper"}, "needs theta and bandwidth"),
        ("small_budget", {"control": "pid"}, "control is 'pid'"),
        ("small_budget", {"start": "warm"}, "start is 'warm'"),
        ("small_budget", {"warmup_shape": "square"}, "linear or cosine"),
        ("small_budget", {"lr": 0.0}, "lr is"),
        ("small_budget", {"lr": float("nan")}, "lr is"),
        ("small_budget", {"betas": (0.9, 1.0)}, "betas"),
        ("small_budget", {"decay": 1.1}, "decay"),
        ("small_budget", {"batch": 0}, "batch is 0"),
        ("small_budget", {"colour": 1}, "no such field"),
        ("deepmind", {"l0": 32.0}, "small_budget preset"),
        ("deepmind", {"l0_coefficient": None}, "l0_coefficient of 0 or more"),
        ("deepmind", {"l0_coefficient": -1.0}, "l0_coefficient of 0 or more"),
        ("deepmind", {"bandwidth": None}, "bandwidth"),
        ("deepmind", {"start": "calibrated"}, "target l0"),
        ("deepmind", {"tokens": 2_000_000}, "488 steps, but warm-up takes 10,000"),
        ("openai", {}, "use one of deepmind, small_budget"),
    ],
)
def test_contradictions_are_refused_with_the_cure(name, changes, words):
    with pytest.raises(Refused, match=words):
        preset(name, **changes)


def test_target_above_half_the_dictionary_is_refused():
    check_pair(SAEConfig(8, 64), preset("small_budget", l0=32.0))
    with pytest.raises(Refused, match="up to 32"):
        check_pair(SAEConfig(8, 64), preset("small_budget", l0=33.0))


def test_presets_name_themselves_and_steps_are_whole_batches():
    assert all(config.preset == name for name, config in PRESETS.items())
    assert TrainConfig(tokens=2048 * 60 + 2047).n_steps == 60
    assert preset("deepmind").n_steps == 976_562  # "0.98M steps" for the 16k width


def test_deepmind_preset_is_the_papers_table():
    c = preset("deepmind")
    assert (c.bandwidth, c.theta, c.lr, c.theta_lr) == (1e-3, 1e-3, 7e-5, 7e-5)
    assert (c.betas, c.adam_eps, c.batch) == ((0.0, 0.999), 1e-8, 4096)
    assert (c.warmup, c.warmup_shape, c.decay, c.l0_warmup) == (1000, "cosine", 0.0, 10_000)
    assert (c.l0_coefficient, c.log_theta, c.pre_relu) == (6e-4, True, True)
    assert (c.pre_encoder_bias, c.pre_activation_gradient, c.centre) == (True, 0.0, False)
