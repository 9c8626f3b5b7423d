"""What the model writes with the feature held up, pushed down or taken away.

In:  a `Case`, the model worker. Out: a fragment: the texts side by side with the unsteered one, all
     with the same random numbers, so that they differ by the steering alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from data.errors import WorkbenchError
from data.records import SteeredText, Steering
from ui import strips
from ui.keys import feature as keys
from ui.pages.panels import feature_worker
from ui.pages.panels.feature_case import Case
from ui.shell import plain

STRENGTHS = (-8.0, -4.0, -2.0, -1.0, 0.5, 1.0, 2.0, 4.0, 8.0)
CHOSEN = (-2.0, 1.0, 2.0, 4.0)
MOST = 4
LENGTHS = (20, 40, 80, 160)
EXAMPLE = "The "
HELP = (
    "Adds the feature’s decoder direction to the site at every position but the prefix. Strength 1 "
    "is the feature’s largest activation in the corpus. Texts share their random numbers: where "
    "two ways agree on the next token, they write the same one."
)


@st.fragment
def show(case: Case) -> None:
    shell = case.shell
    live = shell.live(shell.workspace.root, shell.sae)
    st.markdown("##### Steer", help=HELP)
    plan = _form(case)
    asked = "feature.steer.plan"
    if feature_worker.stopped("steer"):
        st.session_state.pop(asked, None)
        st.caption("Stopped.")
    if plan is not None:
        feature_worker.forget("steer")
        st.session_state[asked] = (shell.sae, case.feature, plan)
    sae, feature, plan = st.session_state.get(asked, (None, None, None))
    if not feature_worker.ready(live, "steer") or (sae, feature) != (shell.sae, case.feature):
        return
    found = feature_worker.ask(
        "steer", (sae, feature, repr(plan)), lambda tell: _steer(live, case, plan, tell)
    )
    if found is not None:
        st.html(drawn(found))
        st.caption(f"{sum(one.ms for one in found) / 1000:.1f} s in the model.")


def _form(case: Case) -> dict | None:
    """What was asked for, if it just was and makes sense."""
    name = "feature.steer"
    alive = case.stats.max is not None
    if not alive:
        st.caption("It never fired, so there is no largest activation to measure strengths in; "
                   "only taking it away is possible.")  # fmt: skip
    with st.form(name, border=False):
        text = st.text_area("Prompt", value=case.view.text or EXAMPLE, height=68,
                            key=f"{name}.text.{hash(case.view.text)}",
                            max_chars=keys.TEXT_CHARACTERS)  # fmt: skip
        row = st.columns([3, 1.1, 1.1, 1, 1.4], vertical_alignment="bottom")
        strengths = row[0].multiselect(
            "Strengths, up to four", STRENGTHS, CHOSEN if alive else (), key=f"{name}.strengths",
            max_selections=MOST, accept_new_options=True, disabled=not alive,
            format_func=lambda one: one if isinstance(one, str) else f"{one:+g} ×",
            help="In units of the feature’s largest activation. Type a number for another.",
        )  # fmt: skip
        length = row[1].selectbox("New tokens", LENGTHS, 1, key=f"{name}.length")
        temperature = row[2].number_input("Temperature", 0.0, 10.0, 1.0, step=0.1,
                                          key=f"{name}.temperature", help="0: always the likeliest "
                                          "token.")  # fmt: skip
        seed = row[3].number_input("Seed", 0, 2**31, 0, key=f"{name}.seed")
        zero = row[4].toggle("Clamped to zero", True, key=f"{name}.zero",
                             help="Takes the feature away wherever it is active.")  # fmt: skip
        if not st.form_submit_button("Write", icon=":material/play_arrow:"):
            return None
    try:
        numbers = _numbers(strengths if alive else ())
    except WorkbenchError as error:
        st.error(plain(str(error)))
        return None
    if not numbers and not zero:
        st.error("Choose a strength, or the feature clamped to zero.")
        return None
    return {"text": text, "strengths": numbers, "n_tokens": length, "temperature": temperature,
            "seed": int(seed), "zero": zero}  # fmt: skip


def _numbers(given: Sequence[float | str]) -> tuple[float, ...]:
    """Strengths as chosen or typed; WorkbenchError for what is no number."""
    found = []
    for one in given:
        try:
            found.append(float(str(one).replace("×", "").replace("−", "-")))
        except ValueError:
            raise WorkbenchError(f"{one!r:.40} is no strength: type a number such as 3") from None
    return tuple(sorted(dict.fromkeys(found)))


def _steer(live, case: Case, plan: dict, tell: feature_worker.Tell) -> list[Steering]:
    """One or two requests: strengths are added in one, the feature is taken away in another."""
    more = {name: plan[name] for name in ("n_tokens", "temperature", "seed")} | {"tell": tell}
    found = []
    if plan["strengths"]:
        about = {"strengths": plan["strengths"], "max_act": case.stats.max}
        found.append(live.steer(plan["text"], case.feature, mode="add", **about, **more))
    if plan["zero"]:
        found.append(live.steer(plan["text"], case.feature, mode="ablate", **more))
    return found


def drawn(found: Sequence[Steering]) -> str:
    """The texts side by side, the unsteered one first; what equals its beginning is faint."""
    plain_text = found[0].texts[0]
    others = [text for one in found for text in one.texts[1:]]
    others.sort(key=lambda text: (text.strength is None, text.strength or 0.0))
    cards = [_card("Unsteered", plain_text, None)]
    for text in others:
        name = "Clamped to zero" if text.strength is None else f"{text.strength:+g} × maximum"
        cards.append(_card(name, text, plain_text))
    prompt = strips.strip(strips.pieces(found[0].prompt, [0.0] * len(found[0].prompt)), None,
                          breaks=True)  # fmt: skip
    cut = " The prompt was longer than a context; its end was left out." * found[0].truncated
    about = f'<p class="about">After: <span class="strip">{prompt}</span>{cut}</p>'
    return f'{about}<div class="steer">{"".join(cards)}</div>'


def _card(title: str, text: SteeredText, beside: SteeredText | None) -> str:
    ids = [token.id for token in text.tokens]
    other = [] if beside is None else [token.id for token in beside.tokens]
    same = next((n for n, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b),
                min(len(ids), len(other)))  # fmt: skip
    row = strips.pieces([(t.bytes, t.special) for t in text.tokens], [0.0] * len(ids))
    kept = [piece for piece in row if piece.last < same]
    new = [piece for piece in row if piece.last >= same]
    note = ""
    if beside is not None:
        note = (
            "the same text" if same == len(ids) == len(other) else f"differs from token {same + 1}"
        )
    body = f'<span class="same">{strips.strip(kept, None, breaks=True)}</span>'
    body += strips.strip(new, None, breaks=True)
    end = '<span class="end" title="the model ended its text here">∎</span>' * text.ended
    return (
        f"<section><h4>{html.escape(title)} <small>{note}</small></h4>"
        f'<div class="strip breaks" dir="auto">{body}{end}</div></section>'
    )
