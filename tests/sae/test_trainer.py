"""The whole loop: planted features found, L0 held, determinism, exact resume, refusals."""

import errno
from dataclasses import replace

import pytest
import torch

from sae import checkpoint
from sae.config import ARCHITECTURES, Refused, SAEConfig, shape_for
from sae.losses import Weights
from sae.metrics import Metrics
from sae.models import JumpReLUSAE, gated_to_jumprelu, jumprelu_to_gated
from sae.presets import PRESETS, fitting, preset
from sae.reference import differentiate
from sae.sources import TensorSource
from sae.sparse import encode_sparse
from sae.trainer import Trainer, fit
from tests.sae.planted import planted

D_IN, N_TRUE, D_SAE, L0 = 48, 64, 64, 4.0


@pytest.fixture(scope="module")
def run():
    """One small_budget run on planted features, with its records."""
    rows, directions = planted(60_000, D_IN, N_TRUE, L0, seed=0)
    config = preset("small_budget", l0=L0, batch=1024, tokens=1024 * 600)
    trainer = Trainer(rows[8000:], SAEConfig(D_IN, D_SAE), config, calibrate=rows[:8000])
    steps = list(trainer)
    return trainer, steps, directions


def test_planted_features_are_found(run):
    trainer, _, directions = run
    cosine = torch.nn.functional.normalize(trainer.sae().W_dec, dim=1) @ directions.T
    assert cosine.max(0).values.mean() > 0.95


def test_target_l0_holds_on_rows_not_trained_on(run):
    trainer, steps, _ = run
    sae = trainer.sae()
    held, _ = planted(20_000, D_IN, N_TRUE, L0, seed=99)
    metrics = Metrics(D_IN, D_SAE)
    metrics.update(held, sae(held), encode_sparse(sae, held))
    result = metrics.result()
    assert result["l0"] == pytest.approx(L0, rel=0.05)
    assert result["fve"] > 0.9 and result["gamma"] == pytest.approx(1, abs=0.05)
    quarter = len(steps) // 4
    assert [s.l0 for s in steps[quarter:]] == pytest.approx([L0] * (len(steps) - quarter), rel=0.1)


def test_records(run):
    trainer, steps, _ = run
    assert [s.step for s in steps] == list(range(10, 601, 10)) and trainer.n_steps == 600
    assert list(steps[-1].row()) == (
        "step tokens loss fve l0 dead window theta_mean bandwidth lr lambda window_by_decile "
        "snr_by_decile theta_from_error heldout_fve heldout_l0 tokens_per_s warning".split()
    )
    last = steps[-1]
    assert last.tokens == 600 * 1024 and last.fve > 0.9 and last.warning is None
    assert 0.25 < last.window < 1, "window entries per active entry"
    assert len(last.window_by_decile) == len(last.snr_by_decile) == 10
    assert all(v > 0 for v in last.snr_by_decile) and 0 < last.theta_from_error < 1
    assert last.heldout_fve is None, "no held-out rows were given"
    with pytest.raises(Refused, match="already run"):
        next(iter(trainer))


def _short(rows, seed=0, **changes):
    config = preset("small_budget", l0=4.0, batch=256, tokens=256 * 70, seed=seed, **changes)
    trainer = Trainer(rows, SAEConfig(D_IN, D_SAE), config, calibrate=rows[:1000])
    steps = list(trainer)
    return trainer.sae(), steps


@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_last_factor_on_theta_hits_the_target_on_its_rows(pre_encoder_bias):
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    sae, steps = _short(rows, pre_encoder_bias=pre_encoder_bias, lr=0.05)
    assert abs(steps[-1].l0 - 4) > 0.05, "nothing was left to fit"
    assert encode_sparse(sae, rows).values.numel() / 4000 == pytest.approx(4, rel=0.02)


def test_same_seed_same_bytes():
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    (a, steps_a), (b, steps_b), (c, _) = (_short(rows, seed) for seed in (3, 3, 4))
    for name, value in a.state_dict().items():
        assert value.numpy().tobytes() == b.state_dict()[name].numpy().tobytes()
    assert [s.loss for s in steps_a] == [s.loss for s in steps_b]
    assert not torch.equal(a.W_dec, c.W_dec)


def test_one_deepmind_step_is_adam_on_the_projected_gradient():
    rows, _ = planted(2000, D_IN, N_TRUE, L0, seed=0)
    eps = 1e-3  # large, so that a gradient of the wrong size shows through Adam's division
    config = preset("deepmind", batch=128, tokens=128 * 10_001, coefficient=1e-2, adam_eps=eps)
    trainer = Trainer(rows, SAEConfig(D_IN, D_SAE), config)
    assert trainer.units.centre.abs().max() == 0
    assert trainer.units.scale**2 == pytest.approx(rows.square().sum(1).mean().item(), rel=0.02)
    w = trainer.weights
    before = {name: value.double().clone() for name, value in w.items()}
    x = rows[:128] / trainer.units.scale
    trainer.done = 4000
    objective = trainer.objective()
    assert objective.coefficient == pytest.approx(0.4 * 1e-2)
    gradients = differentiate(Weights(**before), x.double(), objective).gradients
    trainer.step(x)

    lr, parallel = 7e-5, (gradients["W_dec"] * before["W_dec"]).sum(1, keepdim=True)
    projected = gradients["W_dec"] - parallel * before["W_dec"]
    assert (projected * before["W_dec"]).sum(1).abs().max() < 1e-6 * parallel.abs().max()
    gradients = {**gradients, "W_dec": projected}
    wanted = {
        name: before[name] - lr * gradients[name] / (gradients[name].abs() + eps)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec")  # Adam(0, .999), first step
    }
    wanted["W_dec"] /= wanted["W_dec"].norm(dim=1, keepdim=True)
    push = gradients["theta"] * before["theta"]
    wanted["theta"] = (before["theta"].log() - lr * push / (push.abs() + eps)).exp()
    for name, value in wanted.items():
        moved, off = (value - before[name]).norm(), (value - getattr(w, name)).norm()
        assert moved > 0 and off < 2e-3 * moved + 1e-7, name


def test_deepmind_lambda_lowers_l0():
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    reached = []
    for coefficient in (0.0, 0.3):
        config = preset(
            "deepmind",
            tokens=128 * 150,
            batch=128,
            coefficient=coefficient,
            warmup=10,
            coefficient_warmup=10,
            lr=1e-3,
            theta_lr=0.05,
        )
        *_, last = Trainer(rows, SAEConfig(D_IN, D_SAE), config)
        reached.append(last.l0)
    assert reached[1] < 0.7 * reached[0]
    assert last.coefficient == pytest.approx(0.3)


def _recipe(architecture, **changes):
    """A short small_budget run of that architecture; l0 fits D_SAE."""
    changes = {"l0": 4.0, "batch": 256, "tokens": 256 * 120} | changes
    return preset("small_budget", architecture, **changes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_and_is_saved_as_what_it_is(architecture):
    rows, _ = planted(12_000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe(architecture, batch=512, tokens=512 * 250)
    trainer = Trainer(rows[2000:], shape_for(D_IN, D_SAE, c), c, rows[:2000], heldout=rows[:1000])
    steps = list(trainer)
    assert steps[-1].fve > 0.6 and steps[-1].fve > steps[0].fve
    evaluated = [s for s in steps if s.heldout_fve is not None]
    assert len(evaluated) >= 5 and evaluated[-1] is steps[-1]
    sae = trainer.sae()
    saved = {"batchtopk": "jumprelu", "matryoshka": "jumprelu"}.get(architecture, architecture)
    assert sae.architecture == saved
    held, _ = planted(8000, D_IN, N_TRUE, L0, seed=99)
    metrics = Metrics(D_IN, D_SAE)
    metrics.update(held, sae(held), encode_sparse(sae, held))
    assert metrics.result()["l0"] == pytest.approx(L0, rel=0.1)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)


VARIANTS = {
    "raw theta, a fixed bandwidth": {"log_theta": False, "theta_lr": 1e-3, "bandwidth": 0.05,
                                     "bandwidth_rule": "fixed"},
    "bandwidths of their own": {"bandwidth_rule": "per_feature"},
    "bandwidths of their own, fixed": {"bandwidth_rule": "fixed"},
    "silverman": {"bandwidth_rule": "silverman"},
    "kernel estimate kept over steps": {"kde_beta": 0.9},
    "epanechnikov": {"kernel": "epanechnikov"},
    "quadratic frequency": {"penalty": "quadratic_frequency"},
    "free decoder": {"decoder_norm": "free", "clip": 1.0},
    "dead features helped": {"aux_coefficient": 1 / 32, "dead_after": 1000},
    "dead thresholds fall": {"dead_decay": 0.05, "dead_after": 1000},
    "pre-activation loss": {"pre_activation_coefficient": 1e-6},
    "resampled": {"resample_at": (0.3,), "dead_after": 1000},
    "bfloat16 product": {"precision": "bfloat16"},
    "pre-ReLU, pre-encoder bias": {"pre_relu": True, "pre_encoder_bias": True},
    "L1 in place of L0": {"penalty": "l1", "control": "price", "coefficient": 0.05},
    "lambda by a loop": {"control": "price", "coefficient": 0.01},
    "tokens brought to one size": {"token_norm": "layer_norm", "b_dec_start": "median"},
    "E||x|| = sqrt(d_in)": {"input_scale": "sqrt_d", "centre": False},
    "ReLU trained by L0": {"theta": 0.0, "log_theta": False, "control": "price",
                           "coefficient": 0.01, "pre_activation_gradient": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_of_a_jumprelu_learns(changes):
    rows, _ = planted(6000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu", **changes)
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c, rows[:1000])
    steps = list(trainer)
    assert steps[-1].fve > 0.4 and steps[-1].fve > steps[0].fve
    assert 2 < steps[-1].l0 < 8
    sae = trainer.sae()
    assert sae.architecture == ("relu" if c.theta == 0.0 else "jumprelu")
    if c.bandwidth:
        assert all(s.bandwidth == pytest.approx(0.05) for s in steps)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_steps(name):
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    for architecture, recipe in PRESETS[name].items():
        changes = {"batch": 256, "tokens": 256 * 40, "warmup": 5}
        if recipe.get("coefficient_warmup"):
            changes["coefficient_warmup"] = 5
        if preset(name, architecture).l0 is not None:
            changes["l0"] = 4.0
        c = preset(name, architecture, **changes)
        *_, last = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
        assert last.step == 40 and last.loss > 0, architecture


def test_an_empty_window_is_told_within_100_steps():
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = preset("deepmind", tokens=4096 * 20_000, theta=1e-3, bandwidth=1e-12, batch=256)
    first = next(iter(Trainer(rows, SAEConfig(D_IN, D_SAE), c)))
    assert first.step <= 100 and "almost no pre-activation is inside" in first.warning


def test_a_bandwidth_for_other_units_is_told():
    """The papers' .001 belongs to E||x||^2 = 1; with E||x|| = sqrt(d_in) it holds nothing."""
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    told = {}
    for scale in ("unit", "sqrt_d"):
        c = preset("deepmind", tokens=4096 * 20_000, batch=2048, input_scale=scale)
        told[scale] = next(iter(Trainer(rows, SAEConfig(D_IN, D_SAE), c))).warning
    assert told["unit"] is None and "window" in told["sqrt_d"]


@pytest.mark.parametrize("architecture", ["gated", "batchtopk", "jumprelu"])
def test_resampling_draws_rows_by_the_errors_of_the_step(architecture, monkeypatch):
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    rows = rows + torch.linspace(-2, 2, D_IN)
    seen = []
    monkeypatch.setattr(
        "sae.trainer.resample", lambda w, x, error, *_: seen.append(error.square().sum(1).mean())
    )
    c = _recipe(architecture, pre_encoder_bias=True, centre=False, resample_at=(0.5,), dead_after=1)
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
    for raw in trainer.batches():
        stats = trainer.step(trainer.units(raw))
        if seen:
            break
    tolerance = 0.3 if architecture == "batchtopk" else 1e-3  # a threshold for a selection
    assert seen[0].item() == pytest.approx(stats.reconstruction.item(), rel=tolerance)


def test_a_theta_that_is_not_finite_stops_the_run():
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
    trainer.descent.theta[3] = torch.nan
    with pytest.raises(Refused, match="no longer finite at step 1"):
        list(trainer)


@pytest.mark.parametrize("what", ["calibrate", "heldout"])
def test_rows_to_measure_on_must_be_finite(what):
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    bad = rows[:100].clone()
    bad[7, 3] = torch.nan
    c = _recipe("jumprelu")
    with pytest.raises(Refused, match="rows hold values that are not finite"):
        Trainer(rows, shape_for(D_IN, D_SAE, c), c, **{what: bad})


def test_one_call():
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    sae = fit(rows, shape_for(D_IN, D_SAE, c), c, rows[:500])
    assert 2 < encode_sparse(sae, rows).values.numel() / 3000 < 6


def test_fine_tuning_from_thresholds_at_zero():
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("relu")
    relu = fit(rows, shape_for(D_IN, D_SAE, c), c)
    c = fitting("jumprelu", l0=3.0, batch=256, tokens=256 * 100)
    flat = gated_to_jumprelu(jumprelu_to_gated(_with_threshold(relu, 0.0)))
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c, fitted=flat)
    *_, last = trainer
    assert last.l0 == pytest.approx(3, rel=0.2)
    with pytest.raises(Refused, match="give one as `fitted`"):
        Trainer(rows, shape_for(D_IN, D_SAE, c), c)


def _with_threshold(relu, theta):
    jump = JumpReLUSAE(relu.d_in, relu.d_sae)
    with torch.no_grad():
        for name, value in relu.state_dict().items():
            getattr(jump, name).copy_(value)
        jump.threshold.fill_(theta)
    return jump


def test_rescale_and_shift_trains_only_magnitudes():
    rows, _ = planted(6000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("relu")
    relu = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
    list(relu)
    base = relu.sae()
    frozen = ("W_enc", "b_enc", "W_dec", "b_dec")
    gamma, error = [], []
    for freeze in (frozen, (*frozen, "b_mag")):
        c = _recipe("gated", freeze=freeze, control="fixed", penalty="none", coefficient=0.0)
        trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c, fitted=base)
        list(trainer)
        sae = trainer.sae()
        assert torch.allclose(sae.W_enc, base.W_enc, atol=1e-5)
        assert torch.allclose(sae.W_dec, base.W_dec, atol=1e-6)
        assert bool((sae.r_mag != 0).any())
        metrics = Metrics(D_IN, D_SAE)
        metrics.update(rows, sae(rows), encode_sparse(sae, rows))
        gamma.append(metrics.result()["gamma"])
        error.append(metrics.result()["mse"])
    metrics = Metrics(D_IN, D_SAE)
    metrics.update(rows, base(rows), encode_sparse(base, rows))
    assert metrics.result()["gamma"] < 0.9, "a ReLU SAE shrinks"
    assert gamma[0] == pytest.approx(1, abs=0.05) and gamma[1] == pytest.approx(1, abs=0.05)
    assert error[0] < error[1] < metrics.result()["mse"]


def test_jumprelu_fine_tuned_on_a_frozen_encoder():
    rows, _ = planted(6000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("relu")
    relu = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
    list(relu)
    c = _recipe("jumprelu", freeze=("W_enc", "b_enc"), start="paper", theta=0.02, start_share=1.0)
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c, rows[:1000], fitted=relu.sae())
    steps = list(trainer)
    assert torch.allclose(trainer.sae().W_enc, relu.sae().W_enc, atol=1e-5)
    assert steps[-1].l0 == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("log_theta", [True, False])
def test_a_dead_features_threshold_falls_until_it_fires(log_theta):
    rows, _ = planted(6000, D_IN, N_TRUE, L0, seed=0)
    more = {} if log_theta else {"log_theta": False, "theta_lr": 1e-3}
    dead = {}
    for decay in (0.0, 0.2):
        c = _recipe("jumprelu", dead_decay=decay, dead_after=1000, start_share=1.0, **more)
        trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
        high = trainer.descent.theta
        high[:20] = high[:20] + 4.0 if log_theta else high[:20] * 50
        trainer.descent.settle()
        *_, last = trainer
        dead[decay] = last.dead
    assert dead[0.0] >= 20 and dead[0.2] < 5


def test_resampled_features_point_at_what_is_missing():
    rows, _ = planted(6000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("gated", resample_at=(0.5,), dead_after=1000)
    trainer = Trainer(rows, shape_for(D_IN, D_SAE, c), c)
    trainer.weights.b_enc[:20] = -100  # they never fire
    seen = {}
    for step in trainer:
        seen[step.step] = step.dead
    assert seen[50] == 20 and seen[120] < 10


# -- exact resume


def _state(trainer):
    return {name: value.numpy().tobytes() for name, value in trainer.sae().state_dict().items()}


RESUMED = {
    **{architecture: _recipe(architecture) for architecture in ARCHITECTURES},
    "silverman, kde": _recipe("jumprelu", bandwidth_rule="silverman", kde_beta=0.9),
    "a bandwidth each": _recipe("jumprelu", bandwidth_rule="per_feature"),
    "dead thresholds fall": _recipe("jumprelu", dead_decay=0.05, dead_after=2000),
    "layer norm, pre-encoder bias": _recipe(
        "topk", token_norm="layer_norm", pre_encoder_bias=True, b_dec_start="median"
    ),
    "the papers' frame": _recipe("gated", pre_encoder_bias=True, centre=False),
    "AuxK, resampling": _recipe(
        "gated", aux_coefficient=1 / 32, dead_after=2000, resample_at=(0.25, 0.7)
    ),
}


@pytest.mark.parametrize("c", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("stop", [30, 77])
def test_resumed_and_uninterrupted_runs_are_byte_identical(c, stop, tmp_path):
    rows, _ = planted(5000, D_IN, N_TRUE, L0, seed=0)
    rows = rows + torch.linspace(-1, 1, D_IN)  # a mean, so that b_dec matters
    shape = shape_for(D_IN, D_SAE, c)
    whole = Trainer(rows, shape, c, rows[:1000])
    records = [replace(s, tokens_per_s=0) for s in whole]

    first = Trainer(rows, shape, c, rows[:1000])
    told = []
    for raw in first.batches():
        first.step(first.units(raw))
        if first.record_due():
            told.append(replace(first.record(1.0), tokens_per_s=0))
        if first.done == stop:
            break
    first.save(tmp_path / "checkpoint")
    again = Trainer(rows, shape, c, rows[:1000], resume=tmp_path / "checkpoint")
    assert again.done == stop
    told += [replace(s, tokens_per_s=0) for s in again]
    assert _state(again) == _state(whole)
    assert told == records


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    shape = shape_for(D_IN, D_SAE, c)
    Trainer(rows, shape, c).save(tmp_path / "c")
    with pytest.raises(Refused, match="seed 0 -> 1"):
        Trainer(rows, shape, replace(c, seed=1), resume=tmp_path / "c")
    with pytest.raises(Refused, match="no checkpoint"):
        Trainer(rows, shape, c, resume=tmp_path / "nothing")
    (tmp_path / "c" / checkpoint.TENSORS).write_bytes(b"short")
    with pytest.raises(Refused, match="damaged"):
        Trainer(rows, shape, c, resume=tmp_path / "c")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    shape = shape_for(D_IN, D_SAE, c)
    trainer = Trainer(rows, shape, c)
    trainer.save(tmp_path / "c")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sae.checkpoint.save_file", full)
        with pytest.raises(Refused, match="disk is full"):
            trainer.save(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert Trainer(rows, shape, c, resume=tmp_path / "c").done == 0


def test_killed_between_two_renames_the_old_checkpoint_is_found(tmp_path):
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    Trainer(rows, shape_for(D_IN, D_SAE, c), c).save(tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / "c.old")
    assert Trainer(rows, shape_for(D_IN, D_SAE, c), c, resume=tmp_path / "c").done == 0


def test_a_plain_iterator_trains_but_cannot_be_resumed(tmp_path):
    rows, _ = planted(256 * 130, D_IN, N_TRUE, L0, seed=0)
    c = _recipe("jumprelu")
    shape = shape_for(D_IN, D_SAE, c)
    pieces = rows.split(1000)
    steps = list(Trainer(iter(pieces), shape, c))
    assert steps[-1].step == 120
    trainer = Trainer(iter(pieces), shape, c)
    for raw, _ in zip(trainer.batches(), range(30), strict=False):
        assert torch.equal(raw[:1], rows[trainer.done * 256 : trainer.done * 256 + 1])
        trainer.step(trainer.units(raw))
    trainer.save(tmp_path / "c")
    with pytest.raises(Refused, match="plain iterator cannot go to row 7,680"):
        Trainer(iter(pieces), shape, c, resume=tmp_path / "c")
    with pytest.raises(Refused, match="the source ended after"):
        list(Trainer(iter(pieces[:5]), shape, c))


def test_a_source_is_put_back_after_the_start_statistics():
    rows, _ = planted(3000, D_IN, N_TRUE, L0, seed=0)
    source = TensorSource(rows)
    first = next(TensorSource(rows).batches(256))
    trainer = Trainer(source, SAEConfig(D_IN, D_SAE), preset("small_budget", l0=4.0, batch=256))
    assert source.state()["rows"] == 0
    assert torch.equal(next(trainer.source.batches(256)), first)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(0, D_IN), "not empty"),
        (torch.randn(300, D_IN + 1), f"takes .rows, {D_IN}"),
        (torch.ones(300, D_IN), "not all alike"),
        (torch.full((300, D_IN), torch.nan), "finite"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(rows, words):
    with pytest.raises(Refused, match=words):
        Trainer(rows, SAEConfig(D_IN, D_SAE), preset("small_budget", l0=4.0, batch=256))


def test_a_loss_that_is_not_finite_names_the_step():
    rows, _ = planted(20_000, D_IN, N_TRUE, L0, seed=0)

    class Breaks(TensorSource):
        def batches(self, batch_size):
            for i, x in enumerate(super().batches(batch_size)):
                yield x * float("nan") if i == 66 else x

    config = preset("small_budget", l0=4.0, batch=256, tokens=256 * 80)
    trainer = Trainer(Breaks(rows), SAEConfig(D_IN, D_SAE), config)
    with pytest.raises(Refused, match="step 67"):
        list(trainer)
