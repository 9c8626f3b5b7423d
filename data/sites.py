"""Where in a language model activations are read: site names -> modules, for every model family.

In:  a site name and a Hugging Face causal LM. Out: the module to hook and which side of it.

    resid_post.L   residual stream after block L
    mlp_out.L      what the MLP of block L adds to the stream (after its post-norm, if it has one)
    attn_z.L       concatenated head outputs of block L, before the output projection
    hook:PATH:input|output   any module by its path
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from data.errors import SiteError

KINDS = ("resid_post", "mlp_out", "attn_z")

# Where families keep their list of blocks, and their parts inside a block.
BLOCKS = (
    "model.layers", "model.language_model.layers", "transformer.h", "gpt_neox.layers",
    "model.decoder.layers", "transformer.blocks",
)  # fmt: skip
OUTPUT_PROJECTIONS = (
    "self_attn.o_proj", "attn.c_proj", "attention.dense", "self_attn.dense", "self_attn.out_proj",
    "attn.out_proj", "attn.attention.out_proj", "self_attention.dense",
)  # fmt: skip
# What is added to the stream: Gemma 2 and 3, OLMo 2 and GLM 4 normalise the MLP's output first; the
# MLPs of BLOOM and MPT add the stream themselves, so that only their last matrix is the MLP's own.
MLP_OUTPUTS = (
    "post_feedforward_layernorm", "post_mlp_layernorm", "mlp.dense_4h_to_h", "mlp", "ffn.down_proj",
    "fc2",
)  # fmt: skip


@dataclass(frozen=True)
class Hook:
    """One module of a model and the side to read (and replace) there."""

    module: nn.Module
    path: str
    side: str  # input | output


def _child(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The path and list of the model's transformer blocks."""
    for path in BLOCKS:
        found = _child(model, path)
        if isinstance(found, nn.ModuleList):
            return path, found
    raise SiteError(
        f"{type(model).__name__} keeps its blocks at none of {', '.join(BLOCKS)}: "
        "name the module itself, as hook:PATH:output"
    )


def final_norm(model: nn.Module) -> nn.Module | None:
    """The norm between the last block and the output matrix: the last one beside the blocks."""
    path, _ = blocks(model)
    beside = model.get_submodule(path.rpartition(".")[0]).children()
    return next((m for m in reversed(list(beside)) if "Norm" in type(m).__name__), None)


def locate(model: nn.Module, site: str) -> Hook:
    """The hook for `site`; SiteError for an unknown kind, a layer out of range, no such module."""
    if site.startswith("hook:"):
        return _named_module(model, site)
    match = re.fullmatch(r"([a-z_]+)\.(-?\d+)", site)
    if not match or match[1] not in KINDS:
        raise SiteError(
            f"no site {site!r}: it is one of {', '.join(f'{k}.L' for k in KINDS)} "
            "(L counts blocks from 0) or hook:PATH:input|output"
        )
    kind, layer = match[1], int(match[2])
    path, layers = blocks(model)
    if not 0 <= layer < len(layers):
        raise SiteError(
            f"no layer {layer} in this model: it has {len(layers)} blocks, 0 to {len(layers) - 1}"
        )
    block, path = layers[layer], f"{path}.{layer}"
    if kind == "resid_post":
        return Hook(block, path, "output")
    choices, side = (MLP_OUTPUTS, "output") if kind == "mlp_out" else (OUTPUT_PROJECTIONS, "input")
    for choice in choices:
        if (found := _child(block, choice)) is not None:
            return Hook(found, f"{path}.{choice}", side)
    raise SiteError(
        f"{type(block).__name__} has none of {', '.join(choices)}: "
        f"name the module of {kind} itself, as hook:PATH:{side}"
    )


def _named_module(model: nn.Module, site: str) -> Hook:
    _, path, side = (site.split(":", 2) + ["", ""])[:3]
    module = _child(model, path) if path else None
    if module is None:
        names = [name for name, _ in model.named_children()]
        raise SiteError(f"no module {path!r} in this model: paths begin with {', '.join(names)}")
    if side not in ("input", "output"):
        raise SiteError(f"{site!r} names no side: write hook:{path}:input or hook:{path}:output")
    return Hook(module, path, side)


def named_site(model: nn.Module, site: str) -> str | None:
    """The site of KINDS that `site` is, spelt so or as hook:PATH:side; None if it is none."""
    if not site.startswith("hook:"):
        return site
    wanted = _named_module(model, site)
    layer = re.search(r"\.(\d+)(\.|$)", wanted.path)
    for kind in KINDS if layer else ():
        try:
            if locate(model, f"{kind}.{layer[1]}") == wanted:
                return f"{kind}.{layer[1]}"
        except SiteError:  # a family whose parts have other names
            continue
    return None


def transformer_lens_name(site: str) -> str:
    """The name other SAE tools use for the site (blocks.2.hook_resid_post, ...)."""
    kind, _, layer = site.rpartition(".")
    names = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_z": "attn.hook_z"}
    return f"blocks.{layer}.{names[kind]}" if kind in names else site
