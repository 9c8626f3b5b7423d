"""A new auto-interp run: which features, who judges, how, at what price; estimate, then start.

In:  a Shell, the view in the address. Out: a started job; the same commands for a terminal.
"""

from __future__ import annotations

import re

import streamlit as st

from ui.keys.autointerp import RunView
from ui.pages.panels import autointerp_commands as make
from ui.pages.panels import autointerp_estimate, autointerp_features, autointerp_judges, job_actions
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_failures import start
from ui.pages.panels.job_fields import chained
from ui.shell import Shell, plain

KEY = "autointerp.new"
PRICED = ("gemini", "gemini-legacy", "openai")


def show(shell: Shell, view: RunView, busy: bool) -> None:
    if shell.person.role != "researcher":
        st.info("Researchers start runs; everybody sees their results.")
        return
    with st.container(border=True):
        features, count = autointerp_features.choose(shell, view.features)
    with st.container(border=True):
        judge, scorer = _judges(shell, view)
    with st.container(border=True):
        protocols, candidates, methods, baselines, mode = _how(judge, scorer)
    with st.expander("More options: windows, seed, sampling, limits"):
        shown, mixed, service = _more(judge, scorer)
    if make.is_language_model(scorer):
        with st.container(border=True):
            service |= _costs(scorer)
    run = _name(shell, judge, mode)
    wanted = make.Wanted(
        shell.sae, features, judge, scorer, run, protocols, candidates, methods, baselines, mode,
        shown, mixed, service,
    )  # fmt: skip
    faults = make.faults(wanted)
    if faults:
        st.warning("\n\n".join(plain(one) for one in faults))
        st.button("Start", disabled=True, type="primary", key=f"{KEY}.start")
        return
    _start(shell, wanted, count, busy)


def _judges(shell: Shell, view: RunView) -> tuple[str, str]:
    left, right = st.columns(2, gap="large")
    with left:
        judge = autointerp_judges.choose(
            shell, f"{KEY}.judge", list(make.KINDS), "Who explains", view.judge
        )
    with right:
        if judge == "people":
            kinds = [kind for kind in make.KINDS if kind not in ("people", "lexical")]
            scorer = autointerp_judges.choose(shell, f"{KEY}.scorer", kinds, "Who predicts from it")
        else:
            scorer = judge
            st.markdown("**The same judge predicts**")
            st.caption("It gets the explanation and text it never saw, and says where the feature "
                       "fires. Baselines are judged on the very same windows.")  # fmt: skip
            if judge == "lexical":
                st.caption("Without a key: choose “Model on this machine”, or “OpenAI-compatible "
                           "server” for vLLM, Ollama, llama.cpp and others.")  # fmt: skip
    return judge, scorer


def _how(judge: str, scorer: str) -> tuple:
    left, right = st.columns([1.1, 1], gap="large")
    protocols, candidates, baselines = ("activations",), 1, make.BASELINES
    with left:
        if make.is_language_model(judge):
            protocols = tuple(st.pills(
                "Explain from", list(words.PROTOCOLS), selection_mode="multi",
                key=f"{KEY}.protocol", default=["activations"],
                format_func=lambda p: words.PROTOCOLS[p][0],
                help=_help(words.PROTOCOLS) + " Several are several runs, side by side.",
            ))  # fmt: skip
            candidates = int(st.number_input(
                "Candidates", 1, 20, 1, key=f"{KEY}.candidates", width=200,
                help="Explanations of each feature; the one that predicts the calibrate split best "
                "is taken.",
            ))  # fmt: skip
        else:
            st.caption("Explanations are taken as they are." if judge == "people" else
                       "The table of tokens is fitted on the explain split.")  # fmt: skip
        mode = st.radio(
            "Predict on", list(words.MODES), key=f"{KEY}.mode", horizontal=True,
            format_func=lambda m: words.MODES[m][0], help=_help(words.MODES),
        )  # fmt: skip
        if mode == "paper":
            st.warning(words.MODES["paper"][1], icon=":material/history_edu:")
    with right:
        methods = tuple(st.pills(
            "Score by", list(words.METHODS), selection_mode="multi", key=f"{KEY}.method",
            default=["simulate"], format_func=lambda m: words.METHODS[m][0],
            help=_help(words.METHODS),
        ))  # fmt: skip
        if make.is_language_model(scorer):
            baselines = tuple(st.pills(
                "Baselines", list(make.BASELINES), selection_mode="multi", key=f"{KEY}.baseline",
                default=list(make.BASELINES), format_func=words.ARMS.get,
                help=" ".join(f"{words.ARMS[a]}: {words.ARM_HELP[a]}" for a in make.BASELINES)
                + " Each judged one costs as much as the explanation’s own.",
            ))  # fmt: skip
    order = list(words.METHODS)
    return protocols, candidates, tuple(sorted(methods, key=order.index)), baselines, mode


def _help(table: dict) -> str:
    return " ".join(f"{entry[0]}: {entry[1]}" for entry in table.values())


def _more(judge: str, scorer: str) -> tuple[dict, dict, dict]:
    st.caption("**Shown to explain from**, of each feature")
    labels = {"top": "Strongest", "band": "Of each band of ranks",
              "silent": "Silent, or near misses", "width": "Tokens of a window"}  # fmt: skip
    shown = _numbers("shown", labels, make.SHOWN)
    st.caption("**Predicted to score**, of each feature")
    labels = {"top": "Strongest", "band": "Of each band", "silent": "Silent",
              "each": "To detect and fuzz", "rounds": "Intruder rounds",
              "seed": "Seed"}  # fmt: skip
    mixed = {**_numbers("mixed", labels, make.MIXED), "width": shown["width"]}
    service: dict[str, object] = {}
    if make.is_language_model(scorer):
        st.caption("**How it is asked**; empty leaves a setting to the service")
        columns = st.columns(4)
        service["temperature"] = columns[0].number_input(
            "Temperature", 0.0, 2.0, None, 0.1, key=f"{KEY}.temperature", placeholder="service’s"
        )
        service["thinking"] = columns[1].selectbox(
            "Thinking",
            ["off", "minimal", "low", "medium", "high"],
            None,
            key=f"{KEY}.thinking",
            placeholder="service’s",
        )
        service["reply_tokens"] = int(
            columns[2].number_input(
                "Tokens of a reply, at most",
                64,
                65_536,
                2048,
                key=f"{KEY}.reply_tokens",
                help="Thoughts included.",
            )
        )
        service["together"] = int(
            columns[3].number_input("Windows in one request", 1, 50, 5, key=f"{KEY}.together")
        )
        columns = st.columns(4)
        service["concurrent"] = int(
            columns[0].number_input("Calls at once", 1, 256, 8, key=f"{KEY}.concurrent")
        )
        for column, name, label in (
            (columns[1], "requests_a_minute", "Requests a minute"),
            (columns[2], "tokens_a_minute", "Tokens a minute"),
        ):
            service[name] = column.number_input(
                label, 1.0, None, None, format="%g", key=f"{KEY}.{name}", placeholder="no limit"
            )
        service["timeout"] = columns[3].number_input(
            "Seconds a call, at most", 1.0, 3600.0, 120.0, key=f"{KEY}.timeout", format="%g"
        )
    return shown, mixed, service


def _numbers(part: str, labels: dict[str, str], usual: dict[str, int]) -> dict[str, int]:
    columns = st.columns(len(labels))
    lows = {"width": 4, "rounds": 1, "each": 1}
    return {
        name: int(column.number_input(label, lows.get(name, 0), None, usual[name],
                                      key=f"{KEY}.{part}.{name}"))
        for column, (name, label) in zip(columns, labels.items(), strict=True)
    }  # fmt: skip


def _costs(scorer: str) -> dict[str, object]:
    """Prices and caps. None: not given."""
    priced = scorer.partition(":")[0] in PRICED
    st.caption("**Prices and caps.** Caps hold for the whole run and are enforced while it goes: a "
               "call that could pass one is not sent.")  # fmt: skip
    columns = st.columns(5)
    out: dict[str, object] = {}
    fields = (("prompt_price", "Price of 1M prompt tokens", float),
              ("reply_price", "Price of 1M reply tokens", float),
              ("max_money", "Cap: money", float), ("max_calls", "Cap: calls", int),
              ("max_tokens", "Cap: tokens", int))  # fmt: skip
    for column, (name, label, kind) in zip(columns, fields, strict=True):
        value = column.number_input(
            label, kind(0), None, None, format="%g" if kind is float else "%d",
            key=f"{KEY}.{name}", placeholder="none",
            help="As the service lists it; thoughts cost as replies." if "price" in name else None,
        )  # fmt: skip
        out[name] = value
    if priced and out["prompt_price"] is None:
        st.caption("Without prices the estimate is in calls and tokens alone.")
    return out


def _name(shell: Shell, judge: str, mode: str) -> str:
    usual = default_name(shell.sae, judge, mode)
    run = st.text_input(
        "Name of the run", "", key=f"{KEY}.run", placeholder=usual,
        help="A run of that name, by the same judge, is added to: features and methods that are "
        "judged anew replace their earlier results.",
    ).strip()  # fmt: skip
    chosen = run or usual
    if (shell.workspace.root / "autointerp" / chosen / "results.duckdb").is_file():
        st.caption(f"There is a run {plain(chosen)} already: this adds to it.")
    return chosen


def default_name(sae: str, judge: str, mode: str) -> str:
    """As run.py names a run; the paper's mode has a run of its own."""
    tail = re.sub(r"[^A-Za-z0-9._-]+", "-", judge).strip("-.")[:60]
    return f"{sae}-{tail}" + ("-paper" if mode == "paper" else "")


def _start(shell: Shell, wanted: make.Wanted, count: int, busy: bool) -> None:
    root = str(shell.workspace.root)
    arguments = chained(make.commands(wanted, root))
    if autointerp_judges.lacking(wanted.judge) or autointerp_judges.lacking(wanted.scorer):
        st.button("Start", disabled=True, type="primary", key=f"{KEY}.start",
                  help="Something is missing for this judge: see above.")  # fmt: skip
        _terminal(shell, arguments)
        return
    estimates = make.estimates(wanted, root)
    known = (
        autointerp_estimate.show(shell, chained(estimates), wanted, count) if estimates else True
    )
    priced = wanted.scorer.partition(":")[0] in PRICED
    must = priced and not known
    label = f"Explain and score {count:,} features"
    why = (
        "A run is already under way." if busy else "See first what it will take." if must else None
    )
    if st.button(label, type="primary" if known else "secondary", disabled=busy or must, help=why,
                 icon=":material/psychology:", key=f"{KEY}.start"):  # fmt: skip
        start(shell, arguments, f"Explain and score {count:,} features of {wanted.sae} by "
              f"{words.judge(wanted.judge)}")  # fmt: skip
    _terminal(shell, arguments)


def _terminal(shell: Shell, arguments: list[str]) -> None:
    """The same commands, to copy."""
    st.caption("The same in a terminal:")
    with st.container(key="autointerp-command"):
        st.code(job_actions.command_line(shell, arguments), language="bash", wrap_lines=True)
