"""What is installed, what this machine has, what is set up, and what is wrong with a workspace.

In:  a Workspace and the process's `Root`. Out: plain facts, and `Finding`s in words people use.

Nothing here asks the network, loads torch or shows a key; `python run.py doctor` and the page Data
and settings tell the same.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from data import effects_store, runs_store, schema
from data.errors import StoreBusy, StoreError, WorkbenchError
from data.schema import Root
from data.summaries import SaeSummary, summaries, training_rows, unfinished
from data.workspace import LEFT_OVER, Workspace

PACKAGES = (
    "torch", "transformers", "datasets", "huggingface_hub", "safetensors", "numpy", "pyarrow",
    "duckdb", "streamlit", "plotly",
)  # fmt: skip
OPTIONAL = ("umap-learn", "triton", "Authlib", "google-genai", "openai")
# Language-model services for auto-interp -> their package, and where their key may stand.
SERVICES = {
    "Gemini": ("google-genai", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "OpenAI, or a server that speaks its protocol": ("openai", ("OPENAI_API_KEY",)),
    "Hugging Face hub (gated models)": ("huggingface_hub", ("HF_TOKEN",)),
}
DEAD_SHARE, L0_OFF = 0.05, 0.05  # beyond these the overview warns
FREE_BYTES = 2e9  # with less than this on the disk, a harvest may not end


@dataclass(frozen=True)
class Finding:
    """Something a person should know, and what helps."""

    level: str  # problem | warning | note
    about: str  # an SAE's name, workspace, or installation
    text: str  # one sentence
    cure: str = ""  # one sentence, or ""
    step: str = ""  # the command of run.py that helps, where there is one
    kind: str = ""  # a word to tell findings apart


@dataclass(frozen=True)
class Service:
    """A service that needs a key. The key itself is never read out."""

    name: str
    installed: str | None  # version of its package
    key_set: bool
    variables: tuple[str, ...]


# ---------------------------------------------------------------- facts


def version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Python's and each package's version; None: not installed."""
    return {"python": platform.python_version()} | {p: version(p) for p in (*PACKAGES, *OPTIONAL)}


@lru_cache(maxsize=1)
def accelerators() -> tuple[str, ...]:
    """Names of the graphics cards that the driver tells of, asked once; () without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in told.stdout.splitlines() if line.strip())


def memory() -> tuple[int, int]:
    """(total, free without swapping) in bytes; both 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if " kB" in line}
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return 0, 0


def own_memory() -> int:
    """Resident bytes of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def services(environ: Mapping[str, str] | None = None) -> list[Service]:
    """Which services could be asked: package there, key set."""
    env = os.environ if environ is None else environ
    return [
        Service(name, version(package), any(env.get(key) for key in keys), keys)
        for name, (package, keys) in SERVICES.items()
    ]


def hub_is_off(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the hub is switched off by the environment."""
    env = os.environ if environ is None else environ
    off = {"1", "on", "yes", "true"}
    return any(
        env.get(key, "").lower() in off for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


# ---------------------------------------------------------------- findings


def findings(workspace: Workspace, root: Root) -> list[Finding]:
    """All that is worth telling, the worst first."""
    found = [*_of_installation(), *_of_workspace(workspace)]
    for summary in summaries(workspace):
        found += of_sae(workspace, root, summary)
    order = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def _of_installation() -> list[Finding]:
    missing = [name for name in PACKAGES if version(name) is None]
    if not missing:
        return []
    text = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed."
    return [Finding("problem", "installation", text, "Install requirements.txt.")]


def _of_workspace(workspace: Workspace) -> list[Finding]:
    found = []
    if not os.access(workspace.root, os.W_OK):
        text = "The workspace cannot be written to."
        found.append(Finding("problem", "workspace", text, "Give this account the right to."))
    free = shutil.disk_usage(workspace.root).free
    if free < FREE_BYTES:
        text = f"Only {free / 1e9:.1f} GB are free on the workspace’s disk."
        cure = "Delete activation caches that no SAE uses, or old exports."
        found.append(Finding("warning", "workspace", text, cure))
    if not workspace.saes:
        text = "There is no sparse autoencoder yet."
        found.append(Finding("note", "workspace", text, "Train one, or import one.", "train"))
    for run in unfinished(workspace):
        if run.can_resume and run.name not in workspace.saes:
            text = f"A training run of {run.name} is not finished: {run.tokens:,} tokens so far."
            cure = "If it no longer runs, go on with --resume."
            found.append(Finding("note", "workspace", text, cure, "train"))
    left = [
        path for room in ("saes", "activations", ".") for path in (workspace.root / room).glob(".*")
        if LEFT_OVER.match(path.name)
    ]  # fmt: skip
    if left:
        text = f"{len(left)} half-written results lie here: work under way, or of a killed process."
        found.append(Finding("note", "workspace", text, "The next command clears old ones away."))
    return found


def of_sae(workspace: Workspace, root: Root, summary: SaeSummary) -> list[Finding]:
    """What is missing, stale or odd about one SAE."""
    name = summary.name
    if summary.fault is not None:
        text = f"Its configuration cannot be read: {summary.fault}"
        return [Finding("problem", name, text, "Train or import it again.")]
    return [
        *_of_training(workspace, summary),
        *_of_metrics(summary),
        *_of_harvest(workspace, root, summary),
    ]


def _of_training(workspace: Workspace, summary: SaeSummary) -> list[Finding]:
    try:
        rows = training_rows(workspace, summary.name)
    except WorkbenchError as error:
        return [Finding("warning", summary.name, f"Its training records are damaged: {error}")]
    warning = rows[-1].get("warning") if rows else None
    if not warning:
        return []
    if "window" in warning:
        text = (
            "Its thresholds had stopped learning when training ended: almost no pre-activation fell"
            " into the window in which a threshold gets a gradient."
        )
        cure = "Train again with a larger bandwidth, or with the small_budget preset."
        return [Finding("warning", summary.name, text, cure, "train", "window")]
    return [Finding("warning", summary.name, f"Training ended with a warning: {warning}.")]


def _of_metrics(summary: SaeSummary) -> list[Finding]:
    name = summary.name
    if not summary.evaluated:
        text = "It was never evaluated, so nobody knows how good it is."
        return [Finding("note", name, text, "Measure it on held-out text.", "evaluate", "metrics")]
    found = []
    if summary.dead is not None and summary.dead > DEAD_SHARE:
        text = f"{summary.dead:.1%} of its features never fire on held-out text."
        cure = "Train longer, with fewer features, or with a smaller learning rate."
        found.append(Finding("warning", name, text.replace("%", " %"), cure, kind="dead"))
    l0, wanted = summary.l0, summary.wanted_l0
    if l0 is not None and wanted and abs(l0 / wanted - 1) > L0_OFF:
        off = f"{abs(l0 / wanted - 1):.0%}".replace("%", " %")
        side = "above" if l0 > wanted else "below"
        text = f"Its L0 is {l0:.1f} on held-out text, {off} {side} the {wanted:g} it was to have."
        cure = "Compare it with others at its real L0."
        found.append(Finding("warning", name, text, cure, kind="l0"))
    return found


def _of_harvest(workspace: Workspace, root: Root, summary: SaeSummary) -> list[Finding]:
    name, path = summary.name, workspace.sae(summary.name) / "features.duckdb"
    if not summary.harvested:
        text = "Its features were never harvested, so there is nothing to browse."
        return [Finding("note", name, text, "Fill its feature store.", "harvest", "harvest")]
    try:
        with root.reading(path) as (cursor, store):
            meta = root.remember(store, "meta", lambda: schema.read_meta(cursor, store))
    except StoreBusy:
        text = "Its feature store is held by another program."
        return [Finding("problem", name, text, "Wait until that ends, or end it.", kind="busy")]
    except StoreError as error:
        stale = "made from other weights" in str(error)
        text = (
            "Its features were harvested from older weights than it has now."
            if stale
            else f"Its feature store cannot be read: {str(error).replace(str(path), path.name)}."
        )
        kind = "stale" if stale else "damaged"
        return [Finding("problem", name, text, "Harvest it again.", "harvest", kind)]
    return _of_extras(workspace, root, name, meta)


def _of_extras(workspace: Workspace, root: Root, name: str, meta: dict) -> list[Finding]:
    found = []
    effects = workspace.extra(name, "effects")
    if effects and effects_store.newest_of(root, effects, meta.get("content_hash")) is None:
        text = "Its effects were measured on an older harvest and are not shown."
        found.append(Finding("warning", name, text, "Measure them again.", "effects", "effects"))
    near = workspace.extra(name, "neighbours")
    if near and all(_unreadable(root, path) for path in near):
        text = "Its neighbours belong to older weights and are not shown."
        found.append(Finding("warning", name, text, "Find them again.", "neighbours"))
    results = workspace.results(name)
    if results is not None:
        try:
            told = runs_store.summary(root, results).meta.get("store_content")
        except StoreError:
            text = "Its newest auto-interp run cannot be read."
            return [*found, Finding("problem", name, text, "Explain it again.", "explain")]
        if told is not None and told != meta.get("content_hash"):
            text = "Its labels and scores are of an older harvest."
            found.append(Finding("warning", name, text, "Explain it again.", "explain", "labels"))
    return found


def _unreadable(root: Root, path: Path) -> bool:
    """Whether a store is damaged, or of other weights than the SAE has."""
    try:
        with root.reading(path):
            return False
    except StoreError:
        return True
