"""Feature: one feature of the SAE, from its statistics to the text it fires on.

In:  the feature store, the feature number and the options in the address. Out: the page.
"""

from __future__ import annotations

import dataclasses
import time

import streamlit as st

from data.errors import WorkbenchError
from data.features_store import FeatureStore
from data.records import FeatureFilter, FeatureStats
from ui import cards, strips
from ui.figures import activations
from ui.keys import feature as keys
from ui.keys import features as filters
from ui.keys.feature import FeatureView
from ui.shell import Shell, address, not_yet, plain, set_address, show_error

PAGE = "feature"
NEEDS_SAE = True
LOGITS_SHOWN = 10
KINDS = {
    "top": ("Top", "The strongest activations in the corpus, one a document."),
    "q99": (".99–1", "Drawn evenly from the strongest hundredth of its activations."),
    "q90": (".9–.99", "Drawn evenly from the strongest tenth, without the strongest hundredth."),
    "q50": (".5–.9", "Drawn evenly from the upper half, without the strongest tenth."),
    "q0": ("0–.5", "Drawn evenly from the weaker half of its activations."),
    "active": ("Active", "Tokens drawn evenly from all on which the feature is active: what it "
               "usually does, strong or weak."),
    "under": ("Just under", "Silent, with the pre-activation nearest to the threshold."),
    "token": ("Same token", "Silent on a token that the strongest examples fire on."),
    "random": ("Silent", "Tokens drawn evenly from all on which the feature is silent."),
}  # fmt: skip


def page(shell: Shell) -> None:
    if not shell.harvested:
        st.title("Feature")
        not_yet("No features harvested yet", f"python run.py harvest {shell.sae}")
        return
    store = shell.store()
    params = address(PAGE, shell.sae, (*keys.VIEW_KEYS, *filters.FILTER_KEYS))
    try:
        view, within = keys.read_view(params), filters.read_filter(params)
        if view.feature is None:
            view = dataclasses.replace(view, feature=store.random_feature(0))
            _go(shell, view, within)
        stats = store.feature(view.feature)
    except WorkbenchError as error:
        st.title("Feature")
        show_error(error)
        if st.button("Open the feature list"):
            shell.go("features", {})
        return
    _header(shell, store, view, within, stats)
    _label(shell, store, stats)
    _numbers(store, stats)
    _distributions(store, stats)
    _examples(shell, store, view, within, stats)
    _provenance(store, stats)


def _go(shell: Shell, view: FeatureView, within: FeatureFilter) -> None:
    set_address(PAGE, shell.sae, filters.write_filter(within) | keys.write_view(view))


def _header(
    shell: Shell,
    store: FeatureStore,
    view: FeatureView,
    within: FeatureFilter,
    stats: FeatureStats,
) -> None:
    """Number, flags, and the way to the next feature of the list one came from."""
    before, after = store.neighbours(within, stats.feature)
    left, right = st.columns([1, 1], vertical_alignment="center")
    left.title(f"Feature {stats.feature}")

    def show(feature: int | None) -> None:
        _go(shell, dataclasses.replace(view, feature=feature), within)

    with right.container(horizontal=True, horizontal_alignment="right"):
        st.button(
            "Previous", on_click=show, args=(before,), shortcut="Left", disabled=before is None
        )
        st.button("Next", on_click=show, args=(after,), shortcut="Right", disabled=after is None)
        if st.button("Random", help="Any feature that fires"):
            show(store.random_feature(time.time_ns()))
            st.rerun()
        if st.button("List", help="Back to the feature list"):
            shell.go("features", filters.write_filter(within))
    peak = [] if stats.peak_token is None else [stats.peak_token]
    found = cards.flags(stats, store.token_bytes(peak))
    if found:
        st.html(cards.flag_row(found))
    st.caption(plain(f"Previous and next within: {filters.in_words(within)}."))


def _label(shell: Shell, store: FeatureStore, stats: FeatureStats) -> None:
    explanation, score = store.explanation(stats.feature), store.score(stats.feature)
    with st.container(border=True):
        if explanation is None:
            command = f"python run.py explain {shell.sae} --judge lexical"
            st.caption(f"No label yet: `{command}`")
            return
        st.html(cards.label(explanation))
        if score is None:
            st.caption("not scored")
        else:
            st.caption(
                plain(cards.score_text(score)),
                help="How well the label predicts activations on documents it was not written "
                "from: Pearson correlation over tokens, with the 95 % interval over documents. "
                f"{score.n_tokens:,} tokens of {score.n_documents:,} documents.",
            )


def _numbers(store: FeatureStore, stats: FeatureStats) -> None:
    values = (
        ("Density", cards.percent(stats.density), "Share of tokens on which it is active."),
        ("Fires", f"{stats.fires:,}", "Tokens of the corpus on which it is active."),
        ("Mean", _three(stats.mean), "Mean of its non-zero activations."),
        ("Max", _three(stats.max), "Its largest activation; the colour scale ends there."),
        ("Threshold θ", _three(stats.theta) if stats.theta > 0 else "none",
         "Pre-activations at or below it are silenced."),
    )  # fmt: skip
    for column, (name, value, help) in zip(st.columns(len(values)), values, strict=True):
        column.metric(name, value, help=help)


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _distributions(store: FeatureStore, stats: FeatureStats) -> None:
    meta = store.meta
    columns = st.columns([1, 1, 1.15], gap="medium")
    quiet = {"displayModeBar": False}
    with columns[0]:
        st.markdown("##### Activations", help="All non-zero activations in the corpus.")
        if stats.fires:
            figure = activations.activation_histogram(
                meta["hist_edges"], _all_bins(stats, meta), stats.mean, stats.max
            )
            st.plotly_chart(figure, key="feature.hist", config=quiet)
        else:
            st.caption("It never fires on this corpus.")
    with columns[1]:
        st.markdown(
            "##### Around the threshold",
            help="Pre-activations of a sample of tokens. Left of the line (grey) they are "
            "silenced, right of it (orange) they pass unchanged. The outermost bars hold "
            "everything beyond.",
        )
        figure = activations.pre_histogram(meta["pre_edges"], stats.pre_counts, stats.theta)
        st.plotly_chart(figure, key="feature.pre", config=quiet)
    with columns[2]:
        st.markdown(
            "##### Effect on the next token",
            help="The feature’s decoder direction read through the unembedding: which logits it "
            "raises and lowers for each unit of activation.",
        )
        _logits(store, stats)


def _all_bins(stats: FeatureStats, meta: dict) -> list[int]:
    """hist_counts with the empty bins at both ends that the store leaves out."""
    before = [0] * stats.hist_first
    after = [0] * (len(meta["hist_edges"]) + 1 - stats.hist_first - len(stats.hist_counts))
    return [*before, *stats.hist_counts, *after]


def _logits(store: FeatureStore, stats: FeatureStats) -> None:
    effect = store.logits(stats.feature)
    if effect is None:
        st.caption("Not computed for this site.")
        return
    tokens = store.token_bytes([*effect.top_ids, *effect.bottom_ids])
    left, right = st.columns(2, gap="small")
    for column, title, ids, values, up in (
        (left, "raises", effect.top_ids, effect.top_logits, True),
        (right, "lowers", effect.bottom_ids, effect.bottom_logits, False),
    ):
        pairs = list(zip(ids, values, strict=True))[:LOGITS_SHOWN]
        rows = [(tokens[token][0], value) for token, value in pairs]
        column.html(cards.logit_table(title, rows, up))


def _examples(
    shell: Shell,
    store: FeatureStore,
    view: FeatureView,
    within: FeatureFilter,
    stats: FeatureStats,
) -> None:
    st.subheader("Examples")
    state = st.session_state
    state["feature.kind"] = view.kind
    state["feature.context"] = view.context
    state["feature.centre"], state["feature.breaks"] = view.centre, view.breaks

    def changed() -> None:
        options = {
            name: state[f"feature.{name}"] for name in ("kind", "context", "centre", "breaks")
        }
        _go(shell, dataclasses.replace(view, **options), within)

    more = {"on_change": changed, "label_visibility": "collapsed"}
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.segmented_control(
            "Kind", list(KINDS), key="feature.kind", required=True,
            format_func=lambda kind: KINDS[kind][0], **more,
        )  # fmt: skip
        st.segmented_control(
            "Context", list(keys.CONTEXTS), key="feature.context", required=True,
            format_func=lambda name: "whole" if name == "full" else f"{name} tokens", **more,
        )  # fmt: skip
        st.toggle("Centred", key="feature.centre", on_change=changed,
                  help="One line an example, the peak token in the middle.")  # fmt: skip
        st.toggle("Line breaks", key="feature.breaks", on_change=changed, disabled=view.centre)
    kind, part = keys.KINDS[view.kind]
    found = [e for e in store.examples(stats.feature, kind=kind) if e.part == part]
    if not found:
        st.caption("No example of this kind in this corpus.")
        return
    st.caption(f"{KINDS[view.kind][1]} {len(found)} shown.")
    st.html(strips.legend(stats.max))
    tokens = store.token_bytes({token for example in found for token in example.ids})
    lines = strips.lines(found, tokens, keys.CONTEXTS[view.context])
    st.html(strips.examples(lines, stats.max, centre=view.centre, breaks=view.breaks))


def _provenance(store: FeatureStore, stats: FeatureStats) -> None:
    meta = store.meta
    names = ("sae", "model", "site", "text", "context", "tokens", "documents", "masks", "seed",
             "weights_sha256", "content_hash", "versions", "schema")  # fmt: skip
    with st.expander("Provenance"):
        rows = [(name.replace("_", " "), _say(meta.get(name))) for name in names]
        st.html(cards.facts([("feature", str(stats.feature)), *rows]))


def _say(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
