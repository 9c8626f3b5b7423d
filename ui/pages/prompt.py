"""Prompt: which features are active on a text of one's own, by up to four SAEs side by side.

In:  the text and the view in the address, the model worker (interp/live.py), feature stores if
     there are any.
Out: the page. The model loads in its own process; the page says so and never waits for it.
"""

from __future__ import annotations

import dataclasses
import html

import streamlit as st

from data.errors import WorkbenchError
from data.records import LiveCode
from ui import cards, strips
from ui.keys import prompt as keys
from ui.keys.prompt import PromptView
from ui.pages.panels import prompt_effects, prompt_input, prompt_strip, prompt_table, worker
from ui.pages.panels.prompt_reading import Reading, Row, read
from ui.shell import Shell, address, origin, set_address, show_error

PAGE = "prompt"
NEEDS_SAE = True
TOP = 128  # features read of each token
CODES = "prompt.codes"  # of the session: (key, {SAE: LiveCode}) of the newest text
RANKS = {
    "share": "Share of maximum",
    "activation": "Activation",
    "percentile": "Percentile",
    "effect": "Ablation effect",
}
DENSE = {"show": "Show all", "10": "Hide > 10 %", "1": "Hide > 1 %"}


def page(shell: Shell) -> None:
    st.title("Prompt")
    params = address(PAGE, shell.sae, keys.PROMPT_KEYS)
    try:
        view = keys.read_prompt(params)
        prompt_input.refuse_strangers(shell, view)
    except WorkbenchError as error:
        show_error(error)
        st.button("Start afresh", on_click=set_address, args=(PAGE, shell.sae, {}))
        return
    left, right = st.columns([3, 1.15], gap="medium")
    with left:
        prompt_input.text_box(shell, view)
    with right:
        prompt_input.beside(shell, view)
    if not view.text:
        prompt_input.passages(shell, view)
        worker.ready_together(shell, (shell.sae, *view.beside), PAGE, begin=True)
        return
    key = _key(shell, view)
    try:
        codes = _codes(shell, view, key)
        if codes is None:
            return
        readings = [
            read(shell.named(sae), code, view, prompt_effects.kept(key, sae))
            for sae, code in codes.items()
        ]
    except WorkbenchError as error:
        show_error(error)
        return
    _result(shell, _checked(view, readings), readings, key)


def _key(shell: Shell, view: PromptView) -> tuple:
    """Tells the text and the SAEs; one that is trained anew is another."""
    saes = (shell.sae, *view.beside)
    files = (shell.workspace.sae(sae) / "sae_weights.safetensors" for sae in saes)
    return (view.text, tuple(zip(saes, (file.stat().st_mtime_ns for file in files), strict=True)))


def _codes(shell: Shell, view: PromptView, key: tuple) -> dict[str, LiveCode] | None:
    """What the SAEs make of the text: the session's, else the worker's; None: not ready yet."""
    about, found = st.session_state.get(CODES, (None, None))
    if about == key:
        return found
    saes = (shell.sae, *view.beside)
    live = worker.ready_together(shell, saes, PAGE, begin=True)
    if live is None:
        return None
    place = st.empty()

    def tell(progress: dict) -> None:
        place.caption(f"The model is at work for others: {progress.get('before', 0)} before you.")

    with st.spinner("Reading the text", show_time=True):
        found = live.encode_many(view.text, saes, TOP, tell)
    place.empty()
    st.session_state[CODES] = (key, found)
    return found


def _checked(view: PromptView, readings: list[Reading]) -> PromptView:
    """Without a token that the text does not have."""
    last = max(len(reading.code.tokens) for reading in readings) - 1
    if view.token is None or view.token <= last:
        return view
    st.error(f"There is no token {view.token} in this text: it has 0 to {last}.")
    return dataclasses.replace(view, token=None)


def _result(shell: Shell, view: PromptView, readings: list[Reading], key: tuple) -> None:
    _options(shell, view, readings)
    place = st.container()
    if len(readings) == 1:
        rows = _rows(view, readings[0])
        left, right = st.columns([1, 1.25], gap="large")
        with left:
            _strip(shell, view, readings[0], rows)
            prompt_strip.token_chooser(shell, view, readings[0])
            _remarks(readings[0])
        with right:
            _features(shell, view, readings[0], rows, narrow=False)
    else:
        longest = max(readings, key=lambda reading: len(reading.code.tokens))
        with st.columns(3)[0]:
            prompt_strip.token_chooser(shell, view, longest)
        for column, reading in zip(st.columns(len(readings), gap="medium"), readings, strict=True):
            rows = _rows(view, reading)
            with column:
                _heading(reading)
                _strip(shell, view, reading, rows)
                _features(shell, view, reading, rows, narrow=True)
                _remarks(reading)
    prompt_effects.measure(readings, view.text, key, place)


def _rows(view: PromptView, reading: Reading) -> list[Row] | None:
    """Features of the chosen token, or of the whole text, in order; None: the token is masked."""
    row, _ = prompt_strip.pieces(reading, None)
    chosen = prompt_strip.piece_of(row, view.token)
    if chosen is None:
        return reading.ranked(reading.rows(), view.rank)
    tokens = range(chosen.first, chosen.last + 1)
    if not any(reading.code.tokens[at].kept for at in tokens):
        return None
    return reading.ranked(reading.rows(tokens), view.rank)


def _strip(shell: Shell, view: PromptView, reading: Reading, rows: list[Row] | None) -> None:
    """The text, coloured by the feature chosen, or else by the first of the list."""
    feature = rows[0][0] if rows else None
    if view.feature is not None and reading.sae == (view.of or shell.sae):
        feature = view.feature
    prompt_strip.coloured(shell, view, reading, feature)
    prompt_strip.show(shell, view, reading, feature)


def _options(shell: Shell, view: PromptView, readings: list[Reading]) -> None:
    state = st.session_state
    state["prompt.rank"], state["prompt.dense"] = view.rank, view.dense

    def changed() -> None:
        rank, dense = state["prompt.rank"], state["prompt.dense"]
        prompt_input.go(shell, dataclasses.replace(view, rank=rank, dense=dense))

    harvested = any(reading.store is not None for reading in readings)
    with st.container(horizontal=True, gap="large", vertical_alignment="bottom"):
        st.segmented_control(
            "Rank by", list(RANKS), key="prompt.rank", format_func=RANKS.get, required=True,
            on_change=changed,
            help="Share of maximum: how far a feature is towards its largest activation in the "
            "corpus. Percentile: where it stands among all its activations. Ablation effect: how "
            "much the model’s predictions change without it.",
        )  # fmt: skip
        st.segmented_control(
            "Dense features", list(DENSE), key="prompt.dense", format_func=DENSE.get,
            required=True, on_change=changed, disabled=not harvested,
            help="Leaves out features that are active on more than that share of the corpus’s "
            "tokens. Needs a harvest.",
        )  # fmt: skip


def _heading(reading: Reading) -> None:
    config = reading.shell.workspace.config(reading.sae)
    about = origin(config)
    site = about.get("site") or about.get("hook_name") or "site unknown"
    facts = html.escape(f"{site} · {config['d_sae']:,} features")
    st.html(f'<h3 class="side">{html.escape(reading.sae)}<small>{facts}</small></h3>')


def _features(
    shell: Shell, view: PromptView, reading: Reading, rows: list[Row] | None, narrow: bool
) -> None:
    row, _ = prompt_strip.pieces(reading, None)
    chosen = prompt_strip.piece_of(row, view.token)
    if chosen is not None:
        title = "" if narrow else '<span class="on-token">Features of</span> '
        st.html(f"{title}{cards.token_chip(strips.raw(chosen))}")
    elif not narrow:
        st.markdown("##### Features of the whole text")
    if rows is None:
        st.caption("This token is left out by the masks of training.")
        return
    if view.rank == "percentile" and reading.store is None:
        st.caption("Percentiles need a harvest; ranked by share of the maximum in this text.")
    if view.rank == "effect":
        prompt_effects.offer(reading, rows)
    prompt_table.show(shell, view, reading, rows, narrow)


def _remarks(reading: Reading) -> None:
    """What the reader should know of the numbers."""
    code = reading.code
    told = [f"{len(code.tokens)} tokens, {code.ms:.0f} ms in the model."]
    if code.truncated:
        st.warning(
            "The text is longer than one context of the model: its end is left out.",
            icon=":material/content_cut:",
        )
    if any(not token.kept for token in code.tokens):
        told.append(
            "Dotted tokens are left out by the masks of training: no feature is read there."
        )
    above = sum(reading.share(*row) > 1 for row in reading.rows())
    if above and reading.store is not None:
        told.append(f"{above} features are above their largest activation in the corpus here.")
    if reading.hidden:
        active = {f for token in code.tokens for f, _ in token.features}
        told.append(f"{len(active & reading.hidden)} dense features are hidden.")
    if any(len(token.features) == TOP for token in code.tokens):
        told.append(f"Only the {TOP} strongest features of a token are read.")
    told.append("A click on a row colours the text by its feature; a click on its number opens it.")
    st.caption(" ".join(told))
