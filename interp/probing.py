"""Linear probes: how well labels can be read off a representation of documents.

In:  one vector a document, labels, and what may be made of the vectors first (nothing, a PCA, the
     k best features). Out: accuracy, balanced accuracy and AUC on documents nothing was fitted on,
     each with a bootstrap interval.

Everything that is fitted sees the train part only: the standardisation, the PCA, the choice of
features, the weights. The penalty is chosen on a validation fold inside it, from one grid for every
representation. Protocol after SAEBench's sparse probing (Karvonen et al. 2025); the split is own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import TextError
from data.text import mix64

TEST_SHARE, VALIDATION_SHARE = 0.3, 0.25  # of all documents; of the rest
LEAST_OF_A_LABEL = 10  # different documents
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
RESAMPLES = 1_000
DRAWN_AT_ONCE = 2**22  # elements of one [draws, documents] matrix
CONSTANT = 1e-9  # deviations below so much of a column's largest entry are rounding

Transform = Callable[[Tensor], Tensor]
Prepare = Callable[[Tensor, Tensor], Transform]  # (x, y) of the documents to fit on


# ---------------------------------------------------------------- the parts


@dataclass(frozen=True)
class Parts:
    """Document numbers of each part."""

    fit: np.ndarray  # weights while the penalty is chosen
    validation: np.ndarray  # chooses the penalty
    test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return np.sort(np.concatenate([self.fit, self.validation]))


def split(min_hashes: np.ndarray, labels: list[str], seed: int) -> Parts:
    """The parts, the same share of each label in each; near-duplicates (equal min-hashes) together.

    min_hashes: uint64 [n], data.text.min_hash of each document. A seeded hash of them decides, so
    the order of the documents does not matter. Raises TextError for labels that are too few.
    """
    _, first, group = np.unique(min_hashes, return_index=True, return_inverse=True)
    order = mix64(min_hashes[first] ^ mix64(seed))
    of_group = np.array(labels, dtype=object)[first]
    part = np.zeros(len(first), dtype=np.int64)
    kinds = sorted(set(labels))
    if len(kinds) < 2:
        raise TextError(f"every document has the label {kinds[0]!r}: a probe needs two or more")
    for kind in kinds:
        groups = np.flatnonzero(of_group == kind)
        n = len(groups)
        if n < LEAST_OF_A_LABEL:
            raise TextError(
                f"label {kind!r} has {n} different documents: a probe needs {LEAST_OF_A_LABEL} of "
                f"each of the {len(kinds)} labels"
            )
        groups = groups[np.argsort(order[groups], kind="stable")]
        n_test = round(TEST_SHARE * n)
        n_validation = round(VALIDATION_SHARE * (n - n_test))
        part[groups[:n_test]] = 2
        part[groups[n_test : n_test + n_validation]] = 1
    return Parts(*(np.flatnonzero(part[group] == number) for number in range(3)))


# ---------------------------------------------------------------- what is made of the vectors


def as_they_are(x: Tensor, y: Tensor) -> Transform:
    """The vectors themselves."""
    return lambda rows: rows


def principal_components(k: int) -> Prepare:
    """The first k principal components of the documents fitted on; fewer where there are fewer."""

    def fit(x: Tensor, y: Tensor) -> Transform:
        mean = x.double().mean(0)
        _, size, components = torch.linalg.svd(x.double() - mean, full_matrices=False)
        rank = min(k, int((size > CONSTANT * size[0]).sum()))
        return lambda rows: (rows.double() - mean) @ components[:rank].T

    return fit


def best_features(k: int) -> Prepare:
    """The k features that `choose` takes."""

    def fit(x: Tensor, y: Tensor) -> Transform:
        features = choose(x, y, k)
        return lambda rows: rows[:, features]

    return fit


def choose(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The k columns whose mean in one class lies furthest from the mean in all others, in standard
    deviations of the column; [k] int64, the best first, ties to the smaller number."""
    x = x.double()
    furthest = torch.zeros(x.shape[1], dtype=torch.float64)
    for kind in y.unique():
        gap = x[y == kind].mean(0) - x[y != kind].mean(0)
        furthest = torch.maximum(furthest, gap.abs())
    deviation, varies = _deviation(x)
    furthest = torch.where(varies, furthest / deviation, 0.0)
    return furthest.sort(descending=True, stable=True).indices[:k]


def _deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation of each column (1 where it is constant), and whether it varies."""
    deviation = x.std(0)
    varies = deviation > CONSTANT * x.abs().amax(0)
    return torch.where(varies, deviation, 1.0), varies


# ---------------------------------------------------------------- the probe


def logistic_regression(
    x: Tensor, y: Tensor, n_classes: int, penalty: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """W [width, n_classes] and b [n_classes] that minimise mean cross-entropy of softmax(x W + b)
    plus penalty / 2 ||W||^2.

    x [n, width] float64, y [n] int64 below n_classes. `start`: where the search begins.
    """
    W, b = start or (x.new_zeros(x.shape[1], n_classes), x.new_zeros(n_classes))
    W, b = W.clone().requires_grad_(), b.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [W, b],
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        fit = torch.nn.functional.cross_entropy(x @ W + b, y)
        loss = fit + penalty / 2 * W.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return W.detach(), b.detach()


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval over resampled test documents."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Probed:
    """What one representation gave on the test part."""

    inputs: int  # numbers of the representation that vary in the train part
    penalty: float | None  # None: nothing was fitted
    accuracy: Estimate
    balanced_accuracy: Estimate  # mean over classes of the share recognised
    auc: Estimate | None  # of two classes only


def probe(x: Tensor, y: Tensor, parts: Parts, prepare: Prepare, seed: int) -> Probed:
    """Fits on the train part of x [n, width], y [n] and scores the test part."""
    n_classes = int(y.max()) + 1
    design = _design(x[parts.fit], y[parts.fit], prepare)
    fitted, losses = None, []
    for penalty in PENALTIES:  # the strongest first; each search begins where the last ended
        fitted = logistic_regression(design(x[parts.fit]), y[parts.fit], n_classes, penalty, fitted)
        logits = _logits(design(x[parts.validation]), fitted)
        losses.append(float(torch.nn.functional.cross_entropy(logits, y[parts.validation])))
    penalty = PENALTIES[int(np.argmin(losses))]
    design = _design(x[parts.train], y[parts.train], prepare)
    rows = design(x[parts.train])
    fitted = logistic_regression(rows, y[parts.train], n_classes, penalty)
    logits = _logits(design(x[parts.test]), fitted).numpy()
    return Probed(rows.shape[1], penalty, *scores(logits, y[parts.test].numpy(), seed))


def majority(y: Tensor, parts: Parts, seed: int) -> Probed:
    """The baseline that always says the train part's commonest class."""
    logits = np.zeros((len(parts.test), int(y.max()) + 1))
    logits[:, int(y[parts.train].bincount().argmax())] = 1.0
    return Probed(0, None, *scores(logits, y[parts.test].numpy(), seed))


def _design(x: Tensor, y: Tensor, prepare: Prepare) -> Transform:
    """From vectors to float64 columns of mean 0 and deviation 1 on x; constant ones left out."""
    transform = prepare(x, y)
    rows = transform(x)
    deviation, varies = _deviation(rows.double())
    mean, deviation = rows.double().mean(0)[varies], deviation[varies]
    return lambda rows: (transform(rows)[:, varies].double() - mean) / deviation


def _logits(x: Tensor, fitted: tuple[Tensor, Tensor]) -> Tensor:
    return x @ fitted[0] + fitted[1]


# ---------------------------------------------------------------- scores


def scores(
    logits: np.ndarray, y: np.ndarray, seed: int
) -> tuple[Estimate, Estimate, Estimate | None]:
    """Accuracy, balanced accuracy and, of two classes, AUC (None where y holds one only).

    logits [n, n_classes], y [n]. The same seed resamples the same documents, so representations
    are compared on equal draws.
    """
    correct = (logits.argmax(1) == y).astype(np.float64)
    score = logits[:, -1] - logits[:, 0]
    binary = logits.shape[1] == 2 and len(np.unique(y)) == 2
    found = []
    for weight in _draws(len(y), seed):
        auc = weighted_auc(score, y, weight) if binary else np.zeros(len(weight))
        found.append([weight @ correct / len(y), balanced_accuracy(correct, y, weight), auc])
    columns = np.concatenate(found, axis=1)
    low, high = np.nanquantile(columns[:, 1:], [0.025, 0.975], axis=1)
    made = [Estimate(*map(float, row)) for row in zip(columns[:, 0], low, high, strict=True)]
    return made[0], made[1], made[2] if binary else None


def _draws(n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n documents counts: once, then in RESAMPLES draws with replacement; in
    blocks [.., n]."""
    yield np.ones((1, n))
    rng, left, at_once = np.random.default_rng(seed), RESAMPLES, max(DRAWN_AT_ONCE // n, 1)
    while left:
        rows = min(left, at_once)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        left -= rows


def balanced_accuracy(correct: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean over the classes that a draw holds of the share recognised, [draws].

    correct, y [n]; weight [draws, n]: how often each document counts.
    """
    shares = []
    for kind in np.unique(y):
        drawn = weight[:, y == kind]
        total = drawn.sum(1)
        right = drawn @ correct[y == kind]
        shares.append(np.divide(right, total, out=np.full(len(weight), np.nan), where=total > 0))
    return np.nanmean(shares, axis=0)


def weighted_auc(score: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Probability that a document of class 1 scores above one of class 0, ties counting half;
    [draws], NaN without one of the classes. score, y [n]; weight [draws, n]."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    ones = np.add.reduceat((weight * (y == 1))[:, order], starts, axis=1)
    zeros = np.add.reduceat((weight * (y == 0))[:, order], starts, axis=1)
    pairs = ones.sum(1) * zeros.sum(1)
    won = (ones * (np.cumsum(zeros, axis=1) - zeros / 2)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)
