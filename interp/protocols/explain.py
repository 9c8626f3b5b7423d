"""Asks what a feature stands for, in one of four ways, and reads the answer.

In:  an `ExplainTask`. Out: the messages of a request; from its reply the explanation as text.

    activations     tokens one a line with their levels (Bills et al. 2023; the JumpReLU paper)
    marked          running text with the strong tokens marked (after delphi)
    max_and_logits  lists: strongest tokens, what follows them, what the feature promotes; texts
    contrastive     marked text, and near misses in which it stays silent

A changed word is another version: scores of two versions are not of one protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data.records import Example
from interp.judges.client import Message, Reply
from interp.judges.tasks import ExplainTask
from interp.passages import (
    MARK,
    Vocabulary,
    marked,
    quoted,
    strong_places,
    with_levels,
)
from interp.protocols.few_shot import Shown, Tokens, shown
from interp.protocols.replies import Unreadable, entry, structure

VERSION = 1
LONGEST = 400  # characters of an explanation
SCHEMA = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}},
    "required": ["explanation"],
    "additionalProperties": False,
}
OPENING = (
    "A feature is one direction in the activations of a language model. It is active on few "
    "tokens. You see texts it is active in, and say in one phrase what it stands for: what the "
    "tokens have in common, or what stands around them, or what usually comes next."
)
RULES = (
    "Name what the active tokens share and the others lack. Be as specific as the texts allow, and "
    "no more: somebody will use your phrase to predict the activation of every token of other "
    "texts. If only one word or sign is active, name it in quotes. Do not mention features, "
    "activations, tokens or these instructions. At most 30 words."
)
NOTATION = {
    "activations": "Each line holds a token in quotes and, behind a tab, its activation from 0 to "
    "10.",
    "marked": f"The tokens it is active on stand between {MARK[0]} and {MARK[1]}.",
    "max_and_logits": "You get the strongest tokens, the tokens that came right after them, the "
    "tokens whose probability the feature raises, and texts in which the strongest tokens stand "
    f"between {MARK[0]} and {MARK[1]}.",
    "contrastive": f"The tokens it is active on stand between {MARK[0]} and {MARK[1]}. Texts under "
    "SILENT are alike, but it is not active there: your phrase must leave them out.",
}


def messages(task: ExplainTask, vocabulary: Vocabulary) -> tuple[Message, ...]:
    """The conversation that asks: rules, two or three worked answers, the feature's own texts."""
    write = PROTOCOLS[task.protocol]
    system = f"{OPENING}\n\n{NOTATION[task.protocol]}\n\n{RULES}"
    turns = [Message("system", system)]
    for one in shown():
        turns.append(Message("user", _made_up(task.protocol, one)))
        turns.append(Message("assistant", f'{{"explanation": {_json(one.explanation)}}}'))
    return (*turns, Message("user", write(task, vocabulary)))


def read(reply: Reply) -> str:
    """The explanation; Unreadable."""
    text = entry(structure(reply), "explanation")
    if not isinstance(text, str) or not text.strip():
        raise Unreadable("the explanation is empty")
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise Unreadable(f"the explanation has {len(text)} characters, more than {LONGEST}")
    return text


def _activations(task: ExplainTask, vocabulary: Vocabulary) -> str:
    shown = [with_levels(e, task.maximum, vocabulary) for e in (*task.firing, *task.silent)]
    return _texts(shown)


def _marked(task: ExplainTask, vocabulary: Vocabulary) -> str:
    return _texts([_with_marks(e, task, vocabulary) for e in (*task.firing, *task.silent)])


def _max_and_logits(task: ExplainTask, vocabulary: Vocabulary) -> str:
    strongest = [e.ids[e.peak] for e in task.firing]
    after = [e.ids[e.peak + 1] for e in task.firing if e.peak + 1 < len(e.ids)]
    texts = _texts([_with_marks(e, task, vocabulary) for e in task.firing])
    lists = (
        f"STRONGEST TOKENS: {_names(strongest, vocabulary)}\n"
        f"TOKENS RIGHT AFTER: {_names(after, vocabulary)}\n"
        f"RAISES: {_names(task.raises, vocabulary)}"
    )
    return f"{lists}\n\n{texts}"


def _contrastive(task: ExplainTask, vocabulary: Vocabulary) -> str:
    active = _texts([_with_marks(e, task, vocabulary) for e in task.firing])
    silent = _texts([_with_marks(e, task, vocabulary) for e in task.silent])
    return f"ACTIVE\n\n{active}\n\nSILENT\n\n{silent or 'none'}"


PROTOCOLS: dict[str, Callable[[ExplainTask, Vocabulary], str]] = {
    "activations": _activations,
    "marked": _marked,
    "max_and_logits": _max_and_logits,
    "contrastive": _contrastive,
}


def _with_marks(example: Example, task: ExplainTask, vocabulary: Vocabulary) -> str:
    return marked(example.ids, strong_places(example, task.maximum), vocabulary)


def _texts(texts: Sequence[str]) -> str:
    return "\n\n".join(f"TEXT {n}\n{text}" for n, text in enumerate(texts, 1))


def _names(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Quoted tokens, each once, in order."""
    return ", ".join(dict.fromkeys(quoted(vocabulary[i][0]) for i in ids)) or "none"


# ---------------------------------------------------------------- the worked answers


def _made_up(protocol: str, one: Shown) -> str:
    """The same notation for a made-up feature."""
    words = [name for tokens in (*one.firing, *one.silent) for name, _ in tokens]
    raised = [f" {name}" for name in one.raises]
    ids = {name: n for n, name in enumerate(dict.fromkeys([*words, *raised]))}
    vocabulary = {n: (name.encode(), False) for name, n in ids.items()}
    task = ExplainTask(
        feature=0,
        protocol=protocol,
        firing=tuple(_example(tokens, ids) for tokens in one.firing),
        silent=tuple(_example(tokens, ids) for tokens in one.silent),
        maximum=10.0,
        raises=tuple(ids[name] for name in raised),
    )
    return PROTOCOLS[protocol](task, vocabulary)


def _example(tokens: Tokens, ids: dict[str, int]) -> Example:
    values = tuple(float(n) for _, n in tokens)
    peak = max(range(len(values)), key=values.__getitem__)
    return Example(
        feature=0, kind="top", part="", rank=0, doc=0, document="", use="explain", start=0,
        peak=peak, max=values[peak], pre=values[peak], inclusion=None, copies=1,
        ids=tuple(ids[name] for name, _ in tokens), values=values,
    )  # fmt: skip


def _json(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
