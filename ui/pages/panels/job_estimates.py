"""What a job will take, told by what earlier ones took in this workspace.

In:  a Shell, a command, the values of its form. Out: a sentence, or None where nothing is known.

A guess by proportion, and said to be one; the command itself measures and prints its own estimate
once it has begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from data.errors import WorkbenchError
from data.summaries import training_rows
from ui.pages.panels.job_actions import duration
from ui.shell import Shell


def estimate(shell: Shell, command: str, values: Mapping) -> str | None:
    """A sentence on the time, from recorded runs."""
    try:
        if command == "train":
            return _training(shell, values)
        if command == "harvest":
            return _harvest(shell, str(values["name"]), values.get("tokens"))
        if command == "effects":
            return _effects(shell, str(values["name"]))
    except WorkbenchError:  # what cannot be read tells nothing
        return None
    return None


def _training(shell: Shell, values: Mapping) -> str | None:
    """By the tokens a second of the SAE here whose size is nearest."""
    tokens, d_sae = values.get("tokens") or 0, values.get("d_sae") or 1
    seen = []
    for name in shell.workspace.saes:
        rates = [row.get("tokens_per_s") for row in training_rows(shell.workspace, name)[-20:]]
        rates = [rate for rate in rates if rate]
        if rates:
            size = shell.workspace.config(name)["d_sae"]
            seen.append((abs(size - d_sae), size, median(rates), name))
    if not seen:
        return None
    _, size, rate, name = min(seen)
    seconds = tokens / rate * max(d_sae / size, 1.0)
    return (
        f"About {duration(seconds)} of training, by the {rate:,.0f} tokens a second that {name} "
        f"reached with {size:,} features; a text or site that is new here takes its time to read "
        "first."
    )


def _harvest(shell: Shell, name: str, tokens: object) -> str | None:
    other = shell.named(name)
    if not other.harvested:
        return None
    meta = other.store().meta
    took, read = meta.get("wall_s"), meta.get("tokens")
    if not took or not read:
        return None
    expected = took * (float(tokens) / read if tokens else 1.0)
    return f"About {duration(expected)}: the last took {duration(took)} for {read:,} tokens."


def _effects(shell: Shell, name: str) -> str | None:
    other = shell.named(name)
    store = other.effects() if other.harvested else None
    took = None if store is None else store.meta.get("wall_s")
    if not took:
        return None
    return f"The last measurement of {name} took {duration(took)} for {store.causal.features:,} " \
           "features."  # fmt: skip
