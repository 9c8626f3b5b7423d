"""Predicted against real activations on text the explanation never saw.

In:  a judge, its explanations, each feature's examples of the `score` split. Out: `Score`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from data.records import Example, Explanation, Score
from interp.explain import disjoint_windows
from interp.judges.judge import Judge
from interp.score import correlation_with_interval


def simulate(
    judge: Judge,
    explanations: Mapping[int, Explanation],
    examples: Mapping[int, Sequence[Example]],
    seed: int,
) -> Iterator[Score]:
    """One score an explanation: Pearson's r over the tokens of all held-back windows."""
    for feature, explanation in explanations.items():
        own = examples.get(feature, [])
        leaked = {e.use for e in own} - {"score"}
        assert not leaked, f"examples of {leaked} must not reach a score"
        yield _score(judge, explanation, disjoint_windows(own), seed)


def _score(judge: Judge, explanation: Explanation, windows: list[Example], seed: int) -> Score:
    n_documents = len({w.doc for w in windows})
    n_tokens = sum(len(w.ids) for w in windows)

    def outcome(status: str, reason: str) -> Score:
        return Score(
            explanation.feature, "simulate", None, None, None, n_tokens, n_documents, status, reason
        )

    if explanation.status != "ok":
        return outcome("not_run", f"no explanation: {explanation.reason}")
    if not any(value > 0 for w in windows for value in w.values):
        return outcome("not_run", "silent in the score split")
    predictions = judge.simulate(explanation, [w.ids for w in windows])
    failed = [p.reason for p in predictions if p.status != "ok"]
    if failed:
        return outcome("failed", f"{len(failed)} of {len(predictions)} windows: {failed[0]}")
    r, low, high = correlation_with_interval(
        [w.values for w in windows],
        [p.values for p in predictions],
        [w.doc for w in windows],
        seed,
    )
    if r is None:
        return outcome("failed", "constant prediction: the correlation is undefined")
    return Score(explanation.feature, "simulate", r, low, high, n_tokens, n_documents)
