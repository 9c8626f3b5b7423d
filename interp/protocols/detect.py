"""Asks in which texts a feature fires (detection), whether marks are its own (fuzzing), and which
text does not belong (intruder); and reads the answers.

In:  an explanation and windows, or windows alone. Out: the messages of a request; from its reply
     one outcome a window, a probability that it fires there or that the marks are right.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.judges.client import Message, Reply
from interp.judges.tasks import Answer, DetectTask, IntruderTask
from interp.passages import MARK, Vocabulary, marked
from interp.protocols.replies import Unreadable, by_number, entry, structure, whole

VERSION = 1
SCHEMA = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"text": {"type": "integer"}, "percent": {"type": "integer"}},
                "required": ["text", "percent"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}
INTRUDER_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "integer"}},
    "required": ["text"],
    "additionalProperties": False,
}
DETECT = (
    "A feature is one direction in the activations of a language model. You are told what it "
    "stands for. For each text give its number and, as `percent`, how probable it is, from 0 to "
    "100, that the feature is active on at least one token of the text. Any share of the texts may "
    "be active: none, some or all."
)
FUZZ = (
    "A feature is one direction in the activations of a language model. You are told what it "
    f"stands for. In each text some tokens stand between {MARK[0]} and {MARK[1]}. For each text "
    "give its number and, as `percent`, how probable it is, from 0 to 100, that the feature is "
    "active on the marked tokens. Any share of the texts may be marked rightly: none, some or all."
)
INTRUDER = (
    "In all texts but one the tokens between "
    f"{MARK[0]} and {MARK[1]} have something in common: what they say, how they are written, or "
    "what stands around them. In one text the marks were put at other places. Give the number of "
    "that text."
)
DETECTED = (
    "EXPLANATION: numbers that say how old somebody is\n\nTEXT 1\nHe was 41 then.\n\n"
    "TEXT 2\n41 chairs were free",
    '{"texts": [{"text": 1, "percent": 95}, {"text": 2, "percent": 4}]}',
)
FUZZED = (
    "EXPLANATION: numbers that say how old somebody is\n\nTEXT 1\nHe was« 41» then.\n\n"
    "TEXT 2\n41« chairs» were free",
    '{"texts": [{"text": 1, "percent": 95}, {"text": 2, "percent": 3}]}',
)
FOUND = (
    "TEXT 1\nHe was« 41» then.\n\nTEXT 2\n41« chairs» were free\n\nTEXT 3\nturned« ninety»",
    '{"text": 2}',
)


def detect_messages(tasks: Sequence[DetectTask], vocabulary: Vocabulary) -> tuple[Message, ...]:
    """Several windows of one explanation, all with marks or all without, in one request."""
    fuzzing = tasks[0].marks is not None
    assert all((t.marks is not None) == fuzzing for t in tasks)
    assert len({t.explanation.text for t in tasks}) == 1
    rules, shown = (FUZZ, FUZZED) if fuzzing else (DETECT, DETECTED)
    texts = _texts([marked(t.ids, t.marks or (), vocabulary) for t in tasks])
    asked = f"EXPLANATION: {tasks[0].explanation.text}\n\n{texts}"
    return _conversation(rules, shown, asked)


def read_detection(reply: Reply, n: int) -> list[Answer]:
    """One probability a window, or failed with its reason."""
    try:
        found = by_number(structure(reply), n)
    except Unreadable as error:
        return [Answer(None, "failed", str(error))] * n
    out = []
    for number in range(1, n + 1):
        try:
            if number not in found:
                raise Unreadable(f"text {number} is not answered")
            percent = whole(entry(found[number], "percent"), 0, 100, "a probability in per cent")
            out.append(Answer(percent / 100))
        except Unreadable as error:
            out.append(Answer(None, "failed", str(error)))
    return out


def intruder_messages(task: IntruderTask, vocabulary: Vocabulary) -> tuple[Message, ...]:
    shown = zip(task.windows, task.marks, strict=True)
    texts = _texts([marked(ids, marks, vocabulary) for ids, marks in shown])
    return _conversation(INTRUDER, FOUND, texts)


def read_intruder(reply: Reply, n: int) -> Answer:
    """The number of the window that was named, from 0; or failed with its reason."""
    try:
        return Answer(whole(entry(structure(reply), "text"), 1, n, "the number of a text") - 1)
    except Unreadable as error:
        return Answer(None, "failed", str(error))


def _texts(texts: Sequence[str]) -> str:
    return "\n\n".join(f"TEXT {n}\n{text}" for n, text in enumerate(texts, 1))


def _conversation(rules: str, shown: tuple[str, str], asked: str) -> tuple[Message, ...]:
    return (
        Message("system", rules),
        Message("user", shown[0]),
        Message("assistant", shown[1]),
        Message("user", asked),
    )
