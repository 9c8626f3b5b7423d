"""The lexical judge on hand-made examples, what explanations and scores may see, and outcomes."""

from dataclasses import replace

import pytest

from data.records import Example, Explanation
from data.windows import window
from interp.explain import WINDOW, disjoint_windows, explain
from interp.judges.judge import Prediction
from interp.judges.lexical import LexicalJudge, readable
from interp.simulate import simulate

THE, CAT, DOG, NEW = 3, 4, 5, 6
VOCABULARY = {
    THE: (b" the", False), CAT: (b" cat", False), DOG: (b"dog\n", False), NEW: (b"\xf0\x9f", False),
}  # fmt: skip


def _example(
    ids, values, kind="top", use="explain", doc=0, start=0, peak=None, rank=0, inclusion=1.0
):
    peak = max(range(len(ids)), key=lambda i: values[i]) if peak is None else peak
    return Example(
        7, kind, "", rank, doc, f"d{doc}", use, start, peak, values[peak], values[peak],
        inclusion, 1, tuple(ids), tuple(values),
    )  # fmt: skip


EXAMPLES = [
    _example([THE, CAT, DOG, CAT], [0, 4.0, 0, 2.0]),
    _example([THE, CAT, NEW], [0, 3.0, 1.0], doc=1),
    _example([THE, THE, DOG, THE], [0, 0, 1.0, 0], kind="active", doc=2),
    _example([THE], [0], kind="random", doc=3, inclusion=1 / 3),
]


# ---------------------------------------------------------------- the lexical judge


def test_the_table_by_hand():
    """Base rate: one firing token of 1 for three silent ones, 1/4. cat: (9 + 1/4) / (3 + 1); new:
    (1 + 1/4) / 2; dog: (1 + 1/4) / (2 + 1); the: never active, so not in the table."""
    made = LexicalJudge(VOCABULARY).explain(7, EXAMPLES)
    assert (made.feature, made.judge, made.status) == (7, "lexical", "ok")
    assert made.payload["base"] == 0.25
    assert made.payload["table"] == {
        str(CAT): 2.3125,
        str(NEW): 0.625,
        str(DOG): pytest.approx(5 / 12, abs=1e-6),
    }
    assert list(made.payload["table"]) == [str(CAT), str(NEW), str(DOG)], "strongest first"


def test_the_words_stop_once_they_carry_most_of_the_activation():
    """cat carries 9 of 11, which is more than eight tenths."""
    assert LexicalJudge(VOCABULARY).explain(7, EXAMPLES).text == '" cat"'
    even = [_example([CAT, DOG, NEW], [1.0, 1.0, 1.0])]
    assert LexicalJudge(VOCABULARY).explain(7, even).text == r'" cat", "dog\n", "\xf0\x9f"'


def test_predictions_by_hand():
    judge = LexicalJudge(VOCABULARY)
    made = judge.explain(7, EXAMPLES)
    (one, two) = judge.simulate(made, [[CAT, THE, NEW], [99]])
    assert one.values == (2.3125, 0.25, 0.625) and one.status == "ok"
    assert two.values == (0.25,), "an unknown token is at the base rate"
    assert judge.detect(made, [[THE, CAT], [NEW], [THE], []]) == [
        1.0, 0.625 / 2.3125, 0.25 / 2.3125, None,
    ]  # fmt: skip


def test_without_random_windows_the_base_rate_is_zero():
    assert LexicalJudge(VOCABULARY).explain(7, EXAMPLES[:2]).payload["base"] == 0


@pytest.mark.parametrize("examples", [[], EXAMPLES[2:][:0], [_example([THE, CAT], [0.0, 0.0])]])
def test_a_silent_feature_fails_with_its_reason_and_predicts_nothing(examples):
    judge = LexicalJudge(VOCABULARY)
    made = judge.explain(7, examples)
    assert made.status == "failed" and "no active example" in made.reason and made.text == ""
    assert judge.simulate(made, [[CAT], [DOG]]) == [Prediction(None, "failed", made.reason)] * 2
    assert judge.detect(made, [[CAT]]) == [None]


def test_the_units_of_the_activations_do_not_matter():
    judge = LexicalJudge(VOCABULARY)
    tiny = [
        replace(e, max=e.max * 2.0**-30, values=tuple(v * 2.0**-30 for v in e.values))
        for e in EXAMPLES
    ]
    (a,) = judge.simulate(judge.explain(7, EXAMPLES), [[CAT, NEW, DOG, THE]])
    (b,) = judge.simulate(judge.explain(7, tiny), [[CAT, NEW, DOG, THE]])
    assert [v * 2.0**30 for v in b.values] == pytest.approx(list(a.values), rel=1e-5)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" a b", '" a b"'),
        ("né \U0001f389".encode(), '"né \U0001f389"'),
        (b"\n\t\r\x00", r'"\n\t\r\x00"'),
        (b"\xf0\x9f", r'"\xf0\x9f"'),
        (b"a\\n", r'"a\\n"'),
        ("\u202ex\u200d".encode(), r'"\u202ex\u200d"'),
    ],
)
def test_readable_tokens(raw, shown):
    assert readable(raw) == shown


# ---------------------------------------------------------------- windows


def test_windows_stay_inside_their_context():
    ids = tuple(range(100, 300))
    values = tuple(float(i) for i in range(200))
    for peak, start in [(0, 0), (10, 0), (32, 0), (100, 68), (199, 136), (168, 136)]:
        cut = window(_example(ids, values, peak=peak, start=1000), WINDOW)
        assert (cut.start, len(cut.ids), cut.peak) == (1000 + start, WINDOW, peak - start)
        assert cut.ids == ids[start : start + WINDOW]
        assert cut.values[cut.peak] == values[peak]
    short = _example(ids[:10], values[:10])
    assert window(short, WINDOW) == short


def test_a_token_counts_once():
    ids, values = tuple(range(300)), (1.0,) * 300
    examples = [
        _example(ids, values, peak=100, rank=0),
        _example(ids, values, peak=140, rank=1),  # overlaps the first
        _example(ids, values, peak=170, rank=2),
        _example(ids, values, peak=100, doc=1, rank=3),
    ]
    kept = disjoint_windows(examples)
    assert [e.rank for e in kept] == [0, 2, 3]
    seen = [(e.doc, e.start + i) for e in kept for i in range(len(e.ids))]
    assert len(seen) == len(set(seen))


# ---------------------------------------------------------------- who may see what


class Spy(LexicalJudge):
    """Remembers what it was shown."""

    def __init__(self, predictions=None):
        super().__init__(VOCABULARY)
        self.shown, self.predictions = [], predictions

    def explain(self, feature, examples):
        self.shown.append((feature, list(examples)))
        return super().explain(feature, examples)

    def simulate(self, explanation, windows):
        self.shown.append((explanation.feature, list(windows)))
        return self.predictions or super().simulate(explanation, windows)


def test_explanations_see_examples_of_their_own_split_only():
    spy = Spy()
    made = list(explain(spy, {7: EXAMPLES, 8: []}, [8, 7]))
    assert [(e.feature, e.status) for e in made] == [(8, "failed"), (7, "ok")]
    assert [feature for feature, _ in spy.shown] == [8, 7]
    for use in ("score", "calibrate"):
        leak = {7: [*EXAMPLES, _example([CAT], [1.0], use=use)]}
        with pytest.raises(AssertionError, match="must not reach an explanation"):
            list(explain(Spy(), leak, [7]))


def _score_examples():
    return [
        _example([THE, CAT, DOG, THE], [0, 3.0, 0, 0], use="score", doc=10),
        _example([CAT, THE, NEW, THE], [2.0, 0, 1.0, 0], use="score", doc=11),
        _example([THE, DOG, THE, CAT], [0, 0, 0, 4.0], use="score", doc=12),
    ]


def test_scores_see_no_example_that_explained():
    explanation = LexicalJudge(VOCABULARY).explain(7, EXAMPLES)
    for use in ("explain", "calibrate"):
        leak = {7: [*_score_examples(), _example([CAT], [1.0], use=use)]}
        with pytest.raises(AssertionError, match="must not reach a score"):
            list(simulate(Spy(), {7: explanation}, leak, seed=0))


def test_a_score_by_hand():
    """Predictions 2.3125 for cat, .625 for new, 5/12 for dog, .25 else; r of the 12 tokens."""
    import numpy as np

    judge = LexicalJudge(VOCABULARY)
    (made,) = simulate(judge, {7: judge.explain(7, EXAMPLES)}, {7: _score_examples()}, seed=0)
    c, n, d, b = 2.3125, 0.625, 0.416667, 0.25
    predicted = [b, c, d, b, c, b, n, b, b, d, b, c]
    real = [0, 3, 0, 0, 2, 0, 1, 0, 0, 0, 0, 4]
    assert made.value == pytest.approx(np.corrcoef(predicted, real)[0, 1], abs=1e-6)
    assert made.low <= made.value <= made.high
    assert (made.feature, made.method, made.status) == (7, "simulate", "ok")
    assert (made.n_tokens, made.n_documents) == (12, 3)


def _outcome(explanation=None, examples=None, predictions=None):
    explanation = explanation or LexicalJudge(VOCABULARY).explain(7, EXAMPLES)
    examples = _score_examples() if examples is None else examples
    (made,) = simulate(Spy(predictions), {7: explanation}, {7: examples}, seed=0)
    if made.status != "ok":
        assert (made.value, made.low, made.high) == (None, None, None), "a failure is no number"
        assert made.reason
    return made


def test_no_explanation_means_no_score():
    failed = Explanation(7, "lexical", "", {}, "failed", "the reason")
    made = _outcome(explanation=failed)
    assert made.status == "not_run" and "the reason" in made.reason


def test_silence_in_the_score_split_is_not_scored():
    assert _outcome(examples=[]).status == "not_run"
    silent = [_example([THE, CAT], [0.0, 0.0], kind="random", use="score", doc=d) for d in range(3)]
    made = _outcome(examples=silent)
    assert made.status == "not_run" and "silent" in made.reason and made.n_documents == 3


def test_one_failed_window_fails_the_score_and_says_how_many():
    ok = Prediction((1.0, 0.0, 0.0, 0.0))
    made = _outcome(predictions=[ok, Prediction(None, "failed", "cut off"), ok])
    assert made.status == "failed" and made.reason == "1 of 3 windows: cut off"


def test_a_constant_prediction_fails():
    made = _outcome(predictions=[Prediction((0.5,) * 4)] * 3)
    assert made.status == "failed" and "constant prediction" in made.reason
