"""The fields of a command's form, what is wrong with what was typed, the arguments it becomes.

In:  a form and the values of its fields. Out: faults in words, or a list of arguments for run.py.
No text typed into a form ever passes through a shell, and none can be taken for an option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.jobs import THEN


@dataclass(frozen=True)
class Field:
    """One argument of a command."""

    name: str
    label: str
    kind: str  # text | whole | number | choice | flag | several | sae | words
    default: object = None  # None: the command decides
    help: str = ""
    low: float | None = None  # of a whole number: 1 if it is not said
    high: float | None = None
    choices: tuple[str, ...] = ()
    more: bool = False  # under "More options"
    positional: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Form:
    """One thing to start."""

    command: str  # of run.py
    title: str
    what: str  # one sentence
    fields: tuple[Field, ...]
    verb: str  # on the button


def faults(form: Form, values: Mapping[str, object]) -> list[str]:
    """What is wrong with what was typed, each in a sentence."""
    return [fault for field in form.fields if (fault := _fault(field, values.get(field.name)))]


def lowest(field: Field) -> float | None:
    """The smallest number it takes."""
    return 1 if field.low is None and field.kind == "whole" else field.low


def _fault(field: Field, value: object) -> str | None:
    if value in (None, ""):
        return f"{field.label} is missing." if field.positional else None
    if field.kind in ("whole", "number"):
        low, high = lowest(field), field.high
        if (low is not None and value < low) or (high is not None and value > high):
            bound = f"at least {low:,g}" if high is None else f"from {low:,g} to {high:,g}"
            return f"{field.label} is {value:,g}: give a number {bound}."
    elif field.kind in ("choice", "several"):
        for one in (value,) if field.kind == "choice" else value:
            if one not in field.choices:
                return f"{field.label}: {one!r} is none of {', '.join(field.choices)}."
        if field.kind == "several" and not value:
            return f"{field.label}: choose at least one."
    elif field.kind in ("text", "words", "sae"):
        for word in (str(value),) if field.kind != "words" else value:
            if word.startswith("-") or word == THEN or not word.isprintable():
                return f"{field.label}: {word!r:.60} cannot be used: it may not begin with “-”."
    return None


def arguments(form: Form, values: Mapping[str, object], workspace: str) -> list[str]:
    """Arguments of run.py for what was typed; what equals the default is left out."""
    first, rest = [], []
    for field in form.fields:
        value = values.get(field.name)
        if field.positional:
            first.append(str(value))
        elif value not in (None, "") and not _is_default(field, value):
            rest += _argument(field, value)
    return [form.command, *first, *rest, "--workspace", workspace]


def _is_default(field: Field, value: object) -> bool:
    return (tuple(value) if isinstance(value, list) else value) == field.default


def _argument(field: Field, value: object) -> list[str]:
    option = f"--{field.name.replace('_', '-')}"
    if field.kind == "flag":
        return [option] if value else []
    if field.kind == "several":
        return [option, ",".join(value)]
    if field.kind == "words":
        return [option, *value]
    if field.kind in ("whole", "number"):
        return [option, f"{value:.12g}"]
    return [option, str(value)]


def chained(commands: Sequence[Sequence[str]]) -> list[str]:
    """One job's arguments out of several commands, one after another."""
    joined: list[str] = list(commands[0])
    for command in commands[1:]:
        joined += [THEN, *command]
    return joined
