"""Saved SAEs: SAELens's inference layout, a folder with cfg.json and sae_weights.safetensors.

In: an SAE and what is known of its training. Out: two files with deterministic bytes; and back,
refusing whatever is damaged or does not fit, with the reason. Publishing the folder (temporary
name, rename) is the caller's.

    W_enc [d_in, d_sae]   b_enc [d_sae]   W_dec [d_sae, d_in]   b_dec [d_in]   threshold [d_sae]
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.config import Refused, SAEConfig
from sae.models import MODELS, SAE

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save(sae: SAE, folder: Path | str, metadata: dict) -> None:
    """Writes both files into an existing folder. metadata: JSON, kept under "metadata".

    Refuses weights that are not finite.
    """
    folder = Path(folder)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in sorted(sae.state_dict().items())
    }
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise Refused(f"{name} holds values that are not finite: train again with a lower lr")
    dtype = next(name for name, dtype in DTYPES.items() if dtype == sae.W_enc.dtype)
    cfg = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    text = json.dumps(cfg, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load(folder: Path | str) -> tuple[SAE, dict]:
    """The SAE, on the CPU and working on raw activations, and its cfg.json.

    An encoder that subtracts b_dec (apply_b_dec_to_input) is folded. Refuses a missing or damaged
    file, an unknown architecture, input normalisation, and tensors that are missing, of the wrong
    shape or not finite.
    """
    folder = Path(folder)
    cfg = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    name = cfg["architecture"]
    sae = MODELS[name](cfg["d_in"], cfg["d_sae"], DTYPES[cfg["dtype"]])
    tensors = _read_tensors(path)
    for key, wanted in sae.state_dict().items():
        if key not in tensors:
            raise Refused(f"{path} has no {key}, which {name} needs; it has {sorted(tensors)}")
        if tensors[key].shape != wanted.shape:
            raise Refused(
                f"{path}: {key} is {tuple(tensors[key].shape)}, but d_in {sae.d_in} and d_sae "
                f"{sae.d_sae} of {CONFIG} need {tuple(wanted.shape)}"
            )
        if not bool(torch.isfinite(tensors[key]).all()):
            raise Refused(f"{path}: {key} holds values that are not finite; the file is damaged")
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            parameter.copy_(tensors[key])
        if cfg.get("apply_b_dec_to_input"):
            sae.b_enc.sub_(sae.b_dec @ sae.W_enc)
    return sae.requires_grad_(False), cfg


def _read_config(path: Path) -> dict:
    """cfg.json, checked as far as `load` relies on it."""
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path} is missing: this is not the folder of a saved SAE") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Refused(f"{path} is damaged ({error}): copy it again") from None
    if not isinstance(cfg, dict):
        raise Refused(f"{path} holds a {type(cfg).__name__}, not an object: copy it again")
    name = cfg.get("architecture")
    if name not in MODELS:
        raise Refused(f"{path}: architecture {name!r} is unknown; known are {', '.join(MODELS)}")
    try:
        SAEConfig(cfg.get("d_in"), cfg.get("d_sae"), name)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    if cfg.setdefault("dtype", "float32") not in DTYPES:
        raise Refused(f"{path}: dtype {cfg['dtype']!r} is unknown; known are {', '.join(DTYPES)}")
    normalised = cfg.get("normalize_activations", "none")
    if normalised != "none":
        raise Refused(
            f"{path}: normalize_activations is {normalised!r}, but SAEs here work on raw "
            "activations: fold the normalisation into the weights first"
        )
    return cfg


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError:
        raise Refused(f"{path} is missing: this is not the folder of a saved SAE") from None
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path} is damaged or cut short ({error}): copy it again") from None


def check_width(sae: SAE, width: int, site: str) -> None:
    """Refuses an SAE whose d_in is not the width of the activations at a model's site."""
    if sae.d_in != width:
        raise Refused(
            f"the SAE takes activations of width {sae.d_in}, but {site} is {width} wide: "
            "use the model and site it was trained on"
        )
