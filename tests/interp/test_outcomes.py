"""Results by hand: values, failures, constants, trivial strategies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interp.items import Item, Mix, mixed
from interp.judges.tasks import Answer
from interp.outcomes import (
    _rows_balanced,
    _rows_spearman,
    auc,
    balanced_accuracy,
    detection,
    estimation,
    intrusion,
    r_squared,
    simulation,
    spearman,
)
from interp.passages import levels
from tests.interp.made_up_examples import WIDTH, example, feature_of

FAILED = Answer(None, "failed", "text 1 is not answered")


@pytest.fixture
def items():
    return mixed(feature_of(3), Mix(width=WIDTH))


def perfect(items) -> list[Answer]:
    return [Answer(tuple(map(float, levels(i.example.values, 10.0)))) for i in items]


def test_the_truth_scores_high_and_chance_scores_nothing(items):
    good = simulation(items, perfect(items), 10.0, 40, seed=0)
    assert good.status == "ok" and good.value > 0.98 and good.n_ok == good.n == 40
    assert good.details["auc"] == 1.0 and good.details["strata"]["silent"]["r"] is None
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(20):
        random = [Answer(tuple(rng.integers(0, 11, WIDTH).astype(float))) for _ in items]
        found = simulation(items, random, 10.0, 40, seed)
        hits += found.low <= 0 <= found.high
    assert hits >= 17  # of 20 intervals of 95 %


def test_pearson_is_of_the_concatenated_tokens():
    windows = [example((0.0, 2.0), doc=1), example((4.0, 0.0), doc=2), example((1.0, 1.0), doc=3)]
    rows = [Item("top", e) for e in windows]
    said = [Answer((0.0, 3.0)), Answer((5.0, 1.0)), Answer((0.0, 2.0))]
    found = simulation(rows, said, 4.0, 40, seed=0)
    real, guess = [0, 2, 4, 0, 1, 1], [0, 3, 5, 1, 0, 2]
    assert found.value == pytest.approx(stats.pearsonr(real, guess)[0])
    assert found.details["spearman"] == pytest.approx(stats.spearmanr(real, guess)[0])
    assert (found.n, found.wanted) == (3, 40)


def test_a_constant_prediction_is_undefined_and_says_so(items):
    found = simulation(items, [Answer((0.0,) * WIDTH) for _ in items], 10.0, 40, 0)
    assert (found.status, found.value) == ("constant", None)
    assert "constant prediction" in found.reason and found.n_ok == 40


def test_failures_are_counted_and_not_zeros(items):
    said = perfect(items)
    some = [*said[:-4], *[FAILED] * 4]
    found = simulation(items, some, 10.0, 40, 0)
    assert found.status == "ok" and found.failed == 4 and found.n_ok == 36
    assert found.reasons == {"text 1 is not answered": 4}
    assert found.details["worst"] < found.value <= found.details["best"] + 1e-9


def test_too_many_failures_withhold_the_value(items):
    said = perfect(items)
    found = simulation(items, [*said[:-9], *[FAILED] * 9], 10.0, 40, 0)
    assert (found.status, found.value) == ("withheld", None) and "9 of 40" in found.reason
    assert simulation(items, [FAILED] * 40, 10.0, 40, 0).status == "failed"
    spent = Answer(None, "not_run", "the budget is spent")
    assert simulation(items, [spent] * 40, 10.0, 40, 0).status == "not_run"
    assert simulation([], [], 10.0, 40, 0).status == "not_run"


def test_detection_by_hand():
    fires = [True, False, True, False]
    said = [Answer(0.9), Answer(0.1), Answer(0.4), Answer(0.6)]
    found = detection("detect", fires, said, 20, 0)
    assert found.value == 0.5 and found.details["auc"] == 0.75
    assert found.details["hits"] == 0.5 and found.details["false_alarms"] == 0.5
    assert found.details["trivial"] == {"all": 0.5, "none": 0.5, "positional": 1.0}


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_one_who_always_says_the_same_gets_a_half(always):
    fires = [True, False] * 10
    found = detection("detect", fires, [Answer(always)] * 20, 20, 0)
    assert found.value == 0.5 and found.details["auc"] == 0.5


def test_estimates_are_ranked():
    found = estimation([0, 3, 10, 5], [Answer(1), Answer(2), Answer(9), Answer(9)], 4, 0)
    assert found.value == pytest.approx(stats.spearmanr([0, 3, 10, 5], [1, 2, 9, 9])[0])
    assert estimation([0, 3], [Answer(4), Answer(4)], 4, 0).status == "constant"


def test_intruders_stand_beside_chance():
    found = intrusion([0, 1, 2, 3], 5, [Answer(0), Answer(1), Answer(2), Answer(0)], 8)
    assert found.value == 0.75 and found.details["chance"] == 0.2
    assert found.low < 0.75 < found.high


def test_measures_against_scipy():
    rng = np.random.default_rng(1)
    for _ in range(20):
        score, truth = rng.integers(0, 5, 30), rng.random(30) < 0.3
        if 0 < truth.sum() < 30:
            u = stats.mannwhitneyu(score[truth], score[~truth]).statistic
            assert auc(truth, score) == pytest.approx(u / truth.sum() / (~truth).sum())
    assert spearman(np.ones(3), np.arange(3)) is None
    assert balanced_accuracy(np.array([True, True]), np.array([True, False])) is None
    assert r_squared(np.array([0.0, 2.0]), np.array([0.0, 7.0])) == 1.0
    assert r_squared(np.zeros(3), np.ones(3)) is None


def test_resampled_rows_are_measured_as_single_ones():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 4, (50, 12)).astype(float), rng.integers(0, 4, (50, 12)).astype(float)
    for row, found in zip(zip(x, y, strict=True), _rows_spearman(x, y), strict=True):
        assert found == pytest.approx(spearman(*row))
    truth, said = rng.random((50, 12)) < 0.5, rng.random((50, 12)) < 0.5
    for row, found in zip(zip(truth, said, strict=True), _rows_balanced(truth, said), strict=True):
        assert found == pytest.approx(balanced_accuracy(*row))
    assert np.isnan(_rows_spearman(np.ones((1, 3)), np.arange(3.0)[None]))[0]
    assert np.isnan(_rows_balanced(np.ones((1, 3), bool), np.ones((1, 3), bool)))[0]
