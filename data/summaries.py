"""What each SAE of a workspace is and how well it does, in a line; and the runs still in training.

In:  a Workspace. Out: `SaeSummary` of each finished SAE, `Unfinished` of each run that is not.

Only small JSON files are read, each once for as long as it stays the same, so that a page may ask
at every turn; the feature stores stay closed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from data.errors import WorkbenchError, WorkspaceError
from data.workspace import Workspace

UNFINISHED = re.compile(r"\.(?P<name>.+)\.unfinished")


@dataclass(frozen=True)
class SaeSummary:
    """One finished SAE. None: not known, or not measured."""

    name: str
    architecture: str | None = None
    model: str | None = None
    site: str | None = None
    text: str | None = None
    d_in: int | None = None
    d_sae: int | None = None
    tokens: float | None = None  # it was trained on
    wanted_l0: float | None = None
    evaluated: bool = False
    l0: float | None = None
    fve: float | None = None
    delta_loss: float | None = None
    loss_recovered: float | None = None
    dead: float | None = None  # share of features that never fire on the evaluation text
    dense_1: float | None = None  # share that fire on more than 1 % of tokens
    dense_10: float | None = None
    eval_tokens: int | None = None
    harvested: bool = False
    fault: str | None = None  # why it cannot be read


@dataclass(frozen=True)
class Unfinished:
    """A training run under way, or one that was stopped."""

    name: str
    rows: list[dict]  # of train.jsonl so far
    changed: float  # when it last said something, seconds since 1970
    can_resume: bool  # a checkpoint is there

    @property
    def tokens(self) -> int:
        return int(self.rows[-1].get("tokens", 0)) if self.rows else 0


def summaries(workspace: Workspace) -> list[SaeSummary]:
    """One line for each finished SAE, by name. One that cannot be read says so and stops nobody."""
    return [_summary(workspace, name) for name in workspace.saes]


def _summary(workspace: Workspace, name: str) -> SaeSummary:
    try:
        folder = workspace.sae(name)
        config, metrics = read_json(folder / "cfg.json"), read_json(folder / "metrics.json")
    except WorkbenchError as error:
        return SaeSummary(name, fault=str(error))
    about = _dict((config or {}).get("metadata"))
    own = _dict(about.get("workbench"))
    about, recipe, found = about | own, _dict(own.get("training")), metrics or {}
    dead, alive = found.get("dead"), found.get("alive")
    share = None if dead is None or alive is None else dead / max(1, dead + alive)
    summary = SaeSummary(
        name=name,
        architecture=(config or {}).get("architecture"),
        model=_short(about.get("model_name")),
        site=about.get("site") or about.get("hook_name"),
        text=_short(about.get("dataset_path")),
        d_in=(config or {}).get("d_in"),
        d_sae=(config or {}).get("d_sae"),
        tokens=recipe.get("tokens"),
        wanted_l0=recipe.get("l0"),
        evaluated=metrics is not None,
        l0=found.get("l0"),
        fve=found.get("fve"),
        delta_loss=found.get("delta_loss"),
        loss_recovered=found.get("loss_recovered"),
        dead=share,
        dense_1=found.get("high_freq_1"),
        dense_10=found.get("high_freq_10"),
        eval_tokens=found.get("n_tokens"),
        harvested=(folder / "features.duckdb").is_file(),
    )
    return _checked(summary)


def _checked(summary: SaeSummary) -> SaeSummary:
    """The same, or one that says which value is of no use: others may have written the files."""
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool}
    for field in fields(summary):
        value = getattr(summary, field.name)
        if value is not None and not isinstance(value, kinds[field.type.removesuffix(" | None")]):
            return SaeSummary(summary.name, fault=f"{field.name} is {value!r:.40}, no {field.type}")
    return summary


def unfinished(workspace: Workspace) -> list[Unfinished]:
    """Runs in training, and runs that were stopped, the latest to say something first."""
    found = []
    for folder in (workspace.root / "saes").glob(".*.unfinished"):
        match = UNFINISHED.fullmatch(folder.name)
        if match is not None and (run := unfinished_run(workspace, match["name"])) is not None:
            found.append(run)
    return sorted(found, key=lambda run: -run.changed)


def unfinished_run(workspace: Workspace, name: str) -> Unfinished | None:
    """The run of that name that is not finished; None if there is none that said anything yet."""
    folder = workspace.unfinished(name)
    log = folder / "train.jsonl"
    try:
        changed = log.stat().st_mtime
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last line may be half there
            continue
        if isinstance(row, dict):
            rows.append(row)
    resumes = any((folder / part).exists() for part in ("checkpoint", "checkpoint.old"))
    return Unfinished(name, rows, changed, resumes)


def training_rows(workspace: Workspace, name: str) -> list[dict]:
    """Workspace.training, read once while the file stays the same; not to be changed."""
    path = workspace.sae(name) / "train.jsonl"
    try:
        at = path.stat()
    except OSError:
        return []
    return _rows(workspace, name, at.st_ino, at.st_size, at.st_mtime_ns)


@lru_cache(maxsize=64)
def _rows(workspace: Workspace, name: str, *version: int) -> list[dict]:
    return workspace.training(name)


def read_json(path: Path) -> dict | None:
    """A small JSON file, read once while it stays the same; None without it."""
    try:
        at = path.stat()
    except OSError:
        return None
    return _parsed(path, at.st_ino, at.st_size, at.st_mtime_ns)


@lru_cache(maxsize=1024)
def _parsed(path: Path, *version: int) -> dict:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{path} is not JSON ({error}); make it again") from None
    if not isinstance(found, dict):
        raise WorkspaceError(f"{path} holds no JSON object; make it again")
    return found


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _short(name: object) -> str | None:
    """The last part of a path or hub name."""
    return None if name is None else str(name).rstrip("/").rsplit("/", 1)[-1]
