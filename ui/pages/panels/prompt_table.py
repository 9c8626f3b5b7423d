"""Features of a text or a token as a table: ranked, with labels; a click colours or opens.

In:  a Reading, the tokens in question, the view in the address.
Out: the table. A click on a feature's number opens its page, elsewhere in its row colours the text.
"""

from __future__ import annotations

import dataclasses

import pandas as pd
import streamlit as st

from ui import cards
from ui.keys.prompt import PromptView
from ui.pages.panels.prompt_input import go
from ui.pages.panels.prompt_reading import Reading, Row
from ui.shell import Shell

SHOWN = 30  # features listed at first
ORDER = {"share": "share", "activation": "activation", "percentile": "percentile", "effect": "kl"}
UNHEARD = {"silent": "silent", "not_scored": "no token after it is scored"}


def show(shell: Shell, view: PromptView, reading: Reading, ranked: list[Row], narrow: bool) -> None:
    """shell: of the chosen SAE, whose address is written. narrow: one of several columns."""
    if not ranked:
        st.caption("No feature is active here.")
        return
    rows = ranked
    more = f"prompt.more.{reading.sae}"
    ranked = ranked if st.session_state.get(more) else ranked[:SHOWN]
    place = "text" if view.token is None else str(view.token)
    key = f"prompt.table.{reading.sae}.{place}.{view.rank}.{view.dense}.{len(ranked)}"
    frame = _frame(reading, ranked)
    event = st.dataframe(
        frame, key=key, hide_index=True, placeholder="–",
        height="content", row_height=32, on_select="rerun", selection_mode="single-cell",
        column_order=_columns(reading, view, narrow, frame), column_config=_config(),
    )  # fmt: skip
    if len(rows) > len(ranked):
        st.button(
            f"All {len(rows):,} features", key=f"{more}.button", type="tertiary",
            on_click=st.session_state.__setitem__, args=(more, True),
        )  # fmt: skip
    _clicked(shell, view, reading, ranked, key, event.selection.cells)


def _frame(reading: Reading, rows: list[Row]) -> pd.DataFrame:
    features = [f for f, _ in rows]
    about = reading.store.rows_of(features) if reading.store else []
    labels = {row.feature: row.label for row in about}
    percentiles = reading.percentiles(rows)
    effects = [reading.effects.get(f) for f in features]
    return pd.DataFrame(
        {
            "feature": features,
            "label": [labels.get(f) for f in features],
            "activation": [value for _, value in rows],
            "share": [min(100.0, 100 * reading.share(*row)) for row in rows],
            "percentile": [100 * percentiles[f] if f in percentiles else None for f in features],
            "density": [cards.percent(reading.density.get(f)) for f in features],
            "kl": [e and e.kl for e in effects],
            "loss": [e and e.delta_loss for e in effects],
            "random": [e and e.random_kl for e in effects],
            "note": [e and UNHEARD.get(e.status) for e in effects],
        }
    )


def _columns(reading: Reading, view: PromptView, narrow: bool, frame: pd.DataFrame) -> list[str]:
    ranked = ORDER[view.rank]
    shown = ["feature", ranked]
    if view.rank == "effect":
        shown += ["loss"] if narrow else ["loss", "random", "share"]
    elif not narrow:
        shown += [c for c in ("share", "activation", "percentile") if c != ranked]
    if not narrow and view.rank != "effect":
        shown.append("density")
    if reading.store is None:
        shown = [c for c in shown if c not in ("percentile", "density")]
    if view.rank == "effect" and frame["note"].notna().any():
        shown.append("note")
    return [*shown, "label"] if frame["label"].notna().any() else shown


def _config() -> dict:
    number, bar = st.column_config.NumberColumn, st.column_config.ProgressColumn
    return {
        "feature": number(format="%d", help="A click on the number opens the feature’s page."),
        "label": st.column_config.TextColumn(width="medium", help="What the feature stands for."),
        "activation": number(format="%.3g", help="Its largest activation here."),
        "share": bar("of max", format="%.0f %%", max_value=100, width="small",
                     help="Activation as a share of the feature’s largest in the corpus."),
        "percentile": bar("percentile", format="%.1f", max_value=100, width="small",
                          help="Share of the feature’s activations in the corpus that are not "
                          "above this one."),
        "density": st.column_config.TextColumn(
            width="small", help="Share of the corpus’s tokens on which it is active."
        ),
        "kl": number("KL", format="%.3g", width=72,
                     help="How much the model’s predictions change over this text when the "
                     "feature is taken away: nats per token."),
        "loss": number("Δ loss", format="%+.3g", width=80,
                       help="How much worse (+) or better (−) the model predicts this text "
                       "without the feature: nats per token."),
        "random": number("KL random", format="%.3g", help="The same for a random direction of the "
                         "same size in the feature’s place: an effect worth the name is larger."),
        "note": st.column_config.TextColumn("effect", width="small"),
    }  # fmt: skip


def _clicked(
    shell: Shell, view: PromptView, reading: Reading, rows: list[Row], key: str, cells: list
) -> None:
    """Acts on a click once: the table keeps its selection through later runs."""
    handled = f"{key}.handled"
    now = tuple(cells[0]) if cells else None
    before = st.session_state.get(handled)
    st.session_state[handled] = now
    if now is None or now == before or now[0] >= len(rows):
        return
    feature = rows[now[0]][0]
    if now[1] == "feature":
        shell.go("feature", {"f": str(feature)}, reading.sae)
    of = "" if reading.sae == shell.sae else reading.sae
    go(shell, dataclasses.replace(view, feature=feature, of=of))
    st.rerun()
