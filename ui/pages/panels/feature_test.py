"""A text of one's own, read by the model: where the feature is active on it, and how strongly.

In:  a `Case`, the model worker. Out: a fragment; the text is part of the address.
"""

from __future__ import annotations

import streamlit as st

from ui import strips
from ui.keys import feature as keys
from ui.keys import prompt as prompts
from ui.keys.prompt import PromptView
from ui.pages.panels import feature_worker
from ui.pages.panels.feature_case import Case, activations, tested_code
from ui.pages.panels.feature_recompute import MOST
from ui.percentiles import percentile_text
from ui.shell import plain

HALTED = "feature.test.halted"  # the text whose reading was stopped


@st.fragment
def show(case: Case) -> None:
    shell = case.shell
    live = shell.live(shell.workspace.root, shell.sae)
    st.markdown(
        "##### Test a text",
        help="The model reads it as it read the corpus: with the same beginning-of-text token and "
        "the same positions left out. Colours are those of the examples.",
    )
    with st.form("feature.test", border=False):
        typed = st.text_area(
            "Text", value=case.view.text, key=f"feature.test.text.{hash(case.view.text)}",
            height=90, max_chars=keys.TEXT_CHARACTERS, label_visibility="collapsed",
            placeholder="type a text the feature should fire on, or should not",
        )  # fmt: skip
        if st.form_submit_button("Test", icon=":material/play_arrow:"):
            st.session_state.pop(HALTED, None)
            case.go(text=typed.strip() and typed)
            st.rerun()
    text = case.view.text
    code = tested_code(shell.sae, text)
    if code is None:
        if not feature_worker.ready(live, "test") or not text:
            return
        if feature_worker.stopped("test"):
            st.session_state[HALTED] = text
        if st.session_state.get(HALTED) == text:
            st.caption("Stopped. Press Test to ask again.")
            return
        code = feature_worker.ask("test", (shell.sae, text), lambda tell: live.encode(text, MOST))
        if code is None:
            return
        st.session_state["feature.code"] = (shell.sae, text, code)
        st.rerun()  # the histogram above marks it too
    _result(case, code)


def _result(case: Case, code) -> None:
    values = activations(code, case.feature)
    row = strips.pieces([(token.bytes, token.special) for token in code.tokens], values)
    peak = max(range(len(values)), key=values.__getitem__)
    body = strips.strip(row, case.stats.max or max(values), peak if values[peak] > 0 else None,
                        breaks=True, rank=case.rank)  # fmt: skip
    st.html(f'<div class="strip breaks live" dir="auto">{body}</div>')
    st.caption(plain(_verdict(case, code, values, peak)))
    address = case.shell.link(
        "prompt", prompts.write_prompt(PromptView(text=case.view.text, feature=case.feature))
    )
    st.html(f'<a class="more" data-go href="{_quoted(address)}">All features of this text</a>')


def _quoted(address: str) -> str:
    return address.replace("&", "&amp;").replace('"', "&quot;")


def _verdict(case: Case, code, values: list[float], peak: int) -> str:
    if values[peak] <= 0:
        told = "The feature is silent on this text."
    else:
        token = strips.token_text(code.tokens[peak].bytes)
        fires = sum(1 for value in values if value > 0)
        where = percentile_text(case.rank(values[peak])) or "it never fired in the corpus"
        told = f"It fires on {fires} of {len(values)} tokens; its peak is {values[peak]:.3g} on "
        told += f"{token} ({where})."
        if case.stats.max is not None and values[peak] > case.stats.max:
            told += f" That is above the corpus maximum of {case.stats.max:.3g}."
    if code.truncated:
        told += " The text is longer than one context of the model; its end is left out."
    if len(max(code.tokens, key=lambda token: len(token.features)).features) >= MOST:
        told += f" More than {MOST} features fire on one token; the weakest are not shown."
    return f"{told} {code.ms:.0f} ms in the model."
