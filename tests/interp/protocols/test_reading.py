"""What a reply may say and what makes it failed; the prompts word for word where it matters."""

from __future__ import annotations

import json

import pytest

from data.records import Explanation
from interp.judges.client import Reply, Usage
from interp.judges.tasks import DetectTask, IntruderTask
from interp.protocols import detect, explain, simulate
from interp.protocols.few_shot import shown
from interp.protocols.replies import Unreadable

WORDS = {n: (word.encode(), False) for n, word in enumerate(["The", " cat", '"', "\n", "«a»"])}
WORDS[9] = (b"\xff\xfe", False)


def reply(said, finish: str = "stop") -> Reply:
    text = said if isinstance(said, str) else json.dumps(said)
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    return Reply(text, parsed, finish, finish.upper(), Usage(), "m", 1.0)


# ------------------------------------------------------------------ explaining


def test_an_explanation_is_read():
    assert explain.read(reply({"explanation": "  cats\nand dogs "})) == "cats and dogs"


@pytest.mark.parametrize(
    "said, why",
    [
        ("", "is empty"),
        ("cats", "not the JSON object"),
        ([1], "not the JSON object"),
        ({}, "no 'explanation'"),
        ({"explanation": "  "}, "is empty"),
        ({"explanation": 3}, "is empty"),
        ({"explanation": "x" * 401}, "401 characters"),
    ],
)
def test_what_is_no_explanation(said, why):
    with pytest.raises(Unreadable, match=why):
        explain.read(reply(said))


@pytest.mark.parametrize("finish", ["max_tokens", "blocked", "other"])
def test_a_reply_that_ended_early_says_nothing(finish):
    with pytest.raises(Unreadable, match="ended early"):
        explain.read(reply({"explanation": "cats"}, finish))
    assert simulate.read_simulation(reply({"texts": []}, finish), [3])[0].status == "failed"


@pytest.mark.parametrize("protocol", explain.PROTOCOLS)
def test_worked_answers_are_what_the_parser_takes(protocol):
    task = explain.ExplainTask(0, protocol, (), (), 1.0)
    turns = explain.messages(task, WORDS)
    assert [turn.role for turn in turns] == ["system"] + ["user", "assistant"] * len(shown()) + [
        "user"
    ]
    answers = [explain.read(reply(turn.text)) for turn in turns if turn.role == "assistant"]
    assert answers == [one.explanation for one in shown()]


# ------------------------------------------------------------------ simulating


def texts(*given) -> dict:
    return {"texts": list(given)}


def one(text: int, tokens: int, *active) -> dict:
    pairs = [{"token": token, "level": level} for token, level in active]
    return {"text": text, "tokens": tokens, "active": pairs}


def test_a_sparse_list_becomes_levels():
    said = texts(one(2, 2), one(1, 3, (3, 10), (1, 4)))
    found = simulate.read_simulation(reply(said), [3, 2])
    assert [answer.value for answer in found] == [(4.0, 0.0, 10.0), (0.0, 0.0)]
    assert all(answer.status == "ok" for answer in found)


@pytest.mark.parametrize(
    "first, why",
    [
        (one(1, 4), "counted 4 tokens, there are 3"),
        (one(1, 3, (4, 1)), "is 4, not from 1 to 3"),
        (one(1, 3, (0, 1)), "is 0, not from 1 to 3"),
        (one(1, 3, (1, 11)), "is 11, not from 0 to 10"),
        (one(1, 3, (1, -1)), "is -1, not from 0 to 10"),
        (one(1, 3, (1, 2), (1, 2)), "named twice"),
        (one(1, 3, (1, 2.5)), "not a whole number"),
        (one(1, 3, (True, 2)), "not a whole number"),
        ({"text": 1, "tokens": 3}, "no 'active'"),
        ({"text": 1, "active": []}, "no 'tokens'"),
        ({"text": 1, "tokens": 3, "active": {}}, "is no list"),
        ({"text": 1, "tokens": 3, "active": [1]}, "no object"),
    ],
)
def test_one_window_fails_and_the_other_stays(first, why):
    found = simulate.read_simulation(reply(texts(first, one(2, 2, (2, 5)))), [3, 2])
    assert found[0].status == "failed" and why in found[0].reason and found[0].value is None
    assert found[1].value == (0.0, 5.0)


@pytest.mark.parametrize(
    "said, why",
    [
        (texts(one(1, 3), one(1, 3)), "answered twice"),
        (texts(one(3, 3)), "not from 1 to 2"),
        (texts({"tokens": 3, "active": []}), "no 'text'"),
        ({"texts": "none"}, "is no list"),
        (texts(7), "no object"),
        ("None", "not the JSON object"),
        ({}, "no 'texts'"),
    ],
)
def test_where_nobody_knows_which_window_is_meant_all_fail(said, why):
    found = simulate.read_simulation(reply(said), [3, 2])
    assert [answer.status for answer in found] == ["failed", "failed"]
    assert why in found[0].reason


def test_an_absent_window_fails_alone():
    found = simulate.read_simulation(reply(texts(one(2, 2))), [3, 2])
    assert (found[0].status, found[0].reason) == ("failed", "text 1 is not answered")
    assert found[1].value == (0.0, 0.0)


def test_whole_numbers_may_come_as_floats():
    found = simulate.read_simulation(reply(texts(one(1.0, 3.0, (2.0, 7.0)))), [3])
    assert found[0].value == (0.0, 7.0, 0.0)


def test_estimates():
    found = simulate.read_estimates(reply(texts({"text": 1, "level": 7}, {"text": 2})), 2)
    assert found[0].value == 7 and found[1].status == "failed"


def test_the_simulation_prompt_numbers_its_tokens():
    turns = simulate.simulate_messages("cats", [(0, 1, 2, 3), (9,)], WORDS)
    assert turns[-1].text == (
        'EXPLANATION: cats\n\nTEXT 1\n1: "The"\n2: " cat"\n3: "\\""\n4: "\\n"\n\n'
        'TEXT 2\n1: "\\xff\\xfe"'
    )
    shown = turns[-2].text
    assert all(a.status == "ok" for a in simulate.read_simulation(reply(shown), [5, 4]))
    turns = simulate.estimate_messages("cats", [(0, 1)], WORDS)
    assert turns[-1].text == "EXPLANATION: cats\n\nTEXT 1\nThe cat"
    assert all(a.status == "ok" for a in simulate.read_estimates(reply(turns[-2].text), 2))


# ------------------------------------------------------------------ detecting


def task(ids, marks=None) -> DetectTask:
    return DetectTask(4, Explanation(4, "j", "cats", {}), ids, marks)


def test_probabilities_are_read():
    said = texts({"text": 2, "percent": 100}, {"text": 1, "percent": 4})
    assert [a.value for a in detect.read_detection(reply(said), 2)] == [0.04, 1.0]
    bad = detect.read_detection(reply(texts({"text": 1, "percent": 101})), 2)
    assert [a.status for a in bad] == ["failed", "failed"]
    assert "not from 0 to 100" in bad[0].reason and "not answered" in bad[1].reason


def test_marks_are_put_and_signs_in_the_text_escaped():
    turns = detect.detect_messages([task((0, 1, 4), (1,))], WORDS)
    assert turns[-1].text.endswith("TEXT 1\nThe« cat»\\u00aba\\u00bb")
    assert all(a.status == "ok" for a in detect.read_detection(reply(turns[-2].text), 2))
    assert "marked" in turns[0].text
    plain = detect.detect_messages([task((0, 1))], WORDS)
    assert plain[-1].text.endswith("TEXT 1\nThe cat") and "marked" not in plain[0].text


def test_windows_with_and_without_marks_do_not_mix():
    with pytest.raises(AssertionError):
        detect.detect_messages([task((0,)), task((0,), (0,))], WORDS)


def test_intruders():
    turns = detect.intruder_messages(IntruderTask(1, ((0, 1), (1, 0)), ((1,), (0,))), WORDS)
    assert turns[-1].text == "TEXT 1\nThe« cat»\n\nTEXT 2\n« cat»The"
    assert detect.read_intruder(reply(turns[-2].text), 3).value == 1
    assert detect.read_intruder(reply({"text": 6}), 5).status == "failed"
    assert detect.read_intruder(reply({"text": 0}), 5).status == "failed"
