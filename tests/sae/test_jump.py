"""JumpReLU and step: hand-worked numbers, both gradients, and what the estimator estimates."""

import pytest
import torch

from sae.jump import jumprelu, step, window
from sae.losses import Objective, Weights, dense_step

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


def _cell(n: int, theta: float, l0_coefficient: float):
    """Two features on Gaussian rows in the plane; returns the step's mean loss and theta grad."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    angle = torch.tensor([0.0, 1.0], dtype=torch.float64)
    W_dec = torch.stack((angle.cos(), angle.sin()), dim=1)
    zero = torch.zeros(2, dtype=torch.float64)
    thetas = torch.tensor([theta, 0.6], dtype=torch.float64)
    w = Weights(0.9 * W_dec, zero, W_dec, zero, thetas)
    gradients, stats = dense_step(w, x, Objective(l0_coefficient, 0.05))
    return float(stats.reconstruction + l0_coefficient * stats.l0), float(gradients.theta[0])


@pytest.mark.parametrize("l0_coefficient", [0.0, 1.5])
def test_estimator_is_the_slope_of_the_expected_loss(l0_coefficient):
    n, h = 1_000_000, 0.025
    _, estimate = _cell(n, 0.7, l0_coefficient)
    above, below = (_cell(n, 0.7 + s * h, l0_coefficient)[0] for s in (1, -1))
    slope = (above - below) / (2 * h)
    assert abs(slope) > 0.05, "the test must have a slope to find"
    assert estimate == pytest.approx(slope, rel=0.05)
