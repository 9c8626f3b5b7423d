"""An SAE's means by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interp.outcomes import Result
from interp.totals import mean, paired, totals


def result(value=None, status="ok") -> Result:
    return Result("simulate", value, None, None, 1, 1, 1, status)


CONSTANT, FAILED = result(status="constant"), result(status="failed")


def test_constants_are_zeros_and_failures_are_nothing():
    rows = [{"own": r} for r in (result(0.6), result(0.2), CONSTANT, FAILED)]
    found = totals("simulate", [0.1, 0.3, 0.2, 0.9], rows, 0)
    assert found.uniform.value == pytest.approx(0.8 / 3) and found.uniform.n == 3
    assert found.without_constants.value == pytest.approx(0.4)
    assert found.by_frequency.value == pytest.approx((0.06 + 0.06 + 0) / 0.6)
    assert found.statuses == {"ok": 2, "constant": 1, "failed": 1}
    assert found.dense.value == pytest.approx(0.1) and found.dense.n == 2


def test_lift_is_over_features_that_have_both():
    rows = [
        {"own": result(0.6), "lexical": result(0.5)},
        {"own": result(0.4), "lexical": CONSTANT},
        {"own": result(0.9), "lexical": FAILED},
    ]
    lift = totals("simulate", [0.1] * 3, rows, 0).lift["lexical"]
    assert lift.n == 2 and lift.value == pytest.approx(0.25)


def test_quarters_go_from_rare_to_dense():
    rows = [{"own": result(v)} for v in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)]
    quarters = totals("simulate", np.linspace(0.01, 0.08, 8)[::-1], rows, 0).quarters
    assert [round(m.value, 2) for _, _, m in quarters] == [0.15, 0.35, 0.55, 0.75]
    assert [lo <= hi for lo, hi, _ in quarters] == [True] * 4


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(300):
        found = mean(rng.normal(0.4, 0.2, 40), seed)
        hits += found.low <= 0.4 <= found.high
    assert 0.9 < hits / 300 < 0.98


def test_nothing_has_no_mean():
    assert mean(np.array([]), 0).value is None
    assert mean(np.array([1.0, 2.0]), 0).low is None
    found = totals("simulate", [0.1], [{"own": FAILED}], 0)
    assert found.uniform.value is None and found.quarters == ()


def test_paired_differences():
    found = paired([result(0.5), result(0.7), FAILED], [result(0.4), result(0.4), result(1)], 0)
    assert found.value == pytest.approx(0.2) and found.n == 2
