"""What a feature stands for: the automatic label with its score, people's own words, all runs.

In:  a `Case`. Out: the panel; a label of one's own is written to the lab at once.
"""

from __future__ import annotations

import html

import streamlit as st

from data.lab_events import LONGEST
from ui import cards
from ui.pages.panels import autointerp_feature, dialog_focus, feature_job
from ui.pages.panels.feature_case import Case
from ui.pages.panels.feature_marks import saving, when, written
from ui.shell import plain, without_paths

MEANING = (
    "How well the label predicts activations on documents it was not written from: Pearson "
    "correlation over tokens, with the 95 % interval over documents."
)


def show(case: Case) -> None:
    with st.container(border=True):
        left, right = st.columns(2, gap="large")
        with left:
            _automatic(case)
        with right:
            _own(case)
        _compared(case)


def _compared(case: Case) -> None:
    """The explanations of all runs beside each other, and new ones."""
    runs = autointerp_feature.run_names(case)
    if not runs:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        autointerp_feature.again(case)
        many = f"Explanations of {len(runs)} runs" if len(runs) > 1 else "How it was scored"
        key = f"feature.compare.{case.shell.sae}"
        open_now = st.toggle(many, key=key, help="Each run’s explanation with its score.")
    if open_now:
        autointerp_feature.compare(case)


def _automatic(case: Case) -> None:
    st.html('<h3 class="panel">Automatic label</h3>')
    shell, sae, feature = case.shell, case.shell.sae, case.feature
    explanation, score, run = autointerp_feature.newest(case)
    if explanation is None:
        _, why = shell.results()
        if why:
            st.caption(plain(without_paths(f"Labels cannot be shown: {why}")))
        words = ("explain", sae, "--features", str(feature), "--judge", "lexical")
        feature_job.offer(shell, f"explain.{sae}.{feature}", "No label yet.", words, "Explain",
                          f"Explain feature {feature} of {sae}")  # fmt: skip
        return
    st.html(cards.label(explanation))
    if run:
        st.caption(
            plain(f"From the run {run}: the newest run has no automatic label of this feature.")
        )
    if score is None and explanation.status == "ok":
        words = ("score", sae, "--judge", explanation.judge)
        feature_job.offer(shell, f"score.{sae}", "Not scored.", words, "Score all labels",
                          f"Score the labels of {sae}")  # fmt: skip
    elif score is not None:
        st.caption(plain(cards.score_text(score)), help=MEANING)


def _own(case: Case) -> None:
    st.html('<h3 class="panel">In people’s words</h3>')
    shell = case.shell
    versions = shell.lab.labels(shell.sae, case.feature) if case.mark.label else []
    if versions:
        newest = versions[0]
        by = f"{newest.who}, {when(newest.time)}"
        st.html(f'<div class="label">{cards.safe(newest.text)} '
                f"<small>{html.escape(by)}</small></div>")  # fmt: skip
    else:
        st.caption("Nobody has labelled it yet.")
    with st.container(horizontal=True):
        if st.button("Edit label" if versions else "Add a label", key="feature.label",
                     icon=":material/edit:", type="tertiary"):  # fmt: skip
            _edit(case)
        autointerp_feature.score_words(case)
        if len(versions) > 1:
            with st.popover(f"{len(versions)} versions", type="tertiary"):
                for one in versions:
                    words = cards.safe(one.text) or "<em>taken away</em>"
                    by = html.escape(f"{one.who}, {when(one.time)}")
                    st.html(f'<div class="label">{words} <small>{by}</small></div>')


@st.dialog("Label in your own words")
def _edit(case: Case) -> None:
    shell = case.shell
    key = f"feature.label.{shell.sae}.{case.feature}"
    st.text_area(
        f"Feature {case.feature} stands for", value=case.mark.label or "", height=110, key=key,
        max_chars=LONGEST["label"], placeholder="one sentence that says when it fires",
    )  # fmt: skip
    dialog_focus.first_field("label")
    st.caption("Earlier versions are kept. An empty text takes the label away.")

    def save() -> bool:
        said, who = st.session_state[key], shell.person.name
        return written(
            lambda: shell.lab.label(shell.sae, case.feature, said, who=who), "Label saved"
        )

    saving("Save label", save)
