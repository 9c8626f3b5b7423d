"""Known answers, and proof that the wrong definitions in circulation give something else."""

import math

import numpy as np
import pytest
import torch

from sae.config import Refused
from sae.metrics import Metrics
from sae.sparse import SparseCode

X = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 6.0], [6.0, 2.0]])  # mean (3, 2)
X_HAT = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 4.0], [5.0, 2.0]])
F = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 0], [3, 0, 0]])
BIASED = X_HAT + torch.tensor([1.0, 0.0])  # errors (-2, 0), (-1, 0), (-1, 2), (0, 0)


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


def test_cosine_and_l2_ratio_by_hand():
    result = _measured().result()
    # The first row has no direction. Then dot 4, 40, 34; |x|^2 4, 52, 40; |x_hat|^2 4, 32, 29.
    cosines = [1.0, 40 / math.sqrt(52 * 32), 34 / math.sqrt(40 * 29)]
    ratios = [1.0, math.sqrt(32 / 52), math.sqrt(29 / 40)]
    assert result["cosine"] == pytest.approx(sum(cosines) / 3)
    assert result["l2_ratio"] == pytest.approx(sum(ratios) / 3)


def test_a_row_reconstructed_as_zero_has_no_cosine_but_an_l2_ratio():
    result = _measured(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 0], [2, 0]]),
                       torch.ones(2, 3)).result()  # fmt: skip
    assert result["cosine"] == 1.0 and result["l2_ratio"] == 1.0  # (0 + 2) / 2


def test_the_distribution_of_l0_by_hand():
    f = torch.tril(torch.ones(20, 20))  # rows with 1, 2, ..., 20 active features
    x = torch.ones(20, 2)
    found = _measured(x, x, f.flip(0), batch=7).result()["l0_distribution"]
    assert found == {"min": 1, "p5": 1, "p25": 5, "p50": 10, "p75": 15, "p95": 19, "max": 20}
    assert all(type(n) is int for n in found.values())


def test_the_distribution_of_l0_is_that_of_the_sorted_counts():
    g = torch.Generator().manual_seed(0)
    f = (torch.rand(997, 50, generator=g) < torch.rand(997, 1, generator=g)).float()
    x = torch.zeros(997, 2)
    found = list(_measured(x, x, f, batch=100).l0_distribution().values())
    share = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    assert found == np.quantile(f.sum(1).numpy(), share, method="inverted_cdf").tolist()


def test_groups_by_hand():
    m = Metrics(2, 3, n_groups=3)
    m.update(X[:3], X_HAT[:3], F[:3], torch.tensor([0, 0, 2]))
    m.update(X[3:], X_HAT[3:], F[3:], torch.tensor([2]))
    low, none, high = m.by_group()  # about the dataset's mean (3, 2): 13 + 5 and 17 + 9
    assert low == {"n": 2, "mse": 0.5, "fve": pytest.approx(1 - 1 / 18)}
    assert none == {"n": 0, "mse": None, "fve": None}
    assert high == {"n": 2, "mse": 2.5, "fve": pytest.approx(1 - 5 / 26)}
    assert _flat(m.result()) == pytest.approx(_flat(_measured().result()))
    assert m.mean.tolist() == [3.0, 2.0]


def _flat(result):
    return result | result["l0_distribution"] | {"l0_distribution": 0}


@pytest.mark.parametrize("batch", [1, 3])
def test_batching_changes_nothing(batch):
    assert _flat(_measured(batch=batch).result()) == pytest.approx(_flat(_measured().result()))


def test_sparse_codes_count_like_dense_ones():
    rows, features = F.nonzero(as_tuple=True)
    m = Metrics(2, 3)
    m.update(X, X_HAT, SparseCode(rows, features, F[rows, features], 4, 3))
    assert m.result() == _measured().result()


# ---------------------------------------------------------------- known bugs of other programs


def _check_fve(fve):
    """What every definition of FVE must give here: 1 - 10 / 44."""
    assert fve(X, BIASED) == pytest.approx(1 - 10 / 44, abs=1e-6)


def _ours(x, x_hat):
    return _measured(x, x_hat, F[: len(x)]).result()["fve"]


def _error(x, x_hat):
    return (x - x_hat).square().sum(1)


def _mean_of_ratios(x, x_hat):
    return 1 - (_error(x, x_hat) / (x - x.mean(0)).square().sum(1)).mean()


def _variance_of_the_error(x, x_hat):
    """Forgives a constant bias."""
    return 1 - (x - x_hat).var(0).sum() / x.var(0).sum()


def _square_of_the_mean_square(x, x_hat):
    """E x^2 - (E x^2)^2 where E x^2 - (E x)^2 is meant."""
    square = x.square().mean(0)
    return 1 - _error(x, x_hat).mean() / (square - square.square()).sum()


def _about_zero(x, x_hat):
    return 1 - _error(x, x_hat).sum() / x.square().sum()


def _mean_of_batches(x, x_hat):
    """Each batch about its own mean."""
    return (_ours(x[:2], x_hat[:2]) + _ours(x[2:], x_hat[2:])) / 2


BUGS = [_mean_of_ratios, _variance_of_the_error, _square_of_the_mean_square, _about_zero,
        _mean_of_batches]  # fmt: skip


def test_fve_by_hand_with_a_constant_bias():
    _check_fve(_ours)


@pytest.mark.parametrize("bug", BUGS)
def test_a_known_bug_does_not_pass(bug):
    assert abs(bug(X, BIASED) - _ours(X, BIASED)) > 0.01
    with pytest.raises(AssertionError):
        _check_fve(bug)


def test_a_constant_bias_is_not_forgiven():
    biased = X + torch.tensor([1.0, 0.0])
    assert _variance_of_the_error(X, biased) == 1
    assert _ours(X, biased) == pytest.approx(1 - 4 / 44)
    assert _measured(x_hat=biased).result()["mse"] == 1.0


def test_means_of_unequal_batches_are_not_averaged():
    """Three rows and then one: the mean of the two batches' means is another number."""
    ours, parts = _measured(batch=3).result(), []
    for part in (slice(0, 3), slice(3, 4)):
        parts.append(_measured(X[part], X_HAT[part], F[part]).result())
    for key in ("l0", "mse", "l2_ratio"):
        assert ours[key] == pytest.approx(_measured().result()[key])
    for key in ("mse", "l2_ratio", "cosine"):
        assert abs(ours[key] - (parts[0][key] + parts[1][key]) / 2) > 0.001


def test_the_l2_ratio_is_not_the_ratio_of_the_means():
    of_means = X_HAT.norm(dim=1).sum() / X.norm(dim=1).sum()
    assert abs(_measured().result()["l2_ratio"] - of_means) > 0.001


# ---------------------------------------------------------------- more


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
    assert result["fve"] is None and result["gamma"] is None and result["cosine"] is None
    assert result["l2_ratio"] == 0
    nothing = _measured(torch.zeros(4, 2), torch.ones(4, 2)).result()
    assert nothing["l2_ratio"] is None and nothing["cosine"] is None


def test_refusals():
    with pytest.raises(Refused, match="no rows"):
        Metrics(2, 3).result()
    with pytest.raises(Refused, match=r"\[n, 2\]"):
        Metrics(2, 3).update(X, X_HAT[:3], F)
    with pytest.raises(Refused, match="one number for each of 4 rows"):
        Metrics(2, 3).update(X, X_HAT, F, torch.zeros(3, dtype=torch.int64))
