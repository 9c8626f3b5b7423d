"""The report of a study: whole, escaped, in need of nothing else; the same numbers as text."""

from __future__ import annotations

import copy

import pytest

from interp.arms_report import analysed
from tests.interp.test_arms_report import arm
from tests.ui.test_feature_report import Tree
from ui.reports.arms_page import arms_page
from ui.reports.arms_tables import arms_markdown


@pytest.fixture
def told() -> dict:
    arms = [
        arm("a", "jump <b>&", [0.9, "constant", 0.62, "failed", 0.7], [0.2, 0.05, 0.0005, 0.3, 0.1],
            base=[0.5, 0.2, 0.7, 0.1, 0.3]),
        arm("b", "top|k", [0.4, 0.2, 0.6, 0.8, -0.15], [0.001] * 5, matched_to="a", l0=None),
    ]  # fmt: skip
    return {
        "study": "one", "plan_sha256": "ab" * 32, "judge": "openai:x", "protocol": "activations",
        "mode": "held-out", "seed": 0, "wanted": 5, "least_fires": 10, "strata": 1,
        "asking": {"temperature": 0.0, "top_p": None}, "not_run": [], "unanswered": {"a": 0},
        "codes": 1,
        "arms": [{"sae": s, "weights_sha256": "cd" * 32, "store_content": "ef" * 32} for s in "ab"],
        "methods": analysed(arms, ["simulate"], 0),
    }  # fmt: skip


def test_the_page_is_whole_and_asks_for_nothing(told):
    page = Tree(arms_page(told))
    assert page.addresses == [] and "script" not in page.tags
    assert page.tags.count("table") == 9 and page.tags.count("svg") >= 3
    said = " ".join(page.said)
    assert "jump <b>&" in said and "0.555" in said


def test_the_text_says_the_same_numbers(told):
    text = arms_markdown(told)
    said = " ".join(Tree(arms_page(told)).said)
    for row in [line for line in text.splitlines() if line.startswith("| a |")]:
        for cell in row.strip("| ").split(" | "):
            assert cell in said, cell
    assert r"top\|k" in text, "a bar in a name makes no column"


def test_every_curve_and_mean_lies_within_its_picture(told):
    import re

    page = arms_page(told)
    for points in re.findall(r'points="([^"]+)"', page):
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 520 and 0 <= y <= 250
    assert page.count('class="average"') == 4, "of two groups and two arms"


def test_what_is_amiss_stands_above(told):
    worse = copy.deepcopy(told)
    worse |= {"not_run": ["c"], "unanswered": {"a": 7}, "codes": 2, "mode": "paper",
              "judge": "lexical"}  # fmt: skip
    text = arms_markdown(worse)
    for line in ("Not run yet, and not in here: c.", "a 7", "different versions",
                 "an explanation can repeat", "token-lookup baseline"):  # fmt: skip
        assert line in text.split("## ")[0] and line in arms_page(worse)
    assert "**" not in arms_markdown(told)


def test_an_empty_study_is_no_fault(told):
    arms = [arm("a", "g", ["failed"]), arm("b", "h", ["not_run"])]
    told["methods"] = analysed(arms, ["simulate"], 0)
    Tree(arms_page(told))
    assert "| a | g | 10.0 | 0 of 1 | – |" in arms_markdown(told)


def test_the_same_report_gives_the_same_bytes(told):
    assert arms_page(told) == arms_page(copy.deepcopy(told))
