"""All SAEs of the workspace: sparsity against fidelity, and their measures side by side.

In:  their summaries. Out: two scatters and a table; a click opens an SAE.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from data.summaries import SaeSummary
from ui import cards
from ui.figures import frontier
from ui.shell import Shell, not_yet

CHARTS = (("fve", "How much is explained at which sparsity"),
          ("delta_loss", "What the reconstruction costs the model"))  # fmt: skip


def show(shell: Shell, rows: Sequence[SaeSummary]) -> None:
    st.subheader("All sparse autoencoders here")
    _scatters(shell, rows)
    _table(shell, rows)


def _scatters(shell: Shell, rows: Sequence[SaeSummary]) -> None:
    measured = [row for row in rows if row.l0]
    if not measured:
        not_yet("None of them is evaluated yet", "python run.py evaluate NAME")
        return
    for column, (measure, title) in zip(st.columns(2, gap="medium"), CHARTS, strict=True):
        drawn = [vars(row) for row in measured if getattr(row, measure) is not None]
        with column:
            st.caption(title)
            if not drawn:
                st.caption("Not measured for any of them.")
                continue
            event = st.plotly_chart(
                frontier.frontier(drawn, shell.sae or "", measure),
                key=f"overview.all.{measure}.{shell.sae}",
                config={"displayModeBar": False},
                on_select="rerun",
                selection_mode="points",
            )
            if event.selection.points:
                picked = event.selection.points[0]["customdata"]
                _open(shell, picked[0] if isinstance(picked, list) else picked)


def _table(shell: Shell, rows: Sequence[SaeSummary]) -> None:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    table = pd.DataFrame(
        {
            "name": [row.name for row in rows],
            "architecture": [_kind(row) for row in rows],
            "site": [row.site for row in rows],
            "d_sae": [row.d_sae for row in rows],
            "l0": [row.l0 for row in rows],
            "fve": [row.fve for row in rows],
            "delta_loss": [row.delta_loss for row in rows],
            "loss_recovered": [row.loss_recovered for row in rows],
            "dead": [row.dead for row in rows],
            "dense_1": [row.dense_1 for row in rows],
            "dense_10": [row.dense_10 for row in rows],
            "tokens": [row.tokens for row in rows],
            "harvested": [_state(row) for row in rows],
        }
    ).astype(dict.fromkeys(NUMBERS, "float64"))
    event = st.dataframe(
        table,
        key=f"overview.table.{shell.sae}",
        hide_index=True,
        height="content" if len(rows) <= 12 else 460,
        row_height=34,
        placeholder="–",
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "name": text("Name", width="medium"),
            "architecture": text("Architecture"),
            "site": text("Site", help="Where in the model the activations are read."),
            "d_sae": number("Features", format="localized"),
            "l0": number("L0", format="%.1f", help="Active features per token."),
            "fve": number("FVE", format="%.3f", help="Fraction of variance explained."),
            "delta_loss": number("Δ loss", format="%.3f", help="Rise of the model’s loss."),
            "loss_recovered": number("Recovered", format="percent",
                                     help="Share of zero ablation’s damage that is avoided."),
            "dead": number("Dead", format="percent", help="Never fire on held-out text."),
            "dense_1": number("> 1 %", format="percent",
                              help="Features that fire on more than 1 % of tokens."),
            "dense_10": number("> 10 %", format="percent",
                               help="Features that fire on more than 10 % of tokens."),
            "tokens": number("Trained on", format="compact", help="Training tokens."),
            "harvested": text("Harvested"),
        },
    )  # fmt: skip
    st.caption("Click a point or a row to open that SAE.")
    if event.selection.cells:
        row, _ = event.selection.cells[0]
        _open(shell, rows[row].name)


NUMBERS = ("d_sae", "l0", "fve", "delta_loss", "loss_recovered", "dead", "dense_1", "dense_10",
           "tokens")  # fmt: skip


def _open(shell: Shell, name: str) -> None:
    if name != shell.sae and name in shell.workspace.saes:
        shell.go("overview", {}, name)


def _kind(row: SaeSummary) -> str | None:
    return cards.ARCHITECTURES.get(str(row.architecture), row.architecture)


def _state(row: SaeSummary) -> str:
    if row.fault is not None:
        return "cannot be read"
    return "yes" if row.harvested else "no"
