"""The filter bar of the feature list: every bound a filter has, and what it asks for in words.

In:  the filter in the address, the tags there are. Out: widgets filled from the address, which
     write to it when they change; a row of what is asked for, each part to be taken away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import streamlit as st

from data.records import FLAGS, FeatureFilter
from ui.cards import percent
from ui.keys import features as keys
from ui.shell import Shell, plain, set_address

PAGE = "features"
STEPS = [factor * 10.0**power for power in range(-7, 0) for factor in (1, 2, 5)]
# What may be asked for with the pills: name -> fields it sets.
ONLY = {"alive": "alive", "dead": "dead", **keys.FLAG_WORDS}
TEXTS = {"words": "example", "peak": "peak", "up": "raised"}
NUMBERS = {"max": "max_min", "max_hi": "max_max"}
ABOUT_FLAGS = (
    "Alive: fires in the corpus; dead: never. Rare: on very few tokens. Dense: on more than 1 % or "
    "10 % of tokens. Single token: nearly always on the same token. Position-bound: where it "
    "stands in the context decides. Outlier-bound: mostly on tokens of unusual norm. Several: all "
    "of them."
)
ABOUT_TOKEN = 'Part of a token, or a whole one in double quotes with its space: `" the"`.'


def show(shell: Shell, current: FeatureFilter, scored: bool) -> None:
    """scored: whether there is a run that may have scored features."""
    _fill(current)
    more = {"on_change": _changed, "args": (shell, current)}
    with st.container(border=True, key="filter-bar"):
        row = st.columns([2.1, 2.1, 2.6, 1.45], gap="medium", vertical_alignment="top")
        row[0].text_input(
            "Label or peak token", key="features.q", placeholder="text, or #12 for feature 12",
            max_chars=keys.LONGEST, icon=":material/search:",
            help="In a judge’s label, a person’s own label or the token the feature peaks on. "
            "`#12` finds feature 12.", **more,
        )  # fmt: skip
        row[1].text_input(
            "Words in its examples", key="features.words", placeholder="text in the corpus",
            max_chars=keys.LONGEST, icon=":material/format_quote:",
            help="Stands, as typed, within the 16 tokens around the peak of one of its strongest "
            "examples; capitals do not matter. The first search of an SAE reads its documents, "
            "which takes a moment.", **more,
        )  # fmt: skip
        _density(row[2], shell, current)
        row[3].number_input(
            "Max at least", min_value=0.0, value=None, key="features.max", format="%g",
            placeholder="any", help="Largest activation in the corpus.", **more,
        )  # fmt: skip
        row = st.columns([6.2, 1], gap="medium", vertical_alignment="bottom")
        row[0].pills(
            "Only features that are", list(ONLY), selection_mode="multi", key="features.only",
            format_func=lambda flag: ONLY[flag], help=ABOUT_FLAGS, **_moved(more, "only"),
        )  # fmt: skip
        with (
            row[1].container(horizontal_alignment="right"),
            st.popover("More", icon=":material/tune:", width="stretch"),
        ):
            _more(shell, current, more, scored)


def chips(shell: Shell, current: FeatureFilter) -> None:
    """What the filter asks for; a click takes one part away."""
    asked = keys.parts(current)
    if not asked:
        return
    key = f"features.chips.{hash(tuple(asked.values()))}"

    def drop() -> None:
        left = st.session_state[key]
        go(shell, _without(current, [field for field in asked if field not in left]))

    with st.container(horizontal=True, vertical_alignment="center", key="filter-chips"):
        st.pills(
            "Filter", list(asked), default=list(asked), selection_mode="multi", key=key,
            format_func=lambda field: plain(f"{asked[field]} ✕"), label_visibility="collapsed",
            on_change=drop,
        )  # fmt: skip
        st.button(
            "Clear", type="tertiary", key="features.clear", on_click=go,
            args=(shell, _without(current, list(asked))), help="Take the whole filter away",
        )  # fmt: skip


def go(shell: Shell, filter: FeatureFilter) -> None:
    """Shows the list of that filter."""
    set_address(PAGE, shell.sae, keys.write_filter(filter))


def _fill(current: FeatureFilter) -> None:
    """Sets the widgets to what the address says."""
    number = "" if current.feature is None else f"#{current.feature} "
    alive = {True: ["alive"], False: ["dead"], None: []}[current.alive]
    state = {
        "q": (number + current.text).strip() if number else current.text,
        "only": alive + [flag for flag in FLAGS if getattr(current, flag) is True],
        "not": [flag for flag in FLAGS if getattr(current, flag) is False],
        "star": {True: "bookmarked", False: "not bookmarked", None: None}[current.bookmarked],
        "tag": current.tag or None,
        **{key: getattr(current, field) for key, field in (TEXTS | NUMBERS).items()},
    }
    for key, value in state.items():
        st.session_state[f"features.{key}"] = value


def _density(place, shell: Shell, current: FeatureFilter) -> None:
    low = 0.0 if current.density_min is None else current.density_min
    high = 1.0 if current.density_max is None else current.density_max
    key = f"features.density.{low}.{high}"  # a range is no range without its value
    place.select_slider(
        "Density", sorted({0.0, *STEPS, 1.0, low, high}), (low, high), key=key,
        format_func=percent, on_change=_slid, args=(shell, current, "density", key, 0.0, 1.0),
        help="Share of tokens on which a feature is active; the scale is logarithmic.",
    )  # fmt: skip


def _more(shell: Shell, current: FeatureFilter, more: dict, scored: bool) -> None:
    """The bounds that are needed less often."""
    left, right = st.columns(2)
    left.text_input(
        "Peak token", key="features.peak", placeholder="any", max_chars=keys.LONGEST,
        help=f"The token it fires on most often. {ABOUT_TOKEN}", **more,
    )  # fmt: skip
    right.text_input(
        "Token it promotes", key="features.up", placeholder="any", max_chars=keys.LONGEST,
        help=f"One of the tokens whose logits it raises most. {ABOUT_TOKEN}", **more,
    )  # fmt: skip
    tags = list(shell.lab.tags(shell.sae))
    if current.tag and current.tag not in tags:
        tags.append(current.tag)
    left.selectbox(
        "Tag", tags, key="features.tag", disabled=not tags,
        placeholder="any" if tags else "no tags yet", help="Tags are given on the Feature page, "
        "or to all features of a list with “Mark all”.", **more,
    )  # fmt: skip
    right.number_input(
        "Max at most", min_value=0.0, value=None, key="features.max_hi", format="%g",
        placeholder="any", help="Largest activation in the corpus.", **more,
    )  # fmt: skip
    low = -1.0 if current.score_min is None else current.score_min
    high = 1.0 if current.score_max is None else current.score_max
    key = f"features.score.{low}.{high}"
    st.slider(
        "Score", -1.0, 1.0, (low, high), step=0.01, key=key, on_change=_slid,
        args=(shell, current, "score", key, -1.0, 1.0),
        disabled=not scored and (low, high) == (-1.0, 1.0),
        help="Correlation of predicted and real activations. Once it is moved, features without a "
        "score are left out." if scored else "No labels of this SAE have been made and scored yet.",
    )  # fmt: skip
    st.segmented_control("Bookmarks", ["bookmarked", "not bookmarked"], key="features.star", **more)
    st.pills(
        "Leave out", list(FLAGS), selection_mode="multi", key="features.not",
        format_func=lambda flag: keys.FLAG_WORDS[flag], **_moved(more, "not"),
    )  # fmt: skip


def _moved(more: dict, name: str) -> dict:
    return {**more, "args": (*more["args"], name)}


def _changed(shell: Shell, current: FeatureFilter, moved: str | None = None) -> None:
    """Reads the widgets, writes the address; a changed filter starts at its first page.

    moved: `only` or `not` if it was one of the rows of flags: what was just chosen wins.
    """

    def widget(name: str):
        return st.session_state[f"features.{name}"]

    feature, text = keys.search_words(widget("q"))
    only, others = set(widget("only")), set(widget("not"))
    only -= others if moved == "not" else set()
    others -= only if moved == "only" else set()
    if {"alive", "dead"} <= only:
        only -= {"alive" if current.alive else "dead"}
    flags = {flag: True if flag in only else False if flag in others else None for flag in FLAGS}
    changed = replace(
        current,
        text=text,
        feature=feature,
        **{field: widget(key) for key, field in TEXTS.items()},
        **{field: widget(key) for key, field in NUMBERS.items()},
        **flags,
        alive=True if "alive" in only else False if "dead" in only else None,
        bookmarked={"bookmarked": True, "not bookmarked": False}.get(widget("star")),
        tag=widget("tag") or "",
        page=1,
    )
    go(shell, changed)


def _slid(
    shell: Shell, current: FeatureFilter, name: str, key: str, least: float, most: float
) -> None:
    """A range was moved; an end that is at the end of the scale is no bound."""
    low, high = st.session_state[key]
    bounds = {
        f"{name}_min": low if low > least else None,
        f"{name}_max": high if high < most else None,
    }
    go(shell, replace(current, **bounds, page=1))


def _without(current: FeatureFilter, parts: list[str]) -> FeatureFilter:
    plain = {field.name: field.default for field in dataclasses.fields(FeatureFilter)}
    return replace(current, **{field: plain[field] for field in parts}, page=1)
