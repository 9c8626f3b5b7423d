"""Examples to explanations, one feature at a time.

In:  a judge and each feature's examples of the `explain` split. Out: `Explanation`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from data.records import Example, Explanation
from data.windows import window
from interp.judges.judge import Judge

WINDOW = 64  # tokens of one stretch of text that a judge sees


def disjoint_windows(examples: Iterable[Example], width: int = WINDOW) -> list[Example]:
    """Windows of the examples without those that overlap an earlier one: a token counts once."""
    kept: list[Example] = []
    taken: dict[int, list[int]] = {}
    for example in examples:
        cut = window(example, width)
        if all(abs(cut.start - other) >= width for other in taken.get(cut.doc, [])):
            taken.setdefault(cut.doc, []).append(cut.start)
            kept.append(cut)
    return kept


def explain(
    judge: Judge, examples: Mapping[int, Sequence[Example]], features: Sequence[int]
) -> Iterator[Explanation]:
    """One explanation a feature. The examples must come from the `explain` split."""
    for feature in features:
        own = examples.get(feature, [])
        leaked = {e.use for e in own} - {"explain"}
        assert not leaked, f"examples of {leaked} must not reach an explanation"
        yield judge.explain(feature, disjoint_windows(own))
