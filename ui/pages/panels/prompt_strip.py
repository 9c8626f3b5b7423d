"""The text of the Prompt page as one SAE reads it: coloured tokens, clickable.

In:  a Reading and the view in the address. Out: the strip; clicks write the address.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

import streamlit as st

from ui import strips
from ui.keys.prompt import PromptView
from ui.pages.panels.prompt_input import go
from ui.pages.panels.prompt_reading import Reading
from ui.shell import Shell

NAMED = 3  # features of a token that its tooltip tells
MASKED = "left out by the masks of training: no feature is read here"


def pieces(reading: Reading, feature: int | None) -> tuple[list[strips.Piece], dict[int, str]]:
    """Whole characters coloured by one feature, and what is told of each token: its strongest."""
    values, notes = [], {}
    for at, token in enumerate(reading.code.tokens):
        name = strips.token_text(token.bytes)
        best = sorted(reading.active(at), key=lambda row: -reading.share(*row))[:NAMED]
        own = next(((f, v) for f, v in token.features if f == feature), None)
        values.append(0.0 if own is None else reading.share(*own))
        rows = ([own] if own else []) + [row for row in best if row[0] != feature]
        told = [f"feature {f}: {v:.3g}, {reading.share(f, v):.0%} of maximum" for f, v in rows]
        if told or not token.kept:
            notes[at] = " · ".join([name, *(told or [MASKED])])
    row = strips.pieces([(token.bytes, token.special) for token in reading.code.tokens], values)
    return row, notes


def piece_of(row: Sequence[strips.Piece], token: int | None) -> strips.Piece | None:
    """The piece a token is in: tokens that share a character are chosen together."""
    return next((p for p in row if token is not None and p.first <= token <= p.last), None)


def show(shell: Shell, view: PromptView, reading: Reading, feature: int | None) -> None:
    """shell: of the chosen SAE, whose address is written; feature: the one to colour by."""
    row, notes = pieces(reading, feature)
    masked = frozenset(at for at, token in enumerate(reading.code.tokens) if not token.kept)
    key = f"prompt.strip.{reading.sae}"

    def clicked() -> None:
        at = st.session_state[key]["clicked"]
        go(shell, dataclasses.replace(view, token=None if at == view.token else at))

    shown = strips.segments(row, 1.0, notes, masked, view.token)
    reading.shell.token_strip(key=key, data={"pieces": shown}, on_clicked_change=clicked)
    if feature is not None:
        largest = reading.maximum.get(feature)
        where = "in the corpus" if reading.store is not None else "here (not harvested yet)"
        end = f"{largest:.3g}, its largest {where}" if largest else "it never fired in the corpus"
        st.html(strips.legend(1.0, end))


def coloured(shell: Shell, view: PromptView, reading: Reading, feature: int | None) -> None:
    """Which feature colours the text, its label, and the ways on from it."""
    if feature is None:
        return
    found = reading.store.rows_of([feature]) if reading.store is not None else []
    label = f"<span>{html.escape(found[0].label)}</span>" if found and found[0].label else ""
    pinned = view.feature is not None and reading.sae == (view.of or shell.sae)
    first = "" if pinned else " <small>first of the list</small>"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.html(
            f'<div class="coloured"><span>Coloured by <b>feature {feature}</b></span>'
            f"{label}{first}</div>"
        )
        key = reading.sae
        if st.button(
            "Open", key=f"prompt.open.{key}", icon=":material/scatter_plot:", type="tertiary",
            help="The feature’s own page",
        ):  # fmt: skip
            shell.go("feature", {"f": str(feature)}, reading.sae)
        if pinned:
            after = dataclasses.replace(view, feature=None, of="")
            st.button(
                "Follow the list", key=f"prompt.follow.{key}", on_click=go, args=(shell, after),
                icon=":material/close:", type="tertiary",
                help="Colour by the first feature of the list again",
            )  # fmt: skip


def token_chooser(shell: Shell, view: PromptView, reading: Reading) -> None:
    """The same choice as a click in the strip, for the keyboard."""
    row, _ = pieces(reading, None)
    chosen = piece_of(row, view.token)
    st.session_state["prompt.token"] = None if chosen is None else chosen.first
    names = {p.first: f"{p.first}  {strips.visible(p.text)}" for p in row}

    def choose() -> None:
        go(shell, dataclasses.replace(view, token=st.session_state["prompt.token"]))

    st.selectbox(
        "Token", list(names), index=None, key="prompt.token", on_change=choose,
        format_func=lambda at: names.get(at, str(at)), placeholder="all, or click one in the text",
    )  # fmt: skip
