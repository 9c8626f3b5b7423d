"""The token-lookup baseline: a feature is the tokens it fires on, whatever stands around them.

In:  examples of the `explain` split. Out: explanations that list tokens, and predictions read from
     a table of mean activation per token. No language model, no network: whatever a language
     model adds to understanding must show as a better score than this one's (own baseline, after
     the token-lookup baselines of Bills et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data.records import Example, Explanation
from interp.judges.judge import Prediction

SHOWN = 6  # tokens an explanation names at most
SHOWN_MASS = 0.8  # it stops once they carry this share of the activation
TABLE = 256  # tokens the lookup table keeps
SHRINKAGE = 1.0  # occurrences at the base rate that every token is given in advance


def readable(raw: bytes) -> str:
    """A token as a quoted string: spaces as they are; backslashes, control characters and bytes
    that are no text escaped."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return '"' + "".join(_visible(character) for character in text) + '"'


def _visible(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":  # a byte that is no part of a character
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class LexicalJudge:
    """Explains a feature by its tokens, predicts activations by token lookup."""

    name = "lexical"
    is_language_model = False

    def __init__(self, vocabulary: Mapping[int, tuple[bytes, bool]]) -> None:
        self.vocabulary = vocabulary  # id -> (bytes, special)

    def explain(self, feature: int, examples: Sequence[Example]) -> Explanation:
        """Mean activation per token over the examples, shrunk towards the feature's base rate."""
        mass: dict[int, float] = defaultdict(float)
        count: dict[int, int] = defaultdict(int)
        for example in examples:
            for token, value in zip(example.ids, example.values, strict=True):
                mass[token] += value
                count[token] += 1
        if not any(mass.values()):
            reason = "no active example in the explain split"
            return Explanation(feature, self.name, "", {}, "failed", reason)
        base = _base_rate(examples)
        table = {
            token: (mass[token] + SHRINKAGE * base) / (count[token] + SHRINKAGE)
            for token in mass
            if mass[token] > 0
        }
        strongest = sorted(table, key=lambda token: (-table[token], token))[:TABLE]
        # Six significant digits: activations may be tiny in some models' units.
        payload = {"table": {str(t): float(f"{table[t]:.6g}") for t in strongest}, "base": base}
        return Explanation(feature, self.name, self._words(mass), payload)

    def _words(self, mass: Mapping[int, float]) -> str:
        """The tokens that carry most of the activation, as quoted strings."""
        total, covered, words = sum(mass.values()), 0.0, []
        for token in sorted(mass, key=lambda t: (-mass[t], t))[:SHOWN]:
            if mass[token] <= 0:
                break
            words.append(readable(self.vocabulary[token][0]))
            covered += mass[token]
            if covered >= SHOWN_MASS * total:
                break
        return ", ".join(words)

    def simulate(
        self, explanation: Explanation, windows: Sequence[Sequence[int]]
    ) -> list[Prediction]:
        if explanation.status != "ok":
            return [Prediction(None, "failed", explanation.reason) for _ in windows]
        table = {int(token): value for token, value in explanation.payload["table"].items()}
        base = explanation.payload["base"]
        return [Prediction(tuple(table.get(token, base) for token in ids)) for ids in windows]

    def detect(
        self, explanation: Explanation, windows: Sequence[Sequence[int]]
    ) -> list[float | None]:
        """The window's strongest predicted activation, relative to the table's strongest."""
        predictions = self.simulate(explanation, windows)
        if explanation.status != "ok":
            return [None] * len(windows)
        strongest = max(explanation.payload["table"].values())
        return [min(max(p.values) / strongest, 1.0) if p.values else None for p in predictions]


def _base_rate(examples: Sequence[Example]) -> float:
    """Mean activation of the corpus, from its sampled firing and silent tokens; 0 without any."""
    drawn = [e for e in examples if e.kind in ("active", "random") and e.inclusion]
    weights = [e.copies / e.inclusion for e in drawn]
    total = sum(weight * e.max for weight, e in zip(weights, drawn, strict=True))
    return total / sum(weights) if weights else 0.0
