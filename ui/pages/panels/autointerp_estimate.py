"""What a run will take, told before it starts: a short job that asks nobody, and its answer.

In:  a Shell, the arguments of the estimating job. Out: whether the answer for exactly these
     settings is there; the panel shows it, or the button that gets it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st

from data.errors import WorkbenchError
from data.records import Job
from ui.cards import safe
from ui.pages.panels import job_actions, job_progress
from ui.pages.panels.autointerp_commands import Wanted
from ui.shell import Shell, plain

NUMBERS = ("requests", "cached", "repeated", "calls", "prompt", "prompt_most")
MAYBE = ("reply", "reply_most", "money", "money_most")


def show(shell: Shell, arguments: list[str], wanted: Wanted, count: int) -> bool:
    job = next((one for one in shell.jobs.newest() if list(one.arguments) == arguments), None)
    if job is not None and job.state == "running":
        st.caption("Counting what it will take; nobody is asked yet.")
        job_progress.follow(shell, [job], lambda now: st.html(
            "".join(job_progress.bar(shell, one) for one in now)))  # fmt: skip
        return False
    told = None if job is None or job.state != "done" else added(_lines(shell, job))
    if job is not None and told is None:
        why = job_actions.shown(shell, job.reason or job.state)
        st.warning(plain(f"The estimate could not be made: {why}"))
    if told is not None:
        st.html(_said(told, wanted))
    again = told is not None
    pressed = st.button(
        "Estimate again" if again else "Estimate what it takes", key="autointerp.estimate",
        icon=":material/calculate:", type="tertiary" if again else "primary",
        help="Goes through the run without asking anybody: calls, tokens, money.",
    )  # fmt: skip
    if pressed:
        try:
            job_actions.refuse_others(shell)
            shell.jobs.start(arguments, f"Estimate a run of {wanted.sae} over {count:,} features",
                             who=shell.person.name)  # fmt: skip
        except WorkbenchError as error:
            st.error(plain(job_actions.shown(shell, str(error))))
        else:
            st.rerun()
    return told is not None


def _lines(shell: Shell, job: Job) -> list[dict]:
    """What its commands have printed as JSON."""
    found = []
    for line in shell.jobs.log(job.id, 200).splitlines():
        if line.startswith("{"):
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if isinstance(one, dict) and "requests" in one and "calls" in one:
                found.append(one)
    return found


def added(parts: Sequence[dict]) -> dict | None:
    """One estimate out of those of its parts; None without any. What one lacks, the sum lacks."""
    if not parts:
        return None
    out: dict = {name: sum(part.get(name) or 0 for part in parts) for name in NUMBERS}
    for name in MAYBE:
        values = [part.get(name) for part in parts]
        out[name] = None if None in values else sum(values)
    out["unit"] = next((part["unit"] for part in parts if part.get("unit")), "")
    return out


def _said(told: dict, wanted: Wanted) -> str:
    unit = safe(told["unit"])
    money = "no prices given"
    if told["unit"]:
        about = "not known yet" if told["money"] is None else f"about {told['money']:,.2f} {unit}"
        most = "" if told["money_most"] is None else f", at most {told['money_most']:,.2f} {unit}"
        money = about + most
    reply = "not known yet" if told["reply"] is None else f"about {told['reply']:,.0f}"
    most = "no bound" if told["reply_most"] is None else f"at most {told['reply_most']:,}"
    parts = [
        f"<b>{told['calls']:,}</b> calls · {told['cached']:,} of {told['requests']:,} requests are "
        f"answered already · {told['repeated']:,} are asked twice and paid once",
        f"prompts about {told['prompt']:,.0f} tokens (at most {told['prompt_most']:,}) · replies "
        f"{reply} ({most})",
        f"Money: <b>{money}</b>",
    ]  # fmt: skip
    caps = [
        ("max_calls", told["calls"], "calls"),
        ("max_tokens", None if told["reply_most"] is None else
         told["prompt_most"] + told["reply_most"], "tokens"),
        ("max_money", told["money_most"], unit or "money"),
    ]  # fmt: skip
    for name, most, label in caps:
        cap = wanted.service.get(name)
        if cap is not None:
            fits = most is not None and most <= cap
            parts.append(f"cap of {cap:,g} {safe(label)}: " + (
                "enough for all" if fits else "it may be reached; what does not fit is not run, "
                "and is counted so"))  # fmt: skip
    return f'<div class="ai-estimate">{"<br>".join(parts)}</div>'
