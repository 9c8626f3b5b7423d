"""Estimates over the corpus, held against corpora whose truth is known.

A planted feature fires mostly on the tokens a rule picks; bottom-k samples by thousands of seeded
hashes show bias and coverage. Small examples are worked out by hand.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from data.errors import WorkbenchError
from data.records import Example
from data.text import mix64
from interp.estimates import (
    correlation,
    density_above,
    effective_size,
    precision,
    recall,
)
from interp.intervals import part_of_sum, product, wilson
from interp.token_sample import TokenSample, sample_of, sample_of_arrays

BANDS = ("0-0.5", "0.5-0.9", "0.9-0.99", "0.99-1")


# ---------------------------------------------------------------- by hand


def three(fires=30, tokens=100, weights=(10, 10, 10), inclusion=0.1) -> TokenSample:
    """Three of the fires, with activations 1, 2 and 4, and no silent token."""
    return sample_of_arrays([1, 2, 4], weights, [inclusion] * 3, fires, tokens)


def test_three_fires_worked_out_by_hand():
    # 2 of 3 are above 1.5, of fires that are 0.3 of the tokens. The sample variance of (0, 1, 1) is
    # 1/3, so the standard error is 0.3 sqrt((1 - 0.1) / 3 / 3).
    found = density_above(three(), 1.5)
    assert found.value == pytest.approx(0.2) and found.se == pytest.approx(0.3 * math.sqrt(0.1))
    assert found.ess == pytest.approx(3) and found.n == 3
    # A share of 2/3 with that error is as good as one seen on (2/9) / 0.1 tokens.
    low, high = wilson(2 / 3, 20 / 9)[1:]
    assert found.low == pytest.approx(0.3 * low) and found.high == pytest.approx(0.3 * high)
    # Above 1.5 the rule picks the token of activation 4 alone.
    picks = np.array([True, False, True])
    assert recall(three(), picks, 1.5).value == pytest.approx(0.5)
    assert recall(three(), picks, 1.5).n == 2
    assert recall(three(), picks).value == pytest.approx(2 / 3)


def test_weights_are_copies_over_inclusion_scaled_to_what_is_counted():
    # One of the three stands for twice as many: 45 fires are 11.25, 11.25 and 22.5 of them.
    sample = three(fires=45, weights=(10, 10, 20))
    assert sample.calibrated == pytest.approx([11.25, 11.25, 22.5])
    assert density_above(sample, 1.5).ess == pytest.approx(16 / 6)
    # Leaving each out in turn: 0 + 45 (2/3), (2/3) 45, and half of 45 above 3; 22.5 with all.
    found = density_above(sample, 3)
    without = np.array([30, 30, 0]) / 100
    bias = 0.9 * 2 * (without.mean() - 0.225)
    assert found.value == pytest.approx(0.225 - bias)
    assert found.se == pytest.approx(math.sqrt(0.9 * 2 * without.var()))


def test_precision_of_four_tokens_by_hand():
    # 20 fires, of which the rule picks half; 80 silent tokens, of which it picks a quarter:
    # 10 of the 30 tokens it picks fire.
    silent = np.array([0, 0, 0, 0])
    sample = sample_of_arrays([2, 3, *silent], [1] * 6, [1] * 6, 20, 100)
    sample = replace(sample, inclusion=np.array([0.1] * 2 + [0.05] * 4))
    picks = np.array([True, False, True, False, False, False])
    g = sample.calibrated
    assert g == pytest.approx([10, 10, 20, 20, 20, 20])
    found = precision(sample, picks)
    # Leaving out: fires 0 or 20 of 20 (+20 silent); silent 0 or 80/3 of 80 (+10 fires).
    whole = 10 / 30
    of_fires = np.array([0 / 20, 20 / 40])
    of_silent = np.array([10 / 10, *[10 / (10 + 80 / 3)] * 3])
    bias = 0.9 * (of_fires.mean() - whole) + 0.95 * 3 * (of_silent.mean() - whole)
    assert found.value == pytest.approx(max(whole - bias, found.low))
    variance = 0.9 * of_fires.var() + 0.95 * 3 * of_silent.var()
    assert found.se == pytest.approx(math.sqrt(variance))
    assert found.low <= found.value <= found.high and found.n == 2


def test_effective_size():
    assert effective_size(np.full(7, 3.5)) == pytest.approx(7)
    assert effective_size(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)
    assert effective_size(np.array([5.0, 0.0])) == 1
    assert effective_size(np.empty(0)) == 0


def test_everything_taken_is_the_truth_without_error():
    rng = np.random.default_rng(0)
    a = np.where(rng.random(400) < 0.3, rng.lognormal(size=400), 0)
    p, picks = a + rng.normal(size=400), rng.random(400) < 0.5
    ones = np.ones(400)
    sample = sample_of_arrays(a, ones, ones, int((a > 0).sum()), 400)
    truths = {
        density_above(sample, 1): (a > 1).mean(),
        precision(sample, picks): (a > 0)[picks].mean(),
        precision(sample, picks, 1): (a > 1)[picks].mean(),
        recall(sample, picks, 1): picks[a > 1].mean(),
        correlation(sample, p): np.corrcoef(a, p)[0, 1],
    }
    for found, truth in truths.items():
        assert found.value == pytest.approx(truth) and found.se == 0
        assert found.low == pytest.approx(truth) and found.high == pytest.approx(truth)


def test_intervals_by_hand():
    # Wilson for 2 of 10: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    assert wilson(0.2, 10) == pytest.approx((0.2, 0.0567, 0.5098), abs=1e-4)
    assert wilson(0.0, 10)[:2] == (0, 0) and wilson(1.0, 10)[2] == 1
    assert product((1.0, 1.0, 1.0), (0.4, 0.3, 0.6)) == pytest.approx((0.4, 0.3, 0.6))
    assert part_of_sum((3, 3, 3), (1, 1, 1)) == pytest.approx((0.75, 0.75, 0.75))
    # b is known: the ends are those of a / (a + 1).
    assert part_of_sum((3, 2, 7), (1, 1, 1)) == pytest.approx((3 / 4, 2 / 3, 7 / 8))
    assert part_of_sum((3, 3, 3), (0, 0, 9)) == pytest.approx((1, 0.25, 1))
    assert part_of_sum((0, 0, 1), (2, 2, 2)) == pytest.approx((0, 0, 1 / 3))


# ---------------------------------------------------------------- a planted feature


class Planted:
    """A corpus of texts, some of which occur several times, and a feature that follows a rule."""

    def __init__(self, n: int = 3000) -> None:
        rng = np.random.default_rng(1)
        self.picked = rng.random(n) < 0.15
        fires = np.where(self.picked, rng.random(n) < 0.5, rng.random(n) < 0.08)
        size = rng.lognormal(0.5 + 0.7 * self.picked, 0.6)
        self.a = np.where(fires, size, 0.0)
        self.prediction = np.where(self.picked, 1.0, 0.2) * rng.lognormal(0, 0.3, n)
        self.copies = 1 + rng.poisson(0.3, n)
        self.corpus = np.repeat(np.arange(n), self.copies)  # every token of it
        self.fires, self.tokens = int((self.a > 0)[self.corpus].sum()), len(self.corpus)

    def groups(self, bands: bool) -> list[tuple[str, str, np.ndarray]]:
        firing = np.flatnonzero(self.a > 0)
        silent = ("random", "", np.flatnonzero(self.a == 0))
        if not bands:
            return [silent, ("active", "", firing)]
        order = firing[np.argsort(self.a[firing])]
        reached = np.cumsum(self.copies[order]) / self.copies[order].sum()
        found = [silent]
        for part in BANDS:
            low, high = map(float, part.split("-"))
            found.append(("quantile", part, order[(reached > low) & (reached <= high)]))
        return found

    def held(self) -> dict[str, tuple[float, int]]:
        """What FeatureStore.bands says."""
        members = {part: m for kind, part, m in self.groups(True) if kind == "quantile"}
        lows = {part: float(self.a[m].min()) for part, m in members.items()} | {BANDS[0]: 0.0}
        return {part: (lows[part], int(self.copies[m].sum())) for part, m in members.items()}

    def sample(self, seed: int, sizes: dict[str, int]) -> list[Example]:
        """The smallest seeded hashes of each group; the next one is the inclusion probability."""
        hashes = (
            mix64(np.arange(len(self.a), dtype=np.uint64) ^ mix64(seed)).astype(np.float64)
            / 2.0**64
        )
        found = []
        for kind, part, members in self.groups("quantile" in sizes):
            k = sizes[kind]
            order = members[np.argsort(hashes[members])]
            inclusion = float(hashes[order[k]]) if len(order) > k else 1.0
            for text in order[:k]:
                found.append(example(kind, self.a[text], inclusion, self.copies[text], part, text))
        return found


def example(kind, value, inclusion, copies=1, part="", doc=0, use="explain") -> Example:
    return Example(0, kind, part, 0, int(doc), "", use, 0, 0, float(value), float(value),
                   inclusion, int(copies), (1,), (float(value),))  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


SIZES = {
    "default": ({"active": 20, "random": 20}, 1000),
    "larger": ({"active": 60, "random": 120}, 500),
    "bands": ({"quantile": 12, "random": 60}, 500),
}


@pytest.mark.parametrize("which", SIZES)
def test_repeated_samples_are_unbiased_and_their_intervals_hold_the_truth(planted, which):
    sizes, repeats = SIZES[which]
    firing = "quantile" if "quantile" in sizes else "active"
    a, picked = planted.a[planted.corpus], planted.picked[planted.corpus]
    above = float(np.quantile(a[a > 0], 0.8))
    truth = {
        "density": (a > above).mean(),
        "precision": (a > 0)[picked].mean(),
        "precision above": (a > above)[picked].mean(),
        "recall": picked[a > 0].mean(),
        "correlation": np.corrcoef(a, planted.prediction[planted.corpus])[0, 1],
    }
    found: dict[str, list] = {name: [] for name in truth}
    for seed in range(repeats):
        examples = planted.sample(seed, sizes)
        held = planted.held()
        sample = sample_of(examples, planted.fires, planted.tokens, firing, bands=held)
        text = np.array([e.doc for e in sample.examples])
        rule = planted.picked[text]
        found["density"].append(density_above(sample, above))
        found["precision"].append(precision(sample, rule))
        found["precision above"].append(precision(sample, rule, above))
        found["recall"].append(recall(sample, rule))
        found["correlation"].append(correlation(sample, planted.prediction[text]))
    for name, estimates in found.items():
        values = np.array([e.value for e in estimates], dtype=np.float64)
        error = values.std(ddof=1) / math.sqrt(repeats)
        assert abs(values.mean() - truth[name]) < 4 * error, (name, values.mean(), truth[name])
        spread = math.sqrt(np.mean([e.se**2 for e in estimates if e.se is not None]))
        assert 0.9 < spread / values.std() < 1.35, (name, spread, values.std())
        if name == "correlation" and sizes["random"] < 30:
            assert all(e.low is None and e.se is not None for e in estimates)
            continue
        inside = np.mean([e.low <= truth[name] <= e.high for e in estimates])
        assert 0.90 < inside < 0.99, (name, inside)


def test_bands_tell_more_of_strong_activations_and_no_less_of_the_rest(planted):
    a = planted.a[planted.corpus]
    above = float(np.quantile(a[a > 0], 0.95))
    text = planted.prediction
    spread = {}
    for firing, sizes in (("active", {"active": 20}), ("quantile", {"quantile": 8})):
        values = []
        for seed in range(300):
            examples = planted.sample(seed, sizes | {"random": 60})
            held = planted.held()
            sample = sample_of(examples, planted.fires, planted.tokens, firing, bands=held)
            picks = np.array([text[e.doc] > 1 for e in sample.examples])
            values.append((density_above(sample, above).value, recall(sample, picks).value))
        spread[firing] = np.std(values, axis=0)
    assert spread["quantile"][0] < 0.6 * spread["active"][0]
    assert spread["quantile"][1] < 1.1 * spread["active"][1]


# ---------------------------------------------------------------- what cannot be told


def test_a_feature_that_never_fires():
    sample = sample_of([example("random", 0, 0.1) for _ in range(4)], 0, 40)
    picks = np.array([True, False, True, False])
    assert density_above(sample).value == 0 and density_above(sample, 2).se == 0
    found = precision(sample, picks)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert recall(sample, picks).reason == "no sampled token is above 0"
    assert correlation(sample, np.arange(4.0)).reason.startswith("the activation is the same")


def test_a_feature_that_always_fires():
    examples = [example("active", value, 0.1) for value in (1, 2, 4, 8, 3, 2)]
    sample = sample_of(examples, 60, 60)
    assert density_above(sample).value == 1 and density_above(sample).se == 0
    found = precision(sample, np.array([True, True, False] * 2))
    assert (found.value, found.low, found.high) == (1, 1, 1)
    found = correlation(sample, np.array([2.0, 1.0, 5.0, 3.0, 4.0, 2.0]))
    assert found.value is not None and found.low < found.value < found.high


def test_without_a_silent_token_what_needs_one_is_not_told():
    sample = three()
    picks = np.array([True, True, False])
    for found in (precision(sample, picks), correlation(sample, np.arange(3.0))):
        assert found.value is found.se is found.low is None
        assert found.reason == "no silent token was sampled" and found.ess == 0
    assert density_above(sample, 1.5).value is not None and recall(sample, picks).value is not None
    no_fires = sample_of([example("random", 0, 0.5)] * 3, 5, 11)
    for found in (density_above(no_fires, 1), precision(no_fires, picks), recall(no_fires, picks)):
        assert found.value is None and found.reason == "no firing token was sampled"


def test_constant_predictions_have_no_correlation():
    sample = sample_of_arrays([1, 2, 0, 0], [5] * 4, [0.2] * 4, 10, 20)
    found = correlation(sample, np.ones(4))
    assert (
        found.value is None and found.reason == "the prediction is the same on every sampled token"
    )
    picks = np.zeros(4, dtype=bool)
    assert precision(sample, picks).reason == "the rule picks no sampled token"
    assert recall(sample, picks, 3).reason == "no sampled token is above 3"


def test_agreement_of_all_sampled_tokens_is_no_certainty():
    """The rule picks none of 10 silent tokens; of 1,000 times as many silent as firing ones it may
    still pick more than there are fires."""
    examples = [example("active", 1 + i, 0.1) for i in range(10)]
    examples += [example("random", 0, 1e-4) for _ in range(10)]
    sample = sample_of(examples, 100, 100_100)
    found = precision(sample, np.array([True] * 10 + [False] * 10))
    assert found.value == 1 and found.se is None and found.low < 0.05 and found.high == 1
    found = recall(sample, np.array([True] * 20))
    assert found.value == 1 and found.se is None and 0.6 < found.low < 0.8
    found = density_above(sample, 100)
    assert found.value == 0 and found.se is None and 0 < found.high < 0.001


def test_one_part_of_the_corpus(planted):
    """Of the documents of one use only; how many tokens those have is estimated too."""
    uses = np.where(mix64(np.arange(len(planted.a))) % np.uint64(3) == 0, "score", "explain")
    inside = (uses == "score")[planted.corpus]
    a, picked = planted.a[planted.corpus][inside], planted.picked[planted.corpus][inside]
    values = []
    for seed in range(300):
        examples = planted.sample(seed, {"active": 60, "random": 120})
        examples = [replace(e, use=str(uses[e.doc])) for e in examples]
        sample = sample_of(examples, planted.fires, planted.tokens, use="score")
        text = np.array([e.doc for e in sample.examples])
        found = (
            density_above(sample, 2),
            precision(sample, planted.picked[text]),
            recall(sample, planted.picked[text]),
            correlation(sample, planted.prediction[text]),
        )
        values.append([e.value for e in found])
        assert found[3].n == sum(e.use == "score" for e in examples)
    p = planted.prediction[planted.corpus][inside]
    truth = [(a > 2).mean(), (a > 0)[picked].mean(), picked[a > 0].mean(), np.corrcoef(a, p)[0, 1]]
    errors = np.std(values, axis=0) / math.sqrt(300)
    assert (np.abs(np.mean(values, axis=0) - truth) < 4 * errors).all()


def test_bands_weigh_what_they_hold():
    examples = [example("quantile", 1, 0.2, part="0-0.5") for _ in range(4)]
    examples += [example("quantile", 2, 0.5, part="0.5-0.9") for _ in range(4)]
    examples += [example("quantile", 5, 1.0, copies=2, part="0.9-0.99"), example("random", 0, 0.1)]
    held = {"0.9-0.99": (4.0, 2), "0.5-0.9": (1.5, 16), "0-0.5": (0.0, 20), "0.99-1": (9.0, 0)}
    sample = sample_of(examples, 38, 100, "quantile", bands=held)
    assert sample.sizes.tolist() == [62, 20, 16, 2]
    assert sample.calibrated == pytest.approx([5] * 4 + [4] * 4 + [2, 62])
    assert density_above(sample, 1.5).value == pytest.approx(0.18)
    # A band that holds fires and has no sample: nothing stands for them.
    lacking = sample_of(examples[4:], 38, 100, "quantile", bands=held)
    assert density_above(lacking, 1.5).reason == "no firing token was sampled"
    half = {"0-0.5": (0.0, 10), "0.5-0.9": (1.5, 10)}
    alone = [example("quantile", v, 0.1, part=part) for v, part in ((1, "0-0.5"), (2, "0.5-0.9"))]
    joined = sample_of(alone, 20, 100, "quantile", bands=half)
    assert joined.groups.tolist() == [3, 3]
    assert density_above(joined, 1.5).se is not None
    one = sample_of(alone[:1], 20, 100, "quantile", bands={"0-0.5": (0.0, 20)})
    assert density_above(one, 0.5).se is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: sample_of_arrays([1, 0], [1], [1, 1], 1, 2), "2 sampled tokens come with 1"),
        (lambda: sample_of_arrays([1, 0], [1, 1], [1, 0], 1, 2), "no inclusion probability"),
        (lambda: sample_of([example("random", 1.0, 0.5)], 1, 2), "sampled as silent fires"),
        (lambda: sample_of([], 0, 2, "top"), "'top' examples are no sample"),
        (lambda: density_above(three(), -1), "never below 0"),
        (lambda: precision(three(), np.ones(3)), "the rule is float64"),
        (lambda: recall(three(), np.ones(2, dtype=bool)), "give True or False for each of 3"),
        (lambda: correlation(three(), np.ones(2)), "2 finite predictions for 3"),
        (lambda: correlation(three(), np.array([1, 2, np.nan])), "2 finite predictions for 3"),
    ],
)
def test_bad_input_is_refused(change, says):
    with pytest.raises(WorkbenchError, match=says):
        change()
