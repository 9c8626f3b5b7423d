"""Figures: what is drawn is what was counted, and nothing absent becomes a zero."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from data.records import FeatureStats, LogitEffect
from ui.figures import activations, densities, frame, frontier, logits, training
from ui.figures.histogram import Bar, Chart, Mark, draw


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


# ------------------------------------------------------------------ charts in HTML


def stats(**given) -> FeatureStats:
    """A feature that fires 15 times, with what the test is about put in place."""
    plain = dict.fromkeys((field.name for field in dataclasses.fields(FeatureStats)))
    about = {
        "feature": 3, "fires": 15, "mean": 1.8, "q50": 1.5, "q90": 5.0, "q99": 8.0, "max": 9.0,
        "theta": 0.5, "hist_first": 0, "hist_counts": (3, 0, 5, 7), "pre_counts": (9, 8, 7, 6, 5),
        "pre_unit": 0.5,
    }  # fmt: skip
    return FeatureStats(**{**plain, **about, **given})


META = {"hist_edges": [1.0, 2.0, 4.0], "pre_edges": [-1.0, 0.0, 1.0, 2.0]}


def test_activation_chart_keeps_its_outer_bins():
    chart = activations.activation_chart(stats(), META)
    assert [bar.height for bar in chart.bars] == [3, 0, 5, 7]
    assert [(bar.left, bar.right) for bar in chart.bars] == [(0.5, 1), (1, 2), (2, 4), (4, 9)]
    assert chart.bars[0].hint.startswith("below 1: 3") and "above 4: 7" in chart.bars[3].hint
    assert [mark.value for mark in chart.marks] == [1.5, 5.0, 8.0, 1.8, 9.0]


def test_activation_chart_begins_where_the_store_does():
    chart = activations.activation_chart(stats(hist_first=2, hist_counts=(5,)), META)
    assert [(bar.left, bar.right, bar.height) for bar in chart.bars] == [(2, 4, 5)]


def test_activation_chart_marks_the_tested_text_and_leaves_out_what_is_absent():
    chart = activations.activation_chart(stats(q50=None, q90=None, q99=None), META, tested=3.0)
    assert [(mark.kind, mark.value) for mark in chart.marks] == [
        ("ref", 1.8), ("ref", 9.0), ("here", 3.0),
    ]  # fmt: skip
    assert "your text 3" in draw(chart)


def test_pre_chart_colours_what_passes_the_threshold():
    chart = activations.pre_chart(stats(), META)
    assert [bar.name for bar in chart.bars] == ["off"] * 3 + ["on"] * 2
    assert [bar.left for bar in chart.bars] == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert [(mark.kind, mark.value) for mark in chart.marks] == [("theta", 0.5)]
    relu = activations.pre_chart(stats(theta=0.0, pre_unit=1.0), META)
    assert [bar.name for bar in relu.bars] == ["off"] * 2 + ["on"] * 3


def test_logit_chart_counts_every_token_on_its_side():
    effect = LogitEffect(3, True, (), (), (), (), 1.0, 0.0, 0.0, -1.0, 1.0, (1, 2, 3, 4))
    chart = logits.logit_chart(effect)
    assert [(bar.height, bar.name) for bar in chart.bars] == [
        (1, "down"), (2, "down"), (3, "on"), (4, "on"),
    ]  # fmt: skip
    assert chart.bars[0].left == -1.0 and chart.bars[-1].right == 1.0


def test_a_chart_draws_every_bar_that_counts_something():
    drawn = draw(activations.activation_chart(stats(), META))
    assert drawn.count('class="hb on"') == 3 and drawn.count('class="hm') == 5
    places = [float(x) for x in re.findall(r'class="hb on" style="left:([\d.]+)%', drawn)]
    assert places == sorted(places) and places[0] == 0.0
    heights = [float(h) for h in re.findall(r"--h:([\d.]+)%", drawn)]
    assert heights[0] < heights[1] < heights[2] <= 100


def test_texts_of_marks_that_would_overlap_stand_in_different_rows():
    marks = [Mark(1.0, "a long text"), Mark(1.01, "another long text"), Mark(9.0, "far away")]
    drawn = draw(Chart("c", [Bar(0, 10, 4, "on", "")], "x", "y", marks))
    assert re.findall(r"--row:(\d)", drawn) == ["0", "1", "0"]


def test_an_empty_chart_says_so_and_a_hint_is_escaped():
    assert "nothing to count" in draw(Chart("c", [Bar(0, 1, 0, "on", "")], "x", "y"))
    drawn = draw(Chart('<b>"', [Bar(0, 1, 2, "on", '"><script>')], "<x>", "<y>"))
    assert "<script" not in drawn and "<x>" not in drawn and "<y>" not in drawn


# ------------------------------------------------------------------ all SAEs


def test_frontier_marks_the_chosen_one():
    rows = [{"name": "a", "l0": 10, "fve": 0.8}, {"name": "b", "l0": 20, "fve": 0.9}]
    colours = [trace.marker.color for trace in frontier.frontier(rows, "b").data]
    assert colours == [frame.BLUE, frame.ORANGE]


def test_every_axis_is_titled_and_backgrounds_are_clear():
    drawn = [
        training.curves([{"tokens": 1, "l0": 2}], {"l0": "L0"}, "L0"),
        densities.density_histogram(np.array([0.1])),
        densities.density_max(np.array([0]), np.array([0.1]), np.array([1.0])),
        frontier.frontier([{"name": "a", "l0": 1, "fve": 0.5}], "a"),
    ]
    for figure in drawn:
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
