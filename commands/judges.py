"""The judge a name stands for. In: JUDGE as typed. Out: an object of interp/judges."""

from __future__ import annotations

from data.errors import WorkbenchError
from data.features_store import FeatureStore
from interp.judges.judge import Judge
from interp.judges.lexical import LexicalJudge


def judge_named(name: str, store: FeatureStore) -> Judge:
    """`lexical`: the token-lookup baseline, which needs neither network nor key."""
    if name == "lexical":
        return LexicalJudge(store.vocabulary())
    raise WorkbenchError(f"no judge {name!r}: there is lexical")


def feature_range(text: str, n_features: int) -> range:
    """`all`, one number, or A:B (B not included)."""
    parts = text.split(":")
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if text == "all":
        return range(n_features)
    if len(numbers) == 1 and numbers[0] is not None and 0 <= numbers[0] < n_features:
        return range(numbers[0], numbers[0] + 1)
    if len(numbers) == 2:
        first, last = numbers[0] or 0, n_features if numbers[1] is None else numbers[1]
        if 0 <= first < last <= n_features:
            return range(first, last)
    raise WorkbenchError(
        f"--features {text!r}: give all, a number, or A:B within 0 to {n_features}"
    )
