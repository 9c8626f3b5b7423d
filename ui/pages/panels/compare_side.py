"""One side of a comparison: which SAE and feature it is, what is known of it, how it is chosen.

In:  a Shell, the view in the address. Out: a `Subject`; widgets that write the address.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import streamlit as st

from data.errors import StoreError
from data.features_store import FeatureStore
from data.records import Example, Explanation, FeatureFilter, FeatureStats, Score
from interp.compare import Made
from ui.cards import percent
from ui.keys import compare as keys
from ui.keys.compare import CompareView, Side
from ui.shell import Shell, origin, plain, set_address, short_name
from ui.strips import token_text

PAGE = "compare"
FOUND = 8  # features offered by a search


@dataclass(frozen=True)
class Subject:
    """One feature of the two."""

    shell: Shell  # of its SAE
    store: FeatureStore
    stats: FeatureStats
    explanation: Explanation | None
    score: Score | None

    @property
    def sae(self) -> str:
        return self.shell.sae

    @cached_property
    def examples(self) -> list[Example]:
        """Of all kinds on which it fires."""
        return [one for one in self.store.examples(self.stats.feature) if one.max > 0]

    @property
    def name(self) -> str:
        return f"{self.sae} · {self.stats.feature}"


def go(shell: Shell, view: CompareView, **changes) -> None:
    """Shows the page otherwise; for callbacks."""
    set_address(PAGE, shell.sae, keys.write_compare(dataclasses.replace(view, **changes)))


def subject(shell: Shell, side: Side) -> Subject:
    """StoreError if there is no such feature, or the SAE has no harvest."""
    own = shell.named(side.sae)
    shell.workspace.feature_store(side.sae)
    store = own.store()
    found = store.explanation(side.feature), store.score(side.feature)
    return Subject(own, store, store.feature(side.feature), *found)


def made(shell: Shell, sae: str) -> Made:
    """What the SAE was made from, as far as it is recorded."""
    config = shell.workspace.config(sae)
    about = origin(config)
    corpus = None
    own = shell.named(sae)
    if own.harvested:
        try:
            meta = own.store().meta
            corpus = tuple(meta.get(name) for name in ("text", "documents", "tokens", "context"))
        except StoreError:  # it is told where the store is read
            corpus = None
    return Made(
        sae, config["d_in"], config["d_sae"], about.get("site") or about.get("hook_name"),
        short_name(about.get("model_name") or about.get("lm")), about.get("lm_weights"), corpus,
    )  # fmt: skip


# ---------------------------------------------------------------- choosing


def choose_sae(shell: Shell, view: CompareView, letter: str) -> None:
    """The SAE of one side. letter: a | b."""
    side = getattr(view, letter)
    key = f"compare.{view.mode}.{letter}.sae"
    st.session_state[key] = side.sae

    def changed() -> None:
        go(shell, view, **{letter: Side(st.session_state[key]), "page": 1})

    st.selectbox(
        f"{letter.upper()}: sparse autoencoder", shell.workspace.saes, key=key, on_change=changed
    )


def choose_feature(shell: Shell, view: CompareView, letter: str) -> None:
    """SAE and feature of one side: by number, or by a word of its label or its token."""
    side = getattr(view, letter)
    left, middle, right = st.columns([1.5, 1.25, 0.9], vertical_alignment="bottom", gap="small")
    with left:
        choose_sae(shell, view, letter)
    key = f"compare.{letter}.number"
    st.session_state[key] = side.feature

    def changed() -> None:
        go(shell, view, **{letter: Side(side.sae, st.session_state[key])})

    middle.number_input(
        "Feature", min_value=0, value=None, step=1, key=key, on_change=changed, placeholder="number"
    )
    with right.popover("Find", icon=":material/search:", width="stretch"):
        _search(shell, view, letter, side)


def _search(shell: Shell, view: CompareView, letter: str, side: Side) -> None:
    own = shell.named(side.sae)
    if not own.harvested:
        st.caption(f"There is nothing to search: `python run.py harvest {plain(side.sae)}`")
        return
    text = st.text_input(
        "Label or token", key=f"compare.{letter}.search.{side.sae}", placeholder="label or token"
    ).strip()
    if not text:
        st.caption("Labels and peak tokens are searched.")
        return
    wanted = FeatureFilter(text=text, sort="density", descending=True, page_size=FOUND)
    rows, count = own.store().rows(wanted)
    for row in rows:
        token = "never fires" if row.peak_token is None else token_text(row.peak_token)
        about = row.label or f"{token}, {percent(row.density)} of tokens"
        st.button(
            plain(f"{row.feature}  ·  {about}"), key=f"compare.{letter}.found.{row.feature}",
            type="tertiary", on_click=go, args=(shell, view),
            kwargs={letter: Side(side.sae, row.feature)},
        )  # fmt: skip
    if count > len(rows):
        st.caption(f"{count - len(rows):,} more: write more of it.")
    elif not count:
        st.caption(plain(f"No label or peak token holds “{text}”."))
