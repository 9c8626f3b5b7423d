"""Where two features fire: their strongest examples side by side, and the documents of both.

In:  two Subjects and the view in the address. Out: the panels. Each is coloured by its own corpus
     maximum, never by what is on show.
"""

from __future__ import annotations

import html

import streamlit as st

from data.records import Example
from interp.compare import in_common
from ui import strips
from ui.keys import compare as keys
from ui.keys.compare import CompareView
from ui.pages.panels.compare_side import Subject, go
from ui.shell import Shell

SHOWN = 10
DOCUMENTS = 8


def show(shell: Shell, view: CompareView, a: Subject, b: Subject) -> None:
    st.subheader("Strongest examples", anchor=False)
    st.session_state["compare.context"] = view.context
    st.segmented_control(
        "Context", list(keys.CONTEXTS), key="compare.context", required=True,
        label_visibility="collapsed",
        format_func=lambda name: "whole" if name == "full" else f"{name} tokens",
        on_change=lambda: go(shell, view, context=st.session_state["compare.context"]),
    )  # fmt: skip
    for column, one, letter in zip(st.columns(2, gap="large"), (a, b), "ab", strict=True):
        with column:
            found = [example for example in one.examples if example.kind == "top"][:SHOWN]
            if not found:
                st.caption("No example: it never fires in its corpus.")
                continue
            st.html(strips.legend(one.stats.max, f"{one.stats.max:.3g}, {letter.upper()}’s corpus "
                                  "maximum"))  # fmt: skip
            tokens = one.store.token_bytes({token for e in found for token in e.ids})
            rows = strips.lines(found, tokens, keys.CONTEXTS[view.context])
            st.html(f'<div class="two">{strips.examples(rows, one.stats.max)}</div>')


def documents(view: CompareView, a: Subject, b: Subject, same_corpus: bool) -> None:
    """The same text twice, coloured by A and by B."""
    st.subheader(
        "Documents in common", anchor=False,
        help="Documents in which both have an example of any kind on which they fire: the text "
        "around A’s strongest, coloured by A, then by B.",
    )  # fmt: skip
    pairs = in_common(a.examples, b.examples, same_corpus)
    if not pairs:
        st.caption("None: no document holds an example of both. They may still fire in one.")
        return
    ids = [{token for pair in pairs for token in pair[i].ids} for i in (0, 1)]
    tokens = [one.store.token_bytes(some) for one, some in zip((a, b), ids, strict=True)]
    width = keys.CONTEXTS[view.context]
    blocks = []
    for first, second in pairs[:DOCUMENTS]:
        (row_a,) = strips.lines([first], tokens[0], width)
        (row_b,) = strips.lines([_towards(first, second)], tokens[1], width)
        name = html.escape(first.document)
        lines = "".join(
            f'<div class="strip" dir="auto"><b class="badge side-{letter}">{letter.upper()}</b>'
            f"{strips.strip(row.row, one.stats.max, row.peak)}</div>"
            for letter, row, one in (("a", row_a, a), ("b", row_b, b))
        )
        blocks.append(f'<div class="common"><small title="{name}">{name}</small>{lines}</div>')
    st.html(f'<div class="commons">{"".join(blocks)}</div>')
    if len(pairs) > DOCUMENTS:
        st.caption(f"{DOCUMENTS} of {len(pairs)} documents shown, by A’s activation.")


def _towards(first: Example, second: Example) -> Example:
    """`second` looked at where `first` has its peak, if its window holds that place."""
    at = first.start + first.peak - second.start
    if not 0 <= at < len(second.ids):
        return second
    return Example(**{**vars(second), "peak": at})
