"""Overview: what the chosen SAE is, how well it does, how it got there.

In:  cfg.json, metrics.json, train.jsonl and the feature store of the chosen SAE; the metrics of the
     others. Out: the page. A part that was not made yet names the command that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from ui import cards
from ui.figures import densities, frontier, training
from ui.shell import Shell, address, not_yet, origin, plain, short_name

PAGE = "overview"
NEEDS_SAE = True
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
CURVES = (
    ("Loss", {"loss": "loss"}, "training loss", True),
    ("Explained variance", {"fve": "FVE"}, "FVE", False),
    ("Active features per token", {"l0": "L0"}, "L0", False),
    ("Dead features", {"dead": "dead"}, "features", False),
    ("Threshold and bandwidth", {"theta_mean": "mean θ", "bandwidth": "bandwidth"}, "value", True),
    ("Sparsity coefficient", {"lambda": "λ"}, "λ", False),
)


def page(shell: Shell) -> None:
    address(PAGE, shell.sae, ())
    config = shell.workspace.config(shell.sae)
    st.title(plain(shell.sae))
    st.caption(_subtitle(config))
    _headline(shell.sae, shell.workspace.metrics(shell.sae))
    _features(shell)
    _training(shell, config)
    _others(shell)
    _provenance(shell, config)


def _subtitle(config: Mapping) -> str:
    about = origin(config)
    kind = cards.ARCHITECTURES.get(config["architecture"], config["architecture"])
    parts = [f"{kind} sparse autoencoder with {config['d_sae']:,} features"]
    if site := about.get("site") or about.get("hook_name"):
        parts.append(f"on `{site}`")
    if model := short_name(about.get("model_name")):
        parts.append(f"of `{model}`")
    if text := about.get("dataset_path"):
        parts.append(f"trained on `{short_name(text)}`")
    return " ".join(parts).replace(" trained on", ", trained on") + "."


def _headline(name: str, metrics: Mapping | None) -> None:
    if metrics is None:
        not_yet("Not evaluated yet", f"python run.py evaluate {name}")
        return
    dead, alive = metrics.get("dead"), metrics.get("alive")
    share = None if dead is None or alive is None else dead / max(1, dead + alive)
    values = {
        "L0": _show(metrics.get("l0"), "{:.1f}"),
        "FVE": _show(metrics.get("fve"), "{:.3f}"),
        "Δ loss": _show(metrics.get("delta_loss"), "{:+.3f}"),
        "Loss recovered": _show(metrics.get("loss_recovered"), "{:.1%}").replace("%", " %"),
        "Dead": cards.percent(share),
        "Tokens": _show(metrics.get("n_tokens"), "{:,}"),
    }
    for column, (label, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(label, value, help=DEFINITIONS[label], border=True)


def _show(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)


def _chart(figure, key: str, **more):
    return st.plotly_chart(figure, key=key, config={"displayModeBar": False}, **more)


def _features(shell: Shell) -> None:
    st.subheader("Features")
    if not shell.harvested:
        not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
        return
    store = shell.store()
    summary, (feature, density, maximum) = store.summary(), store.densities()
    dead = int((density == 0).sum())
    st.caption(
        f"{len(density) - dead:,} alive, {dead:,} dead; {summary['dense_1']:,} fire on more than "
        f"1 % of tokens, {summary['dense_10']:,} on more than 10 %."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        st.caption("How often features fire")
        _chart(densities.density_histogram(density), "overview.density")
    with right:
        st.caption("How often and how strongly: click a point to open its feature")
        figure = densities.density_max(feature, density, maximum)
        event = _chart(figure, "overview.scatter", on_select="rerun", selection_mode="points")
        if event.selection.points:
            shell.go("feature", {"f": str(event.selection.points[0]["customdata"])})


def _training(shell: Shell, config: Mapping) -> None:
    st.subheader("Training")
    rows = shell.workspace.training(shell.sae)
    wanted = (origin(config).get("training") or {}).get("l0")
    drawn = []
    for title, series, y, log_y in CURVES:
        target = wanted if title == CURVES[2][0] else None
        figure = training.curves(rows, series, y, target=target, log_y=log_y)
        if figure is not None:
            drawn.append((title, figure))
    if not drawn:
        st.caption("No training curves: this SAE came without a train.jsonl.")
        return
    for start in range(0, len(drawn), 3):
        columns = st.columns(3, gap="medium")
        for column, (title, figure) in zip(columns, drawn[start : start + 3], strict=False):
            with column:
                st.caption(title)
                _chart(figure, f"overview.{title}")


def _others(shell: Shell) -> None:
    names = shell.workspace.saes
    if len(names) < 2:
        return
    st.subheader("All sparse autoencoders here")
    rows = []
    for name in names:
        found = shell.workspace.metrics(name) or {}
        keys = ("l0", "fve", "delta_loss", "loss_recovered")
        d_sae = shell.workspace.config(name)["d_sae"]
        rows.append({"name": name, "features": d_sae} | {key: found.get(key) for key in keys})
    left, right = st.columns([1, 1.15], gap="medium")
    complete = [row for row in rows if row["l0"] is not None and row["fve"] is not None]
    with left:
        if complete:
            _chart(frontier.frontier(complete, shell.sae), "overview.frontier")
        else:
            not_yet("None of them is evaluated yet", "python run.py evaluate NAME")
    with right:
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            placeholder="–",
            column_config={
                "name": st.column_config.TextColumn("name", width="medium"),
                "l0": st.column_config.NumberColumn("L0", format="%.1f"),
                "fve": st.column_config.NumberColumn("FVE", format="%.3f"),
                "delta_loss": st.column_config.NumberColumn("Δ loss", format="%.3f"),
                "loss_recovered": st.column_config.NumberColumn("recovered", format="percent"),
            },
        )


def _provenance(shell: Shell, config: Mapping) -> None:
    with st.expander("Provenance"):
        left, right = st.columns(2, gap="medium")
        left.caption("Configuration (cfg.json)")
        left.json(dict(config), expanded=1)
        right.caption("Feature store (meta)")
        if shell.harvested:
            meta = shell.store().meta
            long = ("hist_edges", "pre_edges", "l0_counts")
            right.json({k: v for k, v in meta.items() if k not in long}, expanded=1)
        else:
            right.caption("not harvested yet")
