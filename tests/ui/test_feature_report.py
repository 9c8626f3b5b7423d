"""The page of a feature: complete, escaped, and in need of nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from data.features_store import FeatureStore
from data.records import Explanation, LogitEffect, Score
from data.schema import open_root
from tests.data import handmade
from ui import cards
from ui.reports.feature_page import feature_page
from ui.reports.histogram import Bar, Scale, histogram, number

VOID = {"meta"}
META = {
    **handmade.META, "model": "demo", "site": "resid_post.2", "pre_edges": [0.0, 1.0],
    "position_edges": [0, 4, 8], "position_tokens": [500, 0], "versions": {"torch": "2.13.0"},
    "rule": {"context": 8, "per_document": None}, "weights_sha256": "ab" * 32,
}  # fmt: skip


class Tree(HTMLParser):
    """Checks that elements close in order; collects tags, addresses and visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.addresses, self.said = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs), attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "features.duckdb"
    handmade.write(path, meta=META)
    return FeatureStore(open_root(), path)


def page(store, feature=1, **changed) -> str:
    given = {
        "stats": store.feature(feature), "logits": store.logits(feature),
        "examples": store.examples(feature), "tokens": store.vocabulary(), "meta": store.meta,
    }  # fmt: skip
    return feature_page(**{**given, **changed})


def test_it_needs_nothing_else(store):
    text = page(store)
    tree = Tree(text)
    assert tree.addresses == [] and not {"script", "link", "img", "iframe"} & set(tree.tags)
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "@import" not in text and "prefers-color-scheme: dark" in text
    assert "\x00" not in text


def test_it_says_what_the_store_knows(store):
    said = " ".join(Tree(page(store)).said)
    for wanted in ("Feature 1", "hand · resid_post.2 · demo", "5 %", "50", "no label yet",
                   "Activations", "Around the threshold", "Effect on logits", "By position",
                   "raises", "lowers", "through the final norm’s scale", "ab" * 32,
                   "per_document –", "torch 2.13.0", "quantiles are right within 6.25 %",
                   "3, the feature’s corpus maximum"):  # fmt: skip
        assert wanted in said, wanted


def test_kinds_are_apart_and_say_how_they_were_drawn(store):
    text = page(store)
    sections = dict(re.findall(r'<section class="kind"><h2>([\w ]+)(.*?)</section>', text))
    assert list(sections) == [
        "Strongest ", "By rank", "Sample of its fires ", "Near misses", "Silent ",
    ]  # fmt: skip
    sections = {title.strip(): section for title, section in sections.items()}
    assert "2 shown<" in sections["Strongest"] and "probability" not in sections["Strongest"]
    assert "each taken with probability 0.25" in sections["Sample of its fires"]
    assert "each taken with probability 0.125" in sections["Silent"]
    assert "probability" not in sections["Near misses"], "no sample, so no probability"
    assert sections["By rank"].index("the strongest 1 %") < sections["By rank"].index("weaker half")
    assert "pre 0.19" in sections["Near misses"] and "pre -1" in sections["Near misses"]
    assert "×2" in sections["Strongest"] and "stands for 3 tokens" in sections["Silent"]


def test_shading_ends_at_the_corpus_maximum(store):
    weak = page(store, examples=[e for e in store.examples(1) if e.kind == "quantile"])
    shades = {int(n) for n in re.findall(r'<mark class="a(\d+)', weak)}
    assert shades == {4, 9}, "0.5 and 2 of 3; nothing here is the maximum"
    assert "the feature’s corpus maximum" in weak


def test_the_peak_is_marked_where_the_feature_is_silent(store):
    text = page(store, examples=[e for e in store.examples(1) if e.kind == "random"])
    assert '<span class="pk">ÉT</span>' in text and "<mark" not in text


def test_a_window_is_cut_and_the_whole_context_can_be_had(store):
    (long,) = [e for e in store.examples(1, "active")]
    long = replace(long, ids=(4,) * 200, values=(0.0,) * 150 + (1.0,) + (0.0,) * 49, peak=150)
    for width, wanted in ((64, 64), (5, 5), (None, 200)):
        text = page(store, examples=[long], width=width)
        (strip,) = re.findall(r'<div class="strip".*?>(.*?)</div>', text)
        assert strip.count("100%") == wanted + 1, "and once in the title of the active one"
        assert strip.count("<i>…</i>") == (0 if width is None else 2)


def test_a_dead_feature_has_a_page(store):
    text = page(store, 0, logits=None)
    tree = Tree(text)
    assert "dead: it never fires on this corpus" in text and "–" in tree.said
    assert "Strongest" not in text and "Effect on logits" not in text and "raises" not in text


def test_markup_from_anywhere_stays_text(store):
    nasty = '"><script>alert(1)</script>'
    tokens = {i: (nasty.encode(), i == 0) for i in range(5)}
    examples = [replace(e, document=nasty) for e in store.examples(1)]
    meta = {**store.meta, "sae": nasty, "model": nasty, "text": nasty, "versions": {nasty: nasty}}
    stats = replace(store.feature(1), single_token=True)
    told = Explanation(1, nasty, nasty, {})
    score = Score(1, nasty, None, None, None, 0, 0, "failed", nasty)
    text = page(store, stats=stats, tokens=tokens, examples=examples, meta=meta, explanation=told,
                score=score)  # fmt: skip
    tree = Tree(text)
    assert "script" not in tree.tags and tree.addresses == []
    assert sum("alert(1)" in said for said in tree.said) > 10


def test_labels_and_scores_say_when_there_is_none(store):
    told = Explanation(1, "lexical", "words", {})
    assert "not scored" in page(store, explanation=told)
    failed = Explanation(1, "gemini", "", {}, "failed", "no answer")
    text = page(store, explanation=failed, score=Score(1, "simulate", None, None, None, 0, 0,
                                                       "not_run", "no label"))  # fmt: skip
    assert "no label: no answer" in text and "not scored: no label" in text
    assert "lexical baseline, not a language model" in page(store, explanation=told)


def test_flags_are_those_of_the_store(store):
    tokens = store.vocabulary()
    assert [text for text, _ in cards.flags(store.feature(3), tokens)] == [
        "rare: 7 fires", "single token: 100 % of fires on \\xf0\\x9f",
    ]  # fmt: skip
    stats = replace(store.feature(2), position_bound=True, outlier_bound=True, outlier_share=0.75)
    found = [text for text, _ in cards.flags(stats, tokens)]
    assert found[0] == "dense: fires on more than 10 % of tokens" and len(found) == 4
    assert "75 % of its fires are on tokens of unusual norm" in found
    dead = [("dead: it never fires on this corpus", "warn")]
    assert cards.flags(store.feature(0), tokens) == dead


def test_the_same_page_each_time(store):
    assert page(store) == page(store)


# ---------------------------------------------------------------- charts


def _rects(svg: str) -> list[tuple[float, float, float, float]]:
    found = re.findall(r'<rect class="\w+" x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', svg)
    return [tuple(map(float, rect)) for rect in found]


def test_bars_are_as_high_as_their_counts():
    bars = [Bar(0, 1, 10, "on", "ten"), Bar(1, 2, 0, "on", "none"), Bar(2, 4, 5, "off", "five")]
    svg = histogram(bars, "x", "y")
    (x1, _, w1, h1), (x2, _, w2, h2) = _rects(svg)
    assert h1 == pytest.approx(2 * h2, abs=0.11) and "none" not in svg
    assert w2 + 0.3 == pytest.approx(2 * (w1 + 0.3), abs=0.11) and x2 > x1 + w1
    assert "<title>ten</title>" in svg and 'aria-label="y over x"' in svg


def test_a_log_axis_spaces_ratios_evenly():
    bars = [Bar(1, 10, 1, "on", ""), Bar(10, 100, 100, "on", ""), Bar(100, 1000, 10, "on", "")]
    one, hundred, ten = _rects(histogram(bars, "x", "y", log_x=True, log_y=True))
    assert one[2] == pytest.approx(ten[2], abs=0.11)
    assert hundred[3] - ten[3] == pytest.approx(ten[3] - one[3], abs=0.11)
    assert one[3] > 5, "a single count is to be seen"


def test_scales_and_their_ticks():
    scale = Scale(1, 100, 0, 10, log=True)
    assert (scale(1), scale(10), scale(100)) == (0, 5, 10)
    assert scale.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Scale(1, 1e6, 0, 1, log=True).ticks(3) == [1, 100, 10_000, 1_000_000]
    assert Scale(0, 1, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(-3, 7, 0, 1).ticks() == [-2, 0, 2, 4, 6]
    assert Scale(2, 2, 0, 10)(2) == 5 and Scale(2, 2, 0, 10).ticks() == [2]
    assert [number(v) for v in (0.5, 12, 1500, 2e6, 3e9)] == ["0.5", "12", "1.5k", "2M", "3G"]


def test_nothing_to_count_is_said():
    assert "nothing to count" in histogram([Bar(0, 1, 0, "on", "")], "x", "y")
    assert "nothing to count" in histogram([], "x", "y")


def test_logit_bars_below_zero_have_another_colour(store):
    logits = LogitEffect(1, False, (), (), (), (), 0.5, 0, 0, -1.0, 1.0, (4, 0, 2, 2))
    text = page(store, logits=logits)
    chart = text[text.index("Effect on logits") :]
    assert chart.count('class="down"') == 1 and "through the unembedding alone" in text
