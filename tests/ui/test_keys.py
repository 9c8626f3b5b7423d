"""Addresses: what is written is read back; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.errors import WorkbenchError
from data.records import FLAGS, FeatureFilter, FeatureRow
from ui.keys import feature, features, lists, prompt
from ui.keys.feature import FeatureView
from ui.keys.lists import ListsView
from ui.keys.prompt import PromptView

shares = some.none() | some.floats(0, 1)
sizes = some.none() | some.floats(0, 1e6)
scores = some.none() | some.floats(-1, 1)


def in_order(filter: FeatureFilter) -> bool:
    """No lower bound above its upper one."""
    pairs = [
        (getattr(filter, f"{name}_min"), getattr(filter, f"{name}_max"))
        for name in ("density", "max", "score")
    ]
    return all(None in pair or pair[0] <= pair[1] for pair in pairs)


filters = some.builds(
    FeatureFilter,
    **{field: some.text(max_size=200) for field in features.TEXTS.values()},
    **dict.fromkeys((*FLAGS, "alive", "bookmarked"), some.none() | some.booleans()),
    feature=some.none() | some.integers(0, 10**6),
    density_min=shares,
    density_max=shares,
    max_min=sizes,
    max_max=sizes,
    score_min=scores,
    score_max=scores,
    columns=some.lists(some.sampled_from(features.COLUMNS), unique=True, max_size=9).map(tuple),
    plot=some.sampled_from(features.PLOTS),
    sort=some.sampled_from(features.SORTS),
    descending=some.booleans(),
    page=some.integers(1, 10**6),
    page_size=some.sampled_from(features.PAGE_SIZES),
).filter(in_order)


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
        ({"max_lo": "5", "max_hi": "1"}, ("max_lo=5", "max_hi=1")),
        ({"score_lo": "0.5", "score_hi": "0.1"}, ("score_lo=0.5", "score_hi=0.1")),
        ({"only": "rare,nice"}, ("only='rare,nice'", "single_token")),
        ({"only": "rare", "not": "rare,dense_1"}, ("only and not both name rare",)),
        ({"star": "5"}, ("star='5'", "yes or no")),
        ({"words": "x" * 201}, ("words=", "at most 200")),
        ({"cols": "label,label"}, ("cols='label,label'", "some of")),
        ({"plot": "pie"}, ("plot='pie'", "max, score, none")),
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
    rows = tuple(field.name for field in dataclasses.fields(FeatureRow))
    assert features.SORTS == (*rows, "bookmarked", "tags")


@given(
    some.builds(
        ListsView,
        part=some.sampled_from(list(lists.PARTS)),
        list=some.sampled_from(["", "0a1b2c3d4e5f"]),
        tag=some.text(max_size=120),
        scope=some.sampled_from(list(lists.SCOPES)),
        page=some.integers(1, 10**6),
    )
)
def test_a_view_of_the_lists_survives_its_address(view):
    params = lists.write_view(view)
    assert lists.read_view(params) == view
    assert set(params) <= set(lists.VIEW_KEYS)


@pytest.mark.parametrize(
    "bad", [{"part": "x"}, {"list": "A!"}, {"tag": "x" * 121}, {"of": "me"}, {"page": "0"}]
)
def test_a_bad_view_of_the_lists_is_refused(bad):
    with pytest.raises(WorkbenchError, match=next(iter(bad))):
        lists.read_view(bad)


def test_numbers_as_people_type_them():
    assert lists.numbers(" 3, #17;40-42  3 ", 64) == [3, 17, 40, 41, 42]
    for text in ("", "x", "64", "5-3", "-1", "1e3", "0-99999999999"):
        with pytest.raises(WorkbenchError, match="give numbers from 0 to 63"):
            lists.numbers(text, 64)


def test_what_a_filter_asks_for_part_by_part():
    asked = FeatureFilter(
        raised="the", tag="odd", dense_1=False, rare=True, bookmarked=False, alive=False
    )
    assert features.parts(asked) == {
        "alive": "dead", "rare": "rare", "dense_1": "not dense > 1 %", "raised": "promotes “the”",
        "tag": "tagged odd", "bookmarked": "not bookmarked",
    }  # fmt: skip
    assert features.parts(FeatureFilter(sort="max", page=3, columns=("label",))) == {}


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
    assert said == "with “def”, density at least 1 %, alive; by feature, falling"
