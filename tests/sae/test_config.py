"""Configurations that contradict themselves are refused, with the cure."""

import pytest

from sae.config import ARCHITECTURES, Refused, SAEConfig, TrainConfig, check_pair, shape_for
from sae.presets import PRESETS, preset


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
        ("small_budget", {"tokens": 2048 * 50}, r"small_budget\): give 104,448 tokens or more$"),
        ("small_budget_mlp", {"tokens": 2048 * 50}, r"mlp\): give 104,448 tokens or more$"),
        ("deepmind", {"tokens": 4096 * 50}, r"deepmind\): give 40,964,096 tokens or more$"),
        ("deepmind", {"tokens": 4096 * 51}, "tokens or more, or use the small_budget preset"),
        ("small_budget", {"l0": None}, "target L0"),
        ("small_budget", {"l0": 0.5}, "at least 1"),
        ("small_budget", {"coefficient": 1e-3}, "deepmind preset"),
        ("small_budget", {"theta": 0.1}, "no theta"),
        ("small_budget", {"start": "paper"}, "needs theta"),
        ("small_budget", {"control": "pid"}, "control is 'pid'"),
        ("small_budget", {"control": "k"}, "topk, batchtopk, matryoshka only"),
        ("small_budget", {"theta": 0.0, "log_theta": False}, "use 'price' or 'fixed'"),
        ("small_budget", {"kernel": "sinc"}, "kernel 'sinc' is unknown: use one of rectangle"),
        ("small_budget", {"bandwidth": 0.1}, "must be 'fixed'"),
        ("small_budget", {"penalty": "l2"}, "penalty is 'l2'"),
        ("small_budget", {"groups": (0.5, 0.25, 1.0)}, "rising shares"),
        ("small_budget", {"groups": (0.5,)}, "end at 1"),
        ("small_budget", {"resample_at": (1.0,)}, "between 0 and 1"),
        ("small_budget", {"aux_k": 0}, "aux_k"),
        ("small_budget", {"freeze": ("W",)}, "name some of W_enc"),
        ("small_budget", {"pre_relu": True, "pre_activation_coefficient": 1.0}, "set it to 0"),
        ("small_budget", {"kde_beta": 1.0}, "kde_beta 1.0"),
        ("small_budget", {"penalty": "weighted_l1"}, "set decoder_norm to free"),
        ("small_budget", {"penalty": "target_l0"}, "aims at l0 by itself"),
        ("small_budget", {"freeze": ("theta",)}, "which freeze holds"),
        ("small_budget", {"centre": "false"}, "centre is 'false': it must be true or false"),
        ("small_budget", {"seed": "abc"}, "seed is 'abc': it must be a whole number"),
        ("small_budget", {"lr": "abc"}, "lr is 'abc': it must be a number"),
        ("small_budget", {"l0": "many"}, "l0 is 'many': it must be a number"),
        ("small_budget", {"betas": 0.9}, "several values"),
        ("small_budget", {"betas": (0.9,)}, "give two"),
        ("gated_paper", {"kde_beta": 0.9}, "kde_beta is for a jumprelu"),
        ("gated_paper", {"kernel": "gaussian"}, "kernel is for a jumprelu"),
        ("small_budget", {"token_norm": "rms"}, "token_norm 'rms' is unknown"),
        ("small_budget", {"start": "warm"}, "start is 'warm'"),
        ("small_budget", {"warmup_shape": "square"}, "linear, cosine"),
        ("small_budget", {"lr": 0.0}, "lr is"),
        ("small_budget", {"lr": float("nan")}, "lr is"),
        ("small_budget", {"betas": (0.9, 1.0)}, "betas"),
        ("small_budget", {"decay": 1.1}, "decay"),
        ("small_budget", {"batch": 0}, "batch is 0"),
        ("small_budget", {"colour": 1}, "no such field"),
        ("deepmind", {"l0": 32.0}, "small_budget preset"),
        ("deepmind", {"coefficient": None}, "needs a coefficient"),
        ("deepmind", {"coefficient": -1.0}, "coefficient is -1.0"),
        ("deepmind", {"bandwidth": None}, "bandwidth"),
        ("gemma_scope_2", {"l0": None}, "takes an l0"),
        ("gated_paper", {"penalty": "l0"}, "no gradient on a gated SAE"),
        ("openai_topk", {"l0": 3.5}, "whole number of features"),
        ("openai_topk", {"control": "fixed"}, "control 'k'"),
        ("deepmind", {"start": "calibrated"}, "target l0"),
        ("deepmind", {"tokens": 2_000_000}, "488 steps, but warm-up takes 10,000"),
        ("openai", {}, "use one of small_budget, small_budget_mlp"),
    ],
)
def test_contradictions_are_refused_with_the_cure(name, changes, words):
    with pytest.raises(Refused, match=words):
        preset(name, **changes)


def test_target_above_half_the_dictionary_is_refused():
    check_pair(SAEConfig(8, 64), preset("small_budget", l0=32.0))
    with pytest.raises(Refused, match="up to 32"):
        check_pair(SAEConfig(8, 64), preset("small_budget", l0=33.0))
    with pytest.raises(Refused, match="up to 32"):
        shape_for(8, 64, preset("small_budget", "topk", l0=40))


def test_the_papers_one_rate_stays_one():
    assert preset("deepmind", lr=1e-3).theta_lr == 1e-3
    assert preset("deepmind", lr=1e-3, theta_lr=1e-2).theta_lr == 1e-2
    assert preset("small_budget", lr=1e-3).theta_lr == 1e-2


def test_relu_trained_by_l0_needs_the_pre_activations():
    changes = {"theta": 0.0, "log_theta": False, "control": "price", "coefficient": 0.01}
    assert preset("small_budget", **changes).has_theta is False
    for more in ({"pre_activation_gradient": 0.0}, {"pre_relu": True}, {"log_theta": True}):
        with pytest.raises(Refused, match="through the pre-activations alone"):
            preset("small_budget", **{**changes, **more})


def test_shape_and_recipe_must_agree():
    with pytest.raises(Refused, match="architecture is jumprelu, the recipe's gated"):
        check_pair(SAEConfig(8, 64), preset("small_budget", "gated"))
    with pytest.raises(Refused, match="no recipe for architecture 'topk', only for jumprelu"):
        preset("deepmind", "topk")
    with pytest.raises(Refused, match="topk takes a whole k"):
        SAEConfig(8, 64, "topk")
    assert shape_for(8, 64, preset("small_budget", "topk", l0=4)).k == 4
    assert shape_for(8, 64, preset("openai_topk", l0=4)).token_norm == "layer_norm"


def test_presets_name_themselves_and_steps_are_whole_batches():
    for name, recipes in PRESETS.items():
        for architecture in recipes:
            config = preset(name, architecture)
            assert (config.preset, config.architecture) == (name, architecture)
    assert set(PRESETS["small_budget"]) == set(ARCHITECTURES)
    assert TrainConfig(tokens=2048 * 60 + 2047).n_steps == 60
    assert preset("deepmind").n_steps == 976_562  # "0.98M steps" for the 16k width


def test_deepmind_preset_is_the_papers_table():
    c = preset("deepmind")
    assert (c.bandwidth, c.theta, c.lr, c.theta_lr) == (1e-3, 1e-3, 7e-5, 7e-5)
    assert (c.betas, c.adam_eps, c.batch) == ((0.0, 0.999), 1e-8, 4096)
    assert (c.warmup, c.warmup_shape, c.decay) == (1000, "cosine", 0.0)
    assert (c.coefficient, c.coefficient_warmup) == (6e-4, 10_000)
    assert (c.log_theta, c.pre_relu, c.penalty, c.kernel) == (True, True, "l0", "rectangle")
    assert (c.pre_encoder_bias, c.pre_activation_gradient, c.centre) == (True, 0.0, False)
    g = preset("gemma_scope_2")
    assert (g.penalty, g.coefficient_warmup, g.lr) == ("quadratic_l0", 50_000, 7e-5)


def test_other_presets_are_their_papers_tables():
    a = preset("anthropic_2025")
    assert (a.penalty, a.tanh_scale, a.coefficient, a.coefficient_warmup) == ("tanh", 4, 20, None)
    assert (a.pre_activation_coefficient, a.pre_activation_gradient) == (3e-6, 1.0)
    assert (a.bandwidth, a.theta, a.input_scale, a.decoder_norm) == (2.0, 0.1, "sqrt_d", "free")
    assert (a.betas, a.lr, a.decay, a.clip, a.start) == (
        (0.9, 0.999),
        2e-4,
        0.2,
        1.0,
        "encoder_bias",
    )
    g = preset("gated_paper")
    assert (g.betas, g.lr, g.batch, g.n_steps) == ((0.0, 0.999), 3e-4, 4096, 300_000)
    assert (g.aux_decoder, g.penalty, g.decoder_norm) == ("frozen", "l1", "unit")
    assert g.pre_encoder_bias and g.resample_at
    o = preset("openai_topk")
    assert (o.aux_coefficient, o.dead_after, o.batch) == (1 / 32, 10_000_000, 131_072)
    assert (o.token_norm, o.b_dec_start, o.adam_eps) == ("layer_norm", "median", 6.25e-10)
