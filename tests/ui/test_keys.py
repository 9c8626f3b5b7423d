"""Addresses: what is written is read back; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.errors import WorkbenchError
from data.records import FeatureFilter, FeatureRow
from ui.keys import feature, features, prompt
from ui.keys.feature import FeatureView
from ui.keys.prompt import PromptView

shares = some.none() | some.floats(0, 1)
filters = some.builds(
    FeatureFilter,
    text=some.text(),
    feature=some.none() | some.integers(0, 10**6),
    density_min=shares,
    density_max=shares,
    max_min=some.none() | some.floats(0, 1e6),
    score_min=some.none() | some.floats(-1, 1),
    alive=some.none() | some.booleans(),
    sort=some.sampled_from(features.SORTS),
    descending=some.booleans(),
    page=some.integers(1, 10**6),
    page_size=some.sampled_from(features.PAGE_SIZES),
).filter(lambda f: None in (f.density_min, f.density_max) or f.density_min <= f.density_max)


@given(filters)
def test_a_filter_survives_its_address(filter):
    params = features.write_filter(filter)
    assert features.read_filter(params) == filter
    assert set(params) <= set(features.FILTER_KEYS)


@given(
    some.builds(
        FeatureView,
        feature=some.none() | some.integers(0, 10**6),
        kind=some.sampled_from(list(feature.KINDS)),
        context=some.sampled_from(list(feature.CONTEXTS)),
        centre=some.booleans(),
        breaks=some.booleans(),
    )
)
def test_a_view_survives_its_address(view):
    params = feature.write_view(view)
    assert feature.read_view(params) == view
    assert set(params) <= set(feature.VIEW_KEYS)


@given(
    some.builds(
        PromptView,
        text=some.text(max_size=200),
        token=some.none() | some.integers(0, 4096),
        feature=some.none() | some.integers(0, 10**6),
        hide_dense=some.booleans(),
    )
)
def test_a_prompt_survives_its_address(view):
    params = prompt.write_prompt(view)
    assert prompt.read_prompt(params) == view
    assert set(params) <= set(prompt.PROMPT_KEYS)


def test_defaults_leave_no_trace():
    assert features.write_filter(FeatureFilter()) == {}
    assert feature.write_view(FeatureView()) == {}
    assert prompt.write_prompt(PromptView()) == {}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"den_lo": "abc"}, ("den_lo='abc'", "0 to 1")),
        ({"den_lo": "2"}, ("den_lo='2'", "0 to 1")),
        ({"den_hi": "nan"}, ("den_hi='nan'",)),
        ({"max_lo": "inf"}, ("max_lo='inf'",)),
        ({"max_lo": "-1"}, ("max_lo='-1'",)),
        ({"score_lo": "7"}, ("score_lo='7'", "-1 to 1")),
        ({"alive": "maybe"}, ("alive='maybe'", "yes or no")),
        ({"sort": "beauty"}, ("sort='beauty'", "density", "peak_token")),
        ({"dir": "up"}, ("dir='up'", "asc or desc")),
        ({"page": "0"}, ("page='0'", "1 or more")),
        ({"size": "1000"}, ("size='1000'", "25, 50, 100")),
        ({"id": "x"}, ("id='x'",)),
        ({"den_lo": "0.5", "den_hi": "0.1"}, ("den_lo=0.5", "den_hi=0.1")),
    ],
)
def test_a_bad_filter_is_refused_with_what_is_accepted(params, words):
    with pytest.raises(WorkbenchError) as caught:
        features.read_filter(params)
    for word in words:
        assert word in str(caught.value)


def test_all_faults_are_named_at_once():
    with pytest.raises(WorkbenchError) as caught:
        features.read_filter({"alive": "maybe", "page": "one", "q": "fine"})
    assert "alive='maybe'" in str(caught.value) and "page='one'" in str(caught.value)


@pytest.mark.parametrize("bad", [{"f": "99.5"}, {"f": "-1"}, {"kind": "best"}, {"ctx": "17"}])
def test_a_bad_view_is_refused(bad):
    with pytest.raises(WorkbenchError, match=next(iter(bad))):
        feature.read_view(bad)


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(WorkbenchError, match="4,001 characters, 4,000"):
        prompt.read_prompt({"text": "x" * 4001})


def test_every_column_of_the_list_can_be_sorted_by():
    assert features.SORTS == tuple(field.name for field in dataclasses.fields(FeatureRow))


def test_search_words():
    assert features.search_words("#12 def") == (12, "def")
    assert features.search_words("#12") == (12, "")
    assert features.search_words("def #12") == (None, "def #12")
    assert features.search_words("#include") == (None, "#include")


def test_a_filter_in_words():
    assert features.in_words(FeatureFilter()) == "all features; by feature, rising"
    said = features.in_words(
        FeatureFilter(text="def", density_min=0.01, alive=True, descending=True)
    )
    assert said == "with “def”, density at least 0.01, alive; by feature, falling"
