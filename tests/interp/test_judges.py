"""The lexical judge on hand-made examples; a language model as a judge, by scripted replies."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from data.llm_cache import LlmCache
from data.records import Example, Explanation
from interp.judges.calls import Caller
from interp.judges.lexical import LexicalJudge
from interp.judges.prompted import Asking, PromptedJudge
from interp.judges.rehearsal import Rehearsal
from interp.judges.scripted import ScriptedClient
from interp.judges.tasks import (
    DetectTask,
    EstimateTask,
    ExplainTask,
    IntruderTask,
    SimulateTask,
)

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


def explained(examples, judge=None) -> Explanation:
    task = ExplainTask(7, "marked", (), (), 4.0, everything=tuple(examples))
    return (judge or LexicalJudge(VOCABULARY)).explain([task])[0]


def simulated(explanation, *windows):
    tasks = [SimulateTask(7, explanation, tuple(ids), 4.0) for ids in windows]
    return LexicalJudge(VOCABULARY).simulate(tasks)


# ---------------------------------------------------------------- the lexical judge


def test_the_table_by_hand():
    """Base rate: one firing token of 1 for three silent ones, 1/4. cat: (9 + 1/4) / (3 + 1); new:
    (1 + 1/4) / 2; dog: (1 + 1/4) / (2 + 1); the: never active, so not in the table. How often:
    cat (3 + 1/4) / 4, new (1 + 1/4) / 2, dog (1 + 1/4) / 3."""
    made = explained(EXAMPLES)
    assert (made.feature, made.judge, made.status) == (7, "lexical", "ok")
    assert made.payload["base"] == made.payload["rate"] == 0.25
    close = pytest.approx(5 / 12, abs=1e-6)
    assert made.payload["table"] == {str(CAT): 2.3125, str(NEW): 0.625, str(DOG): close}
    assert list(made.payload["table"]) == [str(CAT), str(NEW), str(DOG)], "strongest first"
    assert made.payload["often"] == {str(CAT): 0.8125, str(NEW): 0.625, str(DOG): close}


def test_the_words_stop_once_they_carry_most_of_the_activation():
    """cat carries 9 of 11, which is more than eight tenths."""
    assert explained(EXAMPLES).text == '" cat"'
    even = [_example([CAT, DOG, NEW], [1.0, 1.0, 1.0])]
    assert explained(even).text == r'" cat", "dog\n", "\xf0\x9f"'


def test_predictions_by_hand():
    made = explained(EXAMPLES)
    one, two = simulated(made, [CAT, THE, NEW], [99])
    assert one.value == (2.3125, 0.25, 0.625) and one.status == "ok"
    assert two.value == (0.25,), "an unknown token is at the base rate"


def test_detection_and_estimates_by_hand():
    made, judge = explained(EXAMPLES), LexicalJudge(VOCABULARY)
    windows = [(THE, CAT), (NEW,), (THE,)]
    found = judge.detect([DetectTask(7, made, ids) for ids in windows])
    assert [a.value for a in found] == [0.8125, 0.625, 0.25]
    marked = judge.detect([DetectTask(7, made, (THE, CAT), (0,))])
    assert marked[0].value == 0.25, "only the marked tokens count"
    levels = judge.estimate([EstimateTask(7, made, (THE, CAT), 4.0)])
    assert levels[0].value == pytest.approx(10 * 2.3125 / 4)


def test_the_odd_one_shares_no_marked_token():
    task = IntruderTask(7, ((CAT, THE), (THE, CAT), (CAT, DOG)), ((0,), (1,), (1,)))
    assert LexicalJudge(VOCABULARY).intrude([task])[0].value == 2


def test_without_random_windows_the_base_rate_is_zero():
    assert explained(EXAMPLES[:2]).payload["base"] == 0


@pytest.mark.parametrize("examples", [[], [_example([THE, CAT], [0.0, 0.0])]])
def test_a_silent_feature_fails_with_its_reason_and_predicts_nothing(examples):
    made = explained(examples)
    assert made.status == "failed" and "no active example" in made.reason and made.text == ""
    (answer,) = simulated(made, [CAT])
    assert (answer.value, answer.status) == (None, "not_run") and made.reason in answer.reason


def test_words_of_somebody_else_are_no_table():
    (answer,) = simulated(Explanation(7, "people", "cats", {}), [CAT])
    assert answer.status == "not_run" and "in words" in answer.reason


def test_the_units_of_the_activations_do_not_matter():
    tiny = [
        replace(e, max=e.max * 2.0**-30, values=tuple(v * 2.0**-30 for v in e.values))
        for e in EXAMPLES
    ]
    (a,) = simulated(explained(EXAMPLES), [CAT, NEW, DOG, THE])
    (b,) = simulated(explained(tiny), [CAT, NEW, DOG, THE])
    assert [v * 2.0**30 for v in b.value] == pytest.approx(list(a.value), rel=1e-5)


# ---------------------------------------------------------------- a language model


def prompted(tmp_path, answer, together=2) -> PromptedJudge:
    """A judge whose service answers with what `answer(words of the last message)` gives."""

    def reply(request):
        said = answer(request.messages[-1].text)
        return said if isinstance(said, str) else json.dumps(said)

    caller = Caller(ScriptedClient(reply), LlmCache(tmp_path))
    return PromptedJudge(caller, VOCABULARY, Asking(together=together))


CATS = Explanation(7, "m", "cats", {})


def test_windows_of_one_explanation_share_a_request(tmp_path):
    asked = []

    def answer(text):
        asked.append(text)
        n = text.count("TEXT ")
        one = {"text": 1, "tokens": 2, "active": [{"token": 2, "level": 6}]}
        return {"texts": [{**one, "text": i + 1} for i in range(n)]}

    judge = prompted(tmp_path, answer)
    dogs = Explanation(8, "m", "dogs", {})
    failed = Explanation(9, "m", "", {}, "failed", "too dense")
    tasks = [SimulateTask(e.feature, e, (THE, CAT), 1.0)
             for e in (CATS, CATS, CATS, failed, dogs)]  # fmt: skip
    found = judge.simulate(tasks)
    # The third window of `cats` is the same request as none before it: 2 + 1, then dogs.
    assert [text.count("TEXT ") for text in asked] == [2, 1, 1]
    assert [a.status for a in found] == ["ok", "ok", "ok", "not_run", "ok"]
    assert found[0].value == (0.0, 6.0) and found[3].reason == "no explanation: too dense"
    assert found[0].calls == found[1].calls != found[2].calls and len(found[0].calls[0]) == 64
    again = judge.simulate(tasks)
    assert again == found and len(asked) == 3, "answered ones are not asked again"


def test_explanations_carry_what_they_came_from(tmp_path):
    judge = prompted(tmp_path, lambda text: {"explanation": "cats"} if "cat" in text else "no")
    firing = (_example([THE, CAT], [0, 4.0]),)
    silent = (_example([THE, DOG], [0.0, 3.0]),)
    tasks = [ExplainTask(f, "activations", e, (), 4.0) for f, e in ((7, firing), (8, silent))]
    good, bad = judge.explain(tasks)
    assert (good.text, good.status, good.judge) == ("cats", "ok", judge.name)
    assert good.payload["protocol"] == "activations" and len(good.payload["calls"]) == 1
    assert (bad.text, bad.status) == ("", "failed") and "not the JSON object" in bad.reason


def test_marked_and_plain_windows_are_asked_apart(tmp_path):
    asked = []

    def answer(text):
        asked.append(text)
        n = text.count("TEXT ")
        return {"texts": [{"text": i + 1, "percent": 80} for i in range(n)]}

    judge = prompted(tmp_path, answer, together=9)
    found = judge.detect([DetectTask(7, CATS, (CAT,)), DetectTask(7, CATS, (CAT,), (0,))])
    assert [a.value for a in found] == [0.8, 0.8] and len(asked) == 2


def test_intruders_are_asked_one_by_one(tmp_path):
    judge = prompted(tmp_path, lambda text: {"text": 2})
    task = IntruderTask(7, ((CAT,), (DOG,)), ((0,), (0,)))
    assert [a.value for a in judge.intrude([task])] == [1]


def test_a_rehearsal_counts_and_asks_nobody(tmp_path):
    def answer(text):
        raise AssertionError("somebody was asked")

    judge = prompted(tmp_path, answer)
    rehearsal = Rehearsal(judge)
    (made,) = rehearsal.explain([ExplainTask(7, "marked", tuple(EXAMPLES[:1]), (), 4.0)])
    assert made.status == "ok"
    found = rehearsal.simulate([SimulateTask(7, made, (THE, CAT, n), 4.0) for n in (3, 4, 5)])
    assert {a.status for a in found} == {"not_run"}
    estimate = rehearsal.estimate_of_all()
    assert estimate.requests == 3 and estimate.calls == 3 and estimate.prompt > 100
