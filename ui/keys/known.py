"""Every key that an address of this app may hold: one that is misspelt is told, not passed over."""

from __future__ import annotations

from ui.keys import autointerp, compare, feature, features, jobs, lists, prompt, settings

KEYS = frozenset(
    {
        "sae", "study", "item",
        *autointerp.KEYS, *compare.COMPARE_KEYS, *feature.VIEW_KEYS, *features.FILTER_KEYS,
        *jobs.KEYS, *lists.VIEW_KEYS, *prompt.PROMPT_KEYS, *settings.KEYS,
    }
)  # fmt: skip
