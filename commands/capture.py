"""Activations for the other commands: found in the workspace, or captured now.

In:  a workspace, a language model, a spec. Out: an `ActivationCache`.
"""

from __future__ import annotations

from pathlib import Path

from commands.progress import track
from data.activations import ActivationCache, ActivationSpec, build_cache
from data.lm import LanguageModel
from data.workspace import Workspace


def capture(workspace: Workspace, lm: LanguageModel, spec: ActivationSpec) -> ActivationCache:
    """The cache of `spec`; one pass of the model if it is not there yet."""
    name = spec.key(lm)
    folder = workspace.activations(name)
    if not folder.exists():
        with workspace.new_activations(name) as part:
            steps = build_cache(part, lm, spec)
            for _ in track(
                steps,
                "activations",
                lambda step: (step.tokens, step.total),
                lambda step: f"{step.tokens:,} tokens of {spec.site}",
            ):
                pass
    return ActivationCache(folder)


def spec_of(training: dict) -> ActivationSpec:
    """The spec an SAE's configuration records under metadata.workbench."""
    from data.tokens import ContextRule

    return ActivationSpec(
        lm=training["lm"],
        site=training["site"],
        text=training["text"],
        text_field=training["text_field"],
        tokens=training["corpus_tokens"],
        rule=ContextRule(**training["rule"]),
        dtype=training["dtype"],
    )


def anywhere(name: str) -> str:
    """A local path made absolute, so that it is found again from any folder; names as they are."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in ("", "demo") and path.exists() else name
