"""Figures: what is drawn is what was counted, and nothing absent becomes a zero."""

from __future__ import annotations

import numpy as np
import pytest

from ui.figures import activations, densities, frame, frontier, training


def reference_lines(figure) -> list[float]:
    return [shape.x0 for shape in figure.layout.shapes]


def test_curves_leave_gaps_where_values_are_absent():
    rows = [{"tokens": 1, "l0": 5.0}, {"tokens": 2, "l0": None}, {"tokens": 3, "l0": 7.0}]
    figure = training.curves(rows, {"l0": "L0"}, "L0", target=6.0)
    assert list(figure.data[0].y) == [5.0, None, 7.0]
    assert [shape.y0 for shape in figure.layout.shapes] == [6.0]
    assert training.curves(rows, {"fve": "FVE"}, "FVE") is None
    assert training.curves([], {"l0": "L0"}, "L0") is None


def test_density_histogram_counts_every_live_feature_once():
    density = np.array([0.0, 1e-5, 1e-3, 1.1e-3, 0.2, 1.0])
    figure = densities.density_histogram(density)
    assert sum(figure.data[0].y) == 5
    assert reference_lines(figure) == [0.01, 0.1]


def test_density_histogram_of_dead_features_draws_no_bar():
    assert not densities.density_histogram(np.zeros(4)).data


def test_scatter_leaves_out_the_dead_and_names_features():
    figure = densities.density_max(
        np.array([0, 1, 2]), np.array([0.0, 0.1, 0.2]), np.array([np.nan, 3.0, 4.0])
    )
    assert list(figure.data[0].customdata) == [1, 2]
    assert list(figure.data[0].y) == [3.0, 4.0]


def test_scatter_of_many_features_is_thinned():
    n = 50_001
    figure = densities.density_max(np.arange(n), np.full(n, 0.1), np.ones(n))
    assert 10_000 < len(figure.data[0].x) <= densities.SCATTER_LIMIT


def test_activation_histogram_keeps_its_outer_bins():
    figure = activations.activation_histogram([1.0, 2.0, 4.0], [3, 0, 5, 7], 1.8, 9.0)
    bars = figure.data[0]
    assert list(bars.y) == [3, 5, 7]
    assert list(bars.customdata) == ["below 1", "2–4", "above 4"]
    left = np.array(bars.x) - np.array(bars.width) / 2
    right = np.array(bars.x) + np.array(bars.width) / 2
    assert left == pytest.approx([0.5, 2.0, 4.0]) and right == pytest.approx([1.0, 4.0, 8.0])
    assert reference_lines(figure) == [1.8, 9.0]


def test_histogram_of_the_wrong_length_is_no_histogram():
    with pytest.raises((ValueError, IndexError)):
        activations.activation_histogram([1.0, 2.0, 4.0], [3, 0], None, None)


def test_pre_histogram_colours_what_passes_the_threshold():
    edges = [-1.0, 0.0, 1.0, 2.0]
    figure = activations.pre_histogram(edges, [9, 8, 7, 6, 5], theta=0.3)
    assert list(figure.data[0].marker.color) == [frame.GREY] * 3 + [frame.ORANGE] * 2
    assert reference_lines(figure) == [1.0]
    relu = activations.pre_histogram(edges, [9, 8, 7, 6, 5], theta=0.0)
    assert reference_lines(relu) == [0.0]
    assert list(relu.data[0].marker.color) == [frame.GREY] * 2 + [frame.ORANGE] * 3


def test_frontier_marks_the_chosen_one():
    rows = [{"name": "a", "l0": 10, "fve": 0.8}, {"name": "b", "l0": 20, "fve": 0.9}]
    colours = [trace.marker.color for trace in frontier.frontier(rows, "b").data]
    assert colours == [frame.BLUE, frame.ORANGE]


def test_every_axis_is_titled_and_backgrounds_are_clear():
    edges, counts = [1.0, 2.0], [1, 1, 1]
    drawn = [
        training.curves([{"tokens": 1, "l0": 2}], {"l0": "L0"}, "L0"),
        densities.density_histogram(np.array([0.1])),
        densities.density_max(np.array([0]), np.array([0.1]), np.array([1.0])),
        frontier.frontier([{"name": "a", "l0": 1, "fve": 0.5}], "a"),
        activations.activation_histogram(edges, counts, 1.0, 2.0),
        activations.pre_histogram(edges, counts, 0.1),
    ]
    for figure in drawn:
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
