"""The plan of a study: drawn by seed, matched where features are the same, frozen as text."""

from __future__ import annotations

import numpy as np
import pytest

from data.errors import WorkbenchError
from interp import arms
from interp.arms import Candidates, Study, arms_of
from interp.autointerp import Plan
from interp.items import Mix, Shown


def candidates(sae: str, fires, group: str = "g", like: str | None = None) -> Candidates:
    return Candidates(sae, group, np.asarray(fires), f"store-{sae}", f"weights-{sae}", like)


def test_only_features_that_fire_enough_are_drawn():
    fires = np.array([0, 9, 10, 500, 10, 3, 77, 12])
    one, two = arms_of([candidates("a", fires), candidates("b", fires[::-1])], 5, 10, 1, 0)
    assert one.features == (2, 3, 4, 6, 7) and one.eligible == 5
    assert two.features == (0, 1, 3, 4, 5)
    assert (one.store_content, two.weights_sha256) == ("store-a", "weights-b")


def test_the_seed_and_the_name_tell():
    fires = np.arange(1, 1001)
    both = [candidates("a", fires), candidates("b", fires)]
    first, second = arms_of(both, 50, 1, 1, 0)
    assert arms_of(both, 50, 1, 1, 0)[0] == first
    assert arms_of(both, 50, 1, 1, 1)[0].features != first.features
    assert first.features != second.features, "arms are drawn independently"
    assert arms_of(both[::-1], 50, 1, 1, 0)[1] == first, "their order is of no matter"


def test_strata_give_equally_many_each():
    fires = np.random.default_rng(0).permutation(np.arange(1, 1001))
    (one, _) = arms_of([candidates("a", fires), candidates("b", fires)], 40, 1, 4, 0)
    quarter = (fires[list(one.features)] - 1) // 250
    assert np.bincount(quarter).tolist() == [10, 10, 10, 10]


def test_drawing_is_fair():
    """Each of 10 eligible features is drawn equally often, in one stratum and in two."""
    fires, counts = np.arange(1, 11), np.zeros((2, 10))
    for seed in range(2000):
        for row, strata in enumerate((1, 2)):
            chosen = arms.drawn(np.arange(10), fires, 4, strata, seed, "a")
            counts[row, list(chosen)] += 1
    assert (abs(counts / 2000 - 0.4) < 0.05).all()


def test_matched_arms_take_the_same_numbers_from_those_eligible_in_both():
    rng = np.random.default_rng(0)
    own, other = rng.integers(0, 100, 300), rng.integers(0, 100, 300)
    a, control, far = arms_of(
        [candidates("a", own), candidates("c", other, like="a"), candidates("f", own, like="x")],
        30, 40, 1, 0,
    )  # fmt: skip
    assert a.features == control.features != far.features
    assert (own[list(a.features)] >= 40).all() and (other[list(a.features)] >= 40).all()
    assert (a.matched_to, control.matched_to, far.matched_to) == (None, "a", None)
    assert a.eligible == int(((own >= 40) & (other >= 40)).sum())


def test_a_chain_leads_to_its_end_and_a_ring_does_not_hang():
    fires = np.arange(1, 101)
    a, b, c = arms_of(
        [candidates("a", fires, like="b"), candidates("b", fires, like="c"),
         candidates("c", fires)], 9, 1, 1, 0,
    )  # fmt: skip
    assert a.features == b.features == c.features and a.matched_to == b.matched_to == "c"
    ring = [candidates("a", fires, like="b"), candidates("b", fires, like="a")]
    assert len(arms_of(ring, 9, 1, 1, 0)) == 2


@pytest.mark.parametrize(
    ("names", "wanted", "strata", "why"),
    [
        ("ab", 2, 1, "give 3 or more"),
        ("ab", 5, 6, "no more strata than features"),
        ("ab", 11, 1, "a: 10 features fire 1 times or more, 11 are wanted"),
        ("aa", 5, 1, "a twice"),
        ("a", 5, 1, "one SAE: name two or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(names, wanted, strata, why):
    with pytest.raises(WorkbenchError, match=why):
        arms_of([candidates(name, np.ones(10, int)) for name in names], wanted, 1, strata, 0)


def test_a_study_is_text_and_back():
    drawn = arms_of([candidates("a", np.arange(50)), candidates("b", np.arange(50))], 5, 1, 1, 0)
    asked = Plan("marked", 2, ("simulate", "detect"), ("own", "empty"), shown=Shown(top=4),
                 mix=Mix(band=2))  # fmt: skip
    study = Study("s", drawn, "lexical", asked.as_json(), {"temperature": 0.0}, 3, 5, 1, 1)
    text = arms.as_text(study)
    again = arms.of_text(text)
    assert arms.as_text(again) == text and again.arms == study.arms
    assert arms.plan_of(again) == asked
    for wrong in ("", "{}", '{"version": 1}', "[1]", '{"version": 9}'):
        with pytest.raises(WorkbenchError):
            arms.of_text(wrong)
