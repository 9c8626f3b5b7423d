"""Which examples a feature keeps: the smallest keys of each group, merged chunk by chunk.

In:  entries (group, key, distinct, tie, row, value) of a chunk. Out: per group the k smallest keys.

A key is one 64-bit word, smaller is better. For top examples it holds the activation and a hash
that breaks ties; for samples it is a seeded hash of the text around the token and of the feature,
so that what is kept is a uniform sample of a group's distinct texts whatever the order or the
chunks (bottom-k sampling, Cohen and Kaplan 2007): shards merge exactly, and near-duplicates appear
once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data.text import mix64

NEVER = 2**64 - 1  # a bound that lets everything in
AROUND = 8  # tokens on either side that make two tokens the same text
SETTLE = 1 << 20  # entries that may wait before they are merged, at least


class Smallest:
    """The `k` entries of smallest key in each group, no two of one group with the same `distinct`.

    Of entries alike in group and distinct the smallest (key, tie, row) stays. With `counted` the
    key itself tells what is distinct, and `copies` says how many entries the kept one stands for.
    """

    COLUMNS = ("group", "key", "distinct", "tie", "row", "value", "copies")
    DTYPES = (np.int64, np.uint64, np.uint64, np.uint64, np.int64, np.float32, np.int64)

    def __init__(self, n_groups: int, k: int, counted: bool = False) -> None:
        self.n_groups, self.k, self.counted = n_groups, k, counted
        # The k-th kept key: what is above it cannot enter.
        self.bound = np.full(n_groups, NEVER if k else 0, dtype=np.uint64)
        self._kept = [np.empty(0, dtype=dtype) for dtype in self.DTYPES]
        self._waiting: list[list[np.ndarray]] = []
        self._n_waiting = 0

    def offer(
        self,
        group: np.ndarray,
        key: np.ndarray,
        distinct: np.ndarray,
        tie: np.ndarray,
        row: np.ndarray,
        value: np.ndarray,
    ) -> None:
        """Considers entries [n] with key <= bound[group]; merging waits until it is worth it."""
        if self.k == 0 or len(group) == 0:
            return
        new = [
            np.asarray(column, dtype=dtype)
            for column, dtype in zip(
                (group, key, distinct, tie, row, value), self.DTYPES, strict=False
            )
        ]
        self._waiting.append([*new, np.ones(len(group), dtype=np.int64)])
        self._n_waiting += len(group)
        if self._n_waiting > max(SETTLE, len(self._kept[0])):
            self._settle()

    def merge(self, other: Smallest) -> None:
        """Takes in what another part of the corpus kept."""
        self._waiting.append(other.columns())
        self._n_waiting += len(self._waiting[-1][0])
        self._settle()

    def columns(self) -> list[np.ndarray]:
        """COLUMNS of all kept entries, sorted by group, then key."""
        self._settle()
        return self._kept

    def __getattr__(self, name: str) -> np.ndarray:
        if name in Smallest.COLUMNS:
            return self.columns()[Smallest.COLUMNS.index(name)]
        raise AttributeError(name)

    def ranks(self) -> np.ndarray:
        """Place of each kept entry within its group, from 0."""
        return place_in_run(self.group)

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(zip(self.COLUMNS, self.columns(), strict=True))

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `arrays` gave."""
        self._waiting = [[arrays[name] for name in self.COLUMNS]]
        self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        parts = [self._kept, *self._waiting]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        self._waiting, self._n_waiting = [], 0
        if not self.counted:
            columns = _best_of_distinct(columns, self.n_groups)
        group, key, _, tie, row, _, copies = columns
        order = order_by(joined(group, key, self.n_groups), (key, tie, row))
        if self.counted:  # entries of one group and key become one, their copies added
            starts = run_starts(group[order], key[order])
            if len(starts) < len(order):
                columns[-1][order[starts]] = np.add.reduceat(copies[order], starts)
                order = order[starts]
        order = order[place_in_run(group[order]) < self.k]
        self._kept = [column[order] for column in columns]
        group, key = self._kept[:2]
        counts = np.bincount(group, minlength=self.n_groups)
        full = counts >= self.k
        self.bound[full] = key[np.cumsum(counts)[full] - 1]


def joined(group: np.ndarray, key: np.ndarray, n_groups: int) -> np.ndarray:
    """One word to sort by, group first; keys lose their last bits."""
    bits = np.uint64(max(n_groups - 1, 1).bit_length())
    return group.astype(np.uint64) << (np.uint64(64) - bits) | key >> bits


def order_by(words: np.ndarray, exact: tuple[np.ndarray, ...]) -> np.ndarray:
    """Order by `words`, then by the columns of `exact`.

    Sorting one word is ten times as fast as sorting by four; the few that are equal in it follow.
    """
    order = np.argsort(words)
    sorted_words = words[order]
    equal = np.zeros(len(order) + 1, dtype=bool)
    equal[1:-1] = sorted_words[1:] == sorted_words[:-1]
    again = np.flatnonzero(equal[:-1] | equal[1:])
    if len(again):
        part = order[again]
        columns = [column[part] for column in reversed(exact)]
        order[again] = part[np.lexsort((*columns, words[part]))]
    return order


def _best_of_distinct(columns: list[np.ndarray], n_groups: int) -> list[np.ndarray]:
    """Of each group and distinct (below 2^40) the entry with the smallest key, tie and row."""
    group, key, distinct, tie, row, *_ = columns
    if len(group) == 0:
        return columns
    bits = np.uint64(64 - max(n_groups - 1, 1).bit_length())
    word = group.astype(np.uint64) << bits | distinct
    order = np.argsort(word)
    starts = run_starts(word[order])
    best = np.minimum.reduceat(key[order], starts)
    kept = order[key[order] == np.repeat(best, np.diff(starts, append=len(order)))]
    kept = kept[order_by(word[kept], (key[kept], tie[kept], row[kept]))]
    kept = kept[run_starts(word[kept])]
    return [column[kept] for column in columns]


def best_of_runs(values: np.ndarray, *sorted_columns: np.ndarray) -> np.ndarray:
    """Which entries have the largest value of their run of equal rows of `sorted_columns`."""
    starts = run_starts(*sorted_columns)
    if len(starts) == len(values):
        return np.arange(len(values))
    best = np.maximum.reduceat(values, starts)
    return np.flatnonzero(values == np.repeat(best, np.diff(starts, append=len(values))))


def run_starts(*sorted_columns: np.ndarray) -> np.ndarray:
    """Where a run of equal rows begins."""
    new = np.ones(len(sorted_columns[0]), dtype=bool)
    new[1:] = False
    for column in sorted_columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def place_in_run(sorted_column: np.ndarray) -> np.ndarray:
    """Place of each element within its run of equal ones, from 0."""
    starts = run_starts(sorted_column)
    lengths = np.diff(starts, append=len(sorted_column))
    return np.arange(len(sorted_column)) - np.repeat(starts, lengths)


# ---------------------------------------------------------------- keys


def descending(values: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """uint64 keys that order positive float32 values from the largest down, ties by `tie`."""
    return ~ascending_bits(values) & np.uint64(_HIGH) | tie >> np.uint64(32)


def ascending(values: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """uint64 keys that order non-negative float32 values from the smallest up, ties by `tie`."""
    return ascending_bits(values) | tie >> np.uint64(32)


def ascending_bits(values: np.ndarray) -> np.ndarray:
    """The bits of non-negative float32 values, which are in their order, in the upper half."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return bits.astype(np.uint64) << np.uint64(32)


_HIGH = 0xFFFFFFFF00000000


def largest_below(key: np.ndarray) -> np.ndarray:
    """The float32 value of a `descending` key; 0 for NEVER."""
    return ((~key) >> np.uint64(32)).astype(np.uint32).view(np.float32)


def distance_of(key: np.ndarray) -> np.ndarray:
    """The float32 value of an `ascending` key."""
    return (key >> np.uint64(32)).astype(np.uint32).view(np.float32)


def salts(n: int, seed: int) -> np.ndarray:
    """uint64 [n], one a feature. hash ^ salt is uniform for a feature wherever hash is."""
    return mix64(np.arange(n, dtype=np.uint64) ^ mix64(mix64(seed)))


def token_hash(doc: np.ndarray, position: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [n], uniform: the same token has the same hash in whatever order it comes."""
    where = (doc.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
    return mix64(where ^ mix64(seed))


def text_hash(ids: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [n]: a hash of each token with the AROUND tokens on either side in its document.

    ids: [n], documents end to end; lengths: of each document. Tokens with the same hash stand in
    the same text; a document's end counts as a token of its own.
    """
    word = mix64(ids.astype(np.uint64) ^ mix64(seed))
    document = np.repeat(np.arange(len(lengths)), lengths)
    total = np.zeros(len(ids), dtype=np.uint64)
    factors = mix64(np.arange(2 * AROUND + 1)) | np.uint64(1)
    with np.errstate(over="ignore"):
        for offset, factor in zip(range(-AROUND, AROUND + 1), factors, strict=True):
            here = slice(max(-offset, 0), max(len(ids) - max(offset, 0), 0))
            there = slice(max(offset, 0), max(len(ids) - max(-offset, 0), 0))
            same = document[here] == document[there]
            total[here] += np.where(same, word[there], np.uint64(0)) * factor
    return mix64(total)
