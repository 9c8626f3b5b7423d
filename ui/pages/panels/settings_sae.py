"""The chosen SAE: its files, where its numbers come from, whether they can be made again.

In:  cfg.json, the feature store's meta, the last verify job. Out: the panel.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from data import contents
from data.errors import StoreError
from data.records import Job
from ui import cards
from ui.pages.panels import job_actions, job_detail, job_progress
from ui.shell import Shell, plain

LONG = ("hist_edges", "pre_edges", "l0_counts", "position_edges", "position_tokens")


def show(shell: Shell) -> None:
    if shell.sae is None:
        st.info("There is no sparse autoencoder here yet: train or import one on the page Jobs.")
        return
    st.subheader("Files")
    files(shell, contents.of_sae(shell.workspace, shell.sae))
    st.subheader("Provenance")
    _provenance(shell)
    st.subheader("Verify")
    _verify(shell)


def files(shell: Shell, things: list[contents.Thing]) -> None:
    """Names, kinds and sizes."""
    table = pd.DataFrame(
        {
            "name": [thing.name for thing in things],
            "what": [thing.what for thing in things],
            "size": [job_actions.size(thing.n_bytes) for thing in things],
            "changed": [job_actions.when(thing.changed) for thing in things],
        }
    )
    column = st.column_config.TextColumn
    st.dataframe(
        table,
        hide_index=True,
        height="content",
        row_height=32,
        column_config={
            "name": column("File in the workspace", width="large"),
            "what": column("What", width="medium"),
            "size": column("Size", width="small"),
            "changed": column("Changed", width="small"),
        },
    )
    total = sum(thing.n_bytes for thing in things)
    st.caption(f"{job_actions.size(total)} in all.")


def _provenance(shell: Shell) -> None:
    config = shell.workspace.config(shell.sae)
    own = (config.get("metadata") or {}).get("workbench") or {}
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**The SAE**")
        rule = own.get("rule") or {}
        st.html(cards.facts(_texts(shell, {
            "architecture": cards.ARCHITECTURES.get(config.get("architecture"),
                                                    config.get("architecture")),
            "language model": own.get("lm"),
            "its weights": _hash(own.get("lm_weights")),
            "site": own.get("site"),
            "text": own.get("text"),
            "tokens read": own.get("corpus_tokens"),
            "trained on": (own.get("training") or {}).get("tokens"),
            "context": rule.get("context"),
            "preset": (own.get("training") or {}).get("preset"),
            "seed": (own.get("training") or {}).get("seed"),
            "imported from": ((config.get("metadata") or {}).get("imported") or {}).get("from"),
        })))  # fmt: skip
        with st.expander("Configuration (cfg.json)"):
            st.json(hidden(shell, config), expanded=1)
    with right:
        st.markdown("**The feature store**")
        _store(shell)


def _store(shell: Shell) -> None:
    if not shell.harvested:
        st.caption(f"Not harvested yet: `python run.py harvest {shell.sae}`, or start it as a job "
                   "on the page Jobs.")  # fmt: skip
        return
    try:
        meta = shell.store().meta
    except StoreError as error:
        st.error(plain(job_actions.shown(shell, str(error))))
        return
    versions = meta.get("versions") or {}
    st.html(cards.facts(_texts(shell, {
        "state": "open for reading",
        "schema": meta.get("schema"),
        "content": _hash(meta.get("content_hash")),
        "SAE weights": _hash(meta.get("weights_sha256")),
        "model weights": _hash(meta.get("lm_weights")),
        "tokenizer": _hash(meta.get("tokenizer")),
        "text": meta.get("text"),
        "tokens": meta.get("tokens"),
        "documents": meta.get("documents"),
        "number format": meta.get("dtype"),
        "seed": meta.get("seed"),
        "took": None if meta.get("wall_s") is None else job_actions.duration(meta["wall_s"]),
        "code": _hash(meta.get("code")),
        "made with": ", ".join(f"{name} {value}" for name, value in versions.items()) or None,
    })))  # fmt: skip
    with st.expander("All of its record (meta)"):
        st.json(hidden(shell, {k: v for k, v in meta.items() if k not in LONG}), expanded=1)


def _texts(shell: Shell, facts: Mapping[str, object]) -> list[tuple[str, str | None]]:
    """Facts as people read them; None stays None and is left out."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:,.0f}" if name != "seed" else str(value)
        rows.append((name, None if value is None else str(hidden(shell, value))))
    return rows


def _hash(value: object) -> str | None:
    return None if value is None else str(value)[:16]


def hidden(shell: Shell, value: object) -> object:
    """The same without folders of the server, for those who are not at it."""
    if job_actions.local(shell):
        return value
    if isinstance(value, Mapping):
        return {key: hidden(shell, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(shell, one) for one in value]
    if isinstance(value, str):
        text = job_actions.shown(shell, value)
        return f"…/{text.rstrip('/').rsplit('/', 1)[-1]}" if text.startswith("/") else text
    return value


# ---------------------------------------------------------------- verify


def _verify(shell: Shell) -> None:
    st.caption(
        "Computes examples and statistics of the feature store again, from the model and the text, "
        "and compares every number."
    )
    if not shell.harvested:
        st.caption("There is nothing to verify yet.")
        return
    last = next((job for job in shell.jobs.newest()
                 if ("verify", shell.sae) in job_actions.subjects(job)), None)  # fmt: skip
    if last is None:
        st.info("It was not verified from the app yet.")
    elif last.state == "running":
        job_progress.strip(shell, [last])
    else:
        _result(shell, last)
    with st.container(horizontal=True):
        if shell.person.role == "researcher" and st.button(
            "Verify the store", key="settings.verify", icon=":material/fact_check:",
            disabled=last is not None and last.state == "running",
        ):  # fmt: skip
            arguments = job_actions.step(shell, "verify", shell.sae)
            job_actions.start(shell, arguments, job_actions.step_title("verify", shell.sae))
        if last is not None and st.button("Show the job", key="settings.verify.job",
                                          type="tertiary"):  # fmt: skip
            job_actions.open_job(shell, last.id)


def _result(shell: Shell, job: Job) -> None:
    lines = shell.jobs.log(job.id, 40).rstrip().splitlines()
    said = lines[-1] if lines else ""
    at = job_actions.when(job.began)
    if job.state == "done":
        st.success(plain(f"{said or 'No difference'} ({at})."))
    elif job.state == "failed" and said.endswith("differences"):
        st.error(plain(f"{said} ({at}): the table is in the job’s log. Harvest it again."))
    else:
        st.html(job_detail.facts_of(job))
        if job.reason:
            st.caption(plain(job_actions.shown(shell, job.reason)))
