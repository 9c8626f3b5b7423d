"""What can be compared of two SAEs; documents two features have in common."""

from __future__ import annotations

import dataclasses

from data.records import Example
from interp.compare import Made, comparable, in_common

ONE = Made("one", 24, 64, "resid_post.1", "tiny", "w", ("text", 10, 1000, 16))


def other(**changes) -> Made:
    return dataclasses.replace(ONE, name="two", **changes)


def test_two_of_a_kind_need_no_remark():
    can = comparable(ONE, other())
    assert can.directions and can.together and can.remarks == ()


def test_each_difference_is_told():
    site = comparable(ONE, other(site="mlp_out.2"))
    assert site.directions and site.together and "different sites" in site.remarks[0]
    size = comparable(ONE, other(d_sae=128))
    assert size.directions and "compare shares, not counts" in size.remarks[0]
    width = comparable(ONE, other(d_in=36, site="attn_z.1"))
    assert not width.directions and "different widths (24 and 36)" in width.remarks[0]
    assert len(width.remarks) == 1, "the site is no matter then"
    text = comparable(ONE, other(corpus=("other", 10, 1000, 16)))
    assert text.directions and "harvested on different text" in text.remarks[0]


def test_different_or_unknown_models():
    model = comparable(ONE, other(weights="v", model="large"))
    assert not model.directions and not model.together
    assert "different language models (tiny and large)" in model.remarks[0]
    unknown = comparable(ONE, other(weights=None))
    assert unknown.directions and not unknown.together
    assert "two does not record its language model" in unknown.remarks[0]
    both = comparable(dataclasses.replace(ONE, weights=None), other(weights=None))
    assert "one and two" in both.remarks[0]


def _example(doc: int, value: float, name: str = "") -> Example:
    return Example(0, "top", "", 0, doc, name or f"d{doc}", "score", 0, 1, value, value, 1.0, 1,
                   (1, 2, 3), (0.0, value, 0.0))  # fmt: skip


def test_documents_in_common_by_number_or_by_name():
    a = [_example(1, 3.0), _example(1, 5.0), _example(2, 9.0), _example(3, 0.0)]
    b = [_example(1, 1.0), _example(3, 2.0), _example(2, 4.0)]
    pairs = in_common(a, b, True)
    assert [(x.doc, x.max, y.max) for x, y in pairs] == [(2, 9.0, 4.0), (1, 5.0, 1.0)]
    renumbered = [_example(7, 1.0, "d1")]
    assert in_common(a, renumbered, True) == []
    assert [y.doc for _, y in in_common(a, renumbered, False)] == [7]
    assert in_common([], b, True) == []
