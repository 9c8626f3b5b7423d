"""What a study found, against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from interp import arms_report
from interp.arms_report import ArmResults, analysed, curve, difference, group_mean
from interp.outcomes import Result


def result(value: float | None, status: str = "ok", reason: str = "") -> Result:
    n_ok = 4 if status in ("ok", "constant") else 1
    return Result("simulate", value, None, None, n_ok, 4, 5, status, reason)


def arm(sae, group, values, density=None, matched_to=None, l0=10.0, base=None) -> ArmResults:
    """values: a number, or the status of a feature without one. base: of the baseline."""
    rows = []
    for place, value in enumerate(values):
        own = result(None, value, "why") if isinstance(value, str) else result(value)
        rows.append({"own": own} | ({} if base is None else {"lexical": result(base[place])}))
    d = density or [0.01] * len(values)
    return ArmResults(sae, group, l0, tuple(range(len(values))), tuple(d), {"simulate": rows},
                      matched_to)  # fmt: skip


def test_by_hand():
    a = arm("a", "jump", [0.9, "constant", 0.6, "failed"], [0.2, 0.05, 0.0005, 0.3],
            base=[0.5, 0.2, 0.7, 0.1])  # fmt: skip
    b = arm("b", "topk", [0.4, 0.2, 0.6, 0.8], [0.001, 0.001, 0.02, 0.00005])
    found = analysed([a, b], ["simulate"], 0)["simulate"]
    one, two = found["arms"]
    assert one["mean"]["value"] == pytest.approx(0.5) and one["mean"]["n"] == 3
    assert one["without_constants"]["value"] == pytest.approx(0.75)
    assert one["lift"]["lexical"]["value"] == pytest.approx((0.4 - 0.2 - 0.1) / 3, abs=1e-6)
    assert one["statuses"] == {"ok": 2, "constant": 1, "failed": 1} and one["reasons"] == {"why": 1}
    assert (one["windows"], one["windows_failed"], one["windows_wanted"]) == (16, 3, 20)
    assert one["dense"]["value"] == pytest.approx(0.9) and one["dense"]["n"] == 1
    assert two["mean"]["value"] == pytest.approx(0.5) and two["lift"] == {}
    (gap,) = found["differences"]
    assert (gap["first"], gap["second"], gap["n"]) == ("jump", "topk", [3, 4])
    assert gap["value"] == pytest.approx(0)
    # 0 beats none of four; 0.6 beats two and ties with one; 0.9 beats all.
    assert gap["beats"] == pytest.approx((0 + 2.5 + 4) / 12)
    bands = {(row["low"], row["high"]): row["groups"] for row in found["bands"]}
    assert bands[1e-4, 1e-3]["jump"]["value"] == pytest.approx(0.6)
    assert bands[1e-4, 1e-3]["topk"]["value"] == pytest.approx(0.3)
    assert bands[0.1, 1.0]["jump"]["n"] == 1 and bands[0.1, 1.0]["topk"]["value"] is None
    assert sum(one["histogram"]) == 3 and found["range"] == [0.0, 1.0]


def test_groups_pool_the_features_of_their_saes():
    arms = [arm("a", "g", [0.1, 0.2, 0.3]), arm("b", "h", [0.5] * 3), arm("c", "g", [0.9] * 6)]
    found = analysed(arms, ["simulate"], 0)["simulate"]
    group = found["groups"][0]
    assert (group["group"], group["saes"], group["mean"]["n"]) == ("g", ["a", "c"], 9)
    assert group["mean"]["value"] == pytest.approx((0.6 + 5.4) / 9, abs=1e-6)
    # c does not vary, so only a's features make the interval: far narrower than if all mixed.
    assert group["mean"]["high"] - group["mean"]["low"] < 0.08


def test_the_interval_of_a_difference_covers():
    """Of studies whose true difference is 0.1, about 95 % have it in their interval."""
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        a, b = rng.normal(0.6, 0.2, 40), rng.normal(0.5, 0.2, 40)
        gap = difference("a", [a], "b", [b], seed)
        covered += gap["low"] <= 0.1 <= gap["high"]
    assert 180 <= covered <= 199


def test_at_like_frequency_by_hand():
    """The groups differ by 0.2 in every band, but one of them has more rare features."""
    rare, common = [0.9] * 6, [0.3] * 6
    a = [[np.array(rare * 5)], [np.array(common)], [np.array([1.0] * 4)]]
    b = [[np.array(rare) - 0.2], [np.array(common * 5) - 0.2], [np.array([0.0] * 9)]]
    found = arms_report.like_frequency(a, b, 0)
    assert found["value"] == pytest.approx(0.2) and found["n"] == 36 + 36
    plain = difference("a", [np.concatenate([p for (p,) in a[:2]])], "b",
                       [np.concatenate([p for (p,) in b[:2]])], 0)  # fmt: skip
    assert plain["value"] == pytest.approx(0.8 - 0.2)
    assert arms_report.like_frequency([[np.array([1.0])]], [[np.array([1.0])]], 0)["value"] is None


def test_pairs_are_told_apart_where_groups_are_not():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.9, 50)
    a = arm("a", "jump", [*(base + 0.03 + rng.normal(0, 0.01, 50)), "failed"])
    b = arm("b", "random", [*base, 0.5], matched_to="a")
    found = analysed([a, b], ["simulate"], 0)["simulate"]
    (pair,) = found["paired"]
    assert (pair["first"], pair["second"], pair["n"]) == ("a", "b", 50)
    assert 0 < pair["low"] < 0.03 < pair["high"] + 0.01
    (gap,) = found["differences"]
    assert gap["low"] < 0 < gap["high"], "unpaired the same difference drowns"


def test_arms_without_the_same_features_are_not_paired():
    a, b = arm("a", "g", [0.1, 0.2, 0.3]), arm("b", "h", [0.1, 0.2], matched_to="a")
    assert analysed([a, b], ["simulate"], 0)["simulate"]["paired"] == []


@pytest.mark.parametrize("values", [[0.98, 0.99, 1.0, 0.97], [-0.2, 0.5, 0.9], [0.5, 0.5, 0.5]])
def test_a_curve_is_a_density_within_its_range(values):
    points = np.array(curve(np.array(values), -0.3, 1.0))
    assert points[0, 0] == -0.3 and points[-1, 0] == 1.0 and (points[:, 1] >= 0).all()
    area = ((points[1:, 1] + points[:-1, 1]) / 2 * np.diff(points[:, 0])).sum()
    assert area == pytest.approx(1, abs=0.02)


def test_a_negative_correlation_widens_the_range():
    found = analysed([arm("a", "g", [-0.23, 0.4, 0.5]), arm("b", "h", [0.1] * 3)], ["simulate"], 0)
    assert found["simulate"]["range"] == [-0.3, 1.0]
    assert len(found["simulate"]["edges"]) == 27


def test_nothing_known_is_said_as_nothing():
    arms = [arm("a", "g", ["failed", "not_run"]), arm("b", "h", [0.5])]
    found = analysed(arms, ["simulate"], 0)["simulate"]
    assert found["arms"][0]["mean"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["differences"][0]["value"] is None and found["groups"][0]["curve"] is None
    assert group_mean([np.array([])], 0).value is None


def test_the_same_results_give_the_same_bytes():
    rng = np.random.default_rng(0)
    arms = [arm("a", "g", list(rng.uniform(size=30))), arm("b", "h", list(rng.uniform(size=30)))]
    one, same, other = (json.dumps(analysed(arms, ["simulate"], seed)) for seed in (0, 0, 1))
    assert one == same != other
    assert "NaN" not in one and arms_report.DIGITS == 6
