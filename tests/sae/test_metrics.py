"""Known answers, and proof that the wrong definitions in circulation give something else."""

import pytest
import torch

from sae.config import Refused
from sae.metrics import Metrics
from sae.sparse import SparseCode

X = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 6.0], [6.0, 2.0]])  # mean (3, 2)
X_HAT = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 4.0], [5.0, 2.0]])
F = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 0], [3, 0, 0]])


def _measured(x=X, x_hat=X_HAT, f=F, batch=4):
    metrics = Metrics(x.shape[1], f.shape[1])
    for i in range(0, len(x), batch):
        metrics.update(x[i : i + batch], x_hat[i : i + batch], f[i : i + batch])
    return metrics


def test_by_hand():
    m = _measured()
    result = m.result()
    assert result["l0"] == 1.0  # (0 + 1 + 2 + 1) / 4
    assert result["mse"] == 1.5  # (1 + 0 + 4 + 1) / 4
    assert result["fve"] == pytest.approx(1 - 6 / 44)  # about (3, 2): 13 + 5 + 17 + 9 = 44
    assert result["gamma"] == pytest.approx(66 / 78)  # |x_hat|^2: 1+4+32+29; dot: 0+4+40+34
    assert (result["dead"], result["alive"], result["n_tokens"]) == (1, 2, 4)
    assert m.frequency.tolist() == [0.75, 0.25, 0.0]
    assert result["high_freq_10"] == result["high_freq_1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("batch", [1, 3])
def test_batching_changes_nothing(batch):
    assert _measured(batch=batch).result() == pytest.approx(_measured().result())


def test_sparse_codes_count_like_dense_ones():
    rows, features = F.nonzero(as_tuple=True)
    m = Metrics(2, 3)
    m.update(X, X_HAT, SparseCode(rows, features, F[rows, features], 4, 3))
    assert m.result() == _measured().result()


def test_wrong_definitions_differ():
    fve = _measured().result()["fve"]
    about = (X - X.mean(0)).square().sum(1)
    mean_of_ratios = 1 - ((X - X_HAT).square().sum(1) / about).mean().item()
    assert abs(fve - mean_of_ratios) > 0.01
    biased = X + torch.tensor([1.0, 0.0])  # variance of the error forgives a constant bias
    forgiving = 1 - (X - biased).var(0).sum() / X.var(0).sum()
    assert forgiving == 1 and _measured(x_hat=biased).result()["fve"] == pytest.approx(1 - 4 / 44)
    rolled = _measured(batch=2)  # batch-wise means would not add up to the dataset's
    by_batch = (
        sum(_measured(X[i : i + 2], X_HAT[i : i + 2], F[i : i + 2]).result()["fve"] for i in (0, 2))
        / 2
    )
    assert abs(rolled.result()["fve"] - by_batch) > 0.01


def test_gamma_is_the_best_divisor():
    m = _measured().result()["gamma"]
    losses = [((X_HAT / g - X).square().sum()).item() for g in (m - 0.01, m, m + 0.01)]
    assert losses[1] < min(losses[0], losses[2])
    shrunk = _measured(x_hat=0.8 * X).result()["gamma"]
    assert shrunk == pytest.approx(0.8)


def test_float64_survives_a_mean_far_from_zero():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 4, generator=g) + 1000
    error = 0.1 * torch.randn(1000, 4, generator=g)
    exact = x.double()
    expected = 1 - (x + error - x).double().square().sum() / (exact - exact.mean(0)).square().sum()
    m = _measured(x, x + error, torch.ones(1000, 3), batch=64)
    assert m.result()["fve"] == pytest.approx(float(expected), abs=1e-9)


def test_undefined_is_absent_not_zero():
    constant = torch.ones(4, 2)
    result = _measured(constant, torch.zeros(4, 2)).result()
    assert result["fve"] is None and result["gamma"] is None


def test_refusals():
    with pytest.raises(Refused, match="no rows"):
        Metrics(2, 3).result()
    with pytest.raises(Refused, match=r"\[n, 2\]"):
        Metrics(2, 3).update(X, X_HAT[:3], F)
