"""What lies in a workspace, with sizes; and the one thing here that may be thrown away.

In:  a Workspace. Out: `Thing`s of an SAE, activation caches with who uses them, exports.

An activation cache can always be captured again, so one that no SAE uses may be deleted from the
page. Everything else is somebody's work and stays.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkbenchError, WorkspaceError
from data.summaries import read_json
from data.workspace import Workspace

CACHE = re.compile(r"[0-9a-f]{16}")
# What decides the activations an SAE was made from, but for how many there are.
SAME = ("lm", "site", "text", "text_field", "dtype", "rule")


@dataclass(frozen=True)
class Thing:
    """A file or folder."""

    name: str  # relative to the workspace
    what: str
    n_bytes: int
    changed: float  # seconds since 1970


@dataclass(frozen=True)
class Cache:
    """Activations of one site over one text."""

    hash: str
    n_bytes: int
    changed: float
    site: str | None  # None: its manifest cannot be read
    model: str | None
    text: str | None
    rows: int | None
    used_by: tuple[str, ...]  # SAEs made from these activations


def of_sae(workspace: Workspace, name: str) -> list[Thing]:
    """The files of one SAE, its auto-interp runs included."""
    folder = workspace.sae(name)
    known = {
        "cfg.json": "configuration",
        "sae_weights.safetensors": "weights",
        "train.jsonl": "training records",
        "metrics.json": "evaluation",
        "features.duckdb": "feature store",
    }
    paths = [(folder / file, what) for file, what in known.items()]
    for path in sorted((folder / "extra").glob("*.duckdb")):
        paths.append((path, path.name.split("-")[0]))
    paths += [(workspace.run(run), "auto-interp run") for run in workspace.runs(name)]
    return [_thing(workspace, path, what) for path, what in paths if path.exists()]


def caches(workspace: Workspace) -> list[Cache]:
    """Every activation cache, the largest first."""
    found = []
    for folder in (workspace.root / "activations").glob("*"):
        if CACHE.fullmatch(folder.name) and folder.is_dir():
            found.append(_cache(workspace, folder))
    return sorted(found, key=lambda cache: (-cache.n_bytes, cache.hash))


def delete_cache(workspace: Workspace, hash: str) -> int:
    """Deletes an activation cache that no SAE uses; how many bytes were freed.

    WorkspaceError for one that is used, and for anything that is no cache.
    """
    cache = next((cache for cache in caches(workspace) if cache.hash == hash), None)
    if cache is None:
        raise WorkspaceError(f"no activation cache {hash!r:.40}: it may have been deleted")
    if cache.used_by:
        raise WorkspaceError(
            f"activation cache {hash} belongs to {', '.join(cache.used_by)}: it stays"
        )
    folder = workspace.activations(hash)
    # Out of the way in one step; whatever a kill leaves of it, the next writer clears away.
    gone = folder.with_name(f".{hash}.part-{os.getpid()}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
    return cache.n_bytes


def exports(workspace: Workspace) -> list[Thing]:
    """What was exported from the app, the newest first."""
    folder = workspace.root / "exports"
    found = [path for path in folder.glob("*") if path.is_dir() and path.name[0] != "."]
    things = [_thing(workspace, path, "export") for path in found]
    return sorted(things, key=lambda thing: (-thing.changed, thing.name))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(size_of(Path(entry.path)) for entry in os.scandir(path))
    except OSError:
        return 0


def _thing(workspace: Workspace, path: Path, what: str) -> Thing:
    try:
        changed = path.stat().st_mtime
    except OSError:
        changed = 0.0
    return Thing(path.relative_to(workspace.root).as_posix(), what, size_of(path), changed)


def _cache(workspace: Workspace, folder: Path) -> Cache:
    try:
        manifest = read_json(folder / "manifest.json") or {}
    except WorkbenchError:
        manifest = {}
    spec = manifest.get("spec") or {}
    used_by = tuple(name for name in workspace.saes if _made_from(workspace, name, spec))
    text = spec.get("text")
    return Cache(
        hash=folder.name,
        n_bytes=size_of(folder),
        changed=folder.stat().st_mtime,
        site=spec.get("site"),
        model=_short(spec.get("lm")),
        text=_short(text),
        rows=manifest.get("n_rows"),
        used_by=used_by,
    )


def _made_from(workspace: Workspace, name: str, spec: dict) -> bool:
    """Whether that SAE's training, evaluation or harvest reads these activations. In doubt, yes."""
    if not spec:
        return False
    try:
        config = read_json(workspace.sae(name) / "cfg.json") or {}
    except WorkbenchError:
        return True
    made = (config.get("metadata") or {}).get("workbench") or {}
    return bool(made) and all(made.get(key) == spec.get(key) for key in SAME)


def _short(name: object) -> str | None:
    return None if name is None else str(name).rstrip("/").rsplit("/", 1)[-1]
