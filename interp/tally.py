"""How two lists of numbers that should be the same differ, gathered piece by piece.

In:  stored and recomputed numbers, and how far float noise may move each. Out: a `Check` for each
     kind of number: how many were compared, the largest relative difference, how many differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Check:
    """One kind of number, or one rule, held against what it should be."""

    name: str
    compared: int
    wrong: int  # beyond the tolerance, and beyond float noise
    largest: float | None  # relative difference beyond noise, flips left out; None: none measured
    within_noise: int  # beyond the tolerance, but no more than float noise moves them
    flips: int  # fires on one side only, within float noise of the threshold
    where: str  # the worst of the wrong ones; "" if there is none
    note: str = ""  # what else should be said of it


class Tally:
    """Gathers one kind of number."""

    def __init__(self, name: str, tolerance: float) -> None:
        self.name, self.tolerance = name, tolerance
        self.compared = self.wrong = self.within_noise = self.flips = 0
        self.largest: float | None = None
        self.worst, self.where, self.note = -1.0, "", ""

    def add(
        self,
        stored: np.ndarray,
        found: np.ndarray,
        where: Callable[[int], str],
        noise: np.ndarray | float = 0.0,
        size: np.ndarray | float = 0.0,
    ) -> None:
        """Compares stored and found [n]; both NaN: absent on both sides, the same.

        Differences are relative to the larger of the two and `size`, and count as wrong beyond the
        tolerance and beyond `noise`, which is absolute. `where(i)` names the i-th place.
        """
        stored, found = (np.asarray(v, dtype=np.float64) for v in (stored, found))
        if len(stored) == 0:
            return
        absent = np.isnan(stored) & np.isnan(found)
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = np.abs(stored - found)
            scale = np.maximum(np.maximum(np.abs(stored), np.abs(found)), size)
            relative = np.where(difference == 0, 0.0, difference / scale)
        relative = np.where(absent, 0.0, relative)
        relative = np.where(np.isnan(relative), np.inf, relative)  # a number on one side only
        beyond = relative > self.tolerance
        inside = beyond & (difference <= noise)
        wrong = beyond & ~inside
        self.compared += len(stored)
        self.within_noise += int(inside.sum())
        self.wrong += int(wrong.sum())
        largest = float(relative[~inside].max(initial=0.0))
        self.largest = largest if self.largest is None else max(self.largest, largest)
        if wrong.any():
            i = int(np.argmax(np.where(wrong, relative, -1)))
            self._worst(
                float(relative[i]), f"{where(i)}: {_shown(stored[i])}, not {_shown(found[i])}"
            )

    def between(
        self,
        stored: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        where: Callable[[int], str],
        size: np.ndarray | float = 0.0,
    ) -> None:
        """Compares stored [n] with the range float noise leaves open; inside it nothing differs."""
        nearest = np.clip(stored, low, high)
        self.add(stored, nearest, where, size=size)

    def expect(self, good: np.ndarray, where: Callable[[int], str]) -> None:
        """Counts rules that hold: good is bool [n]."""
        self.compared += len(good)
        bad = np.flatnonzero(~np.asarray(good, dtype=bool))
        self.wrong += len(bad)
        if len(bad):
            self._worst(math.inf, where(int(bad[0])))

    def add_flips(self, n: int) -> None:
        """So many fires on one side only that noise explains; they are no differences."""
        self.flips += int(n)
        self.compared += int(n)

    def _worst(self, relative: float, where: str) -> None:
        if relative > self.worst:
            self.worst, self.where = relative, where

    @property
    def check(self) -> Check:
        return Check(
            self.name, self.compared, self.wrong, self.largest, self.within_noise, self.flips,
            self.where, self.note,
        )  # fmt: skip


def _shown(value: float) -> str:
    return "absent" if math.isnan(value) else f"{value:.9g}"
