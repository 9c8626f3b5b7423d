"""Pearson's r against scipy; intervals that cover a planted correlation as often as they say."""

import numpy as np
import pytest
import scipy.stats

from interp import score
from interp.score import correlation_with_interval, pearson


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_pearson_is_scipys(seed, scale):
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=300), 0) * scale
    y = 0.4 * x + scale * rng.normal(size=300)
    expected = scipy.stats.pearsonr(x, y).statistic
    assert pearson(x, y) == pytest.approx(expected, abs=1e-9)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_pearson_by_hand():
    assert pearson([0, 0, 1, 3], [0, 1, 1, 2]) == pytest.approx(3 / np.sqrt(6 * 2), abs=1e-12)
    assert pearson([1, 2, 3], [3, 2, 1]) == -1.0
    assert pearson([1.0, 2.0, 4.0], [0.1, 0.2, 0.4]) == 1.0, "never beyond 1 by rounding"


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, 1e-30])
def test_a_constant_side_has_no_correlation(value):
    other = np.arange(50.0)
    assert pearson(np.full(50, value), other) is None
    assert pearson(other, np.full(50, value)) is None
    assert pearson([1.0], [2.0]) is None and pearson([], []) is None


def test_a_single_spike_among_many_zeros_counts():
    x = np.zeros(100_000)
    x[5] = 1e-3
    assert pearson(x, x) == pytest.approx(1.0)


def test_windows_are_concatenated_not_averaged():
    real = [[0, 1, 0], [5, 0], [2]]
    predicted = [[0, 2, 1], [4, 1], [0]]
    r, _, _ = correlation_with_interval(real, predicted, [0, 1, 2], seed=0)
    whole = scipy.stats.pearsonr([0, 1, 0, 5, 0, 2], [0, 2, 1, 4, 1, 0]).statistic
    assert r == pytest.approx(whole)


def test_windows_of_one_document_are_drawn_together():
    """Two documents' worth of windows, however cut, give the same interval."""
    rng = np.random.default_rng(0)
    real, predicted = rng.random((8, 30)), rng.random((8, 30))
    predicted += real
    whole = correlation_with_interval(real, predicted, range(8), seed=3)
    halves = [half for row in real for half in (row[:11], row[11:])]
    guesses = [half for row in predicted for half in (row[:11], row[11:])]
    cut = correlation_with_interval(halves, guesses, np.repeat(np.arange(8), 2), seed=3)
    assert cut == pytest.approx(whole)
    assert whole[1] < whole[0] < whole[2]
    assert correlation_with_interval(real, predicted, range(8), seed=3) == whole
    assert correlation_with_interval(real, predicted, range(8), seed=4) != whole


def test_fewer_than_three_documents_have_no_interval():
    real, predicted = [[0, 1, 2], [3, 1, 0]], [[0, 2, 2], [1, 1, 0]]
    r, low, high = correlation_with_interval(real, predicted, [0, 1], seed=0)
    assert r is not None and low is None and high is None
    assert correlation_with_interval([[1, 1]] * 4, [[0, 1]] * 4, range(4), 0) == (None,) * 3


def test_a_feature_that_is_constant_in_most_resamples_has_no_interval():
    """One document of five holds the only fire: more than half of the resamples miss nothing,
    but with one in ten documents most would."""
    real = [[0.0, 1.0]] + [[0.0, 0.0]] * 4
    predicted = [[0.0, 1.0]] * 5
    r, low, high = correlation_with_interval(real, predicted, range(5), seed=0)
    assert r is not None and low <= r <= high
    assert high <= 1 and low >= -1


def _clustered(rng, n_documents=60, n_tokens=15):
    """Tokens whose documents differ: true correlation 0.5 of all tokens together, made of .8
    between documents and .2 within them."""

    def pair(r, n):
        a, b = rng.normal(size=(2, n))
        return a, r * a + np.sqrt(1 - r * r) * b

    shared = pair(0.8, n_documents)
    own = pair(0.2, n_documents * n_tokens)
    x, y = (
        np.repeat(s, n_tokens).reshape(n_documents, n_tokens) + o.reshape(n_documents, n_tokens)
        for s, o in zip(shared, own, strict=True)
    )
    return x, y


def test_intervals_cover_a_planted_correlation(monkeypatch):
    monkeypatch.setattr(score, "RESAMPLES", 200)
    rng = np.random.default_rng(7)
    covered, width, naive = [], [], []
    for trial in range(150):
        x, y = _clustered(rng)
        r, low, high = correlation_with_interval(x, y, range(len(x)), seed=trial)
        covered.append(low <= 0.5 <= high)
        width.append(high - low)
        naive.append(2 * 1.96 * (1 - r * r) / np.sqrt(x.size))
    assert 0.88 <= np.mean(covered) <= 0.99
    assert np.mean(width) > 1.5 * np.mean(naive), "tokens of one document are not independent"
