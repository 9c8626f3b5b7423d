"""Made-up features with texts, levels and explanations: what a good answer looks like.

Written for this project; no feature of any model. Out: `shown()`, which the prompts spell out in
their own notation. Most levels are 0, as in life.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

Tokens = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Shown:
    """One made-up feature."""

    explanation: str
    firing: tuple[Tokens, ...]
    silent: tuple[Tokens, ...]  # near misses: it might fire here, and does not
    raises: tuple[str, ...]


# `a b=7 c` are the tokens " a", " b" of level 7, " c"; `_` in front: no space before it.
WRITTEN = (
    (
        "numbers that say how old somebody is",
        (
            "My grandmother turned ninety=8 _-two=10 in March and still climbs the stairs",
            "Hired at 19=9 _, he ran the whole yard by the time he was 25=7 _.",
            "a twelve=6 _- year=2 _- old girl from Lyon won both races",
        ),
        (
            "the bridge is 92 metres long and 19 wide",
            "it took them twelve years to finish the roof",
        ),
        ("years", "year", "yr"),
    ),
    (
        "the name after `import` or `from` in Python, when the module is about files or paths",
        (
            "_import os=6 \\n _import shutil=10 \\n _import sys",
            "_from path=7 _lib=9 import Path=3 \\n",
        ),
        (
            "_import numpy as np \\n _import random",
            "_the os of the phone was old",
        ),
        ("path", "dirname", "walk"),
    ),
    (
        "a word of regret in front of a refusal",
        (
            "We are sorry=9 _, but the shop will not open on Sunday",
            "Unfortunately=10 _, your request cannot be granted",
            "I regret=7 to say that no seats are left",
        ),
        (
            "He was sorry for the dog and took it home",
            "Luckily the train was late as well",
        ),
        ("cannot", "unable", "but"),
    ),
)


@functools.cache
def shown() -> tuple[Shown, ...]:
    """The made-up features."""
    return tuple(
        Shown(words, tuple(map(_tokens, firing)), tuple(map(_tokens, silent)), raises)
        for words, firing, silent, raises in WRITTEN
    )


def _tokens(text: str) -> Tokens:
    """Tokens of a written line, with their levels."""
    out = []
    for word in text.split(" "):
        name, _, number = word.partition("=")
        glued = name.startswith("_")
        name = name.removeprefix("_").replace("\\n", "\n")
        out.append((name if glued or name == "\n" else " " + name, int(number or 0)))
    return tuple(out)
