"""The whole loop: planted features found, L0 held, exact folding, determinism, refusals."""

from itertools import islice

import pytest
import torch

from sae.config import Refused, SAEConfig, preset
from sae.losses import dense_step
from sae.metrics import Metrics
from sae.models import fold
from sae.sparse import encode_sparse
from sae.trainer import TensorSource, Trainer
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
    assert [s.l0 for s in steps[len(steps) // 2 :]] == pytest.approx(
        [L0] * (len(steps) - len(steps) // 2), rel=0.1
    )


def test_records(run):
    trainer, steps, _ = run
    assert [s.step for s in steps] == list(range(10, 601, 10)) and trainer.n_steps == 600
    assert list(steps[-1].row()) == (
        "step tokens loss fve l0 dead window theta_mean bandwidth lr lambda tokens_per_s".split()
    )
    assert steps[-1].tokens == 600 * 1024 and steps[-1].loss < steps[0].loss / 2
    assert 0 < steps[-1].window < 1 and steps[-1].fve > 0.9
    with pytest.raises(Refused, match="already run"):
        next(iter(trainer))


@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_folding_is_exact(run, pre_encoder_bias):
    trainer, _, _ = run
    rows, _ = planted(500, D_IN, N_TRUE, L0, seed=5)
    w = trainer.weights
    sae = fold(w, "jumprelu", trainer.scale, trainer.centre, pre_encoder_bias)
    x = (rows.double() - trainer.centre) / trainer.scale
    entered = x - w.b_dec if pre_encoder_bias else x
    z = entered @ w.W_enc.T.double() + w.b_enc
    f = z * (z > w.theta)
    x_hat = (f @ w.W_dec.double() + w.b_dec) * trainer.scale + trainer.centre
    clear = ((z - w.theta).abs() > 1e-5).all(1)  # rounding may flip an entry at its threshold
    assert clear.float().mean() > 0.9
    error = (sae.double()(rows.double()) - x_hat)[clear].abs().max() / x_hat.abs().max()
    assert error < 1e-6
    assert torch.allclose(
        sae.encode(rows.double())[clear], f[clear] * trainer.scale, rtol=1e-5, atol=1e-5
    )


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
    assert encode_sparse(sae, rows[:1000]).values.numel() / 1000 == pytest.approx(4, abs=0.02)


def test_same_seed_same_bytes():
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    (a, steps_a), (b, steps_b), (c, _) = (_short(rows, seed) for seed in (3, 3, 4))
    for name, value in a.state_dict().items():
        assert value.numpy().tobytes() == b.state_dict()[name].numpy().tobytes()
    assert [s.loss for s in steps_a] == [s.loss for s in steps_b]
    assert not torch.equal(a.W_dec, c.W_dec)


def test_raw_theta_and_fixed_bandwidth_train_too():
    rows, _ = planted(4000, D_IN, N_TRUE, L0, seed=0)
    sae, steps = _short(rows, log_theta=False, theta_lr=1e-3, bandwidth=0.05)
    assert all(s.bandwidth == pytest.approx(0.05) for s in steps)
    assert steps[-1].loss < steps[0].loss and bool((sae.threshold >= 0).all())


def test_one_deepmind_step_is_adam_on_the_projected_gradient():
    rows, _ = planted(2000, D_IN, N_TRUE, L0, seed=0)
    eps = 1e-3  # large, so that a gradient of the wrong size shows through Adam's division
    config = preset("deepmind", batch=128, tokens=128 * 10_001, l0_coefficient=1e-2, adam_eps=eps)
    trainer = Trainer(rows, SAEConfig(D_IN, D_SAE), config)
    assert trainer.centre.abs().max() == 0
    assert trainer.scale**2 == pytest.approx(rows.square().sum(1).mean().item(), rel=0.02)
    w = trainer.weights
    before = {name: value.double().clone() for name, value in vars(w).items()}
    x = rows[:128] / trainer.scale
    objective = trainer.objective(4000)
    assert objective.l0_coefficient == pytest.approx(0.4 * 1e-2)
    gradients, _ = dense_step(type(w)(**before), x.double(), objective)
    trainer.step(4000, x)

    lr, parallel = 7e-5, (gradients.W_dec * before["W_dec"]).sum(1, keepdim=True)
    projected = gradients.W_dec - parallel * before["W_dec"]
    assert (projected * before["W_dec"]).sum(1).abs().max() < 1e-6 * parallel.abs().max()
    wanted = {
        name: before[name] - lr * g / (g.abs() + eps)  # Adam(0, .999), first step
        for name, g in (
            ("W_enc", gradients.W_enc),
            ("b_enc", gradients.b_enc),
            ("W_dec", projected),
            ("b_dec", gradients.b_dec),
        )
    }
    wanted["W_dec"] /= wanted["W_dec"].norm(dim=1, keepdim=True)
    push = gradients.theta * before["theta"]
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
            l0_coefficient=coefficient,
            warmup=10,
            l0_warmup=10,
            lr=1e-3,
            theta_lr=0.05,
        )
        *_, last = Trainer(rows, SAEConfig(D_IN, D_SAE), config)
        reached.append(last.l0)
    assert reached[1] < 0.7 * reached[0]
    assert last.l0_coefficient == pytest.approx(0.3)


def test_tensor_source_shows_every_row_once_and_resumes():
    rows = torch.arange(10.0)[:, None]
    source = TensorSource(rows, seed=1)
    seen = torch.cat(list(islice(source.batches(4), 5))).flatten()  # two epochs
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert source.state() == {"seed": 1, "rows": 20}
    source.seek(8)
    assert torch.equal(next(source.batches(4)).flatten(), seen[8:12])


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
