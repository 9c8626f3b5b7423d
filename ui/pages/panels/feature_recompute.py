"""An example computed again: the activations of the store beside the model's, token by token.

In:  the examples on show, the bytes of their tokens. Out: a chooser; of the chosen one two strips
     and their largest difference.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from data.records import Example, LiveCode
from ui import strips
from ui.keys import feature as keys
from ui.pages.panels import feature_worker
from ui.pages.panels.feature_case import Case, activations

MOST = 1024  # features asked for of a token: more than ever fire on one
Tokens = Mapping[int, tuple[bytes, bool]]


def show(case: Case, found: Sequence[Example], tokens: Tokens) -> None:
    state = st.session_state
    asked = case.view.example
    state["feature.example"] = asked if asked is not None and asked <= len(found) else None
    st.selectbox(
        "Compute an example again", range(1, len(found) + 1), index=None, key="feature.example",
        format_func=lambda n: f"{n}. {found[n - 1].max:.3g} in {found[n - 1].document}",
        placeholder="compute one again with the model, and compare token by token",
        label_visibility="collapsed",
        on_change=lambda: case.go(example=state["feature.example"]),
    )  # fmt: skip
    if asked is None:
        return
    if asked > len(found):
        st.error(f"There is no example {asked} of this kind: it has 1 to {len(found)}.")
        return
    _compare(case, found[asked - 1], tokens)


def _compare(case: Case, example: Example, tokens: Tokens) -> None:
    shell = case.shell
    live = shell.live(shell.workspace.root, shell.sae)
    if not feature_worker.ready(live, "again"):
        return
    own = [tokens[token] for token in example.ids]
    text = b"".join(data for data, _ in own).decode("utf-8", "replace")
    if feature_worker.stopped("again"):
        case.go(example=None)
        st.rerun()
    code = feature_worker.ask("again", (shell.sae, text), lambda tell: live.encode(text, MOST))
    if code is None:
        return
    again = aligned(code, own, case.feature)
    if again is None:
        st.warning(
            "Read on its own, this text gives other tokens than in its document (it begins or ends "
            "within a word), so it cannot be compared token by token. Open it on the Prompt page."
        )
        return
    st.html(_drawn(case, example, own, again))


def aligned(code: LiveCode, own: Sequence[tuple[bytes, bool]], feature: int) -> list[float] | None:
    """The live activation of each token of the example; None if the tokens are others."""
    prefix = len(code.tokens) - len(own)
    if prefix < 0:
        return None
    if [token.bytes for token in code.tokens[prefix:]] != [data for data, _ in own]:
        return None
    return activations(code, feature)[prefix:]


def _drawn(case: Case, example: Example, own: Sequence, again: Sequence[float]) -> str:
    width = keys.CONTEXTS[case.view.context]
    rows = []
    for name, values in (("stored", example.values), ("live", again)):
        row = strips.around_peak(own, values, example.peak, width)
        text = strips.strip(row, case.stats.max, example.peak, rank=case.rank)
        rows.append(f'<dt>{name}</dt><dd class="strip" dir="auto">{text}</dd>')
    told = _verdict(case, example, again)
    return f'<dl class="recomputed">{"".join(rows)}</dl><p class="about">{told}</p>'


def _verdict(case: Case, example: Example, again: Sequence[float]) -> str:
    """The largest difference over the whole context, in words."""
    apart = [abs(a - b) for a, b in zip(example.values, again, strict=True)]
    at = max(range(len(apart)), key=apart.__getitem__)
    fires = sum(1 for a, b in zip(example.values, again, strict=True) if (a > 0) != (b > 0))
    share = f" ({100 * apart[at] / case.stats.max:.2g} % of the maximum)" if case.stats.max else ""
    told = f"Largest difference over {len(apart)} tokens: {apart[at]:.3g}{share}"
    if apart[at] > 0:
        told += f", stored {example.values[at]:.4g}, live {again[at]:.4g}"
    told += f"; {fires} tokens fire in one only." if fires else "; the same tokens fire."
    return html.escape(told)
