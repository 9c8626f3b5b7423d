"""Overview: all SAEs of the workspace, and the chosen one: how good it is, what comes next.

In:  the workspace's summaries; configuration, metrics, training records and feature store of the
     chosen SAE. Out: the page. An empty workspace is welcomed.
"""

from __future__ import annotations

import streamlit as st

from data.summaries import SaeSummary, summaries
from ui import cards
from ui.pages.panels import (
    overview_all,
    overview_features,
    overview_steps,
    overview_training,
    overview_welcome,
)
from ui.shell import Shell, address, plain

PAGE = "overview"
NEEDS_SAE = False
DEFINITIONS = {
    "L0": "Active features per token, on average. Smaller is sparser.",
    "FVE": "Fraction of the activations’ variance that the reconstruction explains. 1 is perfect.",
    "Δ loss": "Rise of the language model’s loss (nats per token) when the reconstruction replaces "
    "the activations. 0 is perfect.",
    "Loss recovered": "Share of the damage done by zeroing the activations that the "
    "reconstruction avoids. 100 % is perfect.",
    "Dead": "Share of features that never fire on the evaluation text.",
    "Tokens": "Tokens the metrics were computed on.",
}


def page(shell: Shell) -> None:
    address(PAGE, shell.sae, ())
    if shell.sae is None:
        overview_welcome.show(shell)
        return
    rows = summaries(shell.workspace)
    chosen = next(row for row in rows if row.name == shell.sae)
    st.title(plain(shell.sae))
    st.caption(_subtitle(chosen))
    overview_training.live(shell)
    found = overview_steps.of(shell, chosen)
    overview_steps.warnings(shell, found)
    _headline(chosen)
    overview_steps.cards(shell, chosen, found)
    if len(rows) > 1:
        overview_all.show(shell, rows)
    told = any(finding.level == "problem" for finding in found)
    overview_features.show(shell, chosen.wanted_l0, told)
    overview_training.show(shell, chosen.wanted_l0)


def _subtitle(row: SaeSummary) -> str:
    if row.d_sae is None:
        return "Its configuration cannot be read."
    kind = cards.ARCHITECTURES.get(str(row.architecture), row.architecture)
    parts = [f"{plain(str(kind))} sparse autoencoder with {row.d_sae:,} features"]
    if row.site:
        parts.append(f"on `{_code(row.site)}`")
    if row.model:
        parts.append(f"of `{_code(row.model)}`")
    if row.text:
        parts.append(f"with text `{_code(row.text)}`")
    if row.tokens:
        parts.append(f"trained on {row.tokens / 1e6:,.1f} million tokens")
    *most, last = parts
    return f"{' '.join(most)}, {last}." if row.tokens and most else f"{' '.join(parts)}."


def _code(name: str) -> str:
    """A name between backticks."""
    return " ".join(name.replace("`", "'").split())


def _headline(row: SaeSummary) -> None:
    values = {
        "L0": _show(row.l0, "{:.1f}"),
        "FVE": _show(row.fve, "{:.3f}"),
        "Δ loss": _show(row.delta_loss, "{:+.3f}"),
        "Loss recovered": _show(row.loss_recovered, "{:.1%}").replace("%", " %"),
        "Dead": cards.percent(row.dead),
        "Tokens": _show(row.eval_tokens, "{:,}"),
    }
    if not row.evaluated:
        st.caption(f"Not evaluated yet: press Evaluate, or `python run.py evaluate {row.name}`.")
        return
    for column, (label, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(label, value, help=DEFINITIONS[label], border=True)


def _show(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)
