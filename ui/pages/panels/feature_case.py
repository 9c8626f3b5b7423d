"""What every panel of the Feature page is given. Out: `Case`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import streamlit as st

from data.features_store import FeatureStore
from data.records import FeatureFilter, FeatureStats, LiveCode, Mark
from ui.keys import feature as keys
from ui.keys import features as filters
from ui.keys.feature import FeatureView
from ui.percentiles import percentile
from ui.shell import Shell, set_address

PAGE = "feature"


@dataclass(frozen=True)
class Case:
    """One feature, how the address wants it shown, and what there is to show."""

    shell: Shell
    store: FeatureStore
    view: FeatureView
    within: FeatureFilter  # the list one came from
    stats: FeatureStats

    @property
    def feature(self) -> int:
        return self.stats.feature

    @cached_property
    def meta(self) -> dict[str, Any]:
        return self.store.meta

    @cached_property
    def mark(self) -> Mark:
        """What people wrote about it."""
        return self.shell.lab.mark(self.shell.sae, self.feature)

    def go(self, **changes: Any) -> None:
        """Shows the page otherwise; for callbacks."""
        go(self.shell, dataclasses.replace(self.view, **changes), self.within)

    def link(self, feature: int, sae: str | None = None) -> str:
        """The address of another feature's page, in the same list if it is of the same SAE."""
        same = sae in (None, self.shell.sae)
        params = filters.write_filter(self.within) if same else {}
        view = dataclasses.replace(self.view, feature=feature, example=None, text="", other="")
        return self.shell.link(PAGE, params | keys.write_view(view), sae)

    def rank(self, value: float) -> float | None:
        """The share of its fires in the corpus that are no stronger."""
        s = self.stats
        if s.max is None:
            return None
        return percentile(value, self.meta["hist_edges"], s.hist_first, s.hist_counts, s.max)

    def tested(self) -> float | None:
        """Its largest activation in the text under test; None before one is tested."""
        code = tested_code(self.shell.sae, self.view.text)
        if code is None:
            return None
        return max(activations(code, self.feature), default=0.0)


def go(shell: Shell, view: FeatureView, within: FeatureFilter) -> None:
    set_address(PAGE, shell.sae, filters.write_filter(within) | keys.write_view(view))


def tested_code(sae: str | None, text: str) -> LiveCode | None:
    """The features of this very text, if the session has asked for them."""
    found = st.session_state.get("feature.code")
    return found[2] if found is not None and text and found[:2] == (sae, text) else None


def activations(code: LiveCode, feature: int) -> list[float]:
    """The feature's activation on each token of a live text, 0 where silent or left out."""
    return [next((v for f, v in token.features if f == feature), 0.0) for token in code.tokens]
