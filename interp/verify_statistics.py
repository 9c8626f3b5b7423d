"""Stored statistics held against literal counts of the same corpus.

In:  columns of the tables `feature` and `band`, the store's meta, `Counts`.
Out: a `Check` for each kind of number.

A count may lie anywhere between what is sure and what float noise can add. Sums are compared with
as many of the unsure fires as the store counted; they all stand next to the threshold, so it hardly
matters which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from interp.stats import BEYOND
from interp.tables import BOUND, FEW, FEW_TOKENS, QUANTILES, RARE, SINGLE
from interp.tally import Check, Tally
from interp.verify_counts import Counts, Rules

Columns = Mapping[str, np.ndarray]  # of the tables `feature` or `band`, by name
CELLS = 4  # of a histogram's bin, at whose edges bands are cut (docs/METHODS.md)
ULPS = 1e-9  # what decimal arithmetic on stored float64 numbers may lose


def rules_of(meta: dict, stored: Columns) -> Rules:
    """How to count, and the values whose ranks tell whether quantiles are right."""
    error = stored["quantile_error"][:, None]
    quantiles = np.stack([stored[name] for name in QUANTILES], axis=1)
    edges = np.asarray(meta["hist_edges"])
    steps = np.arange(CELLS) / CELLS
    cells = (edges[:-1, None] + np.diff(edges)[:, None] * steps).ravel()
    return Rules(
        hist_edges=edges,
        cell_edges=np.append(cells, edges[-1]),
        pre_edges=np.asarray(meta["pre_edges"]),
        position_edges=np.asarray(meta["position_edges"]),
        outlier_norm=float(meta["outlier_norm"]),
        seed=int(meta["seed"]),
        rows=int(meta["tokens"]) + int(meta["high_norm"]),
        pre_unit=stored["pre_unit"],
        peak_token=np.nan_to_num(stored["peak_token"], nan=-1).astype(np.int64),
        at_most=quantiles * (1 + error) * (1 + ULPS),
        below=quantiles * (1 - error) * (1 - ULPS),
    )


class StatisticsCheck:
    """Every number of the chosen features, one kind after another."""

    def __init__(
        self,
        meta: dict,
        stored: Columns,
        bands: Columns,
        floor: np.ndarray,
        counts: Counts,
        tolerance: float,
    ) -> None:
        """floor: [features], what the SAE says a pre-activation must exceed."""
        self.meta, self.stored, self.counts = meta, stored, counts
        self.bands, self.floor, self.tolerance = bands, floor, tolerance
        self.n = counts.fires[0] + self._taken()

    def checks(self) -> list[Check]:
        """In the order in which they are told."""
        parts = (
            self._tokens, self._fires, self._sums, self._moments, self._largest, self._quantiles,
            self._bands, self._histograms, self._pre, self._positions, self._documents,
            self._outliers, self._l0, self._thresholds, self._flags, self._peaks,
        )  # fmt: skip
        return [tally.check for part in parts if (tally := part()).compared]

    def _taken(self) -> np.ndarray:
        """How many of the unsure fires the store counted, [features]."""
        return np.clip(self.stored["fires"] - self.counts.fires[0], 0, self.counts.fires[1])

    def _either(self) -> np.ndarray:
        """How many of the fires the store counted may be others of the unsure ones, [features]."""
        taken = self._taken()
        return np.minimum(taken, self.counts.fires[1] - taken)

    def _tally(self, name: str) -> Tally:
        return Tally(name, self.tolerance)

    def _at(self, i: int) -> str:
        return f"feature {self.stored['feature'][i]}"

    def _named(self, rows: np.ndarray) -> Callable[[int], str]:
        return lambda i: self._at(rows[i])

    def _cell(self, width: int, what: str) -> Callable[[int], str]:
        return lambda i: f"{self._at(i // width)} {what} {i % width}"

    def _between(self, tally: Tally, stored, counted: np.ndarray, where) -> None:
        """counted [2, ...]: what is sure, what noise may add."""
        low, high = counted[0], counted[0] + counted[1]
        tally.between(*(np.ravel(v) for v in (stored, low, high)), where, size=1.0)

    # ------------------------------------------------------------ counts

    def _tokens(self) -> Tally:
        tally, c = self._tally("tokens"), self.counts
        names = ("tokens", "pre_tokens")
        counted = np.stack([c.tokens, c.sampled], axis=1)
        self._between(tally, [self.meta[n] for n in names], counted, lambda i: names[i])
        positions = self.meta["position_tokens"]
        self._between(tally, positions, c.position_tokens, lambda i: f"position_tokens {i}")
        return tally

    def _fires(self) -> Tally:
        tally, fires = self._tally("fires"), self.stored["fires"]
        self._between(tally, fires, self.counts.fires, self._at)
        inside = fires == np.clip(fires, self.counts.fires[0], self.counts.fires.sum(0))
        tally.flips = int(np.abs(fires - self.counts.found)[inside].sum())
        tally.add(self.stored["density"], fires / self.meta["tokens"], self._at)
        return tally

    def _histograms(self) -> Tally:
        return self._cumulated("histograms", self.stored["hist"], self.counts.hist)

    def _pre(self) -> Tally:
        stored = self.stored["pre_counts"]
        tally = self._cumulated("pre-activation histograms", stored, self.counts.pre)
        if stored.shape == self.counts.pre.shape[1:]:
            tally.expect(stored.sum(1) == self.meta["pre_tokens"], self._at)
        return tally

    def _cumulated(self, name: str, stored: np.ndarray, counted: np.ndarray) -> Tally:
        """Compares what lies in the bins up to each one."""
        tally = self._tally(name)
        if stored.shape != counted.shape[1:]:
            tally.expect(np.array([False]), lambda _: f"{stored.shape[1]} bins, not "
                         f"{counted.shape[2]}")  # fmt: skip
            return tally
        self._between(
            tally, stored.cumsum(1), counted.cumsum(2), self._cell(stored.shape[1], "bin")
        )
        return tally

    def _positions(self) -> Tally:
        tally, stored = self._tally("positions"), self.stored["positions"]
        self._between(tally, stored, self.counts.positions, self._cell(stored.shape[1], "bucket"))
        return tally

    def _documents(self) -> Tally:
        """The first and last document of a feature may change with a fire that flips."""
        tally, c = self._tally("first and last documents"), self.counts
        alive = self.stored["fires"] > 0
        at = self._named(np.flatnonzero(alive))
        first, last = (self.stored[name][alive] for name in ("first_doc", "last_doc"))
        tally.between(first, c.first_doc.min(0)[alive], c.first_doc[0][alive], at, size=1.0)
        tally.between(last, c.last_doc[0][alive], c.last_doc.max(0)[alive], at, size=1.0)
        return tally

    def _outliers(self) -> Tally:
        tally, alive = self._tally("outlier shares"), self.stored["fires"] > 0
        stored = (self.stored["outlier_share"] * self.stored["fires"])[alive].round(6)
        at = self._named(np.flatnonzero(alive))
        self._between(tally, stored, self.counts.outliers[:, alive], at)
        return tally

    def _l0(self) -> Tally:
        """Tokens with at least so many features."""
        tally, counted = self._tally("L0 of tokens"), self.counts.l0
        if counted.shape[1]:
            stored = np.zeros(counted.shape[1], dtype=np.int64)
            given = np.asarray(self.meta["l0_counts"])
            stored[: len(given)] = given
            at_least = [v[::-1].cumsum()[::-1] for v in (stored, *counted)]
            tally.between(*at_least, lambda i: f"tokens with {i} or more", size=1.0)
        return tally

    # ------------------------------------------------------------ sums and what follows from them

    def _powers(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of f, f^2, f^3, f^4 [4, features], and by how much they may be off."""
        c, taken, either = self.counts, self._taken(), self._either()
        share = taken / np.maximum(c.fires[1], 1)
        exponents = np.arange(1, 5)[:, None]
        smallest = np.where(c.fires[1] > 0, c.smallest, 0.0)
        spread = c.largest[1] ** exponents - smallest**exponents
        slope = exponents * c.largest.max(0) ** (exponents - 1)
        return c.powers[0] + share * c.powers[1], either * spread + slope * c.noise

    def _sums(self) -> Tally:
        tally, (powers, noise) = self._tally("sums"), self._powers()
        for power, name in enumerate(("total", "total_squares")):
            tally.add(self.stored[name], powers[power], self._at, noise[power])
        return tally

    def _moments(self) -> Tally:
        """Mean, sd, skew and kurtosis; the last two where values differ by more than noise."""
        tally, stored, (powers, _) = self._tally("moments"), self.stored, self._powers()
        n = np.where(self.n > 0, self.n, np.nan)
        noise = self.counts.noise / np.maximum(self.counts.fires.sum(0), 1)
        mean = powers[0] / n
        with np.errstate(invalid="ignore", divide="ignore"):
            raw = powers / n
            variance = np.maximum(raw[1] - mean**2, 0)
            sd = np.sqrt(variance)
            third = raw[2] - 3 * mean * raw[1] + 2 * mean**3
            fourth = raw[3] - 4 * mean * raw[2] + 6 * mean**2 * raw[1] - 3 * mean**4
            skew, kurtosis = third / sd**3, fourth / variance**2 - 3
        shift, *others = self._exchanged(mean, variance, third)
        tally.add(stored["mean"], mean, self._at, noise + shift)
        with np.errstate(invalid="ignore", divide="ignore"):
            of_sd = sd - np.sqrt(np.maximum(variance - others[0], 0))
            of_skew = others[1] / sd**3 + 1.5 * np.abs(skew) * others[0] / variance
            of_kurtosis = others[2] / variance**2 + 2 * (kurtosis + 3) * others[0] / variance
        tally.add(stored["sd"], sd, self._at, noise + of_sd + 1e-7 * np.nan_to_num(mean))
        told = np.flatnonzero(
            np.nan_to_num(sd) > np.maximum(1e-3 * np.nan_to_num(mean), 100 * noise)
        )
        at = lambda i: self._at(told[i])  # noqa: E731
        relative = (noise / sd)[told]
        skew, kurtosis = skew[told], kurtosis[told]
        of_skew = 3 * relative * (1 + np.abs(skew)) + of_skew[told]
        of_kurtosis = 4 * relative * (4 + np.abs(kurtosis)) + of_kurtosis[told]
        tally.add(stored["skew"][told], skew, at, of_skew, 1.0)
        tally.add(stored["kurtosis"][told], kurtosis, at, of_kurtosis, 1.0)
        return tally

    def _exchanged(
        self, mean: np.ndarray, variance: np.ndarray, third: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """By how much mean and central moments 2, 3 and 4 [features] may be off because it is not
        known which of the unsure fires the store counted: those of a TopK SAE differ widely."""
        c = self.counts
        either = np.where(self.n > 0, self._either() / np.maximum(self.n, 1), 0.0)
        low = np.where(either > 0, c.smallest, 0.0)
        high, mean = np.where(either > 0, c.largest[1], 0.0), np.nan_to_num(mean)
        reach = np.maximum(np.abs(low - mean), np.abs(high - mean))
        shift = either * (high - low)
        square = either * reach**2 + shift**2
        cube = 2 * either * reach**3 + 3 * shift * np.nan_to_num(variance)
        return shift, square, cube, either * reach**4 + 4 * shift * np.abs(np.nan_to_num(third))

    def _largest(self) -> Tally:
        tally, c = self._tally("maxima"), self.counts
        alive = self.stored["fires"] > 0
        low, high = c.largest[0][alive], c.largest.max(0)[alive]
        stored = self.stored["max"][alive]
        tally.between(stored, low, high, self._named(np.flatnonzero(alive)))
        return tally

    # ------------------------------------------------------------ ranks

    def _rank(
        self, tally: Tally, column: int, low: np.ndarray, high: np.ndarray, name: str
    ) -> None:
        """at_most[column] should hold the share `low` of the fires, below[column] no more than
        the share `high`."""
        c, alive = self.counts, np.flatnonzero(~np.isnan(self.counts.rules.at_most[:, column]))
        many = c.at_most[:, alive, column].sum(0) >= low * c.fires[0][alive] - 1e-6
        few = c.below[0, alive, column] <= high * c.fires[:, alive].sum(0) + 1e-6
        at = self._named(alive)
        tally.expect(many & few, lambda i: f"{at(i)} {name}")

    def _quantiles(self) -> Tally:
        """The true quantile lies within the error that is stated."""
        tally = self._tally("quantiles")
        for column, (name, level) in enumerate(QUANTILES.items()):
            self._rank(tally, column, level, level, name)
        error = self.stored["quantile_error"]
        if np.isfinite(error).any():
            tally.note = f"stated error at most {np.nanmax(error):.2g}"
        return tally

    def _bands(self) -> Tally:
        """What lies below each band, and whether its edge is the nearest cell's to its rank."""
        tally, c, b = self._tally("bands of ranks"), self.counts, self.bands
        if len(b["feature"]) == 0:
            return tally
        edges = np.concatenate([[0.0], c.rules.cell_edges, [BEYOND]])
        row = np.searchsorted(self.stored["feature"], b["feature"])
        at = lambda i: f"{self._at(row[i])} band {b['part'][i]}"  # noqa: E731
        cell = np.minimum(np.searchsorted(edges, b["low"]), len(edges) - 1)
        tally.expect(edges[cell] == b["low"], at)
        starts = np.flatnonzero(np.diff(b["feature"], prepend=-1))
        before = np.cumsum(b["fires"]) - b["fires"]  # of this feature, bands ascending
        before -= np.repeat(before[starts], np.diff(starts, append=len(row)))
        below = np.zeros((2, len(self.n), len(edges)), dtype=np.int64)
        below[:, :, 1:] = c.cells.cumsum(2)
        self._between(tally, before, below[:, row, cell], at)
        # How far the fires from each edge on are from what the rank asks for, in hundredths of a
        # fire; those that noise moves, or that are not sure, may make any of them the nearest.
        fires = self.stored["fires"].astype(np.int64)
        unsure = np.abs(fires - c.fires[0])
        for part in np.unique(b["part"]):
            percent = round(100 * (1 - float(part.split("-")[0])))
            which = np.flatnonzero(b["part"] == part)
            of, here = row[which], (np.arange(len(which)), cell[which])
            off = np.abs(100 * (fires[of, None] - below[0, of]) - percent * fires[of, None])
            slack = 100 * (below[1, of] + unsure[of, None])
            nearest = (off - slack)[here] <= (off + slack).min(1)
            tally.expect(nearest, lambda i, which=which: at(which[i]))
        return tally

    # ------------------------------------------------------------ what follows

    def _thresholds(self) -> Tally:
        tally = self._tally("thresholds")
        tally.expect(self.stored["theta"].astype(np.float32) == self.floor, self._at)
        above = self.floor > 0
        unit = self.stored["pre_unit"].astype(np.float32)
        tally.expect((unit == self.floor)[above], self._named(np.flatnonzero(above)))
        return tally

    def _flags(self) -> Tally:
        """Flags against the stored numbers they are made of (docs/METHODS.md)."""
        tally, s, tokens = self._tally("flags"), self.stored, self.meta["tokens"]
        fires, density, enough = s["fires"], s["density"], s["fires"] >= FEW
        at_position = np.asarray(self.meta["position_tokens"])
        few = np.cumsum(at_position) <= FEW_TOKENS * at_position.sum()
        expected = {
            "dead": fires == 0,
            "rare": (fires > 0) & ((fires < FEW) | (density < RARE)),
            "dense_1": density > 0.01,
            "dense_10": density > 0.1,
            "single_token": enough & (np.nan_to_num(s["peak_share"]) >= SINGLE),
            "position_bound": enough
            & (s["positions"][:, few].sum(1) > BOUND * np.maximum(fires, 1)),
        }
        if self.counts.outlier_tokens.sum() < FEW_TOKENS * tokens:
            expected["outlier_bound"] = enough & (np.nan_to_num(s["outlier_share"]) > BOUND)
        for name, flag in expected.items():
            tally.expect(s[name] == flag, lambda i, name=name: f"{self._at(i)} {name}")
        return tally

    def _peaks(self) -> Tally:
        """peak_share is an estimate: how far it is off is told, not judged."""
        tally, c = self._tally("shares of the commonest token"), self.counts
        told = (self.stored["fires"] > 0) & ~np.isnan(self.stored["peak_share"])
        tally.compared = int(told.sum())
        if told.any():
            true = c.on_peak[told] / np.maximum(c.found[told], 1)
            off = np.abs(self.stored["peak_share"][told] - true)
            tally.note = f"estimates, off by {off.mean():.2g} in the mean, {off.max():.2g} at most"
        return tally
