"""Percentiles read off a histogram, against ranks counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from ui.percentiles import percentile, percentile_text

EDGES = [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0.0),
        (-1.0, 0.0),
        (0.5, 0.1),  # half of the first bin's 2 of 10
        (1.0, 0.2),
        (2.0, 0.2),  # nothing between 1 and 2
        (3.0, 0.5),  # half of the 6
        (4.0, 0.8),
        (6.0, 0.9),  # half way from 4 to the maximum
        (8.0, 1.0),
        (99.0, 1.0),
    ],
)
def test_percentile_by_hand(value, expected):
    assert percentile(value, EDGES, 0, [2, 0, 6, 2], 8.0) == pytest.approx(expected)


def test_empty_bins_at_the_ends_are_left_out():
    assert percentile(1.5, EDGES, 2, [6], 4.0) == 0.0
    assert percentile(3.0, EDGES, 2, [6], 4.0) == pytest.approx(0.5)
    assert percentile(5.0, EDGES, 0, [6], 9.0) == pytest.approx(1.0)


def test_a_feature_that_never_fired_has_no_percentiles():
    assert percentile(1.0, EDGES, 0, [], 0.0) is None
    assert percentile_text(None) == ""


@given(some.lists(some.floats(0.01, 50), min_size=1, max_size=60), some.floats(0.01, 60))
def test_percentile_is_right_within_one_bin(values, asked):
    edges = (2.0 ** np.arange(-7, 6.1, 0.5)).tolist()
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1).tolist()
    found = percentile(asked, edges, 0, counts, max(values))
    here = int(np.searchsorted(edges, asked))
    true = np.mean(np.array(values) <= asked)
    assert 0 <= found <= 1
    assert abs(found - true) <= counts[here] / len(values) + 1e-9


@given(some.floats(0.01, 60), some.floats(0.01, 60))
def test_percentile_never_falls(one, other):
    low, high = sorted((one, other))
    args = ([0.5, 1.0, 8.0, 20.0], 1, [3, 0, 5, 2], 31.0)
    assert percentile(low, *args) <= percentile(high, *args) + 1e-12


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "percentile 0"),
        (0.923, "percentile 92"),
        (0.98999, "percentile 98"),
        (0.9935, "percentile 99.3"),
        (0.99996, "percentile 99.99"),
        (0.9999999, "percentile 99.99"),
        (1.0, "the corpus maximum"),
    ],
)
def test_percentile_text_is_never_rounded_up(share, text):
    assert percentile_text(share) == text
