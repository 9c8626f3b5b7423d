"""The form of one command: fields, what is wrong, what it will take, the same for a terminal.

In:  a Shell and a Form. Out: a started job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from data.errors import WorkbenchError
from ui.pages.panels import job_actions, job_estimates
from ui.pages.panels.job_catalogue import EXPLAIN, EXPORT, FEATURE_FORMATS, IMPORT, TRAIN
from ui.pages.panels.job_fields import Field, Form, arguments, chained, faults, lowest
from ui.shell import Shell, plain

AFTER = {  # what can follow a training run in the same job
    "evaluate": "Evaluate it",
    "harvest": "Harvest its features",
    "explain": "Explain and score them",
}


def show(shell: Shell, form: Form) -> None:
    """The form. A press on its button starts the job if nothing is wrong."""
    with st.container(border=True):
        st.subheader(form.title)
        st.caption(form.what)
        if not shell.workspace.saes and any(f.kind == "sae" and f.positional for f in form.fields):
            st.info("There is no sparse autoencoder here yet: train or import one first.")
            return
        values = _fields(shell, form, [field for field in form.fields if not field.more])
        after = _after(form)
        if any(field.more for field in form.fields):
            with st.expander("More options"):
                values |= _fields(shell, form, [field for field in form.fields if field.more])
        wrong = faults(form, values) or _misfits(shell, form, values)
        empty = wrong and any(
            f.positional and values.get(f.name) in (None, "") for f in form.fields
        )
        told = None if wrong else job_estimates.estimate(shell, form.command, values)
        if told:
            st.caption(f":material/schedule: {plain(told)}")
        if wrong and not empty:
            st.warning("\n\n".join(plain(fault) for fault in wrong))
        words = [] if wrong else commands(shell, form, values, after)
        row = st.columns([1, 5], vertical_alignment="center")
        pressed = row[0].button(form.verb, type="primary", disabled=bool(wrong), key="jobs.start",
                                width="stretch")  # fmt: skip
        if empty:
            row[1].caption(plain(wrong[0]))
        if pressed and not wrong:
            job_actions.start(shell, words, title(form, values, after))
        if words:
            st.caption("The same in a terminal:")
            st.code(job_actions.command_line(shell, words), language="bash", wrap_lines=True)


def commands(shell: Shell, form: Form, values: Mapping, after: list[str]) -> list[str]:
    """The arguments of the job."""
    root = str(shell.workspace.root)
    given = [arguments(form, values, root)]
    if form is EXPORT:
        given[0] += ["--out", str(export_folder(shell, values))]
    if form is EXPLAIN:
        same = [["--run", values["run"]]] if values.get("run") else []
        if values.get("features") not in (None, "all"):
            same.append(["--features", values["features"]])
        given.append(["score", values["name"], *sum(same, []), "--workspace", root])
    for command in after:
        given.append(job_actions.step(shell, command, values["name"]))
    return chained(given)


def title(form: Form, values: Mapping, after: list[str]) -> str:
    what = values.get("name") or values.get("path")
    more = f", then {', '.join(after)}" if after else ""
    kind = f" as {values['format']}" if form is EXPORT else ""
    return f"{form.title} {what}{kind}{more}"


def export_folder(shell: Shell, values: Mapping) -> Path:
    """exports/NAME-FORMAT in the workspace, with a number where that is taken."""
    folder = shell.workspace.root / "exports"
    stem = f"{values['name']}-{values['format']}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def _after(form: Form) -> list[str]:
    """What is to follow a training run."""
    if form is not TRAIN:
        return []
    chosen = st.pills("And then", list(AFTER), selection_mode="multi", key="jobs.after",
                      default=["evaluate", "harvest"], format_func=AFTER.get,
                      help="In the same job, one after another.")  # fmt: skip
    # Labels come from a harvest.
    wanted = set(chosen) | ({"harvest"} if "explain" in chosen else set())
    return [command for command in AFTER if command in wanted]


def _fields(shell: Shell, form: Form, fields: list[Field]) -> dict[str, object]:
    """Draws the fields, four in a row; their values."""
    values = {}
    plain_ones = [field for field in fields if field.kind != "flag"]
    for start in range(0, len(plain_ones), 4):
        columns = st.columns(4, gap="medium")
        for column, field in zip(columns, plain_ones[start : start + 4], strict=False):
            with column:
                values[field.name] = _widget(shell, form, field)
    for field in fields:
        if field.kind == "flag":
            key = f"jobs.{form.command}.{field.name}"
            values[field.name] = st.checkbox(field.label, key=key, help=field.help or None)
    return values


def _widget(shell: Shell, form: Form, field: Field) -> object:
    about = {"key": f"jobs.{form.command}.{field.name}", "help": field.help or None}
    if field.kind == "sae":
        names = shell.workspace.saes
        if not field.positional:
            names = [name for name in names if name != shell.sae]
            return st.selectbox(field.label, names, index=None, placeholder="nothing", **about)
        chosen = names.index(shell.sae) if shell.sae in names else 0
        # Another SAE in the sidebar is another default.
        about["key"] += f".{shell.sae}"
        return st.selectbox(field.label, names, chosen, **about)
    if field.kind == "choice":
        at = None if field.default is None else field.choices.index(field.default)
        return st.selectbox(field.label, field.choices, at, placeholder="preset’s own", **about)
    if field.kind == "several":
        return st.multiselect(field.label, field.choices, list(field.default), **about)
    if field.kind in ("whole", "number"):
        return _number(field, about)
    if field.kind == "words":
        return st.text_input(field.label, placeholder="none", **about).split()
    text = st.text_input(field.label, field.default or "", **about,
                         placeholder="" if field.positional else "empty")  # fmt: skip
    return text.strip() or None


def _number(field: Field, about: dict) -> object:
    kind = int if field.kind == "whole" else float
    low, step = lowest(field), field.step or (1 if kind is int else None)
    return st.number_input(
        field.label,
        min_value=None if low is None else kind(low),
        max_value=None if field.high is None else kind(field.high),
        value=None if field.default is None else kind(field.default),
        step=None if step is None else kind(step),
        format="%d" if kind is int else "%g",
        placeholder="preset’s own" if field.name in ("l0", "lr", "batch", "coefficient") else "all",
        **about,
    )


def _misfits(shell: Shell, form: Form, values: Mapping) -> list[str]:
    """What the workspace and the disk have against it."""
    found = []
    name = values.get("name")
    try:
        if form in (TRAIN, IMPORT) and name:
            shell.workspace.refuse_taken(str(name))
            if form is TRAIN and (shell.workspace.unfinished(str(name)) / "checkpoint").exists():
                found.append(
                    f"A run called {name} was stopped: go on from its job, or choose another name."
                )
    except WorkbenchError as error:
        found.append(str(error).replace(", or give --replace", "") + ".")
    if form is not IMPORT and name and job_actions.running(shell, form.command, str(name)):
        found.append(f"A job is doing that with {name} already.")
    text = values.get("text")
    if text and not str(text).startswith(("hf:", "python:")) and not _exists(str(text)):
        found.append(f"Text: there is no file or folder {text} on the server.")
    if form is EXPORT and values.get("features") and values["format"] not in FEATURE_FORMATS:
        found.append("Features: weights are exported whole; leave it empty.")
    if form is EXPORT and values["format"] == "html" and not values.get("features"):
        found.append("Features: html is one page a feature; say which, as 0:100.")
    if form is EXPORT and values["format"] in FEATURE_FORMATS and not _harvested(shell, name):
        found.append(f"{name} has no features to export yet: harvest it first.")
    needs = ("effects", "explain", "verify")
    if form.command in needs and name and not _harvested(shell, name):
        found.append(f"{name} has no features yet: harvest it first.")
    return found


def _harvested(shell: Shell, name: object) -> bool:
    return (shell.workspace.root / "saes" / str(name) / "features.duckdb").is_file()


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, or nobody's home
        return False
