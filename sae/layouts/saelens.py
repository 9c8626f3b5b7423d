"""The native layout: SAELens's folder of cfg.json and sae_weights.safetensors, new and old.

In: an SAE and what is known of its training. Out: two files with deterministic bytes that
SAELens 6.54 loads; and back, from this program or from any SAELens, as an SAE on raw activations.
Publishing the folder (temporary name, rename) is the caller's.

    W_enc [d_in, d_sae]  b_enc [d_sae]  W_dec [d_sae, d_out]  b_dec [d_out]  W_skip [d_out, d_in]
    jumprelu: threshold [d_sae]      gated: b_gate, b_mag, r_mag [d_sae] in place of b_enc
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.config import Refused, SAEConfig
from sae.layouts.build import (
    assemble,
    check_finite,
    matrix,
    subtract_b_dec,
    take_decoder_norms,
)
from sae.layouts.files import read_json, read_safetensors
from sae.layouts.sites import site_of
from sae.models import SAE, to_raw

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
VERSION = "6.54.12"  # of the layout; without one SAELens takes a file for older than 6.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Their name -> ours. A training checkpoint of the BatchTopK family holds one threshold for all.
KINDS = {
    "standard": "relu", "relu": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk",
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu", "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
    "topk_transcoder": "topk", "topk_skip_transcoder": "topk",
    "gated_transcoder": "gated", "gated_skip_transcoder": "gated",
}  # fmt: skip
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
# What a flat file of before 6.0 says of the language model.
OLD_METADATA = (
    "model_name", "hook_name", "hook_head_index", "context_size", "prepend_bos", "dataset_path",
    "seqpos_slice", "neuronpedia_id", "model_class_name", "model_from_pretrained_kwargs",
    "sae_lens_version", "sae_lens_training_version", "exclude_special_tokens",
)  # fmt: skip
NOT_A_FOLDER = "this is not the folder of a saved SAE"


# ---------------------------------------------------------------- writing


def save(sae: SAE, folder: Path | str, metadata: dict) -> None:
    """Writes both files into an existing folder. metadata: JSON, kept under "metadata".

    Refuses weights that are not finite or of a type SAELens has no name for.
    """
    folder = Path(folder)
    tensors = _on_disk(sae)
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise Refused(f"{name} holds values that are not finite: train again with a lower lr")
    try:
        text = json.dumps(
            _config(sae, metadata), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
        )
        config = f"{text}\n".encode()
    except (ValueError, RecursionError) as error:  # infinite numbers, half characters
        raise Refused(f"the metadata cannot be written as JSON: {error}") from None
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(config)


def _on_disk(sae: SAE) -> dict[str, Tensor]:
    renamed = {"b_enc": "b_gate"} if sae.architecture == "gated" else {}
    values = dict(sae.state_dict())
    if sae.W_skip is not None:
        values["W_skip"] = sae.W_skip.T
    return {
        renamed.get(name, name): value.detach().cpu().contiguous()
        for name, value in sorted(values.items())
    }


def _config(sae: SAE, metadata: dict) -> dict:
    dtype = next((name for name, dtype in DTYPES.items() if dtype == sae.W_enc.dtype), None)
    if dtype is None:
        raise Refused(f"weights in {sae.W_enc.dtype} cannot be saved: use {', '.join(DTYPES)}")
    name = {"relu": "standard"}.get(sae.architecture, sae.architecture)
    cfg = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": sae.config.token_norm,
        # As SAELens has it: at that hook its models give heads apart.
        "reshape_activations": (
            "hook_z" if str(metadata.get("hook_name", "")).endswith("hook_z") else "none"
        ),
        "metadata": {**metadata, "sae_lens_version": VERSION},
    }
    if sae.config.d_out is not None or sae.W_skip is not None:
        if sae.config.token_norm != "none":
            raise Refused("a transcoder with token_norm has no place in SAELens's layout")
        cfg["d_out"], cfg["reshape_activations"] = sae.d_out, "none"
        parts = ["" if name == "standard" else name, "skip" * (sae.W_skip is not None)]
        name = "_".join([part for part in parts if part] + ["transcoder"])
    if sae.architecture == "topk":
        cfg |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    return cfg | {"architecture": name}


# ---------------------------------------------------------------- reading


def load(folder: Path | str) -> tuple[SAE, dict]:
    """The SAE, on the CPU and working on raw activations, and its cfg.json.

    Folded: an encoder that subtracts b_dec, a TopK that chooses by decoder norms, an input scale
    that lies beside. In a file of before 6.0 what it says of the language model is moved under
    "metadata". Refuses a missing or damaged file, an unknown architecture, an input scale that is
    nowhere to be found, and tensors that are missing, of the wrong shape or not finite.
    """
    folder = Path(folder)
    where = folder / CONFIG
    cfg = _upgraded(where, read_json(where, NOT_A_FOLDER))
    tensors = _named(folder / WEIGHTS, cfg, read_safetensors(folder / WEIGHTS, NOT_A_FOLDER))
    _check_shape(folder / WEIGHTS, cfg, tensors)
    token_norm, scale = _normalisation(folder, cfg)
    name = cfg["architecture"]
    sae = assemble(
        folder / WEIGHTS,
        KINDS[name],
        tensors,
        k=cfg["k"] if KINDS[name] == "topk" else None,
        token_norm=token_norm,
        transcoder=name.endswith("transcoder"),
        dtype=DTYPES[cfg["dtype"]],
    )
    if cfg.get("rescale_acts_by_decoder_norm"):
        # The centre stands in the norms' frame: it has to be folded first.
        sae = take_decoder_norms(subtract_b_dec(sae) if cfg["apply_b_dec_to_input"] else sae)
    elif cfg["apply_b_dec_to_input"]:
        sae = subtract_b_dec(sae)
    if scale is not None:  # SAELens multiplies by its factor, x = s r
        sae = to_raw(sae.float(), 1 / scale, 0.0, pre_encoder_bias=False).requires_grad_(False)
    return check_finite(folder / WEIGHTS, sae), cfg


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE and what its cfg.json says of where it comes from."""
    path = path if path.is_dir() else path.parent
    sae, cfg = load(path)
    about = cfg["metadata"]
    workbench = about.get("workbench") if isinstance(about.get("workbench"), dict) else {}
    facts = {
        "format": "saelens",
        "model": about.get("model_name"),
        "site": workbench.get("site") or site_of(about.get("hook_name")),
        "site_out": workbench.get("site_out") or site_of(about.get("hook_name_out")),
        "l0": about.get("l0"),
        "metadata": about,
    }
    for key in ("hook_name", "hook_name_out", "context_size", "prepend_bos", "dataset_path"):
        facts[key] = about.get(key)
    return sae, facts


def _upgraded(where: Path, cfg: dict) -> dict:
    """cfg.json of any version with every field that `load` relies on, checked."""
    if not isinstance(cfg.get("metadata"), dict):
        cfg = {OLD_NAMES.get(key, key): value for key, value in cfg.items()}
        cfg["metadata"] = {key: cfg[key] for key in OLD_METADATA if cfg.get(key) is not None}
    name = cfg.setdefault("architecture", "standard")
    activation = cfg.get("activation_fn") or "relu"
    if activation == "topk":
        name = cfg["architecture"] = "topk"
        more = cfg.get("activation_fn_kwargs")
        cfg.setdefault("k", more.get("k") if isinstance(more, dict) else None)
    elif activation != "relu":
        raise Refused(f"{where}: activation {activation!r} is unknown; known are relu and topk")
    if not isinstance(name, str) or name not in KINDS:
        known = ", ".join(kind for kind in KINDS if kind != "relu")
        raise Refused(f"{where}: architecture {name!r} is unknown; known are {known}")
    transcoder = name.endswith("transcoder")
    # Absent, SAELens subtracts; a transcoder's b_dec has the width of its output.
    if not isinstance(cfg.setdefault("apply_b_dec_to_input", not transcoder), bool):
        raise Refused(f"{where}: apply_b_dec_to_input is neither true nor false: copy it again")
    if transcoder and cfg["apply_b_dec_to_input"]:
        raise Refused(f"{where}: a transcoder cannot apply b_dec to its input: set that to false")
    dtype = str(cfg.setdefault("dtype", "float32")).removeprefix("torch.")
    cfg["dtype"] = "float32" if dtype == "float64" else dtype
    if cfg["dtype"] not in DTYPES:
        raise Refused(f"{where}: dtype {cfg['dtype']!r} is unknown; known are {', '.join(DTYPES)}")
    if KINDS[name] == "topk" and not isinstance(cfg.get("k"), int):
        raise Refused(f"{where}: k is {cfg.get('k')!r}, but a topk SAE needs a whole number")
    k = cfg["k"] if KINDS[name] == "topk" else None
    try:
        SAEConfig(cfg.get("d_in"), cfg.get("d_sae"), KINDS[name], k, cfg.get("d_out"))
    except Refused as error:
        raise Refused(f"{where}: {error}") from None
    return cfg


def _named(path: Path, cfg: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names and ways up."""
    tensors = dict(tensors)
    if "log_threshold" in tensors:  # training checkpoints of before 6.48
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()
    if cfg["architecture"] in ("batchtopk", "matryoshka_batchtopk"):
        threshold = tensors.get("topk_threshold")
        if threshold is None or threshold.numel() != 1 or not threshold > 0:
            raise Refused(
                f"{path} holds no positive topk_threshold: save the SAE after more training"
            )
        wide = matrix(path, tensors, "W_enc").shape[1]
        tensors["threshold"] = threshold.float().reshape(1).expand(wide)
    if cfg["architecture"].startswith("gated"):
        if "b_gate" not in tensors:
            raise Refused(f"{path} has no b_gate, which gated needs; it has {sorted(tensors)}")
        tensors["b_enc"] = tensors.pop("b_gate")
    if "skip_" in cfg["architecture"]:
        tensors["W_skip"] = matrix(path, tensors, "W_skip").T
    scale = tensors.get("scaling_factor")
    if scale is not None and not bool((scale == 1).all()):
        # Of SAEs finetuned by SAELens before 6.0: features are multiplied on their way out.
        W_dec = matrix(path, tensors, "W_dec")
        if not cfg.get("finetuning_scaling_factor") or scale.shape != W_dec.shape[:1]:
            raise Refused(
                f"{path} has a scaling_factor that {CONFIG} does not announce: set "
                "finetuning_scaling_factor there, or leave the tensor out"
            )
        tensors["W_dec"] = W_dec.float() * scale.float()[:, None]
    return tensors


def _check_shape(path: Path, cfg: dict, tensors: dict[str, Tensor]) -> None:
    """Refuses weights that are not of the shape cfg.json states."""
    d_out = cfg.get("d_out") or cfg["d_in"]
    for key, wanted in (
        ("W_enc", (cfg["d_in"], cfg["d_sae"])),
        ("W_dec", (cfg["d_sae"], d_out)),
    ):
        seen = tuple(matrix(path, tensors, key).shape)
        if seen != wanted:
            raise Refused(
                f"{path}: {key} is {seen}, but d_in {cfg['d_in']} and d_sae {cfg['d_sae']} of "
                f"{CONFIG} need {wanted}"
            )


def _normalisation(folder: Path, cfg: dict) -> tuple[str, float | None]:
    """(token_norm, the factor that SAELens multiplied the input by, None for none)."""
    named = cfg.get("normalize_activations")
    if named in (None, False, "none"):
        return "none", None
    if cfg["architecture"].endswith("transcoder"):
        raise Refused(
            f"{folder / CONFIG}: a transcoder with normalize_activations {named!r} cannot give raw "
            "outputs: the scale of its output is not in the file"
        )
    if named in ("layer_norm", "constant_norm_rescale"):
        return named, None
    if named not in (True, "expected_average_only_in"):
        raise Refused(
            f"{folder / CONFIG}: normalize_activations is {named!r}, but SAEs here work on raw "
            "activations: fold the normalisation into the weights first"
        )
    path = folder / SCALER
    if not path.exists():
        raise Refused(
            f"{folder / CONFIG}: the input was scaled in training (expected_average_only_in) and "
            f"the factor is not in the file: put {SCALER} of its training run beside it, or save "
            "the SAE with the scale folded in (fold_activation_norm_scaling_factor)"
        )
    scale = read_json(path).get("scaling_factor")
    if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise Refused(f"{path}: scaling_factor is {scale!r}, not a positive number")
    return "none", float(scale)
