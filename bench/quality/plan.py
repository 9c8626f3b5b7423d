"""Which runs are still to be made, and in which order.

In: the lines there are. Out: runs that can start now. Of each arm first the tuned settings, at one
point and seed 0, then the other points, then the other seeds. A peer's knob is searched at seed 0,
from its measured L0; the other seeds repeat what was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from bench.quality.arms import ARMS, DATA, OUTWARD, Arm, DataSet, Peer, Run

CLOSE = math.log(1.03)  # a peer's L0 so near its aim ends the search
MOST_RUNS = 5  # of one search
USUAL_RUNS = 2  # of one search, for an estimate of the hours left
FURTHEST = math.log(5.0)  # change of the knob from one run to the next
SETTINGS = ("data", "arm", "l0", "lr", "seed", "steps", "loss")
EDGE = math.log(1.04)  # how far beyond its own points an arm is still read


@dataclass(frozen=True)
class Plan:
    """lines: those of the current recipe, by id. steps: of every run, None: each data set's own."""

    lines: dict[str, dict]
    data: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None = None

    def to_do(self) -> list[Run]:
        """Runs that can start now, in their order: others may follow from their results."""
        found: dict[str, Run] = {}
        for seed in self.seeds:
            for data in self.data:
                for arm in self.arms:
                    for run in self._runs(DATA[data], arm, seed):
                        if run.id not in self.lines:
                            found.setdefault(run.id, run)
        return list(found.values())

    def left(self, data: DataSet, arm: str) -> int:
        """How many runs of an arm are to be made, those not known yet estimated."""
        now = replace(self, data=(data.name,), arms=(arm,)).to_do()
        a = ARMS[arm]
        of_arm = [x for x in self.lines.values() if (x["data"], x["arm"]) == (data.name, arm)]
        ended = self.chosen(data, arm) is not None and not any(run.seed == 0 for run in now)
        if ended or a.lrs is None:
            return len(now)
        each = USUAL_RUNS if isinstance(a, Peer) else 1
        candidates = len(a.lrs) + (len(a.losses) - 1 if isinstance(a, Peer) else 0)
        others = sum(seed != 0 for seed in self.seeds) * len(data.points)
        total = round((candidates + len(data.points) - 1) * each) + others
        return max(len(now), total - len(of_arm))

    def _runs(self, data: DataSet, arm: str, seed: int) -> list[Run]:
        if isinstance(ARMS[arm], Peer) and ARMS[arm].lrs is None:
            return self.reported(data, arm, seed)
        missing = self._tuning(data, arm)
        if missing:
            return missing if seed == self.seeds[0] else []
        if isinstance(ARMS[arm], Peer):
            loss, lr = self.chosen(data, arm)
            for aim in aims(data):
                missing += self._search(self._first(data, arm, aim, loss, lr))
            if missing:
                return missing if seed == self.seeds[0] else []
        return self.reported(data, arm, seed)

    def _first(self, data: DataSet, arm: str, l0: float, loss: str | None, lr: float | None) -> Run:
        return Run(data.name, arm, float(l0), lr, 0, self.steps or data.steps, loss)

    # -- tuning

    def _candidates(self, data: DataSet, arm: str) -> Iterator[tuple[str | None, float]]:
        """(loss, lr) to choose from, as far as they are known."""
        a = ARMS[arm]
        losses = a.losses if isinstance(a, Peer) else (None,)
        for loss in losses:
            yield loss, a.lrs[0]
        tried = [(loss, a.lrs[0]) for loss in losses]
        best = tried[0]
        if len(losses) > 1:
            if any(self._try(data, arm, *candidate) for candidate in tried):
                return
            best = max(tried, key=lambda c: self._score(data, arm, *c))
        for lr in a.lrs[1:]:
            yield best[0], lr

    def _try(self, data: DataSet, arm: str, loss: str | None, lr: float) -> list[Run]:
        """What is still to be run to know how good a candidate is."""
        run = self._first(data, arm, data.tuned_at, loss, lr)
        if isinstance(ARMS[arm], Peer):
            return self._search(run)
        return [] if run.id in self.lines else [run]

    def _tuning(self, data: DataSet, arm: str) -> list[Run]:
        return [run for c in self._candidates(data, arm) for run in self._try(data, arm, *c)]

    def _score(self, data: DataSet, arm: str, loss: str | None, lr: float) -> float:
        """FVE at the tuned point on the half of the calibrate documents kept for choosing."""
        run = self._first(data, arm, data.tuned_at, loss, lr)
        if isinstance(ARMS[arm], Arm):
            line = self.lines.get(run.id, {})
            return line["calibrate"]["fve"] if "calibrate" in line else -math.inf
        seen = [line["calibrate"] for line in self._tried(run)]
        between = at([(c["l0"], c["fve"]) for c in seen], run.l0, edge=0.0)
        if between is not None:
            return between
        near = [c["fve"] for c in seen if abs(_log(c["l0"]) - _log(run.l0)) < EDGE]
        return max(near, default=-math.inf)

    def chosen(self, data: DataSet, arm: str) -> tuple[str | None, float | None] | None:
        """(loss, lr) that did best, None while that is not known."""
        a = ARMS[arm]
        if isinstance(a, Peer) and a.lrs is None:
            return a.losses[0], None
        if self._tuning(data, arm):
            return None
        return max(self._candidates(data, arm), key=lambda c: self._score(data, arm, *c))

    # -- the search of a peer's knob

    @cached_property
    def _by_settings(self) -> dict[tuple, list[dict]]:
        """Finished lines that differ in nothing but the knob, together."""
        found: dict[tuple, list[dict]] = {}
        for line in self.lines.values():
            if "error" not in line:
                found.setdefault(tuple(line[name] for name in SETTINGS), []).append(line)
        return found

    def _tried(self, run: Run) -> list[dict]:
        """Finished lines that differ from the run in nothing but the knob."""
        return self._by_settings.get(tuple(getattr(run, name) for name in SETTINGS), [])

    def _search(self, run: Run) -> list[Run]:
        """The next run towards the run's l0, at most one; none when it is near or given up."""
        peer = ARMS[run.arm]
        seen = [(line["knob"], line["calibrate"]["l0"]) for line in self._tried(run)]
        slope = peer.slope.get(run.loss, 1.0)
        if not seen:
            knob = self._guess(run, slope)
        else:
            knob = next_knob(seen, run.l0, slope)
        if knob is None:
            return []
        following = replace(run, knob=float(f"{knob:.4g}"))
        return [] if following.id in self.lines else [following]  # there: it failed

    def _guess(self, run: Run, slope: float) -> float:
        """From the nearest other aim of the same settings, or the peer's first value."""
        first = ARMS[run.arm].first.get(run.loss)
        base, at_l0 = (first, 16.0) if first is not None else (run.l0, run.l0)
        distance = math.inf
        for aim in aims(DATA[run.data]) + [DATA[run.data].tuned_at]:
            for line in self._tried(replace(run, l0=aim)):
                l0 = line["calibrate"]["l0"]
                if abs(_log(l0) - _log(run.l0)) < distance:
                    distance = abs(_log(l0) - _log(run.l0))
                    base, at_l0 = line["knob"], l0
        return base * (run.l0 / at_l0) ** (1 / slope)

    # -- what is reported

    def reported(self, data: DataSet, arm: str, seed: int) -> list[Run]:
        """The runs whose results are reported for a seed; [] while settings are not chosen."""
        chosen = self.chosen(data, arm)
        if chosen is None:
            return []
        peer = isinstance(ARMS[arm], Peer)
        if peer and ARMS[arm].lrs is None:
            if seed != 0:
                return []
            runs = [self._first(data, arm, l0, *chosen) for l0 in data.points]
            runs = [replace(run, knob=run.l0) for run in runs]
        elif peer:
            runs = []
            for aim in aims(data):
                run = self._first(data, arm, aim, *chosen)
                tried = self._tried(run)
                if tried:
                    best = min(tried, key=lambda li: abs(_log(li["calibrate"]["l0"]) - _log(aim)))
                    runs.append(replace(run, knob=best["knob"]))
        else:
            runs = [self._first(data, arm, l0, *chosen) for l0 in data.points]
        return [replace(run, seed=seed) for run in runs]


def aims(data: DataSet) -> list[float]:
    """L0 that a peer's knob is searched for: the points, the outermost a little further out."""
    low, *middle, high = data.points
    return [low / OUTWARD, *middle, high * OUTWARD]


def next_knob(seen: list[tuple[float, float]], l0: float, slope: float) -> float | None:
    """The knob to try next so that L0 comes near l0; None when it is, or after MOST_RUNS.

    seen: (knob, L0) so far, in log-log a line: between two that hold l0 it is read off, beyond them
    drawn on; from one alone, or where L0 did not move as it should, with the guess `slope`.
    """
    points = sorted((math.log(knob), _log(found)) for knob, found in seen)
    aim = _log(l0)
    if len(points) >= MOST_RUNS or any(abs(found - aim) <= CLOSE for _, found in points):
        return None
    near = sorted(points, key=lambda p: abs(p[1] - aim))
    x, y = near[0]
    beyond = [p for p in near if (p[1] - aim) * (y - aim) < 0]
    other = beyond[0] if beyond else near[1] if len(near) > 1 else None
    if beyond or (other is not None and (other[1] - y) * (other[0] - x) * slope > 0):
        slope = (other[1] - y) / (other[0] - x)
    move = (aim - y) / slope
    return math.exp(x + max(-FURTHEST, min(FURTHEST, move)))


def at(points: list[tuple[float, float]], l0: float, edge: float = EDGE) -> float | None:
    """The value at l0, linear in log L0 between (L0, value) points; None outside their range.

    Up to `edge` beyond the outermost points the line through the last two is drawn on.
    """
    known = sorted({_log(x): y for x, y in points}.items())
    x = _log(l0)
    if len(known) < 2 or x < known[0][0] - edge or x > known[-1][0] + edge:
        return None
    upper = next((i for i in range(1, len(known) - 1) if known[i][0] >= x), len(known) - 1)
    (x0, y0), (x1, y1) = known[upper - 1], known[upper]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _log(l0: float) -> float:
    return math.log(max(l0, 1e-3))  # a peer may end with nothing active
