"""Made-up features with texts, levels and explanations: what a good answer looks like.

Written for this project; no feature of any model. Out: `SHOWN`, which the prompts spell out in
their own notation. Tokens are given with their level; most levels are 0, as in life.
"""

from __future__ import annotations

from dataclasses import dataclass

Tokens = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Shown:
    """One made-up feature."""

    explanation: str
    firing: tuple[Tokens, ...]
    silent: tuple[Tokens, ...]  # near misses: it might fire here, and does not
    raises: tuple[str, ...]


def _tokens(text: str) -> Tokens:
    """`a b=7 c` -> tokens " a" 0, " b" 7, " c" 0; `_` in front: no space; `\\n` a line break."""
    out = []
    for word in text.split(" "):
        name, _, number = word.partition("=")
        glued = name.startswith("_")
        name = name.removeprefix("_").replace("\\n", "\n")
        out.append((name if glued or name == "\n" else " " + name, int(number or 0)))
    return tuple(out)


SHOWN = (
    Shown(
        "numbers that say how old somebody is",
        (
            _tokens("My grandmother turned ninety=8 _-two=10 in March and still climbs the stairs"),
            _tokens("Hired at 19=9 _, he ran the whole yard by the time he was 25=7 _."),
            _tokens("a twelve=6 _- year=2 _- old girl from Lyon won both races"),
        ),
        (
            _tokens("the bridge is 92 metres long and 19 wide"),
            _tokens("it took them twelve years to finish the roof"),
        ),
        ("years", "year", "yr"),
    ),
    Shown(
        "the name after `import` or `from` in Python, when the module is about files or paths",
        (
            _tokens("_import os=6 \\n _import shutil=10 \\n _import sys"),
            _tokens("_from path=7 _lib=9 import Path=3 \\n"),
        ),
        (
            _tokens("_import numpy as np \\n _import random"),
            _tokens("_the os of the phone was old"),
        ),
        ("path", "dirname", "walk"),
    ),
    Shown(
        "a word of regret in front of a refusal",
        (
            _tokens("We are sorry=9 _, but the shop will not open on Sunday"),
            _tokens("Unfortunately=10 _, your request cannot be granted"),
            _tokens("I regret=7 to say that no seats are left"),
        ),
        (
            _tokens("He was sorry for the dog and took it home"),
            _tokens("Luckily the train was late as well"),
        ),
        ("cannot", "unable", "but"),
    ),
)
