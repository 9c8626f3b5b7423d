"""What a feature's predictions are worth: one headline number for each method, with its interval,
its failures and everything it could be mistaken for beside it.

In:  items and a judge's answers, in one order. Out: a `Result`.

    simulate   Pearson's r over the tokens of all windows; per stratum; Spearman, AUC, R^2
    estimate   Spearman's rho of true and estimated largest levels, over windows
    detect     balanced accuracy at 50 %; AUC; what trivial strategies would get
    fuzz       the same, with marks
    intruder   share of rounds in which the intruder was found, beside chance

Failed answers are left out and counted; above a share of `MOST_FAILED` the value is withheld. A
constant prediction has no correlation: status `constant`, no value, counted as 0 in means, which
give the mean without it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from interp.intervals import wilson
from interp.items import Item
from interp.judges.tasks import Answer
from interp.passages import LEVELS, levels
from interp.score import correlation_with_interval, pearson

MOST_FAILED = 0.2  # of the items
RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """status: ok | constant | withheld | failed | not_run; value is None unless ok."""

    method: str
    value: float | None
    low: float | None  # 95 % interval
    high: float | None
    n_ok: int
    n: int  # items asked about; more were wanted if `wanted` is larger
    wanted: int
    status: str = "ok"
    reason: str = ""
    reasons: dict[str, int] = field(default_factory=dict)  # of what failed, or was not run
    details: dict = field(default_factory=dict)  # further numbers, by name

    @property
    def failed(self) -> int:
        return self.n - self.n_ok


def simulation(
    items: Sequence[Item], answers: Sequence[Answer], maximum: float, wanted: int, seed: int
) -> Result:
    """Pearson's r over concatenated tokens, with the bootstrap's interval over documents."""
    good = [n for n, answer in enumerate(answers) if answer.status == "ok"]
    real = [items[n].example.values for n in good]
    said = [answers[n].value for n in good]
    documents = [items[n].example.doc for n in good]
    if not any(value > 0 for item in items for value in item.example.values):
        return _empty("simulate", answers, wanted, "not_run", "silent in all windows of the split")
    refused = _refused("simulate", answers, wanted)
    if refused is not None:
        return refused
    r, low, high = correlation_with_interval(real, said, documents, seed)
    a, s = np.concatenate(real).astype(float), np.concatenate(said).astype(float)
    details = {
        "strata": {
            name: _stratum([n for n in good if items[n].stratum == name], items, answers)
            for name in dict.fromkeys(item.stratum for item in items)
        },
        "spearman": spearman(a, s), "auc": auc(a > 0, s), "r2": r_squared(a, s),
        "documents": len(set(documents)), "tokens": len(a),
    }  # fmt: skip
    if len(good) < len(items):
        details["best"], details["worst"] = _cases(items, answers, maximum)
    return _result("simulate", answers, wanted, r, low, high, details)


def estimation(true: Sequence[float], answers: Sequence[Answer], wanted: int, seed: int) -> Result:
    """Spearman's rho of true and estimated largest levels (both 0 to 10), over windows."""
    refused = _refused("estimate", answers, wanted)
    if refused is not None:
        return refused
    good = [n for n, answer in enumerate(answers) if answer.status == "ok"]
    a = np.array([true[n] for n in good], dtype=float)
    s = np.array([answers[n].value for n in good], dtype=float)
    low, high = _bootstrap(len(good), lambda drawn: _rows_spearman(a[drawn], s[drawn]), seed)
    return _result("estimate", answers, wanted, spearman(a, s), low, high, {})


def detection(
    method: str, fires: Sequence[bool], answers: Sequence[Answer], wanted: int, seed: int
) -> Result:
    """Balanced accuracy of saying "fires" from 50 % on, and the AUC of the probabilities.

    Beside it what three strategies that read nothing get: yes to all, yes to none, yes to every
    other one. In a shuffled row of as many of one sort as of the other that is .5, but for chance.
    """
    refused = _refused(method, answers, wanted)
    if refused is not None:
        return refused
    good = [n for n, answer in enumerate(answers) if answer.status == "ok"]
    truth = np.array([fires[n] for n in good])
    said = np.array([answers[n].value for n in good], dtype=float)
    if truth.all() or not truth.any():
        return _empty(method, answers, wanted, "failed", "only one sort of windows was answered")

    yes = said >= 0.5
    low, high = _bootstrap(len(good), lambda drawn: _rows_balanced(truth[drawn], yes[drawn]), seed)
    places = np.arange(len(good))
    details = {
        "auc": auc(truth, said),
        "hits": float(yes[truth].mean()),
        "false_alarms": float(yes[~truth].mean()),
        "trivial": {
            "all": balanced_accuracy(truth, np.ones(len(truth), bool)),
            "none": balanced_accuracy(truth, np.zeros(len(truth), bool)),
            "positional": balanced_accuracy(truth, places % 2 == 0),
        },
    }
    return _result(method, answers, wanted, balanced_accuracy(truth, yes), low, high, details)


def intrusion(where: Sequence[int], size: int, answers: Sequence[Answer], wanted: int) -> Result:
    """Share of rounds in which the intruder was found, with Wilson's interval; chance is 1/size."""
    refused = _refused("intruder", answers, wanted)
    if refused is not None:
        return refused
    good = [n for n, answer in enumerate(answers) if answer.status == "ok"]
    hits = sum(answers[n].value == where[n] for n in good)
    value, low, high = wilson(hits / len(good), len(good))
    return _result("intruder", answers, wanted, value, low, high, {"chance": 1 / size})


# ---------------------------------------------------------------- measures


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r of the ranks, ties at their mean; None where a side is constant."""
    return pearson(rankdata(x), rankdata(y)) if len(x) else None


def auc(positive: np.ndarray, score: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties half (Mann and Whitney 1947);
    None without both sorts."""
    n = int(positive.sum())
    if n in (0, len(positive)):
        return None
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def r_squared(real: np.ndarray, predicted: np.ndarray) -> float | None:
    """1 - SSE / SST, each side in units of its own largest value, so that a prediction in levels
    can be held against activations; below 0 where the mean would have been nearer. None where the
    real values are constant."""
    a, s = (y / y.max() if len(y) and y.max() > 0 else y for y in (real, predicted))
    total = float(((a - a.mean()) ** 2).sum())
    return None if total == 0 else 1 - float(((a - s) ** 2).sum()) / total


def balanced_accuracy(truth: np.ndarray, said: np.ndarray) -> float | None:
    """Mean of the shares of positives and of negatives that are named rightly."""
    if truth.all() or not truth.any():
        return None
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


# ---------------------------------------------------------------- inside


def _refused(method: str, answers: Sequence[Answer], wanted: int) -> Result | None:
    """The result if nothing can be said: nothing asked, nothing run, or too much failed."""
    if not answers:
        return _empty(method, answers, wanted, "not_run", "no window of the split to ask about")
    bad = [answer for answer in answers if answer.status != "ok"]
    if bad and all(answer.status == "not_run" for answer in answers):
        return _empty(method, answers, wanted, "not_run", bad[0].reason)
    if len(bad) == len(answers):
        return _empty(method, answers, wanted, "failed", bad[0].reason)
    if len(bad) > MOST_FAILED * len(answers):
        reason = f"{len(bad)} of {len(answers)} failed: the value is withheld"
        return _empty(method, answers, wanted, "withheld", reason)
    return None


def _result(
    method: str, answers: Sequence[Answer], wanted: int, value, low, high, details: dict
) -> Result:
    bad = [answer for answer in answers if answer.status != "ok"]
    status, reason = ("ok", "") if value is not None else (
        "constant", "constant prediction: the correlation is undefined"
    )  # fmt: skip
    return Result(
        method, value, low, high, len(answers) - len(bad), len(answers), wanted, status, reason,
        _reasons(bad), details,
    )  # fmt: skip


def _empty(method: str, answers, wanted: int, status: str, reason: str) -> Result:
    bad = [answer for answer in answers if answer.status != "ok"]
    return Result(
        method, None, None, None, len(answers) - len(bad), len(answers), wanted, status, reason,
        _reasons(bad),
    )  # fmt: skip


def _reasons(bad: Sequence[Answer]) -> dict[str, int]:
    return dict(Counter(answer.reason for answer in bad).most_common())


def _stratum(
    chosen: Sequence[int], items: Sequence[Item], answers: Sequence[Answer]
) -> dict[str, float | int | None]:
    """r inside a stratum, how many windows, and the mean levels: r of silent ones is undefined."""
    if not chosen:
        return {"n": 0, "r": None, "real": None, "said": None}
    a = np.concatenate([items[n].example.values for n in chosen]).astype(float)
    s = np.concatenate([answers[n].value for n in chosen]).astype(float)
    return {"n": len(chosen), "r": pearson(a, s), "real": float(a.mean()), "said": float(s.mean())}


def _cases(
    items: Sequence[Item], answers: Sequence[Answer], maximum: float
) -> tuple[float | None, float | None]:
    """r if every failed window had been predicted perfectly, and if it had been predicted as
    wrongly as levels allow: 10 where it is silent, 0 where it fires."""
    best, worst, real = [], [], []
    for item, answer in zip(items, answers, strict=True):
        values = item.example.values
        real.append(values)
        if answer.status == "ok":
            best.append(answer.value)
            worst.append(answer.value)
        else:
            best.append(levels(values, maximum))
            worst.append([0.0 if value > 0 else float(LEVELS) for value in values])
    a = np.concatenate(real).astype(float)
    return pearson(a, np.concatenate(best)), pearson(a, np.concatenate(worst))


def _bootstrap(
    n: int, measure: Callable[[np.ndarray], np.ndarray], seed: int
) -> tuple[float | None, float | None]:
    """95 % percentile interval over items (Efron and Tibshirani 1993, ch. 13). measure: of places
    int [resamples, n] -> float [resamples], NaN where it is undefined."""
    if n < 3:
        return None, None
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    found = measure(drawn)
    found = found[np.isfinite(found)]
    if len(found) < RESAMPLES // 2:
        return None, None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _rows_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`spearman` of each row of two arrays [resamples, n]; NaN where it is undefined."""
    a, b = (rankdata(side, axis=1) for side in (x, y))
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (a, b))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / scale


def _rows_balanced(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` of each row of two arrays bool [resamples, n]; NaN likewise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        hits = (truth & said).sum(axis=1) / truth.sum(axis=1)
        rejections = (~truth & ~said).sum(axis=1) / (~truth).sum(axis=1)
    return (hits + rejections) / 2
