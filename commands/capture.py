"""Activations for the other commands: found in the workspace, or captured now.

In:  a workspace, a language model, specs. Out: an `ActivationCache` of each spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from commands.progress import track
from data.activations import ActivationCache, ActivationSpec, build_caches
from data.errors import WorkbenchError
from data.lm import LanguageModel
from data.workspace import Workspace


def capture(workspace: Workspace, lm: LanguageModel, spec: ActivationSpec) -> ActivationCache:
    """The cache of `spec`; one pass of the model if it is not there yet."""
    (cache,) = capture_all(workspace, lm, [spec])
    return cache


def capture_all(
    workspace: Workspace, lm: LanguageModel, specs: Sequence[ActivationSpec]
) -> list[ActivationCache]:
    """The caches of `specs`, in their order; one pass of the model for all that are missing.

    WorkbenchError for specs that differ in anything but the site. An error, or a kill, during the
    pass publishes none of the missing; each appears in the workspace whole or not at all.
    """
    _refuse_mixed(specs)
    folders = {spec.site: workspace.activations(spec.key(lm)) for spec in specs}
    # Opened before the pass, so that a damaged one is told of at once.
    caches = {site: ActivationCache(path) for site, path in folders.items() if path.exists()}
    missing = {site: path for site, path in folders.items() if site not in caches}
    if missing:
        _run_model(workspace, lm, specs[0], missing)
        caches |= {site: ActivationCache(path) for site, path in missing.items()}
    return [caches[spec.site] for spec in specs]


def _run_model(
    workspace: Workspace, lm: LanguageModel, spec: ActivationSpec, folders: dict[str, Path]
) -> None:
    """One pass of the model; each site's folder is published once all of them are whole."""
    sites = ", ".join(folders)
    with ExitStack() as unpublished:
        parts = {
            site: unpublished.enter_context(workspace.new_activations(folder.name))
            for site, folder in folders.items()
        }
        for _ in track(
            build_caches(parts, lm, spec),
            "activations",
            lambda step: (step.tokens, step.total),
            lambda step: f"{step.tokens:,} tokens of {sites}",
        ):
            pass


def _refuse_mixed(specs: Sequence[ActivationSpec]) -> None:
    """WorkbenchError unless the specs differ in the site alone."""
    for name in (field.name for field in fields(ActivationSpec) if field.name != "site"):
        for spec in specs[1:]:
            one, other = getattr(specs[0], name), getattr(spec, name)
            if one != other:
                raise WorkbenchError(
                    f"one pass of the model cannot serve {name} {one!r} and {other!r}: "
                    "let the specs differ in the site alone, or capture them apart"
                )


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
