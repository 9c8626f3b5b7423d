"""Saved SAEs, ours and everybody else's: one door to `sae/layouts/`.

In: an SAE and what is known of its training, or a path. Out: files; an SAE on raw activations and
the facts its files and path state (model, site, l0, ...; None for what they do not). The native
layout is SAELens's (`save`, `load`); `read` tells the other layouts by their files and keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sae.config import Refused
from sae.layouts import dictionary_learning, gemma_scope, llamascopium, openai, saelens, sparsify
from sae.layouts.build import check_finite, relu_to_jumprelu, writes_elsewhere
from sae.layouts.files import read_torch
from sae.layouts.saelens import CONFIG, WEIGHTS, load, save
from sae.models import SAE, jumprelu_to_gated

__all__ = [
    "CONFIG", "READERS", "WEIGHTS", "WRITERS", "check_width", "detect", "find", "load", "read",
    "save", "write",
]  # fmt: skip

READERS: dict[str, Callable[[Path], tuple[SAE, dict]]] = {
    "saelens": saelens.read,
    "dictionary_learning": dictionary_learning.read,
    "sparsify": sparsify.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope.read_2,
    "llamascopium": llamascopium.read,
    "openai": openai.read,
}
# What every reader states, None where the files do not say.
FACTS = ("format", "model", "site", "site_out", "hook_name", "l0", "context_size")
# A folder that holds all of these files is of that format.
SIGNATURES = (
    ("saelens", saelens.CONFIG, saelens.WEIGHTS),
    ("sparsify", sparsify.CONFIG, sparsify.WEIGHTS),
    ("llamascopium", llamascopium.CONFIG, llamascopium.WEIGHTS),
    ("llamascopium", llamascopium.OLD_CONFIG, llamascopium.OLD_WEIGHTS),
    ("dictionary_learning", dictionary_learning.WEIGHTS),
    ("gemma_scope", gemma_scope.PARAMS),
    ("gemma_scope_2", gemma_scope.PARAMS_2),
)


def read(path: Path | str, format: str = "auto") -> tuple[SAE, dict]:
    """The SAE at `path`, a folder or a file, and the facts; facts["format"] names the one taken.

    `format` is a key of READERS, or auto. Refuses what is missing, unknown, ambiguous or damaged.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise Refused(f"no file or folder at {path}: give the path of a saved SAE")
    if format == "auto":
        format = detect(path)
    if format not in READERS:
        raise Refused(f"format {format!r} is unknown: use auto, {', '.join(READERS)}")
    try:
        sae, facts = READERS[format](path)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from None
    facts = {key: value for key, value in facts.items() if _expected(key, value)}
    return check_finite(path, sae), dict.fromkeys(FACTS) | facts


def _expected(key: str, value: object) -> bool:
    """Whether a fact is of the kind its readers rely on: files may say anything."""
    kinds = {"metadata": dict, "l0": (int, float), "context_size": int, "layer": int,
             "prepend_bos": bool}  # fmt: skip
    return value is None or isinstance(value, kinds.get(key, str))


def detect(path: Path) -> str:
    """The format of the SAE at `path`, by files and keys. Refuses none or several, saying what was
    seen."""
    if path.is_dir():
        formats = _signed(path)
        if not formats and len(only := sorted(path.glob("*.pt"))) == 1:
            return _of_pickle(only[0])
    else:
        signed = {f for f, *names in SIGNATURES if path.name in names} & set(_signed(path.parent))
        by_suffix = {".npz": ["gemma_scope"], ".safetensors": ["gemma_scope_2"]}
        formats = sorted(signed) or by_suffix.get(path.suffix, [])
        if not formats and path.suffix in (".pt", ".pth"):
            return _of_pickle(path)
    if len(formats) == 1:
        return formats[0]
    folder = path if path.is_dir() else path.parent
    seen = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    listed = ", ".join(seen[:12]) + (", ..." if len(seen) > 12 else "") or "nothing"
    if formats:
        raise Refused(
            f"{path} could be {' or '.join(formats)} (seen: {listed}): name one with --format"
        )
    raise Refused(f"{path} is no SAE of a known format; seen there: {listed}")


def _signed(folder: Path) -> list[str]:
    found = {f for f, *names in SIGNATURES if all((folder / name).is_file() for name in names)}
    return sorted(found)


def _of_pickle(path: Path) -> str:
    state = read_torch(path)
    if openai.KEYS <= set(state):
        return "openai"
    if {"encoder.weight", "W_enc"} & set(state):
        return "dictionary_learning"
    listed = ", ".join(sorted(map(str, state))[:12]) or "nothing"
    raise Refused(f"{path} is no SAE of a known format; its keys are {listed}")


def find(root: Path | str) -> list[Path]:
    """The folders of SAEs at or below `root`, sorted; [] for none. A file is its own answer."""
    root = Path(root).expanduser()
    if not root.is_dir() or _signed(root):
        return [root] if root.exists() else []
    found = []
    for folder, below, _ in os.walk(root):
        below.sort()
        if _signed(Path(folder)):
            found.append(Path(folder))
            below.clear()
    return found


# ---------------------------------------------------------------- writing


def _as_gated(sae: SAE, folder: Path, metadata: dict) -> None:
    """SAELens's layout, whatever the SAE was: a Gated SAE with the same features."""
    if sae.architecture != "gated":
        if sae.architecture == "topk" or writes_elsewhere(sae):
            kind = "TopK SAE" if sae.architecture == "topk" else "transcoder"
            raise Refused(
                f"no Gated SAE has the features of a {kind}: export with --format saelens"
            )
        sae = jumprelu_to_gated(relu_to_jumprelu(sae) if sae.architecture == "relu" else sae)
    save(sae, folder, metadata)


WRITERS: dict[str, Callable[[SAE, Path, dict], None]] = {
    "saelens": save,
    "gemma_scope": gemma_scope.write,
    "dictionary_learning": dictionary_learning.write,
    "gated": _as_gated,
}


def write(sae: SAE, folder: Path | str, format: str, metadata: dict) -> None:
    """Writes the files of that format, a key of WRITERS, into an existing folder.

    Refuses an SAE that the format cannot hold, naming one that can.
    """
    if format not in WRITERS:
        raise Refused(f"format {format!r} is unknown: use one of {', '.join(WRITERS)}")
    WRITERS[format](sae.cpu(), Path(folder), metadata)


def check_width(sae: SAE, width: int, site: str) -> None:
    """Refuses an SAE whose d_in is not the width of the activations at a model's site."""
    if sae.d_in != width:
        raise Refused(
            f"the SAE takes activations of width {sae.d_in}, but {site} is {width} wide: "
            "use the model and site it was trained on"
        )
