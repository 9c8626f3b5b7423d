"""A text as one SAE reads it: what is active where, how strongly, and in what order it is listed.

In:  the code from the model worker, the feature store if there is one, effects if measured.
Out: a `Reading`, which the panels of the Prompt page draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data import prompt_store
from data.features_store import FeatureStore
from data.records import FeatureEffect, LiveCode
from ui.keys.prompt import DENSE, PromptView
from ui.percentiles import percentile
from ui.shell import Shell

Row = tuple[int, float]  # a feature and its largest activation on the tokens in question


@dataclass(frozen=True)
class Reading:
    """What the panels ask. Activations are measured by the corpus, or, before a harvest, by the
    largest of the feature in the text itself."""

    shell: Shell  # of this SAE
    store: FeatureStore | None
    code: LiveCode
    maximum: Mapping[int, float]  # feature -> activation that counts as 100 %
    density: Mapping[int, float]  # feature -> share of the corpus's tokens; empty before a harvest
    hidden: frozenset[int]  # dense features that are left out
    effects: Mapping[int, FeatureEffect]  # those measured on this text

    @property
    def sae(self) -> str:
        return self.shell.sae

    def share(self, feature: int, value: float) -> float:
        """Activation as a share of the feature's maximum; 1 if it never fired in the corpus."""
        return value / self.maximum.get(feature, value)

    def active(self, token: int) -> list[Row]:
        """Features of one token, without those hidden."""
        return [(f, v) for f, v in self.code.tokens[token].features if f not in self.hidden]

    def rows(self, tokens: Iterable[int] | None = None) -> list[Row]:
        """(feature, largest activation) on those tokens, on all if None; by share of maximum."""
        best: dict[int, float] = {}
        for at in range(len(self.code.tokens)) if tokens is None else tokens:
            for f, value in self.active(at):
                best[f] = max(best.get(f, 0.0), value)
        return sorted(best.items(), key=lambda row: (-self.share(*row), -row[1], row[0]))

    def ranked(self, rows: list[Row], rank: str) -> list[Row]:
        """`rows` in the order asked for, ties as they come; what is not measured stands last."""
        if rank == "activation":
            return sorted(rows, key=lambda row: -row[1])
        if rank == "percentile":
            found = self.percentiles(rows)
            return sorted(rows, key=lambda row: -found.get(row[0], -1.0))
        if rank == "effect":
            return sorted(rows, key=lambda row: -_kl(self.effects.get(row[0])))
        return rows

    def percentiles(self, rows: list[Row]) -> dict[int, float]:
        """Where each activation stands among all of its feature in the corpus, from 0 to 1."""
        if self.store is None:
            return {}
        edges = self.store.meta["hist_edges"]
        kept = prompt_store.histograms(self.store.root, self.store.path, [f for f, _ in rows])
        return {
            f: percentile(value, edges, kept[f].first, kept[f].counts, kept[f].maximum)
            for f, value in rows
            if f in kept
        }


def _kl(effect: FeatureEffect | None) -> float:
    return -1.0 if effect is None or effect.kl is None else effect.kl


def read(
    shell: Shell, code: LiveCode, view: PromptView, effects: Mapping[int, FeatureEffect]
) -> Reading:
    """shell: of the SAE that `code` is of. StoreError if its store cannot be read."""
    active = {f for token in code.tokens for f, _ in token.features}
    if shell.harvested:
        store = shell.store()
        scales = prompt_store.scales(store.root, store.path)
        known = [f for f in active if f < len(scales.maximum)]
        maximum = {f: float(scales.maximum[f]) for f in known if scales.maximum[f] > 0}
        density = {f: float(scales.density[f]) for f in known}
    else:
        store, maximum, density = None, {}, {}
        for token in code.tokens:
            for f, value in token.features:
                maximum[f] = max(maximum.get(f, 0.0), value)
    limit = DENSE[view.dense]
    hidden = set() if limit is None else {f for f, share in density.items() if share > limit}
    return Reading(shell, store, code, maximum, density, frozenset(hidden), effects)
