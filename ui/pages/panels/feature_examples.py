"""The text a feature fires on, by kind, and text it does not.

In:  a `Case`. Out: the panel: tabs, options, the scale, the rows; each row leads to Prompt, one at
     a time can be computed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import streamlit as st

from data.records import Example
from ui import strips
from ui.keys import feature as keys
from ui.keys import prompt as prompts
from ui.keys.prompt import PromptView
from ui.pages.panels import feature_recompute
from ui.pages.panels.feature_case import Case

KINDS = {
    "top": ("Top", "The strongest activations in the corpus, one a document."),
    "q99": (".99–1", "Drawn evenly from the strongest hundredth of its activations."),
    "q90": (".9–.99", "Drawn evenly from the strongest tenth, without the strongest hundredth."),
    "q50": (".5–.9", "Drawn evenly from the upper half, without the strongest tenth."),
    "q0": ("0–.5", "Drawn evenly from the weaker half of its activations."),
    "active": ("Active", "Tokens drawn evenly from all on which the feature is active: what it "
               "usually does, strong or weak."),
    "under": ("Just under", "Silent, with the pre-activation nearest to the threshold."),
    "token": ("Same token", "Silent on a token that the strongest examples fire on."),
    "random": ("Silent", "Tokens drawn evenly from all on which the feature is silent."),
}  # fmt: skip
Tokens = Mapping[int, tuple[bytes, bool]]


def show(case: Case) -> None:
    view, stats = case.view, case.stats
    st.subheader("Examples", anchor="examples")
    _options(case, case.store.example_counts(case.feature))
    kind, part = keys.KINDS[view.kind]
    found = [e for e in case.store.examples(case.feature, kind) if e.part == part]
    if not found:
        st.caption("No example of this kind in this corpus.")
        return
    end = "each row’s own maximum" if view.own_scale else ""
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        st.caption(f"{KINDS[view.kind][1]}{_band(case)} {sampling(found)}")
        st.html(strips.legend(stats.max, end), width="content")
    tokens = case.store.token_bytes({token for example in found for token in example.ids})
    drawn = strips.lines(found, tokens, keys.CONTEXTS[view.context])
    lines = [
        dataclasses.replace(
            line, link=_prompt(case, example, tokens), note=_note(view.kind, example)
        )
        for line, example in zip(drawn, found, strict=True)
    ]
    st.html(strips.examples(lines, stats.max, view.centre, view.breaks, case.rank, view.own_scale))
    feature_recompute.show(case, found, tokens)


def _options(case: Case, counts: Mapping[tuple[str, str], int]) -> None:
    """The tabs with their counts, and how rows are shown."""
    view, state = case.view, st.session_state
    state["feature.kind"], state["feature.context"] = view.kind, view.context
    state["feature.centre"], state["feature.breaks"] = view.centre, view.breaks
    state["feature.own_scale"] = view.own_scale

    def changed() -> None:
        names = ("kind", "context", "centre", "breaks", "own_scale")
        options = {name: state[f"feature.{name}"] for name in names}
        again = None if options["kind"] != view.kind else view.example
        case.go(**options, example=again)

    def tab(kind: str) -> str:
        return f"{KINDS[kind][0]} :gray[{counts.get(keys.KINDS[kind], 0)}]"

    more = {"on_change": changed, "label_visibility": "collapsed"}
    st.segmented_control("Kind", list(KINDS), key="feature.kind", required=True, format_func=tab,
                         **more)  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.segmented_control(
            "Context", list(keys.CONTEXTS), key="feature.context", required=True,
            format_func=lambda name: "whole" if name == "full" else f"{name} tokens", **more,
        )  # fmt: skip
        st.toggle("Centred", key="feature.centre", on_change=changed,
                  help="One line an example, the peak token in the middle.")  # fmt: skip
        st.toggle("Line breaks", key="feature.breaks", on_change=changed, disabled=view.centre)
        st.toggle("Own scale", key="feature.own_scale", on_change=changed,
                  help="Colours end at each row’s own maximum instead of the feature’s, so that "
                  "the shape of weak rows shows.")  # fmt: skip


def _band(case: Case) -> str:
    """Where a band of ranks begins, and how many fires it holds; "" for other kinds."""
    kind, part = keys.KINDS[case.view.kind]
    if kind != "quantile" or part not in (bands := case.store.bands(case.feature)):
        return ""
    low, fires = bands[part]
    return f" It holds {fires:,} fires, from {low:.3g} on."


def sampling(found: Sequence[Example]) -> str:
    """How many, and with which probability each was taken, where that was left to chance."""
    count = f"{len(found)} shown."
    given = {example.inclusion for example in found}
    if found[0].kind == "top" or None in given:
        return count
    low, high = min(given), max(given)
    chance = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
    return f"{len(found)} shown, each taken with probability {chance}."


def _note(kind: str, example: Example) -> str:
    """Near misses say how near; a silent row's value alone is always 0."""
    return f"pre {example.pre:.3g}" if kind in ("under", "token", "random") else ""


def _prompt(case: Case, example: Example, tokens: Tokens) -> str:
    """The address of the Prompt page with the example's text, coloured by this feature."""
    text = text_of(example, tokens)[0]
    if len(text) > prompts.PROMPT_CHARACTERS:  # what comes before the peak matters most
        stop = len(text_of(example, tokens, example.peak + 1)[0])
        begin = max(0, stop - prompts.PROMPT_CHARACTERS)
        text = text[begin : begin + prompts.PROMPT_CHARACTERS]
    view = PromptView(text=text, feature=case.feature)
    return case.shell.link("prompt", prompts.write_prompt(view))


def text_of(example: Example, tokens: Tokens, stop: int | None = None) -> tuple[str, bool]:
    """The example's text, and whether it is text: a context may begin within a character."""
    data = b"".join(tokens[token][0] for token in example.ids[:stop])
    text = data.decode("utf-8", "replace")
    return text, "\ufffd" not in text
