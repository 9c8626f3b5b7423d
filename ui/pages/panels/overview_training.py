"""Training curves: of a finished SAE, and live of a run that is under way.

In:  rows of train.jsonl. Out: small figures, three in a row; live ones draw themselves anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import streamlit as st

from data import summaries
from data.errors import WorkbenchError
from data.records import Job
from data.summaries import Unfinished
from ui.figures import training
from ui.pages.panels import job_actions, job_progress
from ui.shell import Shell, plain

# Title -> columns of train.jsonl with their names, axis, whether it is logarithmic.
CURVES = (
    ("Loss", {"loss": "loss"}, "training loss", True),
    ("Explained variance", {"fve": "training text", "heldout_fve": "held out"}, "FVE", False),
    ("Active features per token", {"l0": "L0"}, "L0", False),
    ("Dead features", {"dead": "dead"}, "features", False),
    ("Threshold and bandwidth", {"theta_mean": "mean θ", "bandwidth": "bandwidth"}, "value", True),
    ("Sparsity coefficient", {"lambda": "λ"}, "λ", False),
)
LIVE = CURVES[:3]
TOLD = {"l0": "L0 {:.1f}", "fve": "FVE {:.3f}", "heldout_fve": "held out {:.3f}",
        "dead": "{:,} dead", "tokens_per_s": "{:,.0f} tokens a second"}  # fmt: skip
TRAINING = ("train", "demo")  # commands
EVERY_S = 2.0
FRESH_S = 30.0  # a run that said something so recently is under way, whoever started it


def show(shell: Shell, wanted: float | None) -> None:
    """The curves of the chosen SAE."""
    st.subheader("Training")
    try:
        rows = summaries.training_rows(shell.workspace, shell.sae)
    except WorkbenchError as error:
        st.warning(plain(job_actions.shown(shell, str(error))))
        return
    if not draw(rows, CURVES, wanted, f"overview.{shell.sae}"):
        st.caption("No training curves: this SAE came without records of its training.")


def draw(rows: Sequence[Mapping], curves: Sequence, wanted: float | None, key: str) -> bool:
    """The figures that have anything to show; whether there was one."""
    drawn = []
    for title, series, y, log_y in curves:
        target = wanted if "l0" in series else None
        told = {c: n for c, n in series.items() if any(row.get(c) is not None for row in rows)}
        if "lambda" in told and not any(row.get("lambda") for row in rows):
            continue  # an architecture without a price has no coefficient
        figure = training.curves(rows, told, y, target=target, log_y=log_y) if told else None
        if figure is not None:
            drawn.append((title, figure))
    for start in range(0, len(drawn), 3):
        columns = st.columns(3, gap="medium")
        for column, (title, figure) in zip(columns, drawn[start : start + 3], strict=False):
            with column:
                st.caption(title)
                st.plotly_chart(figure, key=f"{key}.{title}", config={"displayModeBar": False})
    return bool(drawn)


def trains(job: Job) -> bool:
    """Whether one of its commands trains a single SAE."""
    return any(command in TRAINING for command, _ in job_actions.subjects(job))


def live(shell: Shell) -> None:
    """Every training run that is under way, with its curves; nothing where there is none."""
    jobs = {name: job for job in job_actions.running(shell)
            for command, name in job_actions.subjects(job)
            if command in TRAINING}  # fmt: skip
    fresh = [run.name for run in summaries.unfinished(shell.workspace)
             if time.time() - run.changed < FRESH_S]  # fmt: skip
    for name in dict.fromkeys([*jobs, *fresh]):
        if name and not _is_trained(shell, name):
            _one(shell, name, jobs.get(name))


def _one(shell: Shell, name: str, job: Job | None) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute",
                          vertical_alignment="center"):  # fmt: skip
            st.markdown(f"**In training: {plain(name)}**", width="content")
            if job is not None and st.button("Show the job", key=f"live.{name}", type="tertiary"):
                job_actions.open_job(shell, job.id)

        def curves(now: list[Job]) -> None:
            for one in now:
                st.html(job_progress.bar(shell, one))
            run = summaries.unfinished_run(shell.workspace, name)
            if _is_trained(shell, name):
                st.rerun()
            if run is None or not run.rows:
                st.caption("It reads the text and its activations first; the curves begin after.")
                return
            if job is None:
                st.caption(_told(run))
            draw(run.rows, LIVE, None, f"live.{name}")
            if job is None and time.time() - run.changed > FRESH_S:
                st.rerun()

        if job is not None:
            job_progress.follow(shell, [job], curves, EVERY_S)
        else:
            st.fragment(lambda: curves([]), run_every=EVERY_S)()


def _is_trained(shell: Shell, name: str) -> bool:
    """Whether it is finished and is not trained anew."""
    return name in shell.workspace.saes and summaries.unfinished_run(shell.workspace, name) is None


def _told(run: Unfinished) -> str:
    """The last record in words."""
    last = run.rows[-1]
    parts = [f"{run.tokens:,} tokens"]
    for key, text in TOLD.items():
        if last.get(key) is not None:
            parts.append(text.format(last[key]))
    if last.get("warning"):
        parts.append(plain(str(last["warning"])))
    return " · ".join(parts)
