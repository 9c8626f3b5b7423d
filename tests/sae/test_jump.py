"""JumpReLU and step: hand-worked numbers, both gradients, and what the estimator estimates."""

import math

import pytest
import torch

from sae.entries import Buffers
from sae.jump import KERNELS, RECTANGLE, jumprelu, kernel_weight, step, window
from sae.losses import Objective, Weights
from sae.step import step as training_step

Z = [[0.5, 1.5], [1.2, 0.9]]
THETA = [1.0, 1.0]
EPS = 0.5  # the window is (.75, 1.25): it holds 1.2 and .9


def _leaves(dtype=torch.float64):
    z = torch.tensor(Z, dtype=dtype, requires_grad=True)
    return z, torch.tensor(THETA, dtype=dtype, requires_grad=True)


def test_values_by_hand():
    z, theta = _leaves()
    assert jumprelu(z, theta, EPS).tolist() == [[0.0, 1.5], [1.2, 0.0]]
    assert step(z, theta, EPS).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert window(z, theta, EPS).tolist() == [[False, False], [True, True]]


def test_jumprelu_gradients_by_hand():
    z, theta = _leaves()
    upstream = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    jumprelu(z, theta, EPS).backward(upstream)
    assert z.grad.tolist() == [[0.0, 2.0], [3.0, 0.0]]  # gradient x H
    assert theta.grad.tolist() == [-6.0, -8.0]  # -(theta / eps) x (3, 4)


def test_step_gradients_by_hand():
    z, theta = _leaves()
    upstream = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    step(z, theta, EPS).backward(upstream)
    assert z.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert theta.grad.tolist() == [-6.0, -8.0]  # -(1 / eps) x (3, 4)


def test_share_of_the_window_gradient_reaches_z_by_hand():
    z, theta = _leaves()
    (jumprelu(z, theta * 2 - 1, EPS, 0.25).sum() + step(z, theta, EPS, 0.25).sum()).backward()
    # jump: H + .25 x 2 inside the window; step: .25 x 2 inside
    assert z.grad.tolist() == [[0.0, 1.0], [2.0, 1.0]]


def test_ends_of_the_window_and_theta_itself_are_outside():
    theta = torch.tensor([1.0], dtype=torch.float64)
    z = torch.tensor([[0.75], [1.25], [1.0]], dtype=torch.float64, requires_grad=True)
    assert window(z, theta, EPS).flatten().tolist() == [False, False, True]
    assert step(z, theta, EPS).flatten().tolist() == [0.0, 1.0, 0.0]  # exactly theta is silent
    assert jumprelu(z, theta, EPS).flatten().tolist() == [0.0, 1.25, 0.0]


@pytest.mark.parametrize("shape", [(2,), (5, 2), (3, 4, 2), (0, 2)])
def test_any_leading_dimensions_are_summed_for_theta(shape):
    z = torch.linspace(0.1, 2, max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()]
    z = z.reshape(shape).requires_grad_()
    theta = torch.tensor([0.8, 1.1], requires_grad=True)
    jumprelu(z, theta, 1.0).sum().backward()
    flat = window(z, theta, 1.0).reshape(-1, 2).sum(0)
    assert torch.allclose(theta.grad, -theta.detach() * flat)
    assert z.grad.shape == shape


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_integrate_to_one_with_the_stated_deviation(kernel):
    u = torch.linspace(-kernel.reach, kernel.reach, 200_001, dtype=torch.float64)[1:-1]
    K, du = kernel.density(u), 2 * kernel.reach / 200_000
    assert (K * du).sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(K, kernel.density(-u)) and bool((K >= 0).all())
    cut = 0.025 if kernel.name in ("gaussian", "logistic") else 1e-4  # they end at 4 deviations
    assert ((K * u * u).sum() * du).sqrt().item() == pytest.approx(kernel.sd, rel=cut)


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("rectangle", 0.49, 1.0),
        ("triangular", 0.25, 0.75),
        ("epanechnikov", 0.5, 0.5625),
        ("biweight", 0.5, 15 / 16 * 0.5625),
        ("triweight", 0.5, 35 / 32 * 0.75**3),
        ("cosine", 0.5, math.pi / 4 * math.cos(math.pi / 4)),
        ("gaussian", 1.0, math.exp(-0.5) / math.sqrt(2 * math.pi)),
        ("logistic", 1.0, 1 / (math.e + 2 + 1 / math.e)),
    ],
)
def test_kernel_values(name, at, value):
    got = KERNELS[name].density(torch.tensor(at, dtype=torch.float64)).item()
    assert got == pytest.approx(value, rel=2e-3 if name in ("gaussian", "logistic") else 1e-12)


@pytest.mark.parametrize(
    ("name", "h"),
    [("triangular", 0.707), ("epanechnikov", 0.6455), ("biweight", 0.764), ("triweight", 0.866),
     ("cosine", 0.663), ("gaussian", 0.2887), ("logistic", 0.159), ("rectangle", 1.0)],
)  # fmt: skip
def test_widths_smooth_like_a_rectangle_of_width_eps(name, h):
    assert KERNELS[name].width == pytest.approx(h, abs=6e-4)


def test_kernel_weight_by_hand():
    """Epanechnikov, eps 1: h = .6455; at z - theta = h / 2, K = 3/4 (1 - 1/4) / h."""
    kernel = KERNELS["epanechnikov"]
    h = kernel.width
    z = torch.tensor([1 + h / 2, 1 + 1.01 * h, 1 - h / 2], dtype=torch.float64)
    theta = torch.ones(3, dtype=torch.float64)
    weight = kernel_weight(z, theta, 1.0, kernel)
    assert weight.tolist() == pytest.approx([0.5625 / h, 0.0, 0.5625 / h])
    each = kernel_weight(z, theta, torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64), kernel)
    assert each[1] > 0, "a bandwidth of its own"


def _cell(n: int, theta: float, l0_coefficient: float, kernel=RECTANGLE):
    """Two features on Gaussian rows in the plane; returns the step's mean loss and theta grad."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    angle = torch.tensor([0.0, 1.0], dtype=torch.float64)
    W_dec = torch.stack((angle.cos(), angle.sin()), dim=1)
    zero = torch.zeros(2, dtype=torch.float64)
    thetas = torch.tensor([theta, 0.6], dtype=torch.float64)
    w = Weights(0.9 * W_dec, zero, W_dec, zero, thetas)
    objective = Objective(coefficient=l0_coefficient, bandwidth=0.05, kernel=kernel)
    gradients, stats = training_step(w, x, objective, Buffers())
    return float(stats.reconstruction + l0_coefficient * stats.l0), float(gradients.theta[0])


@pytest.mark.parametrize(
    ("l0_coefficient", "kernel"),
    [(0.0, "rectangle"), (1.5, "rectangle"), (1.5, "epanechnikov"), (1.5, "gaussian")],
)
def test_estimator_is_the_slope_of_the_expected_loss(l0_coefficient, kernel):
    n, h = 1_000_000, 0.025
    _, estimate = _cell(n, 0.7, l0_coefficient, KERNELS[kernel])
    above, below = (_cell(n, 0.7 + s * h, l0_coefficient)[0] for s in (1, -1))
    slope = (above - below) / (2 * h)
    assert abs(slope) > 0.05, "the test must have a slope to find"
    assert estimate == pytest.approx(slope, rel=0.05)
