"""Asks for the level of every token of a text, or for a text's largest level, and reads the answer.

In:  an explanation and windows as token ids. Out: the messages of a request; from its reply one
     outcome a window.

No log-probabilities are needed. Tokens are numbered; the reply is a sparse list of (number, level)
with the count of tokens echoed. A number out of range or named twice, a level that is none, a wrong
count: that window is failed, never a row of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.judges.client import Message, Reply
from interp.judges.tasks import Answer
from interp.passages import LEVELS, Vocabulary, marked, numbered
from interp.protocols.replies import Unreadable, by_number, entry, structure, whole

VERSION = 1
_NUMBER = {"type": "integer"}
SIMULATE_SCHEMA = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "text": _NUMBER,
                    "tokens": _NUMBER,
                    "active": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"token": _NUMBER, "level": _NUMBER},
                            "required": ["token", "level"],
                            "additionalProperties": False,
                        },
                    },
                },
                "required": ["text", "tokens", "active"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}
ESTIMATE_SCHEMA = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"text": _NUMBER, "level": _NUMBER},
                "required": ["text", "level"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}
SIMULATE = (
    "A feature is one direction in the activations of a language model. You are told what it "
    "stands for, and predict how active it is on each token of some texts, in whole levels from 0 "
    "(silent) to 10 (its strongest anywhere). Many texts hold no active token, and nearly all "
    "tokens are silent; an active token is often the one where the meaning becomes certain, "
    "since the model reads from left to right and does not know what comes later.\n\n"
    "Tokens are numbered from 1 in each text. For each text give its number, the number of its "
    "last token as `tokens`, and in `active` only tokens above 0, each once, with its level."
)
ESTIMATE = (
    "A feature is one direction in the activations of a language model. You are told what it "
    "stands for. For each text say how active the feature is on the one token where it is "
    "strongest, as a whole level from 0 (silent in the whole text) to 10 (its strongest anywhere)."
)
SIMULATED = (  # a worked answer
    'EXPLANATION: numbers that say how old somebody is\n\nTEXT 1\n1: "He"\n2: " was"\n3: " 41"\n'
    '4: " then"\n5: "."\n\nTEXT 2\n1: " 41"\n2: " chairs"\n3: " were"\n4: " free"',
    '{"texts": [{"text": 1, "tokens": 5, "active": [{"token": 3, "level": 9}]}, '
    '{"text": 2, "tokens": 4, "active": []}]}',
)
ESTIMATED = (
    "EXPLANATION: numbers that say how old somebody is\n\nTEXT 1\nHe was 41 then.\n\n"
    "TEXT 2\n41 chairs were free",
    '{"texts": [{"text": 1, "level": 9}, {"text": 2, "level": 0}]}',
)


def simulate_messages(
    explanation: str, windows: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> tuple[Message, ...]:
    texts = [numbered(ids, vocabulary) for ids in windows]
    return _conversation(SIMULATE, SIMULATED, explanation, texts)


def estimate_messages(
    explanation: str, windows: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> tuple[Message, ...]:
    texts = [marked(ids, (), vocabulary) for ids in windows]
    return _conversation(ESTIMATE, ESTIMATED, explanation, texts)


def read_simulation(reply: Reply, lengths: Sequence[int]) -> list[Answer]:
    """One answer a window of that many tokens: a level each, or failed with its reason."""
    return _each(reply, len(lengths), lambda n, one: _levels(one, lengths[n]))


def read_estimates(reply: Reply, n: int) -> list[Answer]:
    """One level a window, or failed with its reason."""
    return _each(
        reply, n, lambda _, one: whole(entry(one, "level"), 0, LEVELS, "the level of a text")
    )


def _levels(one: dict, n: int) -> tuple[float, ...]:
    count = whole(entry(one, "tokens"), 0, 10**6, "the count of tokens")
    if count != n:
        raise Unreadable(f"it counted {count} tokens, there are {n}")
    listed = entry(one, "active")
    if not isinstance(listed, list):
        raise Unreadable("'active' is no list")
    out = [0.0] * n
    named: set[int] = set()
    for pair in listed:
        if not isinstance(pair, dict):
            raise Unreadable("'active' holds something that is no object")
        token = whole(entry(pair, "token"), 1, n, "the number of a token")
        if token in named:
            raise Unreadable(f"token {token} is named twice")
        named.add(token)
        out[token - 1] = float(whole(entry(pair, "level"), 0, LEVELS, "a level"))
    return tuple(out)


def _each(reply: Reply, n: int, read) -> list[Answer]:
    try:
        found = by_number(structure(reply), n)
    except Unreadable as error:
        return [Answer(None, "failed", str(error))] * n
    out = []
    for at in range(n):
        if at + 1 not in found:
            out.append(Answer(None, "failed", f"text {at + 1} is not answered"))
            continue
        try:
            out.append(Answer(read(at, found[at + 1])))
        except Unreadable as error:
            out.append(Answer(None, "failed", str(error)))
    return out


def _conversation(
    rules: str, shown: tuple[str, str], explanation: str, texts: Sequence[str]
) -> tuple[Message, ...]:
    asked = "\n\n".join(f"TEXT {n}\n{text}" for n, text in enumerate(texts, 1))
    return (
        Message("system", rules),
        Message("user", shown[0]),
        Message("assistant", shown[1]),
        Message("user", f"EXPLANATION: {explanation}\n\n{asked}"),
    )
