"""Every architecture's step against autograd through the papers' formulas, listed and full."""

from dataclasses import replace

import pytest
import torch

from sae.entries import Buffers, Full, Listed
from sae.jump import KERNELS
from sae.losses import SUPPORT, Objective, Weights
from sae.reference import differentiate, loss
from sae.step import step

D_IN, D_SAE, ROWS = 12, 45, 33  # odd sizes: the mask's last word is not full


@pytest.fixture(autouse=True, params=["listed", "full"])
def way(request, monkeypatch):
    """Both ways to keep entries; without this, small cases would take whichever is quicker."""
    monkeypatch.setattr("sae.entries.DENSE_SHARE", 1.0 if request.param == "listed" else -1.0)
    return request.param


def make(dtype=torch.float64, theta=0.5, unit=False):
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W_dec = torch.nn.functional.normalize(normal(D_SAE, D_IN), dim=1)
    w = Weights(
        W_enc=W_dec + 0.1 * normal(D_SAE, D_IN),
        b_enc=0.05 * normal(D_SAE),
        W_dec=W_dec if unit else W_dec * (1 + 0.3 * torch.rand(D_SAE, 1, generator=g)),
        b_dec=0.1 * normal(D_IN),
        theta=theta * (1 + 0.2 * torch.rand(D_SAE, generator=g, dtype=torch.float64)),
        r_mag=0.2 * normal(D_SAE),
        b_mag=0.1 * normal(D_SAE),
    )
    x = normal(ROWS, D_IN)
    return Weights(**{k: v.to(dtype) for k, v in w.items()}), x.to(dtype)


def for_architecture(w, o):
    """Only the weights that the architecture has."""
    used = {"jumprelu": ("theta",), "gated": ("r_mag", "b_mag")}.get(o.architecture, ())
    extra = {
        name: getattr(w, name) if name in used else None for name in ("theta", "r_mag", "b_mag")
    }
    return replace(w, **extra)


BANDWIDTHS = 0.1 + 0.2 * torch.rand(D_SAE, generator=torch.Generator().manual_seed(7)).double()
JUMP = Objective(coefficient=0.03, bandwidth=0.2, l0=9.0)
OBJECTIVES = {
    "paper": JUMP,
    "pre-ReLU": replace(JUMP, pre_relu=True),
    "pre-encoder bias": replace(JUMP, pre_activation_gradient=0.3, pre_encoder_bias=True),
    "whole": replace(JUMP, pre_activation_gradient=0.3, pre_relu=True, pre_encoder_bias=True),
    "scalars as tensors": replace(
        JUMP,
        coefficient=torch.tensor(-0.02, dtype=torch.float64),
        bandwidth=torch.tensor(0.2, dtype=torch.float64),
    ),
    "window below zero": replace(JUMP, bandwidth=1.3, pre_activation_gradient=0.3),
    "window below zero after a ReLU": replace(JUMP, bandwidth=1.3, pre_relu=True),
    "a bandwidth a feature": replace(JUMP, bandwidth=BANDWIDTHS, pre_activation_gradient=1.0),
    "pre-activation loss": replace(
        JUMP, pre_activation_coefficient=0.02, pre_activation_gradient=1.0, pre_encoder_bias=True
    ),
    "Anthropic": replace(
        JUMP, penalty="tanh", pre_activation_coefficient=0.02, pre_activation_gradient=1.0
    ),
    "no penalty": replace(JUMP, penalty="none"),
    "dead features": replace(
        JUMP, dead=torch.tensor([1, 4, 9, 40]), aux_coefficient=0.5, aux_k=2, pre_encoder_bias=True
    ),
    "ReLU": Objective("relu", "l1", 0.03),
    "ReLU, lp, pre-encoder bias": Objective("relu", "lp", 0.03, pre_encoder_bias=True),
    "gated": Objective("gated", "l1", 0.03),
    "gated, free decoder": Objective("gated", "weighted_l1", 0.03, aux_decoder_free=True),
    "gated, frozen norms": Objective(
        "gated", "weighted_l1", 0.03, aux_decoder_free=True, penalty_decoder_free=False
    ),
    "gated, lp, pre-encoder bias": Objective("gated", "lp", 0.03, pre_encoder_bias=True),
    "topk": Objective("topk", "none", l0=5),
    "topk, dead features": Objective(
        "topk", "none", l0=5, dead=torch.tensor([3, 5, 7]), aux_coefficient=1 / 32, aux_k=8
    ),
    "batchtopk": Objective("batchtopk", "none", l0=5.5, pre_encoder_bias=True),
    "matryoshka": Objective("matryoshka", "none", l0=6, groups=(5, 20, D_SAE)),
    "matryoshka, pre-encoder bias": Objective(
        "matryoshka", "none", l0=6, groups=(1, D_SAE), pre_encoder_bias=True
    ),
}
for _penalty in SUPPORT:
    if _penalty in ("l0", "reconstruction", "gated_auxiliary", "pre_activation", "dead_features"):
        continue
    OBJECTIVES[f"JumpReLU with {_penalty}"] = replace(
        JUMP, penalty=_penalty, pre_activation_gradient=0.3
    )
for _kernel in KERNELS.values():
    OBJECTIVES[_kernel.name] = replace(JUMP, kernel=_kernel, pre_activation_gradient=0.3)


def compare(w, x, o, relative):
    """Every gradient and the loss against the reference; returns both."""
    reference = differentiate(w, x, o)
    gradients, stats = step(w, x, o, Buffers())
    for name, expected in reference.gradients.items():
        got = getattr(gradients, name)
        assert got.shape == expected.shape, name
        assert (got - expected).norm() <= relative * expected.norm() + 1e-12, name
    loss = stats.reconstruction + stats.penalty
    assert loss == pytest.approx(reference.loss.item(), rel=max(relative, 1e-9))
    assert torch.equal(stats.fired, (reference.f > 0).sum(0).to(x.dtype))
    assert stats.l0 == pytest.approx((reference.f > 0).sum().item() / ROWS)
    return reference, gradients, stats


@pytest.mark.parametrize("o", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_equal_autograd(o, way):
    w, x = make()
    w = for_architecture(w, o)
    reference, gradients, stats = compare(w, x, o, 1e-10)
    for name, expected in reference.gradients.items():
        assert (getattr(gradients, name) - expected).abs().max() <= 1e-10, name
        assert expected.norm() > 1e-4, f"{name} has no gradient: nothing is tested"
    assert 1 < stats.l0 < 0.6 * D_SAE


@pytest.mark.parametrize("o", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_equal_autograd_in_float32(o):
    w, x = make(torch.float32)
    if isinstance(o.bandwidth, torch.Tensor):
        o = replace(o, bandwidth=o.bandwidth.float())
    if isinstance(o.coefficient, torch.Tensor):
        o = replace(o, coefficient=o.coefficient.float())
    compare(for_architecture(w, o), x, o, 2e-5)


@pytest.mark.parametrize("o", OBJECTIVES.values(), ids=OBJECTIVES)
def test_parallel_part_of_the_decoder_gradient(o):
    """<dL/dW_dec, W_dec> row by row comes free with the entries."""
    w, x = make()
    w = for_architecture(w, o)
    o = replace(o, penalty_decoder_free=False)
    if o.architecture == "matryoshka" or o.pre_activation_coefficient:
        o = replace(o, pre_activation_coefficient=0.0)
    gradients, _ = step(w, x, o, Buffers())
    expected = (gradients.W_dec * w.W_dec).sum(1)
    assert torch.allclose(gradients.W_dec_parallel, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["paper", "gated", "topk", "batchtopk", "matryoshka", "ReLU"])
def test_nothing_active(name):
    o = OBJECTIVES[name]
    w, x = make(theta=1e6)
    w = for_architecture(replace(w, b_enc=w.b_enc - 1e6), o)
    gradients, stats = step(w, x, o, Buffers())
    assert stats.l0 == 0 and stats.fired.sum() == 0
    expected = (w.b_dec - x).square().sum(1).mean()
    assert stats.reconstruction == pytest.approx(expected.item())
    assert gradients.W_enc.norm() == 0 and gradients.W_dec.norm() == 0
    reference = differentiate(w, x, o)
    assert torch.allclose(gradients.b_dec, reference.gradients["b_dec"])


@pytest.mark.parametrize("name", ["paper", "whole", "gated", "ReLU"])
def test_everything_active(name):
    o = OBJECTIVES[name]
    w, x = make(theta=1e-3)
    w = for_architecture(replace(w, b_enc=w.b_enc + 100, b_mag=w.b_mag + 100), o)
    _, _, stats = compare(w, x, o, 1e-9)
    assert stats.l0 == D_SAE


def test_an_entry_exactly_at_theta_is_silent_and_inside_the_window():
    w = Weights(
        W_enc=torch.eye(2), b_enc=torch.zeros(2), W_dec=torch.eye(2), b_dec=torch.zeros(2),
        theta=torch.tensor([1.0, 1.0]),
    )  # fmt: skip
    x = torch.tensor([[1.0, 2.0]])
    o = Objective(coefficient=0.5, bandwidth=0.5)
    gradients, stats = step(w, x, o, Buffers())
    assert stats.fired.tolist() == [0, 1] and stats.window.tolist() == [1, 0]
    # I = 2 theta d.(x - x_hat) = 2 at the silent entry: (I - lambda) / eps
    assert gradients.theta.tolist() == [(2 - 0.5) / 0.5, 0]
    assert stats.benefit == pytest.approx(2.0)
    # an entry at the window's ends is outside it
    gradients, stats = step(w, torch.tensor([[0.75, 1.25]]), o, Buffers())
    assert stats.window.tolist() == [0, 0] and gradients.theta.tolist() == [0, 0]


def test_both_ways_are_really_taken(way, monkeypatch):
    taken = []
    for cls in (Listed, Full):
        original = cls.decode
        monkeypatch.setattr(
            cls, "decode", lambda self, *a, _o=original: (taken.append(type(self)), _o(self, *a))[1]
        )
    w, x = make()
    step(for_architecture(w, JUMP), x, JUMP, Buffers())
    assert taken == [Listed if way == "listed" else Full]


def test_lambda_that_pushes_theta_nowhere():
    """At lambda = benefit the window's entries leave sum of dL/dtheta at 0."""
    w, x = make()
    for penalty in ("l0", "quadratic_frequency", "l1"):
        o = replace(JUMP, penalty=penalty)
        _, stats = step(for_architecture(w, o), x, o, Buffers())
        o = replace(o, coefficient=stats.benefit)
        gradients, _ = step(for_architecture(w, o), x, o, Buffers())
        assert gradients.theta.sum().abs() < 1e-10 < gradients.theta.abs().sum()


def test_given_pre_activations_that_lie_apart():
    """Several SAEs share one matrix product: each sees a slice of its columns."""
    w, x = make()
    w = for_architecture(w, JUMP)
    z = torch.randn(ROWS, 3 * D_SAE, dtype=torch.float64)
    z[:, D_SAE : 2 * D_SAE] = x @ w.W_enc.T + w.b_enc
    a, _ = step(w, x, JUMP, Buffers(), z[:, D_SAE : 2 * D_SAE])
    b, _ = step(w, x, JUMP, Buffers())
    assert torch.allclose(a.W_enc, b.W_enc) and torch.allclose(a.theta, b.theta)


def test_pre_activation_term_by_hand():
    """One feature, theta 1, rows at .25 and 2: the silent one pays (1 - .25) * ||d|| / 2."""
    w = Weights(torch.eye(1), torch.zeros(1), 2 * torch.eye(1), torch.zeros(1), torch.ones(1))
    x = torch.tensor([[0.25], [2.0]])
    o = Objective(penalty="none", bandwidth=0.1, pre_activation_coefficient=0.1)
    total, _ = loss(w, x, o)
    reconstruction = (0.25**2 + (2 - 4) ** 2) / 2
    assert total.item() == pytest.approx(reconstruction + 0.1 * 0.75 * 2 / 2)
    _, stats = step(w, x, o, Buffers())
    assert stats.penalty.item() == pytest.approx(0.075)
