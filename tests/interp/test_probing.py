"""Probes on planted data: what must be found is found, chance is chance, and nothing leaks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from data.errors import TextError
from interp import probing
from interp.probing import (
    PENALTIES,
    RESAMPLES,
    Parts,
    as_they_are,
    best_features,
    choose,
    logistic_regression,
    majority,
    principal_components,
    probe,
    scores,
    split,
    weighted_auc,
)

N, WIDTH = 240, 30


def _parts(n=N, seed=0):
    """A fit, a validation and a test part."""
    order = np.random.default_rng(seed).permutation(n)
    cuts = np.split(order, [n // 2, int(0.7 * n)])
    return Parts(*(np.sort(part) for part in cuts))


def _noise(n=N, width=WIDTH, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def _labels(n=N, n_classes=2, seed=1):
    return torch.randint(n_classes, (n,), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the parts


def _hashes(n, seed=0):
    return np.random.default_rng(seed).integers(2**63, size=n).astype(np.uint64)


def test_the_parts_hold_every_document_once_and_the_same_share_of_each_label():
    labels = ["a"] * 100 + ["b"] * 20
    parts = split(_hashes(120), labels, seed=0)
    everything = np.concatenate([parts.fit, parts.validation, parts.test])
    assert sorted(everything) == list(range(120))
    assert sorted(parts.train) == sorted([*parts.fit, *parts.validation])
    of_b = [int((part >= 100).sum()) for part in (parts.test, parts.validation, parts.fit)]
    of_a = [int((part < 100).sum()) for part in (parts.test, parts.validation, parts.fit)]
    assert of_a == [30, 18, 52] and of_b == [6, 4, 10]  # 30 %, then a quarter of the rest


def test_equal_texts_fall_on_the_same_side():
    hashes = np.repeat(_hashes(40), 5)
    parts = split(hashes, ["a"] * 100 + ["b"] * 100, seed=3)
    where = np.zeros(200, dtype=int)
    where[parts.validation], where[parts.test] = 1, 2
    assert all(len(set(where[5 * i : 5 * i + 5])) == 1 for i in range(40))
    assert set(where) == {0, 1, 2}


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    hashes, labels = _hashes(60), ["a", "b"] * 30
    test = set(hashes[split(hashes, labels, 0).test])
    order = np.random.default_rng(5).permutation(60)
    again = split(hashes[order], [labels[i] for i in order], 0)
    assert set(hashes[order][again.test]) == test
    assert set(hashes[split(hashes, labels, 1).test]) != test


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a"] * 40, "every document has the label 'a'"),
        (["a"] * 31 + ["b"] * 9, "label 'b' has 9 different documents"),
    ],
)
def test_labels_too_few_to_probe_are_refused(labels, says):
    with pytest.raises(TextError, match=says):
        split(_hashes(40), labels, 0)


def test_copies_of_one_document_do_not_make_a_label_large_enough():
    hashes = np.concatenate([_hashes(20), np.full(20, 7, dtype=np.uint64)])
    with pytest.raises(TextError, match="label 'b' has 1 different documents"):
        split(hashes, ["a"] * 20 + ["b"] * 20, 0)


# ---------------------------------------------------------------- the regression


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_the_regression_is_the_minimum_another_optimiser_finds(n_classes, penalty):
    x, y = _noise(60, 4).double(), _labels(60, n_classes)
    x[:, 0] += y
    W, b = logistic_regression(x, y, n_classes, penalty)

    def loss(flat):
        weights = flat[: 4 * n_classes].reshape(4, n_classes)
        logits = x.numpy() @ weights + flat[4 * n_classes :]
        top = logits.max(1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        return -log_p[np.arange(60), y.numpy()].mean() + penalty / 2 * (weights**2).sum()

    found = scipy.optimize.minimize(loss, np.zeros(5 * n_classes), method="BFGS")
    np.testing.assert_allclose(W, found.x[: 4 * n_classes].reshape(4, n_classes), atol=1e-4)
    ours = loss(np.concatenate([W.flatten().numpy(), b.numpy()]))
    assert ours <= found.fun + 1e-9
    residual = torch.softmax(x @ W + b, 1) - torch.nn.functional.one_hot(y, n_classes)
    assert (x.T @ residual / 60 + penalty * W).abs().max() < 1e-6, "the gradient is 0"
    assert residual.mean(0).abs().max() < 1e-6, "the bias is not penalised"


def test_a_search_that_begins_elsewhere_ends_at_the_same_place():
    x, y = _noise(60, 4).double(), _labels(60)
    first = logistic_regression(x, y, 2, 0.1)
    other = logistic_regression(x, y, 2, 0.1, (torch.ones(4, 2).double(), torch.ones(2).double()))
    assert torch.allclose(first[0], other[0], atol=1e-5)


# ---------------------------------------------------------------- planted data


@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_labels_are_read_off(n_classes):
    x, y = _noise(), _labels(n_classes=n_classes)
    x[:, 3:6] = 8 * torch.nn.functional.one_hot(y, 3) + 0.1 * x[:, 3:6]
    found = probe(x, y, _parts(), as_they_are, 0)
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == (1, 1, 1)
    assert found.balanced_accuracy.value == 1 and found.inputs == WIDTH and found.penalty > 0
    assert found.auc is None if n_classes == 3 else found.auc.value == 1


@pytest.mark.parametrize("prepare", [as_they_are, principal_components(5), best_features(5)])
def test_labels_that_are_independent_of_the_data_give_chance(prepare):
    found = probe(_noise(), _labels(), _parts(), prepare, 0)
    for estimate in (found.accuracy, found.balanced_accuracy, found.auc):
        assert estimate.low <= 0.5 <= estimate.high
    assert found.accuracy.high - found.accuracy.low > 0.1


def test_the_k_features_are_the_planted_ones():
    x, y = _noise(), _labels()
    x[:, 20] += 3 * y  # the best
    x[:, 7] -= 2.0 * y  # the other way round
    x[:, 11] = 100 * x[:, 11] + 40 * y  # far apart, but not beside its own spread
    x[:, 0] = 5.0  # constant
    assert choose(x, y, 2).tolist() == [20, 7]
    found = probe(x, y, _parts(), best_features(2), 0)
    assert found.inputs == 2 and found.accuracy.value > 0.9
    alone = probe(x[:, [20, 7]], y, _parts(), as_they_are, 0)
    assert found == alone


def test_the_choice_among_three_classes_finds_each_ones_feature():
    x, y = _noise(), _labels(n_classes=3)
    x[:, [2, 5, 9]] += 3 * torch.nn.functional.one_hot(y, 3)
    assert sorted(choose(x, y, 3).tolist()) == [2, 5, 9]
    assert choose(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), 2).tolist() == [0, 1]


def test_principal_components_are_those_of_the_covariance():
    x = _noise().double()
    x[:, 4] *= 9
    x[:, 8] *= 5
    rows = principal_components(2)(x, _labels())(x)
    values, vectors = torch.linalg.eigh(x.T.cov())
    centred = x - x.mean(0)
    for column, which in ((0, -1), (1, -2)):
        expected = centred @ vectors[:, which]
        assert torch.allclose(rows[:, column].abs(), expected.abs(), atol=1e-9)
    assert rows.var(0).tolist() == pytest.approx(values.flip(0)[:2].tolist())


def test_a_component_without_variance_is_no_component():
    flat = torch.cat([_noise(width=2), torch.ones(N, 3)], dim=1)
    assert principal_components(4)(flat, _labels())(flat).shape == (N, 2)


def test_columns_that_are_constant_in_training_say_nothing():
    x, y = torch.ones(N, 3), _labels()
    parts = _parts()
    x[parts.test] = 7.0
    found = probe(x, y, parts, as_they_are, 0)
    baseline = majority(y, parts, 0)
    assert found.inputs == 0 and found.accuracy == baseline.accuracy
    assert baseline.penalty is None and baseline.auc.value == 0.5
    most = int(y[parts.train].bincount().argmax())
    assert baseline.accuracy.value == pytest.approx((y[parts.test] == most).double().mean().item())


# ---------------------------------------------------------------- no peeking


def test_whatever_is_fitted_sees_the_train_part_only():
    """Test rows are marked: no call of a preparation meets one, and the first, which the penalty is
    chosen with, meets none of the validation rows either."""
    parts, seen = _parts(), []
    x, y = _noise(), _labels()
    x[parts.test, 0], x[parts.validation, 0] = 1000.0, 500.0

    def spy(rows, labels):
        seen.append((len(rows), rows[:, 0].max().item(), len(labels)))
        return lambda some: some

    probe(x, y, parts, spy, 0)
    assert [n for n, _, _ in seen] == [len(parts.fit), len(parts.train)]
    assert seen[0][1] < 10 and seen[1][1] == 500.0
    assert all(n == m for n, _, m in seen)


def test_a_feature_that_is_informative_in_the_test_part_only_is_not_chosen():
    """Feature 3 is the label itself in the test part, and noise before."""
    parts, x, y = _parts(), _noise(), _labels()
    x[parts.test, 3] = 50.0 * (2 * y[parts.test] - 1)
    assert choose(x, y, 1).tolist() == [3], "looking at everything would choose it"
    assert choose(x[parts.train], y[parts.train], 1).tolist() != [3]
    without = x.clone()
    without[parts.test, 3] = 0.0
    found = probe(x, y, parts, best_features(1), 0)
    assert found == probe(without, y, parts, best_features(1), 0)
    assert found.accuracy.value < 0.7


def test_choosing_among_many_features_of_noise_does_not_flatter():
    """Chosen on all documents, the best 10 of 3,000 columns of noise foretell half of the test
    part's labels; chosen on the train part they are worth nothing there."""
    x, y, parts = _noise(100, 3000), _labels(100), _parts(100)
    peeking = probe(x[:, choose(x, y, 10)], y, parts, as_they_are, 0)
    ours = probe(x, y, parts, best_features(10), 0)
    assert peeking.auc.low > 0.7
    assert ours.auc.low <= 0.5 <= ours.auc.high


def test_the_answer_for_one_test_document_does_not_depend_on_the_others():
    x, y, parts = _noise(), _labels(), _parts()
    x[:, 0] += y
    one = Parts(parts.fit, parts.validation, parts.test[:1])
    changed = x.clone()
    changed[parts.test[1:]] += 100 * _noise(seed=9)[parts.test[1:]]
    for prepare in (as_they_are, principal_components(3), best_features(3)):
        assert probe(x, y, one, prepare, 0) == probe(changed, y, one, prepare, 0)


def test_the_penalty_is_the_validation_folds_best():
    """Pure noise of many columns wants the strongest; separable labels want the weakest."""
    noise = probe(_noise(width=200), _labels(), _parts(), as_they_are, 0)
    assert noise.penalty == PENALTIES[0]
    x, y = _noise(width=2), _labels()
    x[:, 0] = 5 * y + 0.1 * x[:, 0]
    assert probe(x, y, _parts(), as_they_are, 0).penalty == PENALTIES[-1]


# ---------------------------------------------------------------- scores


def test_scores_by_hand():
    """Class 0: 3 of 4 right; class 1: 1 of 2. Scores of class 1: 1, -1; of class 0: -2, -2, -1, 2:
    of the eight pairs 3 + 2 are in order and one is a tie."""
    logits = np.zeros((6, 2))
    logits[:, 1] = [1, -1, -2, -2, -1, 2]
    y = np.array([1, 1, 0, 0, 0, 0])
    accuracy, balanced, auc = scores(logits, y, 0)
    assert accuracy.value == pytest.approx(4 / 6)
    assert balanced.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert auc.value == pytest.approx((3 + 2 + 0.5) / 8)
    assert accuracy.low <= accuracy.value <= accuracy.high


def test_auc_counts_every_pair_with_its_weights():
    rng = np.random.default_rng(0)
    score, y = rng.integers(5, size=40).astype(float), rng.integers(2, size=40)
    weight = rng.integers(3, size=40)
    won = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            w = weight[i] * weight[j]
            total += w
            won += w * (score[i] > score[j]) + w / 2 * (score[i] == score[j])
    found = weighted_auc(score, y, np.stack([weight, weight * (y == 1)]))
    assert found[0] == pytest.approx(won / total) and np.isnan(found[1])


def test_a_balanced_draw_counts_the_classes_it_holds():
    correct, y = np.array([1.0, 0, 1, 1]), np.array([0, 0, 1, 1])
    weight = np.array([[1.0, 1, 1, 1], [3, 1, 0, 2], [1, 3, 0, 0]])
    found = probing.balanced_accuracy(correct, y, weight)
    assert found.tolist() == [(1 / 2 + 1) / 2, (3 / 4 + 1) / 2, 1 / 4]


def test_draws_are_the_same_in_blocks_of_any_size(monkeypatch):
    logits, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    whole = scores(logits, y, 3)
    monkeypatch.setattr(probing, "DRAWN_AT_ONCE", 50 * 7)
    assert scores(logits, y, 3) == whole


def test_the_interval_is_that_of_a_share():
    """200 documents, 80 % right: the 95 % interval of a binomial share is 0.8 -+ 1.96 x 0.0283."""
    y = np.zeros(200, dtype=int)
    y[:100] = 1
    logits = np.eye(2)[y]
    logits[::5] = logits[::5, ::-1]
    accuracy, _, _ = scores(logits, y, 0)
    assert accuracy.value == pytest.approx(0.8)
    assert accuracy.low == pytest.approx(0.8 - 0.0554, abs=0.012)
    assert accuracy.high == pytest.approx(0.8 + 0.0554, abs=0.012)
    assert scores(logits, y, 0) == scores(logits, y, 0) != scores(logits, y, 1)
    assert RESAMPLES >= 1000


def test_a_class_too_rare_to_be_drawn_leaves_the_others_mean():
    y = np.array([0] * 30 + [1])
    accuracy, balanced, auc = scores(np.eye(2)[y], y, 0)
    assert balanced.value == balanced.low == balanced.high == 1 and auc.value == 1
