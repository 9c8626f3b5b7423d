"""Pairs that fire together, against literal counting; what chance explains and what is planted."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from interp import coactivation
from interp.coactivation import LEAST_TOGETHER, CoActivation, Significance
from interp.sampled_codes import Codes

KINDS = ("coactivation", "correlation")
COLUMNS = ("feature", "rank", "other", "value", "together", "given_this", "given_other", "r")


def codes_of(f):
    """The Codes of a dense matrix [tokens, features]."""
    f = np.asarray(f, dtype=np.float32)
    tokens, features = np.nonzero(f)
    ends = np.concatenate([[0], np.cumsum((f > 0).sum(1))])
    return Codes(ends, features.astype(np.int32), f[tokens, features], f.shape[1])


def random(tokens, features, share, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((tokens, features)) * (rng.random((tokens, features)) < share)


def grouped(tokens=600, features=24, seed=0):
    """Features that fire independently, and in groups of four also together."""
    rng = np.random.default_rng(seed)
    f = random(tokens, features, rng.uniform(0.01, 0.15, features), seed)
    for start in range(0, features, 4):
        together = rng.random(tokens) < 0.05
        f[together, start : start + 4] = rng.random((together.sum(), 4)) + 0.1
    f[:, 5] = 0
    return f


def counted(*codes, **options):
    counting = CoActivation(*codes, **options)
    steps = list(counting)
    assert not steps or steps[-1].done == steps[-1].total
    return counting


def literal(f, g, same, keep):
    """Both kinds of lists by looking at each pair of columns, as tuples in the order of COLUMNS."""
    n = len(f)
    on_f, on_g = (f > 0).sum(0), (g > 0).sum(0)
    often = [(on >= LEAST_TOGETHER).sum() for on in (on_f, on_g)]
    tested = often[0] * (often[0] - 1) / 2 if same else often[0] * often[1]
    found = {kind: [] for kind in KINDS}
    for i in range(f.shape[1]):
        good = []
        for j in range(g.shape[1]):
            c = int(((f[:, i] > 0) & (g[:, j] > 0)).sum())
            if (same and i == j) or c < LEAST_TOGETHER:
                continue
            m = on_f[i] * on_g[j] / n
            chance = math.exp(min(c - m - c * math.log(c / m), 0.0))
            if c <= m or chance > coactivation.ALPHA / max(tested, 1):
                continue
            r = float(np.corrcoef(f[:, i], g[:, j])[0, 1])
            good.append((j, math.log(c * n / (on_f[i] * on_g[j])), c, c / on_f[i], c / on_g[j], r))
        for kind, key in zip(KINDS, (4, 5), strict=True):
            best = sorted(good, key=lambda pair: (-pair[key], -pair[2], pair[0]))[:keep]
            for rank, (j, pmi, c, this, other, r) in enumerate(best):
                value = pmi if kind == "coactivation" else r
                found[kind].append((i, rank, j, value, c, this, other, r))
    return found


def assert_same(lists, expected):
    for kind in KINDS:
        rows = list(zip(*(lists[kind][column].tolist() for column in COLUMNS), strict=True))
        assert len(rows) == len(expected[kind])
        for row, other in zip(rows, expected[kind], strict=True):
            assert row[:3] == other[:3]
            assert row == pytest.approx(other, rel=1e-9, abs=1e-9)


def float32(f):
    return f.astype(np.float32).astype(np.float64)


def test_four_features_by_hand():
    f = np.zeros((100, 4))
    f[:10, 0] = 1  # a: 10 tokens
    f[:10, 1] = f[50:60, 1] = 1  # b: the same and 10 more
    f[90:95, 2] = 1  # apart
    f[:4, 3] = 1  # 4 of a's tokens: too few to tell
    lists = counted(codes_of(f)).lists()
    for kind, value in (("coactivation", math.log(5)), ("correlation", 2 / 3)):
        columns = lists[kind]
        assert columns["feature"].tolist() == [0, 1] and columns["other"].tolist() == [1, 0]
        assert columns["value"] == pytest.approx([value, value])  # ln(10 x 100 / (10 x 20))
        assert columns["together"].tolist() == [10, 10]
        assert columns["given_this"].tolist() == [1.0, 0.5], "P(b | a), then P(a | b)"
        assert columns["given_other"].tolist() == [0.5, 1.0]
        assert columns["r"] == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize("keep", [2, 100])
def test_equals_literal_counting(keep):
    f = float32(grouped())
    expected = literal(f, f, True, keep)
    assert len(expected["coactivation"]) > 30
    assert_same(counted(codes_of(f), keep=keep).lists(), expected)


@pytest.mark.parametrize("block", [1, 7])
def test_blocks_equal_the_whole(block, monkeypatch):
    codes = codes_of(grouped())
    whole, parts = counted(codes).lists(), counted(codes, block=block).lists()
    for kind in KINDS:
        for column in COLUMNS:
            np.testing.assert_array_equal(parts[kind][column], whole[kind][column])
    # A feature of more pairs than are counted at once is cut the same way in any block.
    monkeypatch.setattr(coactivation, "PAIRS", 40)
    monkeypatch.setattr(coactivation, "ENTRIES", 11)
    cut, again = counted(codes).lists(), counted(codes, block=block).lists()
    for kind in KINDS:
        for column in COLUMNS:
            np.testing.assert_array_equal(cut[kind][column], again[kind][column])
            np.testing.assert_allclose(cut[kind][column], whole[kind][column], rtol=1e-12)


@pytest.mark.parametrize("block", [None, 1, 7])
def test_two_saes_in_both_directions(block):
    f, g = float32(grouped()), float32(random(600, 9, 0.1, seed=5))
    g[:, 4] = 4 * f[:, 10]  # the same feature in another unit
    g[:, 6] = np.where(f[:, 2] > 0.3, f[:, 2], 0)
    across = counted(codes_of(f), codes_of(g), block=block)
    assert_same(across.lists(), literal(f, g, False, 32))
    assert_same(across.lists(reverse=True), literal(g, f, False, 32))
    match = across.lists()["correlation"]
    assert match["other"][match["feature"] == 10][0] == 4
    assert match["value"][match["feature"] == 10][0] == pytest.approx(1)
    swapped = counted(codes_of(g), codes_of(f)).lists()
    assert_same(swapped, literal(g, f, False, 32))


def test_planted_groups_are_found_and_nothing_else():
    rng = np.random.default_rng(3)
    tokens, features = 4000, 40
    f = random(tokens, features, 0.04, seed=1)
    for start in (0, 4):
        on = rng.random(tokens) < 0.02
        f[on, start : start + 4] = 1
    lists = counted(codes_of(f)).lists()["coactivation"]
    found = set(zip(lists["feature"].tolist(), lists["other"].tolist(), strict=True))
    assert found == {(i, j) for s in (0, 4) for i in range(s, s + 4) for j in range(s, s + 4)
                     if i != j}  # fmt: skip


def test_independent_features_have_a_pmi_near_zero_and_count_as_chance():
    tokens, features = 20_000, 12
    f = random(tokens, features, np.linspace(0.05, 0.6, features), seed=2)
    pairs = np.array([(i, j) for i in range(features) for j in range(features) if i != j])
    counting = counted(codes_of(f), asked=pairs)
    about = counting.describe(*pairs.T)
    density = (f > 0).mean(0)
    pmi = np.log(about["given_other"] / density[pairs[:, 0]])
    assert np.abs(pmi).max() < 0.15 and np.abs(about["r"]).max() < 0.03
    assert len(counting.lists()["coactivation"]["feature"]) == 0


def test_single_coincidences_do_not_count():
    f = random(5000, 300, 2 / 5000, seed=4)  # each fires about twice
    meet = (f > 0).astype(float).T @ (f > 0)
    assert np.triu(meet, 1).sum() > 5, "some meet by chance, with a PMI of about ln 2500"
    f[77, :2] = 1
    assert len(counted(codes_of(f)).lists()["coactivation"]["feature"]) == 0


def test_the_bound_holds_for_the_exact_probability():
    rng = np.random.default_rng(0)
    n = 500
    a, b = rng.integers(5, 250, (2, 300))
    most = np.minimum(a, b)
    together = rng.integers(np.minimum(np.maximum(5, a * b // n), most), most + 1)
    chance = stats.hypergeom.sf(together - 1, n, a, b)
    fires = np.concatenate([a, b])
    rule = Significance(fires, fires, n, same=True)
    good = rule(np.arange(300), np.arange(300, 600), together)
    assert rule.tested == 600 * 599 / 2
    assert 20 < good.sum() < 280
    assert chance[good].max() <= coactivation.ALPHA / rule.tested


def test_a_feature_that_always_fires_and_one_that_never_does():
    f = grouped()
    f[:, 0] = 0.5 + f[:, 1]
    f[:, 2] = 2.0
    pairs = np.array([(0, 1), (1, 2), (2, 0), (5, 1), (1, 5), (5, 2)])
    counting = counted(codes_of(f), asked=pairs)
    about = counting.describe(*pairs.T)
    n, fires = len(f), (f > 0).sum(0)
    assert about["together"].tolist() == [fires[1], fires[1], n, 0, 0, 0]
    assert about["r"][0] == pytest.approx(np.corrcoef(f[:, 0], f[:, 1])[0, 1])
    assert np.isnan(about["r"][1:]).all(), "2 is constant, 5 is silent"
    assert about["given_this"][4] == 0 and np.isnan(about["given_this"][[3, 5]]).all()
    assert np.isnan(about["given_other"][4]) and about["given_other"][3] == 0
    lists = counting.lists()["coactivation"]
    assert not set(lists["feature"].tolist()) & {0, 2, 5}, "they meet whatever there is to meet"


def test_equal_pmi_is_ordered_by_the_tokens_together():
    f = np.zeros((1000, 5))
    f[:60, 0] = 1
    f[:10, 1] = f[:30, 2] = f[10:20, 3] = f[:30, 4] = 1  # each only where 0 fires
    lists = counted(codes_of(f)).lists()["coactivation"]
    mine = lists["feature"] == 0
    assert lists["other"][mine].tolist() == [2, 4, 1, 3]
    assert lists["value"][mine] == pytest.approx(math.log(1000 / 60))


def test_memory_is_that_of_a_block(monkeypatch):
    codes = codes_of(random(300, 1500, 0.01))
    monkeypatch.setattr(coactivation, "PAIRS", 1000)
    counting = CoActivation(codes, block=1)
    tracemalloc.start()
    for _ in counting:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e5, f"{peak:,} bytes; the whole matrix has {1500 * 1500:,} counts"


def test_no_entry_at_all():
    counting = counted(codes_of(np.zeros((20, 3))), asked=np.array([[0, 1]]))
    assert len(counting.lists()["correlation"]["feature"]) == 0
    assert counting.describe(np.array([1]), np.array([0]))["together"].tolist() == [0]
