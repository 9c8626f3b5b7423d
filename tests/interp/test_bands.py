"""Bands of ranks: where they are cut, how many fires they hold, and what their samples weigh.

Worked out by hand where it can be; else steep distributions with thousands of seeded hashes, whose
bands are counted from all values.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from data.errors import WorkbenchError
from data.records import Example
from data.text import mix64
from interp.estimates import density_above
from interp.sampling import Smallest
from interp.selection import BANDS, PARTS, STRONGEST, _quantiles
from interp.stats import BEYOND, Entries, Histogram, Rows, StreamingStats
from interp.tables import bands
from interp.token_sample import sample_of

KEPT = 8


def counted(values: np.ndarray) -> tuple[StreamingStats, np.ndarray]:
    """Statistics of features that fire with values [features, n], and the cell of each."""
    d_sae, n = values.shape
    stats = StreamingStats(d_sae, 1.0, np.ones(d_sae), 32)
    nothing = np.zeros(n, dtype=np.int64)
    entries = Entries(
        np.repeat(np.arange(d_sae), n), np.tile(np.arange(n), d_sae), values.astype("f4").ravel()
    )
    return stats, stats.update(entries, Rows(nothing, nothing, nothing > 0))


def table_of(stats: StreamingStats) -> dict[tuple[int, str], tuple[float, int]]:
    rows = bands(SimpleNamespace(stats=stats, lo=0)).to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["feature"], row["part"]))
    return {(row["feature"], row["part"]): (row["low"], row["fires"]) for row in rows}


# ---------------------------------------------------------------- by hand


def test_bands_of_a_hundred_fires_by_hand():
    """1 of 100 is as far from the 2 at 4 as from none: the larger band. 5 are nearest to 10, and
    nearer to 50 than 100 are: the third band holds none."""
    stats, _ = counted(np.array([[1.0] * 95 + [2.0] * 3 + [4.0] * 2]))
    assert table_of(stats) == {
        (0, "0.99-1"): (2 * (1 + 1 / 32), 2),  # the first edge above 2
        (0, "0.9-0.99"): (1 + 1 / 32, 3),
        (0, "0.5-0.9"): (1 + 1 / 32, 0),
        (0, "0-0.5"): (0.0, 95),
    }


@pytest.mark.parametrize(("n", "fires"), [(49, [0, 5, 20, 24]), (50, [1, 4, 20, 25])])
def test_few_different_fires_have_no_strongest_hundredth(n, fires):
    values = 1.1 ** np.arange(n)[None] / 100
    found = table_of(counted(values)[0])
    assert [found[0, part][1] for part in BANDS] == fires
    last = values[0, -1 if n < 50 else -2]
    assert last < found[0, "0.99-1"][0] <= last * (1 + 1 / 32), "the edge next above it"


def test_equal_fires_and_fires_out_of_range():
    """All in one cell: half of them is as far as all, which is nearer than 10 %."""
    stats, _ = counted(np.array([[0.7] * 20, [1e9] * 20, [1e-9] * 20]))
    found = table_of(stats)
    for i in range(3):
        assert [found[i, part][1] for part in BANDS] == [0, 0, 20, 0]
        assert found[i, "0-0.5"][0] == 0
    assert found[0, "0.5-0.9"][0] <= 0.7 < found[0, "0.99-1"][0] <= 0.7 * (1 + 1 / 32)
    assert found[1, "0.99-1"][0] == BEYOND == 2.0**128
    assert BEYOND > float(np.finfo(np.float32).max)
    assert found[2, "0.99-1"][0] == Histogram(1.0).edges[0]


def test_a_silent_feature_has_no_bands():
    stats = StreamingStats(2, 1.0, np.ones(2), 32)
    assert table_of(stats) == {}


def test_cells_and_bins():
    scale = Histogram(1.0)
    edges, coarse = scale.cell_edges, scale.edges
    assert edges.tolist() == [
        2.0**e * (1 + j / 32) for e in range(-12, 6) for j in range(32)
    ] + [64.0]  # fmt: skip
    rng = np.random.default_rng(0)
    values = np.concatenate([edges, 2.0 ** rng.uniform(-14, 8, 3000), [1e-30, 1e30]])
    values = values.astype(np.float32)
    cells = scale.cells(values)
    assert cells.tolist() == np.searchsorted(edges, values.astype(float), side="right").tolist()
    counts = np.bincount(cells, minlength=scale.n_cells)
    bins = np.searchsorted(coarse, values.astype(float), side="right")
    expected = np.bincount(bins, minlength=len(coarse) + 1)
    assert scale.bins(counts[None])[0].tolist() == expected.tolist()


# ---------------------------------------------------------------- samples of them


class Steep:
    """Features whose fires have steep, heavy or narrow tails, each with its own place in an
    octave, so that a rank's value falls anywhere in a cell."""

    def __init__(self, features: int, n: int) -> None:
        rng = np.random.default_rng(3)
        shift = 2.0 ** rng.random((features, 1))
        kind = np.arange(features)[:, None] % 3
        tail = np.where(
            kind == 0, rng.pareto(2, (features, n)),
            np.where(kind == 1, rng.exponential(0.3, (features, n)),
                     rng.lognormal(0, 1.2, (features, n))),
        )  # fmt: skip
        self.values = (shift * (0.3 + tail)).astype(np.float32)
        self.stats, self.cells = counted(self.values)
        self.bands = table_of(self.stats)
        self.feature = np.repeat(np.arange(features), n)
        self.row = np.tile(np.arange(n), features)

    def sample(self, seed: int):
        """The quantile examples, as a harvest with this seed takes them."""
        features, n = self.values.shape
        key = mix64(mix64(self.row) ^ mix64(seed * features + self.feature))
        kept = Smallest(features * self.stats.histogram.n_cells, KEPT + 1, counted=True)
        group = self.feature * self.stats.histogram.n_cells + self.cells
        kept.offer(group, key, key, key, self.row, self.values.ravel())
        return _quantiles(SimpleNamespace(stats=self.stats, cells=kept, n=features), KEPT)


@pytest.fixture(scope="module")
def steep() -> Steep:
    return Steep(30, 3000)


def test_bands_hold_nearly_what_their_ranks_say(steep):
    for part, (low, high) in BANDS.items():
        fires = np.array([steep.bands[i, part][1] for i in range(30)])
        for i, n in enumerate(fires):  # counted from all values
            begin = steep.bands[i, part][0]
            above = [steep.bands[i, p][0] for p in BANDS if steep.bands[i, p][0] > begin]
            inside = steep.values[i] >= begin
            if above and part != "0.99-1":
                inside &= steep.values[i] < min(above)
            assert inside.sum() == n
        share = fires / 3000 / (high - low)
        assert 0.95 < share.mean() < 1.05, (part, share.mean())
        assert (np.abs(share - 1) < 0.25).all(), part


def test_weights_of_a_band_sum_to_its_exact_size(steep):
    """Horvitz and Thompson: unbiased for how many fires a band holds, and for their sum."""
    counts, sums = ({part: [] for part in BANDS} for _ in range(2))
    for seed in range(60):
        for chosen in steep.sample(seed):
            part = PARTS[chosen.part[0]]
            weight = chosen.copies / chosen.inclusion
            held = np.array([steep.bands[i, part] for i in range(30)])
            counts[part].append(np.bincount(chosen.feature, weight, 30) / held[:, 1])
            inside = [self_sum(steep, i, part) for i in range(30)]
            sums[part].append(np.bincount(chosen.feature, weight * chosen.value, 30) / inside)
            assert (np.bincount(chosen.feature) == KEPT).all(), "no band falls short"
            assert (chosen.value >= held[chosen.feature, 0]).all()
    for part in BANDS:
        for found in (np.array(counts[part]), np.array(sums[part])):
            error = found.std(ddof=1) / np.sqrt(found.size)
            assert abs(found.mean() - 1) < 3 * error, (part, found.mean(), error)
            assert error < 0.02


def self_sum(steep: Steep, i: int, part: str) -> float:
    """Sum of the fires of a band, from all values."""
    begin, n = steep.bands[i, part]
    ordered = np.sort(steep.values[i].astype(np.float64))
    first = int((ordered < begin).sum())
    return float(ordered[first : first + n].sum())


def examples_of(pieces, i: int) -> list[Example]:
    found = []
    for chosen in pieces:
        for at in np.flatnonzero(chosen.feature == i):
            value = float(chosen.value[at])
            found.append(Example(
                i, "quantile", PARTS[chosen.part[at]], int(chosen.rank[at]), 0, "", "explain", 0, 0,
                value, value, float(chosen.inclusion[at]), int(chosen.copies[at]), (1,), (value,),
            ))  # fmt: skip
    return found


@pytest.mark.parametrize("level", [0.3, 0.7, 0.97, 0.993])
def test_estimates_from_bands_are_unbiased_and_their_intervals_hold_the_truth(steep, level):
    off, inside = [], []
    for seed in range(40):
        pieces = steep.sample(1000 + seed)
        for i in range(0, 30, 2):
            threshold = float(np.quantile(steep.values[i], level))
            truth = float((steep.values[i] > threshold).sum()) / 10_000
            held = {part: steep.bands[i, part] for part in BANDS}
            sample = sample_of(examples_of(pieces, i), 3000, 10_000, "quantile", bands=held)
            assert sample.sizes.tolist() == [7000, *(held[part][1] for part in sorted(held))]
            found = density_above(sample, threshold)
            off.append(found.value / truth - 1)
            inside.append(found.low <= truth <= found.high)
    error = np.std(off, ddof=1) / np.sqrt(len(off))
    assert abs(np.mean(off)) < 3 * error, (np.mean(off), error)
    assert 0.92 < np.mean(inside) < 0.995, np.mean(inside)


# ---------------------------------------------------------------- refusals


def test_bands_that_are_missing_or_do_not_fit_are_refused():
    where = (0, 0, "", "explain", 0, 0)
    fire = Example(0, "quantile", "0-0.5", *where, 1.0, 1.0, 0.5, 1, (1,), (1.0,))
    with pytest.raises(WorkbenchError, match="weighed by their bands: give bands"):
        sample_of([fire], 10, 100, "quantile")
    with pytest.raises(WorkbenchError, match="the bands hold 9 of 10 fires: harvest again"):
        sample_of([fire], 10, 100, "quantile", bands={"0-0.5": (0.0, 9)})
    with pytest.raises(WorkbenchError, match="'0-0.5', which holds no fire"):
        sample_of([fire], 10, 100, "quantile", bands={"0-0.5": (0.0, 0), "0.99-1": (2.0, 10)})


def test_the_shares_are_those_of_the_names():
    assert STRONGEST == tuple(round(100 * (1 - low)) for low, _ in BANDS.values())
    assert [tuple(map(float, part.split("-"))) for part in BANDS] == list(BANDS.values())
