"""Prompt: which features are active on a text of one's own.

In:  the text in the address, the model worker (interp/live.py), the feature store if there is one.
Out: the page. The model loads in its own process; the page says so and never waits for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from data.errors import WorkbenchError
from data.features_store import FeatureStore
from data.records import LiveCode
from ui import cards, strips
from ui.keys import prompt as keys
from ui.keys.prompt import PromptView
from ui.shell import Shell, address, plain, set_address, show_error

PAGE = "prompt"
NEEDS_SAE = True
DENSE = 0.10  # share of tokens above which a feature counts as dense
SHOWN = 25  # features listed of a whole text
Active = Sequence[Sequence[tuple[int, float]]]  # (feature, activation) of each token
EXAMPLE = "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n"


@dataclass(frozen=True)
class Scale:
    """What activations are compared with: the corpus, or, before a harvest, the text itself."""

    maximum: Mapping[int, float]  # feature -> activation that counts as 100 %
    density: Mapping[int, float]  # feature -> share of tokens; empty before a harvest
    of_corpus: bool


def page(shell: Shell) -> None:
    st.title("Prompt")
    live = shell.live(shell.workspace.root, shell.sae)
    params = address(PAGE, shell.sae, keys.PROMPT_KEYS)
    try:
        view = keys.read_prompt(params)
    except WorkbenchError as error:
        show_error(error)
        st.button("Start afresh", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    _input(shell, view)
    code = _kept(shell, view)
    if code is None and not _ready(shell, live):
        return
    if not view.text:
        st.caption("The model is ready. Type a text above.")
        return
    if code is None:
        code = live.encode(view.text)
        st.session_state["prompt.code"] = (shell.sae, view.text, code)
    _result(shell, view, code)


def _go(shell: Shell, view: PromptView) -> None:
    set_address(PAGE, shell.sae, keys.write_prompt(view))


def _kept(shell: Shell, view: PromptView) -> LiveCode | None:
    """The features of this very text, if the session has them already."""
    sae, text, code = st.session_state.get("prompt.code", (None, None, None))
    return code if (sae, text) == (shell.sae, view.text) else None


def _input(shell: Shell, view: PromptView) -> None:
    def run() -> None:
        text = st.session_state["prompt.text"]
        _go(shell, dataclasses.replace(view, text=text, token=None, feature=None))

    st.session_state["prompt.text"] = view.text or st.session_state.get("prompt.text", EXAMPLE)
    with st.form("prompt.form", border=False):
        st.text_area("Text", key="prompt.text", height=110, max_chars=keys.PROMPT_CHARACTERS)
        st.form_submit_button("Show features", type="primary", on_click=run)


def _ready(shell: Shell, live) -> bool:
    """Whether the model can be asked. Starts it once; a worker that ends stays ended."""
    state, begun = live.state(), f"prompt.begun:{shell.sae}"
    if state["state"] == "ready":
        return True
    if state["state"] == "stopped" and begun not in st.session_state:
        st.session_state[begun] = True
        live.start()
        state = live.state()
    if state["state"] in ("failed", "stopped"):
        st.error(plain(f"The model did not load: {state['detail']}"))
        st.button("Try again", on_click=live.start)
    else:
        _loading(live)
    return False


@st.fragment(run_every="1s")
def _loading(live) -> None:
    """Redraws itself every second; the rest of the page stands still until the model is there."""
    state = live.state()
    if state["state"] != "loading":
        st.rerun()
    words = plain(f"Loading the model: {state['detail']} ({state['seconds']:.0f} s)")
    st.status(words, state="running")
    st.caption("The model loads in its own process. You can leave this page and come back.")


def _result(shell: Shell, view: PromptView, code: LiveCode) -> None:
    if view.token is not None and view.token >= len(code.tokens):
        last = len(code.tokens) - 1
        st.error(f"There is no token {view.token} in this text: it has 0 to {last}.")
        view = dataclasses.replace(view, token=None)
    store = shell.store() if shell.harvested else None
    scale = _scale(store, code)
    hidden = (
        {f for f, share in scale.density.items() if share > DENSE} if view.hide_dense else set()
    )
    seen = [[(f, v) for f, v in token.features if f not in hidden] for token in code.tokens]
    _options(shell, view, seen, scale)
    left, right = st.columns([1, 1.1], gap="large")
    with left:
        row = _strip(shell, view, code, seen, scale)
        if code.truncated:
            st.warning("The text is longer than one context of the model; its end is left out.")
        st.caption(f"{len(code.tokens)} tokens, {code.ms:.0f} ms in the model.")
    chosen = _piece(row, view.token)
    with right:
        if chosen is None:
            st.markdown("##### Strongest features of the text")
            _table(shell, store, _strongest(seen, scale)[:SHOWN], scale, "all")
            return
        st.markdown("##### Features of the chosen token")
        st.html(cards.token_chip(strips.raw(chosen)))
        tokens = range(chosen.first, chosen.last + 1)
        if any(code.tokens[at].kept for at in tokens):
            _table(
                shell, store, _strongest([seen[at] for at in tokens], scale), scale, chosen.first
            )
        else:
            st.caption("This token is left out by the masks of training.")


def _piece(row: Sequence[strips.Piece], token: int | None) -> strips.Piece | None:
    """The piece a token is in: tokens that share a character are chosen together."""
    if token is None:
        return None
    return next(piece for piece in row if piece.first <= token <= piece.last)


def _scale(store: FeatureStore | None, code: LiveCode) -> Scale:
    if store is not None:
        features, density, maximum = store.densities()
        active = {f for token in code.tokens for f, _ in token.features}
        top = {f: float(maximum[f]) for f in active if maximum[f] > 0}
        return Scale(top, {f: float(density[f]) for f in active}, True)
    top: dict[int, float] = {}
    for token in code.tokens:
        for f, value in token.features:
            top[f] = max(top.get(f, 0.0), value)
    return Scale(top, {}, False)


def _share(scale: Scale, feature: int, value: float) -> float:
    """Activation as a share of the feature's maximum. One that never fired in the corpus: 1."""
    return value / scale.maximum.get(feature, value)


def _strongest(
    seen: Sequence[Sequence[tuple[int, float]]], scale: Scale
) -> list[tuple[int, float]]:
    """(feature, largest activation in the text), by share of the feature's maximum."""
    best: dict[int, float] = {}
    for features in seen:
        for f, value in features:
            best[f] = max(best.get(f, 0.0), value)
    return sorted(best.items(), key=lambda pair: -_share(scale, *pair))


def _options(shell: Shell, view: PromptView, seen: Active, scale: Scale) -> None:
    active = [f for f, _ in _strongest(seen, scale)]
    if view.feature is not None and view.feature not in active:
        active.insert(0, view.feature)
    state = st.session_state
    state["prompt.feature"], state["prompt.dense"] = view.feature, view.hide_dense

    def changed() -> None:
        feature, hide = state["prompt.feature"], state["prompt.dense"]
        _go(shell, dataclasses.replace(view, feature=feature, hide_dense=hide))

    left, right = st.columns([1, 2], gap="large", vertical_alignment="bottom")
    left.selectbox(
        "Colour by", active, index=None, key="prompt.feature", on_change=changed,
        placeholder="the strongest feature of each token", format_func=lambda f: f"feature {f}",
    )  # fmt: skip
    right.toggle(
        "Hide dense features", key="prompt.dense", on_change=changed,
        disabled=not scale.density,
        help="Leaves out features that are active on more than 10 % of the corpus.",
    )  # fmt: skip


def _strip(
    shell: Shell, view: PromptView, code: LiveCode, seen: Active, scale: Scale
) -> list[strips.Piece]:
    """The text, coloured and clickable, with a native chooser below it; returns its pieces."""
    values, notes = [], {}
    for at, (token, features) in enumerate(zip(code.tokens, seen, strict=True)):
        name = strips.token_text(token.bytes)
        if not token.kept:
            notes[at] = f"{name} · left out by the masks of training"
        shown = [(f, v) for f, v in features if view.feature in (None, f)]
        best = max(shown, key=lambda pair: _share(scale, *pair), default=None)
        values.append(0.0 if best is None else _share(scale, *best))
        if best is not None:
            notes[at] = f"{name} · feature {best[0]} · {best[1]:.4g} · {values[-1]:.0%} of maximum"
    row = strips.pieces([(token.bytes, token.special) for token in code.tokens], values)
    masked = frozenset(at for at, token in enumerate(code.tokens) if not token.kept)

    def choose(token: int | None) -> None:
        _go(shell, dataclasses.replace(view, token=token))

    def clicked() -> None:
        choose(st.session_state["prompt.strip"]["clicked"])

    pieces = strips.segments(row, 1.0, notes, masked, view.token)
    shell.token_strip(key="prompt.strip", data={"pieces": pieces}, on_clicked_change=clicked)
    st.html(strips.legend(1.0, "100 %, the feature’s " + (
        "corpus maximum" if scale.of_corpus else "maximum in this text (not harvested yet)"
    )))  # fmt: skip
    if masked:
        st.caption("Dotted tokens are left out by the masks of training: no feature is read there.")
    chosen = _piece(row, view.token)
    st.session_state["prompt.token"] = None if chosen is None else chosen.first
    st.selectbox(
        "Token", [piece.first for piece in row], index=None, key="prompt.token",
        format_func=lambda at: f"{at}  {strips.visible(_piece(row, at).text)}",
        placeholder="all: click one in the text, or choose",
        on_change=lambda: choose(st.session_state["prompt.token"]),
    )  # fmt: skip
    return row


def _table(
    shell: Shell, store: FeatureStore | None, rows: Sequence[tuple[int, float]], scale: Scale, key
) -> None:
    """Features with their activations; a click opens one. key: names what they belong to."""
    if not rows:
        st.caption("No feature is active here.")
        return
    labels = [store.explanation(f) if store else None for f, _ in rows]
    table = pd.DataFrame(
        {
            "feature": [f for f, _ in rows],
            "activation": [value for _, value in rows],
            "share": [min(1.0, _share(scale, *pair)) for pair in rows],
            "density": [cards.percent(scale.density.get(f)) for f, _ in rows],
            "label": [x.text if x and x.status == "ok" else None for x in labels],
        }
    )
    number = st.column_config.NumberColumn
    event = st.dataframe(
        table, key=f"prompt.table.{key}", hide_index=True, placeholder="–",
        height="content", row_height=32,
        on_select="rerun", selection_mode="single-cell",
        column_config={
            "feature": number(format="%d"),
            "activation": number(format="%.3g"),
            "share": st.column_config.ProgressColumn(
                "of max", format="percent", help="Share of the feature’s maximum."
            ),
        },
    )  # fmt: skip
    if event.selection.cells:
        row, _ = event.selection.cells[0]
        shell.go("feature", {"f": str(rows[row][0])})
