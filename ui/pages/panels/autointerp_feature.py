"""Auto-interp from a feature's page: its explanations by all runs, explain again, score my words.

In:  a `Case`. Out: a table of explanations to compare; jobs for this feature, followed in place.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping

import streamlit as st

from data import autointerp_page_store, judged_store, runs_store
from data.errors import WorkbenchError
from data.judged import ResultRow
from data.records import Explanation, Job, Score
from ui.cards import safe, score_text
from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_commands as make
from ui.pages.panels import autointerp_words as words
from ui.pages.panels import job_actions, job_progress
from ui.pages.panels.autointerp_go import link, open_page
from ui.pages.panels.feature_case import Case
from ui.pages.panels.job_fields import chained
from ui.shell import plain

PEOPLE = "people"  # the judge whose explanations people wrote as labels
MOST = 12  # runs in the table
MOST_AGAIN = 300  # features of a run that are scored again beside one


def run_names(case: Case) -> list[str]:
    """Runs of the SAE that have results, the newest first."""
    place = case.shell.workspace
    found = [run for run in place.runs(case.shell.sae)
             if (place.run(run) / "results.duckdb").is_file()]  # fmt: skip
    return found[:MOST]


def runs_of(case: Case) -> dict[str, list[ResultRow]]:
    """Run -> its results of this feature, the newest run first; runs without any left out."""
    out = {}
    for run in run_names(case):
        path = case.shell.workspace.run(run) / "results.duckdb"
        try:
            rows = judged_store.results_of(case.shell.root, path, case.feature)
        except WorkbenchError:  # damaged, or being replaced: its own page says so
            continue
        if rows:
            out[run] = rows
    return out


def newest(case: Case) -> tuple[Explanation | None, Score | None, str]:
    """The label the list shows; where that run has none of a judge's, that of the newest run which
    has one, with its name."""
    explanation = case.store.explanation(case.feature)
    if explanation is not None and explanation.judge != PEOPLE:
        return explanation, case.store.score(case.feature), ""
    for run in run_names(case):
        path = case.shell.workspace.run(run) / "results.duckdb"
        try:
            found = runs_store.read_explanation(case.shell.root, path, case.feature)
            if found is not None and found.status == "ok" and found.judge != PEOPLE:
                return found, runs_store.read_score(case.shell.root, path, case.feature), run
        except WorkbenchError:
            continue
    return None, None, ""


def compare(case: Case) -> None:
    """The explanations of all runs, each with its score and what it has over token lookup."""
    rows = []
    for run in run_names(case):
        path = case.shell.workspace.run(run) / "results.duckdb"
        try:
            told = runs_store.read_explanation(case.shell.root, path, case.feature)
            if told is None:
                continue
            score = runs_store.read_score(case.shell.root, path, case.feature)
            results = judged_store.results_of(case.shell.root, path, case.feature)
            meta = runs_store.summary(case.shell.root, path).meta
        except WorkbenchError:
            continue
        text = safe(told.text) if told.status == "ok" else (
            f'<em class="na">{safe(told.reason or told.status)}</em>')  # fmt: skip
        method = meta.get("headline") or (score.method if score else "simulate")
        own = next((r for r in results if (r.method, r.arm) == (method, "own")), None)
        value = words.of_row(method, own) if own else _score_of(score)
        lift = _lift(results, method)
        address = link(case.shell, RunView(run=run, part="calls", feature=case.feature,
                                           method=method if own else "explain"))  # fmt: skip
        name = f'<a href="{html.escape(address)}" target="_self">{safe(run)}</a>'
        rows.append(([f"{name}<br><small>{safe(_how(told.judge, meta))}</small>", text,
                      f'<span class="wrap">{safe(value)}</span>',
                      safe(words.number(lift, signed=True))], False))  # fmt: skip
    if not rows:
        st.caption("No run has explained it yet.")
        return
    heads = ("Run", "Explanation", "Score on unseen text", "Over token lookup")
    st.html(words.table(heads, rows, running=1))


def _score_of(score) -> str:
    return "not scored" if score is None else score_text(score)


def _how(judge: str, meta: Mapping) -> str:
    protocol = (meta.get("plan") or {}).get("protocol")
    said = [words.judge(judge)]
    if protocol and make.is_language_model(judge):
        said.append(words.PROTOCOLS.get(protocol, (protocol, ""))[0].lower())
    if (meta.get("score_plan") or {}).get("mode") == "paper":
        said.append("scored on explained windows")
    return ", ".join(said)


def _lift(results: list[ResultRow], method: str) -> float | None:
    found = {r.arm: 0.0 if r.status == "constant" else r.value
             for r in results if r.method == method}  # fmt: skip
    own, base = found.get("own"), found.get("lexical")
    return None if own is None or base is None else own - base


# ---------------------------------------------------------------- jobs


def again(case: Case) -> None:
    """Explain and score this feature, by a judge that was used before or by token lookup."""
    shell = case.shell
    key = f"feature.again.{shell.sae}.{case.feature}"
    if _following(case, key):
        return
    if shell.person.role != "researcher":
        return
    metas = _metas(case)
    known = [meta["judge"] for meta in metas.values()]
    judges = list(dict.fromkeys(one for one in known if make.is_language_model(one)))
    with st.popover("Explain again", icon=":material/psychology:"):
        judge = st.selectbox("Judge", [*judges, "lexical"], key=f"{key}.judge",
                             format_func=words.judge)  # fmt: skip
        protocol, candidates = "activations", 1
        if judge != "lexical":
            protocol = st.selectbox("Explain from", list(words.PROTOCOLS), key=f"{key}.protocol",
                                    format_func=lambda p: words.PROTOCOLS[p][0])  # fmt: skip
            candidates = int(st.number_input(
                "Candidates", 1, 20, 1, key=f"{key}.candidates",
                help="The best on the calibrate split is taken.",
            ))  # fmt: skip
        else:
            st.caption("No language model has judged this SAE yet: choose one under More options.")
        run, meta = _home(shell.sae, judge, protocol, metas)
        wanted = make.Wanted(
            shell.sae, str(case.feature), judge, judge, run, (protocol,), candidates,
            service=meta.get("service") or {},
        )  # fmt: skip
        commands = make.commands(wanted, str(shell.workspace.root))
        st.caption(plain(f"Goes into the run {run}; an earlier explanation there is replaced."))
        if st.button("Explain and score", type="primary", key=f"{key}.start"):
            _start(case, key, _with_others(case, wanted, commands),
                   f"Explain feature {case.feature} of {shell.sae}")  # fmt: skip
        if st.button("More options", type="tertiary", key=f"{key}.more"):
            open_page(shell, RunView(part="new", features=str(case.feature),
                                     judge="" if judge == "lexical" else judge))  # fmt: skip


def score_words(case: Case) -> None:
    """Scores the label people wrote, exactly as a judge's explanation is scored."""
    shell = case.shell
    key = f"feature.words.{shell.sae}.{case.feature}"
    if _following(case, key) or not case.mark.label or shell.person.role != "researcher":
        return
    metas = _metas(case)
    scorers = [meta.get("scorer") or meta["judge"] for meta in metas.values()]
    scorer = next((one for one in scorers if make.is_language_model(one)), None)
    if scorer is None:
        if st.button("Score these words", key=f"{key}.choose", type="tertiary",
                     icon=":material/speed:", help="Needs a language model to predict from them: "
                     "choose one."):  # fmt: skip
            open_page(shell, RunView(part="new", features=str(case.feature), judge="people"))
        return
    service = next((m.get("score_service") or m.get("service") or {} for m in metas.values()
                    if (m.get("scorer") or m.get("judge")) == scorer), {})  # fmt: skip
    wanted = make.Wanted(shell.sae, str(case.feature), "people", scorer, f"{shell.sae}-people",
                         service=service)  # fmt: skip
    pressed = st.button(
        "Score these words", key=f"{key}.start", type="tertiary", icon=":material/speed:",
        help=plain(f"{scorer} predicts from them, on the same windows as from any explanation."),
    )  # fmt: skip
    if pressed:
        commands = make.commands(wanted, str(shell.workspace.root))
        _start(case, key, _with_others(case, wanted, commands),
               f"Score people’s words on feature {case.feature} of {shell.sae}")  # fmt: skip


def _with_others(case: Case, wanted: make.Wanted, commands: list[list[str]]) -> list[list[str]]:
    """The same, with all of the run's features scored: another feature's explanation is a baseline,
    and there must be others to take it from. What is in the cache costs nothing; of a large run
    that baseline is left out."""
    path = case.shell.workspace.run(wanted.run) / "results.duckdb"
    if not make.is_language_model(wanted.scorer) or not path.is_file():
        return commands
    known, _ = autointerp_page_store.explained(case.shell.root, path)
    root = str(case.shell.workspace.root)
    if len(known) > MOST_AGAIN:
        alone = dataclasses.replace(wanted, baselines=("lexical", "empty"))
        return [commands[0], make.commands(alone, root)[1]]
    every = dataclasses.replace(wanted, features=make.compact([*known, case.feature]))
    return [commands[0], make.commands(every, root)[1]]


def _metas(case: Case) -> dict[str, dict]:
    out = {}
    for run in run_names(case):
        path = case.shell.workspace.run(run) / "results.duckdb"
        try:
            autointerp_page_store.methods(case.shell.root, path)
            out[run] = runs_store.summary(case.shell.root, path).meta
        except WorkbenchError:
            continue
    return {run: meta for run, meta in out.items() if meta.get("judge")}


def _home(sae: str, judge: str, protocol: str, metas: Mapping[str, Mapping]) -> tuple[str, Mapping]:
    """The run of that judge and protocol, so that its other features stay beside it; else a new
    name."""
    from ui.pages.panels.autointerp_new import default_name

    for run, meta in metas.items():
        known = (meta.get("plan") or {}).get("protocol", "activations")
        mode = (meta.get("score_plan") or {}).get("mode", "held-out")
        if (meta["judge"], known, mode) == (judge, protocol, "held-out"):
            return run, meta
    name = default_name(sae, judge, "held-out")
    same = next((m for m in metas.values() if m["judge"] == judge), {})
    return (name if protocol == "activations" else f"{name}-{protocol}"), same


def _start(case: Case, key: str, commands: list[list[str]], title: str) -> None:
    shell = case.shell
    try:
        job_actions.refuse_others(shell)
        job = shell.jobs.start(chained(commands), title, who=shell.person.name)
    except WorkbenchError as error:
        st.error(plain(job_actions.shown(shell, str(error))))
        return
    st.session_state[key] = job.id
    st.rerun()


def _following(case: Case, key: str) -> bool:
    """Whether its job runs; draws how far it is. One that failed says why, once."""
    id = st.session_state.get(key)
    try:
        job: Job | None = None if id is None else case.shell.jobs.get(id)
    except WorkbenchError:
        return False
    if job is None:
        return False
    if job.state == "running":
        job_progress.strip(case.shell, [job])
        return True
    if job.state != "done":
        why = job_actions.shown(case.shell, job.reason or job.state)
        st.warning(plain(f"The last try ended: {why}"))
    return False
