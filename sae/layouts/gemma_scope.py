"""Gemma Scope: params.npz (1) and params.safetensors with config.json (2); SAEs and transcoders.

In: such a file or its folder; the path says model, site and L0. Out: a JumpReLU SAE and the facts;
and, for Gemma Scope 1, the file written. Nothing is subtracted from or scaled in the input
(Lieberum et al. 2024, App. A: both are folded), except in the SAEs on embeddings.

    1  [...gemma-scope-2b-pt-res/]layer_12/width_16k/average_l0_82/params.npz
    2  [...gemma-scope-2-1b-pt/]resid_post/layer_13_width_16k_l0_medium/params.safetensors
    W_enc [d_in, d_sae]  b_enc  W_dec [d_sae, d_out]  b_dec  threshold;  2: also
    affine_skip_connection [d_in, d_out]
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sae.config import Refused
from sae.layouts.build import assemble, matrix, relu_to_jumprelu, writes_elsewhere
from sae.layouts.files import read_json, read_npz, read_safetensors
from sae.layouts.sites import hook_of, site_of
from sae.models import SAE, GatedSAE, JumpReLUSAE, ReLUSAE, gated_to_jumprelu, to_raw

PARAMS, PARAMS_2 = "params.npz", "params.safetensors"
CONTEXT = 1024  # tokens, of both releases
BEFORE_MLP = "model.layers.{}.pre_feedforward_layernorm.output"
FIRST = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|att|mlp|transcoders)")
SECOND = re.compile(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)")
KINDS = {"res": "resid_post", "att": "attn_z", "mlp": "mlp_out"}
KINDS_2 = {"resid_post": "resid_post", "attn_out": "attn_z", "mlp_out": "mlp_out"}


# ---------------------------------------------------------------- Gemma Scope 1


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE of a params.npz and what its path says: model, site, l0, width."""
    path = path / PARAMS if path.is_dir() else path
    facts = path_facts(path)
    tensors = {("W_" + key[2:] if key[:2] == "w_" else key): v for key, v in read_npz(path).items()}
    scale = tensors.pop("scaling_factor", None)
    if scale is not None and not bool((scale == 1).all()):
        raise Refused(f"{path} has a scaling_factor that is not 1: no release of Gemma Scope does")
    sae = assemble(path, "jumprelu", tensors, transcoder=facts.pop("transcoder"))
    if facts.pop("embedding"):
        # Trained on rows of the embedding matrix; the model multiplies those by sqrt(d_in).
        sae = to_raw(sae.float(), sae.d_in**0.5, 0.0, pre_encoder_bias=False).requires_grad_(False)
    return sae, facts


def path_facts(path: Path) -> dict:
    """What the path of a params.npz says; None for what it does not."""
    text = path.absolute().as_posix()
    release, layer = FIRST.search(text), _last(r"/layer_(\d+)/", text)
    width, l0 = _last(r"/width_(\w+?)/", text), _last(r"/average_l0_(\d+)/", text)
    embedding = layer is None and re.search(r"/embedding/width_\w+/", text) is not None
    kind = release[3] if release else None
    model = site = site_out = hook_name = None
    if release:
        model = f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
    if embedding:
        site, hook_name = "hook:model.embed_tokens:output", "hook_embed"
    elif layer is not None and kind in KINDS:
        site = f"{KINDS[kind]}.{layer}"
        hook_name = hook_of(site)
    elif layer is not None and kind == "transcoders":
        site, site_out = site_of(BEFORE_MLP.format(layer)), f"mlp_out.{layer}"
        hook_name = f"blocks.{layer}.ln2.hook_normalized"
    place = "embedding" if embedding else None if layer is None else f"layer{layer}"
    named = [model and model.split("/")[1], kind, place, width and f"width{width}", l0 and "l0", l0]
    return {
        "format": "gemma_scope",
        "model": model,
        "site": site,
        "site_out": site_out,
        "hook_name": hook_name,
        "hook_name_out": hook_of(site_out),
        "l0": None if l0 is None else float(l0),
        "context_size": CONTEXT if release else None,
        "prepend_bos": True,
        "name": "-".join(part for part in named if part) if place and width else None,
        "transcoder": kind == "transcoders",
        "embedding": embedding,
    }


def _last(pattern: str, text: str) -> str | None:
    found = re.findall(pattern, text)
    return found[-1] if found else None


def as_jumprelu(sae: SAE) -> JumpReLUSAE:
    """The JumpReLU SAE with the same features; refuses those that have none."""
    if sae.config.token_norm != "none" or sae.W_skip is not None:
        raise Refused(
            "Gemma Scope's params.npz has no place for a token norm or a skip connection: export "
            "with --format saelens"
        )
    if isinstance(sae, JumpReLUSAE):
        return sae
    if isinstance(sae, GatedSAE) and not writes_elsewhere(sae):
        return gated_to_jumprelu(sae)
    if isinstance(sae, ReLUSAE):
        return relu_to_jumprelu(sae)
    raise Refused(
        f"a {sae.architecture} SAE has no threshold for Gemma Scope's params.npz: export with "
        "--format saelens or dictionary_learning"
    )


def write(sae: SAE, folder: Path, metadata: dict) -> None:
    """params.npz in float32 (metadata has no place in it). Refuses what is no JumpReLU at heart."""
    jump = as_jumprelu(sae)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    np.savez(
        folder / PARAMS, **{name: getattr(jump, name).detach().float().numpy() for name in names}
    )


# ---------------------------------------------------------------- Gemma Scope 2


def read_2(path: Path) -> tuple[SAE, dict]:
    """The SAE or transcoder of a params.safetensors, and what path and config.json say."""
    path = path / PARAMS_2 if path.is_dir() else path
    config = path.with_name("config.json")
    said = read_json(config) if config.exists() else {}
    if said.get("architecture", "jump_relu") != "jump_relu":
        raise Refused(f"{config}: architecture {said['architecture']!r} is unknown; use jump_relu")
    tensors = read_safetensors(path)
    if "w_dec" in tensors and tensors["w_dec"].ndim == 3:
        raise Refused(
            f"{path} is a cross-layer transcoder (w_dec {tuple(tensors['w_dec'].shape)}): this "
            "program takes SAEs and transcoders of one layer"
        )
    facts = path_facts_2(path, said)
    renamed = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
    named = {renamed.get(key, key): value for key, value in tensors.items()}
    transcoder = facts.pop("transcoder")
    if not transcoder and "W_skip" in named:
        matrix(path, named, "W_skip")
        transcoder = True
    return assemble(path, "jumprelu", named, transcoder=transcoder), facts


def path_facts_2(path: Path, said: dict) -> dict:
    """What the path says, and config.json where that says more."""
    text = path.absolute().as_posix()
    release = SECOND.search(text)
    layer, width = _last(r"/layer_(\d+)_", text), _last(r"_width_([0-9]+[km])", text)
    level = _last(r"_l0_([a-z]+)", text)
    kind = _last(r"/(resid_post|attn_out|mlp_out|transcoder)(?:_all)?/", text)
    site = site_of(said.get("hf_hook_point_in"))
    site_out = site_of(said.get("hf_hook_point_out"))
    if layer is not None:
        if kind == "transcoder":
            site = site or site_of(BEFORE_MLP.format(layer))
            site_out = site_out or f"mlp_out.{layer}"
        elif kind is not None:
            site = f"{KINDS_2[kind]}.{layer}"
    model = said.get("model_name")
    if not isinstance(model, str):
        model = f"google/gemma-3-{release[1]}-{release[2]}" if release else None
    l0 = said.get("l0")
    transcoder = kind == "transcoder" or (site_out is not None and site_out != site)
    parts = [model and model.split("/")[-1], kind, layer and f"layer{layer}"]
    parts += [width and f"width{width}", level and f"l0-{level}", "affine" * ("_affine" in text)]
    return {
        "format": "gemma_scope_2",
        "model": model,
        "site": site,
        "site_out": site_out if transcoder else None,
        "hook_name": hook_of(site),
        "hook_name_out": hook_of(site_out) if transcoder else None,
        "l0": float(l0) if isinstance(l0, (int, float)) else None,
        "l0_level": level,
        "context_size": CONTEXT if release else None,
        "prepend_bos": True,
        "name": "-".join(part for part in parts if part) if layer and kind else None,
        "transcoder": transcoder,
    }
