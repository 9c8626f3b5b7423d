"""Means of a feature and the score of an SAE, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data.records import ExampleEffect
from interp.causal import causal_score, feature_effect


def _example(status="ok", **numbers) -> ExampleEffect:
    names = [field.name for field in dataclasses.fields(ExampleEffect)]
    return ExampleEffect(**{**dict.fromkeys(names), "feature": 7, "status": status, **numbers})


def test_a_features_means_by_hand():
    examples = [
        _example(delta_loss=0.1, kl=0.4, attribution=0.2, random_kl=0.1),
        _example(delta_loss=0.3, kl=0.2, attribution=0.0, random_kl=0.3),
        _example("silent"),
        _example("not_scored", peak_kl=1.0),
    ]
    found = feature_effect(7, examples)
    assert (found.feature, found.status, found.n_examples) == (7, "ok", 2)
    assert found.delta_loss == pytest.approx(0.2) and found.kl == pytest.approx(0.3)
    assert found.attribution == pytest.approx(0.1) and found.random_kl == pytest.approx(0.2)
    assert found.exceeds == 0.5
    for rest, status in [
        (examples[2:], "not_scored"), (examples[2:3], "silent"), ([], "no_examples"),
    ]:  # fmt: skip
        none = feature_effect(7, rest)
        assert (none.status, none.n_examples) == (status, 0)
        assert none.kl is none.delta_loss is none.random_kl is none.exceeds is None


def test_an_saes_score_by_hand():
    features = [
        feature_effect(i, [_example(delta_loss=d, kl=k, attribution=d, random_kl=r)])
        for i, (d, k, r) in enumerate([(0.1, 0.5, 0.1), (0.2, 0.4, 0.2), (0.0, 0.1, 0.3)])
    ] + [feature_effect(3, [])]
    # Ranks of the attributions are 1 3 2 beside 1 2 3: Spearman's rho is 1 - 6 * 2 / 24 = 1/2.
    score = causal_score(features, np.array([1.0, 5.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert (score.features, score.measured, score.exceeding) == (4, 3, 2)
    assert score.share == pytest.approx(2 / 3) and score.examples == 3
    assert (score.low, score.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert score.kl == pytest.approx(1 / 3) and score.delta_loss == pytest.approx(0.1)
    assert score.spearman == pytest.approx(0.5)
    assert score.pearson == pytest.approx(np.corrcoef([1, 5, 2], [1, 2, 3])[0, 1])


def test_without_a_measured_feature_or_without_variance_there_is_no_number():
    nothing = causal_score([feature_effect(0, [])], np.zeros(0), np.zeros(0))
    assert (nothing.features, nothing.measured, nothing.exceeding) == (1, 0, 0)
    assert nothing.share is nothing.low is nothing.high is nothing.kl is nothing.pearson is None
    equal = causal_score([], np.ones(5), np.arange(5.0))
    assert equal.pearson is None and equal.spearman is None
