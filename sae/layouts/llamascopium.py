"""Llamascopium (OpenMOSS): config.json and sae_weights.safetensors; and the Llama Scope release.

In: such a folder, of SAEs and transcoders. Out: an SAE on raw activations. Their SAEs work on
activations scaled to a mean norm of sqrt(d_model), and choose features by pre * ||d||; both are
folded. Features of a TopK SAE come out measured with decoder rows of norm 1, because its choice is.

    W_E [d, d_sae]  b_E  W_D [d_sae, d]  b_D  activation_function.log_jumprelu_threshold [d_sae]
    dataset_average_activation_norm.HOOK []
    before 2.0: encoder.weight [d_sae, d]  encoder.bias  decoder.weight [d, d_sae]  decoder.bias
    Llama Scope: these in checkpoints/final.safetensors, beside hyperparams.json with one threshold
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sae.config import Refused
from sae.layouts.build import assemble, decoder_norms, matrix, rescale, take_decoder_norms
from sae.layouts.files import read_json, read_safetensors
from sae.layouts.sites import site_of
from sae.models import SAE, JumpReLUSAE

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
OLD_CONFIG, OLD_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
LOG_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
NORM = "dataset_average_activation_norm"


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE or transcoder and the hook points its config names."""
    folder = path if path.is_dir() else path.parent
    old = (folder / OLD_CONFIG).exists() and not (folder / CONFIG).exists()
    where = folder / (OLD_CONFIG if old else CONFIG)
    cfg = read_json(where)
    weights = folder / (OLD_WEIGHTS if old else WEIGHTS)
    tensors = read_safetensors(weights)
    _check_kind(where, cfg)
    hooks = [cfg.get("hook_point_in"), cfg.get("hook_point_out", cfg.get("hook_point_in"))]
    if not all(isinstance(hook, str) for hook in hooks):
        raise Refused(f"{where} does not name the hook points it reads and writes: {hooks}")
    transcoder = hooks[0] != hooks[1]
    named = _named(weights, cfg, tensors)
    scales, token_norm = _scales(where, cfg, tensors, hooks)
    act = cfg.get("act_fn", "relu")
    sae = assemble(
        weights,
        act,
        named,
        k=cfg.get("top_k") if act == "topk" else None,
        token_norm=token_norm,
        transcoder=transcoder,
    )
    if cfg.get("sparsity_include_decoder_norm", True):  # their default
        sae = _norm_aware(sae)
    if scales is not None:
        sae = rescale(sae, *scales)
    return sae, {
        "format": "llamascopium",
        "model": cfg.get("model_name"),
        "site": site_of(hooks[0]),
        "site_out": site_of(hooks[1]) if transcoder else None,
        "hook_name": hooks[0],
        "hook_name_out": hooks[1] if transcoder else None,
        "l0": None,
    }


def _check_kind(where: Path, cfg: dict) -> None:
    kind, act = cfg.get("sae_type", "sae"), cfg.get("act_fn", "relu")
    if kind != "sae":
        raise Refused(f"{where}: sae_type {kind!r} is unknown; this program takes sae")
    if cfg.get("use_glu_encoder"):
        raise Refused(f"{where}: an encoder with a gated linear unit has no place in this program")
    if cfg.get("apply_decoder_bias_to_pre_encoder"):
        raise Refused(f"{where}: a decoder bias before the encoder is not known to this reader")
    if act not in ("relu", "jumprelu", "topk"):
        raise Refused(
            f"{where}: act_fn {act!r} depends on the batch; convert it to jumprelu with its library"
        )


def _scales(
    where: Path, cfg: dict, tensors: dict[str, Tensor], hooks: list
) -> tuple[tuple[float, float] | None, str]:
    """((scale of the input, of the output) or None, token_norm): x = r / scale."""
    norm = cfg.get("norm_activation", "dataset-wise")
    if norm == "inference":  # folded by its library already
        return None, "none"
    if norm == "token-wise":
        if hooks[0] != hooks[1]:
            raise Refused(f"{where}: a transcoder with token-wise norms cannot give raw outputs")
        return None, "constant_norm_rescale"
    if norm != "dataset-wise":
        raise Refused(
            f"{where}: norm_activation {norm!r} is unknown; known are dataset-wise, token-wise and "
            "inference"
        )
    # Before 2.0 the config may hold the norms, by `in` and `out`.
    said = cfg.get(NORM) if isinstance(cfg.get(NORM), dict) else {}
    found = []
    for hook, side in zip(hooks, ("in", "out"), strict=True):
        value = tensors.get(f"{NORM}.{hook}", tensors.get(f"{NORM}.{side}", said.get(side)))
        value = said.get(hook) if value is None else value
        value = float(value) if isinstance(value, (int, float, Tensor)) else math.nan
        if not 0 < value < math.inf:
            raise Refused(
                f"{where}: the mean norm of {hook} is missing or not positive ({value}): save the "
                "SAE with its norms folded in (fold_activation_scale)"
            )
        found.append(value / math.sqrt(cfg["d_model"]))
    return (found[0], found[1]), "none"


def _named(path: Path, cfg: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names and ways up."""
    if "W_E" in tensors:
        named = {ours: tensors[name] for ours, name in
                 (("W_enc", "W_E"), ("b_enc", "b_E"), ("W_dec", "W_D"), ("b_dec", "b_D"))
                 if name in tensors}  # fmt: skip
    else:
        named = {
            "W_enc": matrix(path, tensors, "encoder.weight").T,
            "W_dec": matrix(path, tensors, "decoder.weight").T,
        }
        for ours, name in (("b_enc", "encoder.bias"), ("b_dec", "decoder.bias")):
            if name in tensors:
                named[ours] = tensors[name]
    W_enc, W_dec = matrix(path, named, "W_enc"), matrix(path, named, "W_dec")
    if not cfg.get("use_decoder_bias", True):
        named.setdefault("b_dec", torch.zeros(W_dec.shape[1]))
    if cfg.get("d_model") != W_enc.shape[0]:
        raise Refused(
            f"{path}: the encoder reads {W_enc.shape[0]}, not d_model {cfg.get('d_model')!r}"
        )
    if cfg.get("act_fn") == "jumprelu":
        log = next((tensors[name] for name in LOG_THRESHOLDS if name in tensors), None)
        one = cfg.get("jump_relu_threshold")
        if log is not None:
            named["threshold"] = log.float().exp()
        elif isinstance(one, (int, float)):
            named["threshold"] = torch.full((W_enc.shape[1],), float(one))
    return named


@torch.no_grad()
def _norm_aware(sae: SAE) -> SAE:
    """Features chosen by pre * ||d||, measured as pre; a TopK SAE measures them as it chooses."""
    if sae.architecture == "topk":
        return take_decoder_norms(sae)
    if isinstance(sae, JumpReLUSAE):
        norms = decoder_norms(sae)
        silent = norms == 0  # pre * 0 passes no threshold
        sae.W_enc[:, silent] = 0
        sae.b_enc[silent] = 0
        sae.threshold.div_(torch.where(silent, 1.0, norms))
    return sae
