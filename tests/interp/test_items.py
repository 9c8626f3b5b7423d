"""What is put before a judge: splits kept, tokens once, negatives that give nothing away."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from data.records import Explanation
from interp.items import BANDS, Mix, Shown, intruders, mixed, shown, to_detect, to_fuzz
from tests.interp.made_up_examples import WIDTH, example, feature_of

WORDS = Explanation(0, "j", "the word w3", {})


def test_the_mix_is_forty_windows():
    mix = Mix(width=WIDTH)
    assert sum(mix.strata.values()) == 40
    items = mixed(feature_of(3), mix)
    assert Counter(item.stratum for item in items) == mix.strata
    assert len({item.example.doc for item in items}) == 40
    silent = [item.example for item in items if item.stratum == "silent"]
    assert not any(value for e in silent for value in e.values)


def test_windows_of_the_same_tokens_count_once():
    rows = feature_of(3)
    twice = [dataclasses.replace(e, kind="quantile", part=BANDS[0], rank=n)
             for n, e in enumerate(rows[:20])]  # fmt: skip
    others = [e for e in rows if e.part != BANDS[0]]
    items = mixed([*others, *twice], Mix(width=WIDTH))
    places = [(item.example.doc, item.example.start) for item in items]
    assert len(places) == len(set(places))
    assert Counter(i.stratum for i in items)["top"] == 10


@pytest.mark.parametrize("use", ["explain", "calibrate"])
def test_a_planted_leak_is_caught(use):
    rows = [*feature_of(3), example(use=use)]
    with pytest.raises(AssertionError, match="must not reach a score"):
        mixed(rows, Mix(width=WIDTH))
    with pytest.raises(AssertionError, match="must not reach an explanation"):
        shown(0, "marked", [*feature_of(3, use="explain"), example(use="score")], 10.0, Shown())


def test_an_explanation_sees_unique_documents_of_every_kind():
    plan = Shown(width=WIDTH)
    task = shown(0, "activations", feature_of(3, use="explain"), 10.0, plan)
    assert Counter(e.kind for e in task.firing) == {"top": 10, "quantile": 8}
    assert len({e.doc for e in (*task.firing, *task.silent)}) == 23
    assert not any(value for e in task.silent for value in e.values)
    contrast = shown(0, "contrastive", feature_of(3, use="explain"), 10.0, plan)
    assert {e.kind for e in contrast.silent} == {"near_miss"} and len(contrast.silent) == 5


def test_detection_has_as_many_of_both_sorts_and_near_misses():
    rows = feature_of(3)
    tasks = to_detect(WORDS, rows, 10.0, seed=1, width=WIDTH)
    assert Counter(t.fires for t in tasks) == {True: 10, False: 10}
    kinds = Counter(t.example.kind for t in tasks if not t.fires)
    assert kinds == {"near_miss": 5, "random": 5}
    assert tasks == to_detect(WORDS, rows, 10.0, 1, width=WIDTH)
    other = to_detect(WORDS, rows, 10.0, 2, width=WIDTH)
    assert [t.fires for t in tasks] != [t.fires for t in other]


def test_few_silent_windows_make_few_firing_ones():
    rows = [e for e in feature_of(3) if e.kind in ("top", "quantile")] + [
        e for e in feature_of(3) if e.kind == "random"
    ][:3]
    tasks = to_detect(WORDS, rows, 10.0, seed=0, width=WIDTH)
    assert Counter(t.fires for t in tasks) == {True: 3, False: 3}
    assert to_detect(WORDS, rows[:5], 10.0, seed=0, width=WIDTH) == []


def test_marks_of_wrong_windows_stand_where_those_of_right_ones_do():
    tasks = to_fuzz(WORDS, feature_of(3), 10.0, seed=1, width=WIDTH)
    right = Counter(t.task.marks for t in tasks if t.fires)
    wrong = Counter(t.task.marks for t in tasks if not t.fires)
    assert right == wrong and sum(right.values()) == 10


def test_no_position_tells_which_marks_are_wrong():
    """The best rule on the place and number of marks alone is right half the time."""
    tasks = [t for seed in range(30) for t in to_fuzz(WORDS, feature_of(3, seed), 10.0, seed,
                                                      width=WIDTH)]  # fmt: skip
    by_marks: dict = {}
    for trial in tasks:
        by_marks.setdefault(trial.task.marks, []).append(trial.fires)
    assert all(sum(reals) * 2 == len(reals) for reals in by_marks.values())


def test_an_intruder_is_anywhere():
    places = Counter()
    for seed in range(40):
        for task, where in intruders(0, feature_of(3, seed), 10.0, seed, width=WIDTH):
            assert len(task.windows) == len(task.marks) == 5
            has = [3 in ids for ids in task.windows]
            assert has.count(False) == 1 and not has[where]
            places[where] += 1
    assert set(places) == {0, 1, 2, 3, 4} and min(places.values()) > 30
