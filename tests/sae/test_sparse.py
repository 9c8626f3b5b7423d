"""The sparse step against dense autograd, and sparse codes against dense ones."""

import pytest
import torch

from sae.config import Refused
from sae.losses import Gradients, Objective, Weights, dense_step
from sae.models import JumpReLUSAE
from sae.sparse import Buffers, SparseCode, decode_sparse, encode_sparse, sparse_step

D_IN, D_SAE, ROWS = 12, 45, 33  # odd sizes: the mask's last word is not full


@pytest.fixture(autouse=True)
def _stay_sparse(monkeypatch):
    """Without this, small dense cases would fall back to the reference and test nothing."""
    monkeypatch.setattr("sae.sparse.DENSE_SHARE", 1.0)
    monkeypatch.setattr("sae.sparse.dense_step", None)


def _case(dtype, theta=0.5):
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W_dec = torch.nn.functional.normalize(normal(D_SAE, D_IN), dim=1)
    w = Weights(
        W_enc=W_dec + 0.1 * normal(D_SAE, D_IN),
        b_enc=0.05 * normal(D_SAE),
        W_dec=W_dec,
        b_dec=0.1 * normal(D_IN),
        theta=theta * (1 + 0.2 * torch.rand(D_SAE, generator=g, dtype=torch.float64)),
    )
    x = normal(ROWS, D_IN)
    return Weights(**{k: v.to(dtype) for k, v in vars(w).items()}), x.to(dtype)


OBJECTIVES = {
    "paper": Objective(0.03, 0.2),
    "pre-ReLU": Objective(0.03, 0.2, pre_relu=True),
    "pre-encoder bias": Objective(0.03, 0.2, 0.3, pre_encoder_bias=True),
    "whole": Objective(0.03, 0.2, 0.3, pre_relu=True, pre_encoder_bias=True),
    "scalars as tensors": Objective(torch.tensor(-0.02), torch.tensor(0.2), 0.3),
    "window below zero": Objective(0.03, 1.3, 0.3),
    "window below zero after a ReLU": Objective(0.03, 1.3, 0.3, pre_relu=True),
}


def _compare(w, x, objective, relative, absolute):
    dense, dense_stats = dense_step(w, x, objective)
    sparse, sparse_stats = sparse_step(w, x, objective, Buffers())
    for name, a, b in zip(
        Gradients._fields + dense_stats._fields,
        dense + dense_stats,
        sparse + sparse_stats,
        strict=True,
    ):
        assert a.shape == b.shape, name
        assert (a - b).norm() <= relative * a.norm() + 1e-12, name
        if absolute is not None:
            assert (a - b).abs().max() <= absolute, name
    return dense, dense_stats


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_equal_dense_autograd(objective):
    if isinstance(objective.bandwidth, torch.Tensor):
        objective = Objective(objective.l0_coefficient.double(), objective.bandwidth.double(), 0.3)
    gradients, stats = _compare(*_case(torch.float64), objective, 1e-10, 1e-10)
    assert all(g.norm() > 1e-3 for g in gradients) and 1 < stats.l0 < D_SAE / 2


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_equal_dense_autograd_in_float32(objective):
    _compare(*_case(torch.float32), objective, 1e-5, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_active(dtype):
    w, x = _case(dtype, theta=1e3)
    gradients, stats = _compare(w, x, Objective(0.03, 0.2, 0.3), 1e-5, 1e-6)
    assert stats.l0 == 0 and stats.window == 0 and stats.benefit == 0
    assert gradients.W_enc.abs().max() == 0 and gradients.b_dec.norm() > 0


@pytest.mark.parametrize("pre_relu", [False, True])
def test_everything_active(pre_relu):
    w, x = _case(torch.float64, theta=0.1)
    w.b_enc += 50
    _, stats = _compare(w, x, Objective(0.03, 0.05, 0.3, pre_relu=pre_relu), 1e-10, None)
    assert stats.l0 == D_SAE


def test_entries_exactly_at_theta_and_at_the_ends_of_the_window():
    eye = torch.eye(4, dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    w = Weights(eye, zero, eye.clone(), zero.clone(), torch.full_like(zero, 0.5))
    x = torch.tensor([[0.5, 0.25, 0.75, 0.0], [0.25, 0.75, 0.5, -1.0]], dtype=torch.float64)
    gradients, stats = _compare(w, x, Objective(1.0, 0.5, 0.3), 1e-10, 1e-10)
    assert stats.l0 == 1 and stats.window == 1  # .75 fires, is no longer in; .5 is in, is silent
    # theta_0 meets x = .5 once: df = 2/2 (0 - .5) = -.5; -(1/.5)(.5 x -.5 + 1/2) = -.5
    assert gradients.theta[0].item() == pytest.approx(-0.5)


def test_projection_product_is_free():
    w, x = _case(torch.float64)
    gradients, _ = sparse_step(w, x, OBJECTIVES["whole"], Buffers())
    assert torch.allclose(gradients.W_dec_parallel, (gradients.W_dec * w.W_dec).sum(1), atol=1e-12)


def test_dense_batches_take_the_dense_path(monkeypatch):
    monkeypatch.setattr("sae.sparse.DENSE_SHARE", 0.01)
    monkeypatch.setattr("sae.sparse.dense_step", lambda *_: "dense")
    w, x = _case(torch.float32)
    assert sparse_step(w, x, Objective(0.03, 0.2), Buffers()) == "dense"


def _sae(theta=0.5):
    g = torch.Generator().manual_seed(4)
    sae = JumpReLUSAE(D_IN, D_SAE)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) if name != "threshold" else p + theta)
    return sae.requires_grad_(False), torch.randn(ROWS, D_IN, generator=g)


@pytest.mark.parametrize("theta", [0.5, 0.0, 1e4])
def test_sparse_code_is_the_dense_code(theta):
    sae, x = _sae(theta)
    code, pre = encode_sparse(sae, x, with_pre=True)
    assert torch.allclose(code.dense(), sae.encode(x), atol=1e-6)
    assert torch.allclose(pre, sae.pre(x), atol=1e-6)
    assert torch.allclose(decode_sparse(sae, code), sae(x), atol=1e-5)
    flat = code.rows * D_SAE + code.features
    assert bool((flat.diff() > 0).all()) and bool((code.values > 0).all())


def test_buffers_serve_batches_of_any_size():
    sae, x = _sae()
    buffers = Buffers()
    for n in (ROWS, 3, ROWS, 1, 0):
        assert torch.allclose(
            encode_sparse(sae, x[:n], buffers).dense(), sae.encode(x[:n]), atol=1e-6
        )


def test_no_entry_is_lost_or_invented_at_density_extremes():
    sae, x = _sae()
    sae.b_enc += 1e3
    assert encode_sparse(sae, x).values.numel() == ROWS * D_SAE
    empty = encode_sparse(sae, torch.full_like(x, torch.nan))
    assert isinstance(empty, SparseCode) and empty.values.numel() == 0


def test_wrong_width_is_refused():
    sae, _ = _sae()
    with pytest.raises(Refused, match=r"\(3, 5\).*12"):
        encode_sparse(sae, torch.zeros(3, 5))
