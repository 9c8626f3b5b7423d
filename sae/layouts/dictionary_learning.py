"""dictionary_learning: ae.pt (a state_dict), and config.json with its class in trainer.dict_class.

In: such a folder or file. Out: an SAE with the numbers of the library's own `from_pretrained`; and
the files written back. Which class subtracts the decoder's bias differs:

    JumpReluAutoEncoder      W_enc [d_in, d_sae] b_enc W_dec [d_sae, d_in] b_dec threshold   no
    AutoEncoder              encoder.weight [d_sae, d_in] encoder.bias decoder.weight bias   yes
    AutoEncoderNew           the same with decoder.bias in place of bias                     no
    GatedAutoEncoder         encoder.weight gate_bias r_mag mag_bias decoder_bias            yes
    AutoEncoderTopK          encoder.weight/bias decoder.weight b_dec k threshold            yes
    BatchTopKSAE             the same keys; features above the threshold fire                yes
    MatryoshkaBatchTopKSAE   W_enc b_enc W_dec b_dec k threshold group_sizes                 yes
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from sae.config import Refused
from sae.layouts.build import (
    add_b_dec,
    assemble,
    check_tensors,
    matrix,
    subtract_b_dec,
    whole,
    writes_elsewhere,
)
from sae.layouts.files import pickle_in, read_json, read_torch
from sae.layouts.sites import hook_of
from sae.models import SAE, unit_decoder

CONFIG, WEIGHTS = "config.json", "ae.pt"
BATCH = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
SUBTRACTING = ("AutoEncoder", "GatedAutoEncoder", "AutoEncoderTopK", *BATCH)
CLASSES = ("JumpReluAutoEncoder", "AutoEncoderNew", *SUBTRACTING)
SUBMODULES = {"resid_post": "resid_post", "mlp_out": "mlp_out"}


# ---------------------------------------------------------------- reading


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE and what config.json, beside the file or one folder up, says.

    BatchTopK and Matryoshka are read as JumpReLU with the threshold they estimated in training. A
    file without one yet (it is -1 until then) is read as TopK with its k, and the facts note it.
    """
    path = pickle_in(path, WEIGHTS)
    state = read_torch(path)
    config = next((p / CONFIG for p in path.parents[:2] if (p / CONFIG).exists()), None)
    cfg = read_json(config) if config is not None else {}
    trainer = cfg.get("trainer") if isinstance(cfg.get("trainer"), dict) else {}
    kind = _class(path, state, trainer)
    named = _named(path, state, kind)
    architecture, k, note = {
        "GatedAutoEncoder": "gated", "AutoEncoder": "relu", "AutoEncoderNew": "relu",
        "AutoEncoderTopK": "topk",
    }.get(kind, "jumprelu"), None, None  # fmt: skip
    if kind in BATCH:
        threshold = state.get("threshold")
        if isinstance(threshold, Tensor) and threshold.numel() == 1 and threshold >= 0:
            one = threshold.float().reshape(1)
            named["threshold"] = one.expand(matrix(path, named, "W_enc").shape[1])
        else:
            architecture, note = "topk", f"{kind} without its threshold: read as TopK with its k"
    if architecture == "topk":
        k = _k(path, state, trainer)
    sae = assemble(path, architecture, named, k=k)
    if kind in SUBTRACTING:
        sae = subtract_b_dec(sae)
    if kind == "AutoEncoder":  # as its from_pretrained does by default
        sae = unit_decoder(sae).requires_grad_(False)
    return sae, _facts(cfg, trainer, kind, note)


def _class(path: Path, state: dict, trainer: dict) -> str:
    """The class that config.json names, or the only one with these keys."""
    kind = trainer.get("dict_class")
    if kind is not None:
        if kind not in CLASSES:
            raise Refused(f"{path}: dict_class {kind!r} is unknown; known are {', '.join(CLASSES)}")
        return kind
    if "encoder.weight" in state and "threshold" in state:
        raise Refused(
            f"{path}: AutoEncoderTopK and BatchTopKSAE have the same keys: put the config.json of "
            "its training beside it"
        )
    for kind, keys in (
        ("MatryoshkaBatchTopKSAE", ("W_enc", "group_sizes")),
        ("JumpReluAutoEncoder", ("W_enc", "threshold")),
        ("GatedAutoEncoder", ("encoder.weight", "gate_bias")),
        ("AutoEncoderNew", ("encoder.weight", "decoder.bias")),
        ("AutoEncoder", ("encoder.weight", "bias")),
    ):
        if all(key in state for key in keys):
            return kind
    raise Refused(
        f"{path} holds {', '.join(sorted(map(str, state))[:12]) or 'nothing'}: no class of "
        "dictionary_learning has these keys"
    )


def _named(path: Path, state: dict, kind: str) -> dict[str, Tensor]:
    """The tensors under our names and ways up."""
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        names = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        if kind == "JumpReluAutoEncoder":
            names["threshold"] = "threshold"
        check_tensors(path, state, tuple(names))
        return {name: state[name] for name in names}
    names = {"b_enc": "encoder.bias", "b_dec": "b_dec"}
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        names["b_dec"] = "bias" if kind == "AutoEncoder" else "decoder.bias"
    if kind == "GatedAutoEncoder":
        names = {"b_enc": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
        names["b_dec"] = "decoder_bias"
    check_tensors(path, state, tuple(names.values()))
    return {ours: state[theirs] for ours, theirs in names.items()} | {
        "W_enc": matrix(path, state, "encoder.weight").T,
        "W_dec": matrix(path, state, "decoder.weight").T,
    }


def _k(path: Path, state: dict, trainer: dict) -> int:
    k = whole(state.get("k", trainer.get("k")))
    if k is None:
        raise Refused(f"{path} holds no whole k, and neither does its config.json")
    return k


def _facts(cfg: dict, trainer: dict, kind: str, note: str | None) -> dict:
    submodule = trainer.get("submodule_name")
    match = re.fullmatch(r"(\w+?)_layer_(\d+)", submodule) if isinstance(submodule, str) else None
    site = f"{SUBMODULES[match[1]]}.{match[2]}" if match and match[1] in SUBMODULES else None
    buffer = cfg.get("buffer") if isinstance(cfg.get("buffer"), dict) else {}
    return {
        "format": "dictionary_learning",
        "class": kind,
        "model": trainer.get("lm_name"),
        "site": site,
        "site_out": None,
        "hook_name": hook_of(site),
        "layer": trainer.get("layer"),
        "l0": None,
        "context_size": buffer.get("ctx_len"),
        "note": note,
    }


# ---------------------------------------------------------------- writing


def write(sae: SAE, folder: Path, metadata: dict) -> None:
    """ae.pt and config.json, which the library's load_dictionary reads. Refuses what its classes
    cannot hold: token norms, transcoders."""
    if sae.config.token_norm != "none" or writes_elsewhere(sae):
        raise Refused(
            "dictionary_learning has no class for a token norm or a transcoder: export with "
            "--format saelens"
        )
    kind, state = _state(sae)
    torch.save({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
    made = metadata.get("workbench") or {}
    site = made.get("site") or ""
    layer = re.fullmatch(r"(resid_post|mlp_out|attn_z)\.(\d+)", site)
    trainer = {
        "dict_class": kind,
        "trainer_class": None,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "lm_name": metadata.get("model_name"),
        "layer": int(layer[2]) if layer else None,
        "submodule_name": f"{layer[1]}_layer_{layer[2]}" if layer else site or None,
        "device": "cpu",
    } | ({"k": sae.config.k} if kind == "AutoEncoderTopK" else {})
    text = json.dumps({"trainer": trainer, "buffer": {"ctx_len": metadata.get("context_size")}})
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _state(sae: SAE) -> tuple[str, dict[str, Tensor]]:
    """(class, its state_dict), in float32 as the library keeps it."""
    ours = {name: value.detach().float() for name, value in sae.state_dict().items()}
    if sae.architecture == "jumprelu":
        return "JumpReluAutoEncoder", ours
    turned = {"encoder.weight": ours["W_enc"].T, "decoder.weight": ours["W_dec"].T}
    if sae.architecture == "relu":
        biases = {"encoder.bias": ours["b_enc"], "decoder.bias": ours["b_dec"]}
        return "AutoEncoderNew", turned | biases
    theirs = add_b_dec(sae)
    if sae.architecture == "gated":
        return "GatedAutoEncoder", turned | {
            "decoder_bias": ours["b_dec"],
            "r_mag": ours["r_mag"],
            "gate_bias": theirs["b_enc"],
            "mag_bias": theirs["b_mag"],
        }
    return "AutoEncoderTopK", turned | {
        "encoder.bias": theirs["b_enc"],
        "b_dec": ours["b_dec"],
        "k": torch.tensor(sae.config.k, dtype=torch.int),
        "threshold": torch.tensor(-1.0),
    }
