"""Whole runs with judges of known worth: each gets what it deserves, in every protocol."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from data.errors import WorkbenchError
from data.records import Explanation
from interp.autointerp import Plan, Run
from interp.items import BANDS, Mix, Shown
from interp.judges.tasks import Answer
from tests.interp.made_up_examples import VOCABULARY, WIDTH, feature_of

FEATURES = range(6)
TOKEN = {f: 3 + 4 * f for f in FEATURES}  # each fires on one token
PLAN = Plan(
    methods=("simulate", "estimate", "detect", "fuzz", "intruder"),
    shown=Shown(width=WIDTH), mix=Mix(width=WIDTH),
)  # fmt: skip


class MadeUpStore:
    """As much of a feature store as a run asks for."""

    def __init__(self, leak: bool = False) -> None:
        self.leak = leak

    def densities(self):
        n = len(FEATURES)
        return np.arange(n), np.linspace(0.001, 0.002, n), np.full(n, 10.0)

    meta = {"tokens": 10_000}

    def logits(self, feature):
        return None

    def feature(self, feature):
        return SimpleNamespace(fires=100)

    def bands(self, feature):
        return {part: (1.0 + n, 25) for n, part in enumerate(BANDS)}

    def examples_for(self, features, use):
        seeds = {"explain": 1, "calibrate": 2, "score": 3}
        found = {f: feature_of(TOKEN[f], 10 * f + seeds[use], use, 40, f) for f in features}
        if self.leak and use == "score":
            for f in features:
                found[f] += feature_of(TOKEN[f], 99, "explain", 1, f)
        return found


class Truth:
    """Says which token it is, and predicts 7 there; sees nothing but what it is given."""

    name, is_language_model = "truth", True

    def explain(self, tasks):
        return [Explanation(t.feature, self.name, f"w{TOKEN[t.feature]}", {}) for t in tasks]

    def levels(self, task):
        if not task.explanation.text.startswith("w"):
            return tuple(0.0 for _ in task.ids)
        return tuple(7.0 if i == int(task.explanation.text[1:]) else 0.0 for i in task.ids)

    def simulate(self, tasks):
        return [_not_run(t) or Answer(self.levels(t)) for t in tasks]

    def estimate(self, tasks):
        return [_not_run(t) or Answer(max(self.levels(t))) for t in tasks]

    def detect(self, tasks):
        out = []
        for t in tasks:
            found = self.levels(t)
            places = range(len(found)) if t.marks is None else t.marks
            out.append(_not_run(t) or Answer(0.9 if any(found[n] for n in places) else 0.1))
        return out

    def intrude(self, tasks):
        out = []
        for t in tasks:
            marked = [ids[places[0]] for ids, places in zip(t.windows, t.marks, strict=True)]
            odd = min(range(len(marked)), key=lambda n: marked.count(marked[n]))
            out.append(Answer(odd))
        return out


def _not_run(task):
    if task.explanation.status != "ok":
        return Answer(None, "not_run", task.explanation.reason)
    return None


class Chance(Truth):
    """Answers at random."""

    name = "chance"

    def __init__(self):
        self.draw = random.Random(5)

    def simulate(self, tasks):
        return [Answer(tuple(float(self.draw.randrange(11)) for _ in t.ids)) for t in tasks]

    def estimate(self, tasks):
        return [Answer(float(self.draw.randrange(11))) for _ in tasks]

    def detect(self, tasks):
        return [Answer(self.draw.random()) for _ in tasks]

    def intrude(self, tasks):
        return [Answer(self.draw.randrange(len(t.windows))) for t in tasks]


class Silent(Truth):
    """Always says none."""

    name = "none"

    def levels(self, task):
        return tuple(0.0 for _ in task.ids)

    def intrude(self, tasks):
        return [Answer(0) for _ in tasks]


class Broken(Truth):
    """Always fails."""

    name = "broken"

    def simulate(self, tasks):
        return [Answer(None, "failed", "the reply is empty") for _ in tasks]

    estimate = detect = intrude = simulate


class Another(Truth):
    """Explains another feature than it was asked about."""

    name = "another"

    def explain(self, tasks):
        return [
            Explanation(t.feature, self.name, f"w{TOKEN[(t.feature + 1) % len(TOKEN)]}", {})
            for t in tasks
        ]


class Memory(Truth):
    """Knows by heart what it was shown, and nothing else."""

    name = "memory"

    def __init__(self):
        self.seen = {}

    def explain(self, tasks):
        for t in tasks:
            for e in (*t.firing, *t.silent):
                self.seen[t.feature, e.ids] = e.values
        return [Explanation(t.feature, self.name, "what I saw", {}) for t in tasks]

    def levels(self, task):
        draw = random.Random(repr(task.ids))
        guess = tuple(float(draw.randrange(11)) for _ in task.ids)
        return self.seen.get((task.feature, task.ids), guess)


def scored(judge, plan=PLAN, store=None):
    run = Run(store or MadeUpStore(), judge, Truth(), plan)
    candidates = {
        group[0].explanation.feature: group for block in run.explain(FEATURES) for group in block
    }
    explanations = {f: group[0].explanation for f, group in candidates.items()}
    found = [judged for block in run.score(explanations, candidates) for judged in block]
    assert [j.explanation.feature for j in found] == list(FEATURES)
    return found


def values(found, method, arm="own"):
    return [j.results[method, arm].value for j in found]


def test_one_who_knows_scores_high_in_every_protocol():
    found = scored(Truth())
    assert min(values(found, "simulate")) > 0.95
    assert min(values(found, "estimate")) > 0.7  # ranks among 6 to 10 it cannot know
    for method in ("detect", "fuzz", "intruder"):
        assert values(found, method) == [1.0] * 6, method


def test_the_corpus_is_estimated_from_the_sampled_windows():
    for judged in scored(Truth()):
        corpus = judged.results["simulate", "own"].details["corpus"]
        assert corpus["n"] == 30 and corpus["value"] > 0.9 and 0 < corpus["ess"] <= 30


def test_baselines_stand_beside_every_score():
    found = scored(Truth())
    for judged in found:
        assert set(judged.results) == {
            (m, a) for m in PLAN.methods for a in PLAN.arms if m != "intruder" or a == "own"
        }
    assert max(abs(v) for v in values(found, "simulate", "shuffled")) < 0.2
    assert {j.results["simulate", "empty"].status for j in found} == {"constant"}
    assert values(found, "detect", "empty") == [0.5] * 6


def test_chance_is_within_its_interval_of_nothing():
    found = scored(Chance())
    inside = [
        r.low <= centre <= r.high
        for j in found
        for method, centre in (("simulate", 0), ("estimate", 0), ("detect", 0.5), ("fuzz", 0.5))
        for r in [j.results[method, "own"]]
    ]
    assert np.mean(inside) > 0.8
    assert np.mean(values(found, "intruder")) < 0.45


def test_one_who_always_says_none_gets_no_score():
    found = scored(Silent())
    assert {j.results["simulate", "own"].status for j in found} == {"constant"}
    assert values(found, "simulate") == [None] * 6
    assert values(found, "detect") == [0.5] * 6 == values(found, "fuzz")


def test_one_who_always_fails_is_failed_and_not_zero():
    for judged in scored(Broken()):
        for method in PLAN.methods:
            result = judged.results[method, "own"]
            assert (result.status, result.value) == ("failed", None)
            assert result.reasons == {"the reply is empty": result.n} and result.n > 0


def test_the_explanation_of_another_feature_gets_nothing():
    found = scored(Another())
    assert max(abs(v) for v in values(found, "simulate")) < 0.2
    assert np.mean(values(found, "detect")) == pytest.approx(0.5, abs=0.15)


def test_a_good_memory_helps_only_where_the_same_windows_are_asked():
    """The paper's mode asks about what was shown; that is why it is not the default."""
    held_out = scored(Memory())
    assert max(abs(v) for v in values(held_out, "simulate")) < 0.3
    paper = scored(Memory(), Plan(mode="paper", shown=PLAN.shown, mix=PLAN.mix))
    assert min(values(paper, "simulate")) > 0.99


def test_a_leak_between_the_splits_is_caught():
    with pytest.raises(AssertionError, match="must not reach"):
        scored(Truth(), store=MadeUpStore(leak=True))


def test_the_best_of_several_candidates_is_taken():
    class Wavering(Truth):
        def explain(self, tasks):
            return [
                Explanation(t.feature, "w", f"w{TOKEN[t.feature] if t.draw == 2 else 1}", {})
                for t in tasks
            ]

    found = scored(Wavering(), Plan(candidates=4, shown=PLAN.shown, mix=PLAN.mix))
    assert [j.explanation.text for j in found] == [f"w{TOKEN[f]}" for f in FEATURES]
    assert all(len(j.candidates) == 4 and j.candidates[0].value > 0.9 for j in found)


def test_a_feature_without_material_is_not_run():
    class Empty(MadeUpStore):
        def examples_for(self, features, use):
            found = super().examples_for(features, use)
            return {f: [] if f == 2 else rows for f, rows in found.items()}

    judged = scored(Truth(), store=Empty())[2]
    assert judged.explanation.status == "not_run"
    assert {r.status for r in judged.results.values()} == {"not_run"}


def test_the_same_plan_asks_the_same_questions():
    first, second = scored(Truth()), scored(Truth())
    assert first == second
    assert all(set(one.ids) <= set(VOCABULARY) for j in first for one in j.asked)


@pytest.mark.parametrize(
    "plan, why",
    [({"protocol": "x"}, "no protocol"), ({"methods": ("x",)}, "no method"),
     ({"mode": "x"}, "no mode"), ({"arms": ("x",)}, "no baseline"), ({"candidates": 0}, "1 or")],
)  # fmt: skip
def test_a_plan_that_cannot_be(plan, why):
    with pytest.raises(WorkbenchError, match=why):
        Plan(**plan)
