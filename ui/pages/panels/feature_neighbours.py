"""Which features point the same way, or fire together with it, in this SAE or another.

In:  a `Case`; the neighbours file of its SAE. Out: a list for each measure; a row leads to the
     feature and to the comparison of both.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from data.neighbours_store import Neighbour
from ui import cards
from ui.pages.panels import feature_job
from ui.pages.panels.feature_case import Case
from ui.shell import plain

SHOWN = 8
KINDS = {
    "decoder": ("Decoder direction", "cosine", "Features that write nearly the same direction."),
    "encoder": ("Encoder direction", "cosine", "Features that look for nearly the same thing."),
    "coactivation": ("Fire together", "PMI", "How much more often both fire on a token than chance "
                     "would have it, in nats."),
    "correlation": ("Rise and fall together", "r", "Correlation of the activations over a sample "
                    "of tokens."),
}  # fmt: skip


def show(case: Case) -> None:
    sae = case.shell.sae
    st.markdown("##### Nearest features")
    other = _chooser(case)
    found = case.shell.neighbours(other)
    if found is None:
        words = ("neighbours", sae) + (() if other is None else ("--other", other))
        where = "" if other is None else f" in {other}"
        feature_job.offer(
            case.shell, f"neighbours.{sae}.{other}", f"Not computed{plain(where)}.", words,
            "Compute", f"Neighbours of the features of {sae}{where}",
        )  # fmt: skip
        return
    lists, meta = found.neighbours(case.feature), found.meta
    names = _names(case, lists, other)
    kinds = [kind for kind in KINDS if kind in meta["kinds"]]
    blocks = [_block(case, kind, lists[kind][:SHOWN], names, other) for kind in kinds]
    st.html(f'<div class="near">{"".join(blocks)}</div>')
    sample = (meta.get("arguments") or {}).get("tokens")
    if sample:
        st.caption(f"What fires together was counted on a sample of {int(sample):,} tokens.")


def _chooser(case: Case) -> str | None:
    """The SAE among whose features to look; None: its own."""
    shell, state = case.shell, st.session_state
    others = [name for name in shell.workspace.saes if name != shell.sae]
    if case.view.other and case.view.other not in others:
        st.error(plain(f"There is no other SAE {case.view.other!r} here: "
                       f"{', '.join(others) or 'this is the only one'}."))  # fmt: skip
        return None
    if not others:
        return None
    state["feature.other"] = case.view.other
    st.selectbox(
        "Among the features of", ["", *others], key="feature.other", width=360,
        format_func=lambda name: name or f"{shell.sae} (this SAE)",
        on_change=lambda: case.go(other=state["feature.other"]),
    )  # fmt: skip
    return case.view.other or None


def _names(
    case: Case, lists: Mapping[str, Sequence[Neighbour]], other: str | None
) -> dict[int, tuple[str, str]]:
    """(commonest token, label) of each neighbour, "" where there is none."""
    desk = case.shell if other is None else case.shell.named(other)
    if not desk.harvested:
        return {}
    wanted = {n.other for some in lists.values() for n in some[:SHOWN]}
    names = {}
    for row in desk.store().rows_of(sorted(wanted)):
        token = "" if row.peak_token is None else cards.token_chip(row.peak_token)
        names[row.feature] = (token, row.label or "")
    return names


def _block(
    case: Case, kind: str, found: Sequence[Neighbour], names: Mapping, other: str | None
) -> str:
    title, unit, about = KINDS[kind]
    rows = "".join(_row(case, kind, n, names.get(n.other, ("", "")), other) for n in found)
    body = f"<table>{rows}</table>" if rows else '<p class="none">None: it fires too rarely.</p>'
    return (
        f'<section><h4>{title} <small>{unit}</small></h4><p class="about">{about}</p>{body}'
        "</section>"
    )


def _row(case: Case, kind: str, near: Neighbour, name: tuple[str, str], other: str | None) -> str:
    sae = other or case.shell.sae
    token, label = name
    pair = {"a": f"{case.shell.sae}:{case.feature}", "b": f"{sae}:{near.other}"}
    here = html.escape(case.link(near.other, sae))
    both = html.escape(case.shell.link("compare", pair))
    text = html.escape(label)
    more = ""
    if kind == "coactivation" and near.together is not None:
        more = (
            f"<small>together {near.together:,} · fires on {_percent(near.given_this)} of this "
            f"one’s tokens · this one on {_percent(near.given_other)} of its</small>"
        )
    return (
        f'<tr><td><a data-go href="{here}">{near.other}</a></td>'
        f'<td class="who">{token} <span title="{text}">{text}</span>{more}</td>'
        f'<td class="n">{near.value:.3f}</td>'
        f'<td><a data-go href="{both}" title="Compare both" aria-label="Compare with '
        f'{near.other}">⇄</a></td></tr>'
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else cards.percent(share)
