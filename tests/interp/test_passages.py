"""Text as a judge reads it: levels, quotes, marks."""

from __future__ import annotations

import pytest

from interp.passages import (
    disjoint_windows,
    escaped,
    level,
    levels,
    marked,
    one_a_document,
    quoted,
    strong_places,
    with_levels,
)
from tests.interp.made_up_examples import example

WORDS = {n: (w.encode(), False) for n, w in enumerate(["a", " b", " c", "\n", "«"])}
WORDS[7] = (b"<bos>", True)


@pytest.mark.parametrize(
    "value, expected",
    [(0, 0), (-3, 0), (0.09, 0), (0.1, 1), (0.55, 5), (0.99, 9), (1, 10), (7, 10)],
)
def test_levels_by_hand(value, expected):
    assert level(value, 1.0) == expected


def test_a_feature_that_never_fires_has_level_zero():
    assert levels([0.0, 1.0], 0.0) == [0, 0]


def test_tokens_stay_on_their_line():
    assert quoted(b' say "hi"\n') == '" say \\"hi\\"\\n"'
    assert escaped("caf\u00e9\\ \u202e".encode()) == "caf\u00e9\\\\ \\u202e"
    assert escaped(b"\xff") == "\\xff"


def test_neighbouring_marks_are_joined():
    assert marked((0, 1, 2, 3, 4), (1, 2), WORDS) == "a« b c»\n\\u00ab"
    assert marked((0, 1), (), WORDS) == "a b"
    assert marked((7, 0), (0,), WORDS) == "«<bos>»a"


def test_strong_tokens_of_a_sparse_text_are_named_again():
    sparse = example(values=(0, 0, 0, 0, 0, 9), ids=(0, 1, 2, 0, 1, 2))
    assert with_levels(sparse, 10, WORDS).endswith('" c"\t9\nAbove 0 in this text:\n" c"\t9')
    full = example(values=(5, 9), ids=(0, 1))
    assert with_levels(full, 10, WORDS) == '"a"\t5\n" b"\t9'


def test_the_peak_is_marked_where_nothing_is_strong():
    assert strong_places(example(values=(0, 0.1, 0.2), peak=2), 10) == [2]
    assert strong_places(example(values=(3, 0.1, 9), peak=2), 10) == [0, 2]
    assert strong_places(example(values=(0, 0), peak=1), 10) == []


def test_a_token_counts_once():
    rows = [example(doc=1, start=s, values=(1,) * 8, peak=4) for s in (0, 4, 8)]
    rows.append(example(doc=2, start=4, values=(1,) * 8, peak=4))
    assert [(e.doc, e.start) for e in disjoint_windows(rows, 8)] == [(1, 0), (1, 8), (2, 4)]
    assert [e.doc for e in one_a_document(rows)] == [1, 2]
