"""What was done with the chosen SAE, what is missing, what is wrong, and the buttons that help.

In:  a Shell and the SAE's summary. Out: warnings in plain words; one card a step.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from data import doctor
from data.doctor import Finding
from data.summaries import SaeSummary
from ui.pages.panels import job_actions
from ui.shell import Shell, plain

# Command -> (what it is called once done, button, what it brings)
STEPS = {
    "evaluate": ("Evaluated", "Evaluate", "Measures on held-out text"),
    "harvest": ("Harvested", "Harvest", "Statistics and examples of every feature"),
    "explain": ("Labelled", "Explain and score", "A first label for every feature, with its score"),
    "effects": ("Effects measured", "Measure effects", "What a feature does to the model’s loss"),
    "neighbours": ("Neighbours found", "Find neighbours", "Similar features, and a map of them"),
}
NEEDS_HARVEST = ("explain", "effects")
PRIMARY = ("evaluate", "harvest")


def warnings(shell: Shell, found: Sequence[Finding]) -> None:
    """Problems as errors, warnings as one list; what is merely missing has its card below."""
    for finding in found:
        if finding.level == "problem":
            st.error(plain(job_actions.shown(shell, f"{finding.text} {finding.cure}")))
    lines = [finding for finding in found if finding.level == "warning"]
    if lines:
        items = "".join(
            f"<li>{html.escape(job_actions.shown(shell, one.text))} "
            f"<em>{html.escape(one.cure)}</em></li>"
            for one in lines
        )
        st.html(f'<ul class="warnings">{items}</ul>')


def of(shell: Shell, summary: SaeSummary) -> list[Finding]:
    """What doctor says of the SAE."""
    return doctor.of_sae(shell.workspace, shell.root, summary)


def cards(shell: Shell, summary: SaeSummary, found: Sequence[Finding]) -> None:
    """One card a step: done, missing with its button, or under way."""
    stale = {finding.step for finding in found if finding.kind != "window" and finding.step}
    if any(finding.kind == "stale" for finding in found):
        stale.add("neighbours")
    broken = any(finding.kind in ("damaged", "busy", "stale") for finding in found)
    done = {
        "evaluate": summary.evaluated,
        "harvest": summary.harvested,
        "explain": bool(shell.workspace.results(shell.sae)),
        "effects": bool(shell.workspace.extra(shell.sae, "effects")),
        "neighbours": bool(shell.workspace.extra(shell.sae, "neighbours")),
    }
    running = job_actions.running(shell, sae=shell.sae)
    for column, command in zip(st.columns(len(STEPS), gap="small"), STEPS, strict=True):
        with column.container(border=True, height="stretch"):
            job = next((j for j in running if command in dict(job_actions.subjects(j))), None)
            if job is not None:
                st.markdown(f":material/progress_activity: **{STEPS[command][1]}**")
                if st.button("Show the job", key=f"overview.job.{command}", width="stretch"):
                    job_actions.open_job(shell, job.id)
            else:
                waits = command in NEEDS_HARVEST and (not summary.harvested or broken)
                _card(shell, command, done[command], command in stale, waits)


def _card(shell: Shell, command: str, done: bool, stale: bool, waits: bool) -> None:
    name, button, brings = STEPS[command]
    if done and not stale:
        st.markdown(f":material/check_circle: **{name}**")
        st.caption(brings)
        return
    again = done and stale
    st.markdown(f":material/{'update' if again else 'radio_button_unchecked'}: **{button}**")
    st.caption("Needs a harvest" if waits else "Out of date" if again else brings)
    allowed = shell.person.role == "researcher" and not waits
    label = f"{button} again" if again else button
    if st.button(label, key=f"overview.step.{command}", disabled=not allowed, width="stretch",
                 type="primary" if command in PRIMARY else "secondary"):  # fmt: skip
        arguments = job_actions.step(shell, command, shell.sae)
        job_actions.start(shell, arguments, job_actions.step_title(command, shell.sae))
