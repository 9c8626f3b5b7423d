"""The token-lookup baseline: a feature is the tokens it fires on, whatever stands around them.

In:  a feature's examples of the `explain` split. Out: explanations that list tokens, and
     predictions read from a table of mean activation and of how often it fires per token. No
     language model, no network: whatever a language model adds to understanding must show as a
     better score than this one's (own baseline, after the token-lookup baselines of Bills et al.
     2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data.records import Example, Explanation
from interp.judges.tasks import (
    Answer,
    DetectTask,
    EstimateTask,
    ExplainTask,
    IntruderTask,
    SimulateTask,
)
from interp.passages import LEVELS, Vocabulary, disjoint_windows, quoted

SHOWN = 6  # tokens an explanation names at most
SHOWN_MASS = 0.8  # it stops once they carry this share of the activation
TABLE = 256  # tokens the lookup table keeps
SHRINKAGE = 1.0  # occurrences at the base rate that every token is given in advance
WIDTH = 64  # tokens of an example that are counted: more than a language model is shown


class LexicalJudge:
    """Explains a feature by its tokens, predicts activations by token lookup."""

    name = "lexical"
    is_language_model = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def explain(self, tasks: Sequence[ExplainTask]) -> list[Explanation]:
        return [self._explain(task.feature, task.everything) for task in tasks]

    def _explain(self, feature: int, examples: Sequence[Example]) -> Explanation:
        """Mean activation and rate of firing per token, shrunk towards the feature's base rate."""
        mass: dict[int, float] = defaultdict(float)
        fires: dict[int, int] = defaultdict(int)
        count: dict[int, int] = defaultdict(int)
        for example in disjoint_windows(examples, WIDTH):
            for token, value in zip(example.ids, example.values, strict=True):
                mass[token] += value
                fires[token] += value > 0
                count[token] += 1
        if not any(mass.values()):
            reason = "no active example in the explain split"
            return Explanation(feature, self.name, "", {}, "failed", reason)
        base, rate = _base_rates(examples)
        strongest = sorted((t for t in mass if mass[t] > 0), key=lambda t: (-mass[t], t))
        table, often = {}, {}
        for token in strongest:
            n = count[token] + SHRINKAGE
            table[token] = (mass[token] + SHRINKAGE * base) / n
            often[token] = (fires[token] + SHRINKAGE * rate) / n
        kept = sorted(table, key=lambda token: (-table[token], token))[:TABLE]
        # Six significant digits: activations may be tiny in some models' units.
        payload = {
            "table": {str(t): float(f"{table[t]:.6g}") for t in kept}, "base": base,
            "often": {str(t): round(often[t], 6) for t in kept}, "rate": rate,
        }  # fmt: skip
        return Explanation(feature, self.name, self._words(mass), payload)

    def _words(self, mass: Mapping[int, float]) -> str:
        """The tokens that carry most of the activation, as quoted strings."""
        total, covered, words = sum(mass.values()), 0.0, []
        for token in sorted(mass, key=lambda t: (-mass[t], t))[:SHOWN]:
            if mass[token] <= 0:
                break
            words.append(quoted(self.vocabulary[token][0]))
            covered += mass[token]
            if covered >= SHOWN_MASS * total:
                break
        return ", ".join(words)

    def simulate(self, tasks: Sequence[SimulateTask]) -> list[Answer]:
        """Activations as they are, not levels: a correlation does not mind."""
        return [_refused(t) or Answer(_looked_up(t, "table", "base")) for t in tasks]

    def estimate(self, tasks: Sequence[EstimateTask]) -> list[Answer]:
        """The largest expected activation of a window, in levels and fractions of them."""
        return [
            _refused(t) or Answer(LEVELS * max(_looked_up(t, "table", "base")) / t.maximum)
            for t in tasks
        ]

    def detect(self, tasks: Sequence[DetectTask]) -> list[Answer]:
        """How often the token fires that fires most often of those asked about."""
        out = []
        for task in tasks:
            refused = _refused(task)
            if refused is None:
                rates = _looked_up(task, "often", "rate")
                places = range(len(rates)) if task.marks is None else task.marks
                refused = Answer(max((rates[n] for n in places), default=0.0))
            out.append(refused)
        return out

    def intrude(self, tasks: Sequence[IntruderTask]) -> list[Answer]:
        """The window whose marked tokens occur least among the others' marked tokens."""
        return [Answer(_odd_one(task)) for task in tasks]


def _refused(task: SimulateTask | EstimateTask | DetectTask) -> Answer | None:
    """The answer where there is no table; an explanation in words is none."""
    explanation = task.explanation
    if explanation.status != "ok":
        return Answer(None, "not_run", f"no explanation: {explanation.reason}")
    if "table" not in explanation.payload:
        return Answer(None, "not_run", "the lookup table cannot read an explanation in words")
    return None


def _looked_up(task: SimulateTask, table: str, otherwise: str) -> tuple[float, ...]:
    payload = task.explanation.payload
    found = payload[table]
    return tuple(found.get(str(token), payload[otherwise]) for token in task.ids)


def _odd_one(task: IntruderTask) -> int:
    marked = [
        {ids[n] for n in places} for ids, places in zip(task.windows, task.marks, strict=True)
    ]

    def shared(at: int) -> int:
        return sum(len(marked[at] & other) for n, other in enumerate(marked) if n != at)

    return min(range(len(marked)), key=lambda at: (shared(at), at))


def _base_rates(examples: Sequence[Example]) -> tuple[float, float]:
    """Mean activation of the corpus and share of its tokens that fire, from its sampled firing and
    silent tokens; zeros without any."""
    drawn = [e for e in examples if e.kind in ("active", "random") and e.inclusion]
    weights = [e.copies / e.inclusion for e in drawn]
    total = sum(weights)
    if not total:
        return 0.0, 0.0
    mean = sum(weight * e.max for weight, e in zip(weights, drawn, strict=True)) / total
    rate = sum(weight for weight, e in zip(weights, drawn, strict=True) if e.max > 0) / total
    return mean, rate
