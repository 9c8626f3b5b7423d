"""Hook names of other tools -> this program's site names; strings only.

In: `blocks.12.hook_resid_post` (TransformerLens), `model.layers.12.output` (module paths).
Out: `resid_post.L`, `mlp_out.L`, `attn_z.L`, `hook:PATH:side`, or None where it cannot be told.
"""

from __future__ import annotations

import re

TRANSFORMER_LENS = {
    "hook_resid_post": "resid_post", "hook_mlp_out": "mlp_out", "attn.hook_z": "attn_z",
}  # fmt: skip
# Below a block of a Hugging Face model, as Gemma Scope 2 names them.
BELOW_A_BLOCK = {
    "output": "resid_post",
    "self_attn.o_proj.input": "attn_z",
    "post_feedforward_layernorm.output": "mlp_out",
}
BLOCK = r"(?:[\w.]*\.)?(?:layers|h)\.(\d+)"


def site_of(hook: object) -> str | None:
    """The site of a hook name; None for one that has no name here."""
    if not isinstance(hook, str):
        return None
    if re.fullmatch(r"(resid_post|mlp_out|attn_z)\.\d+|hook:[\w.]+:(input|output)", hook):
        return hook
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", hook):
        layer, rest = int(match[1]), match[2]
        if rest == "hook_resid_pre" and layer > 0:  # what the block before it left
            return f"resid_post.{layer - 1}"
        return f"{TRANSFORMER_LENS[rest]}.{layer}" if rest in TRANSFORMER_LENS else None
    if match := re.fullmatch(rf"{BLOCK}\.(.+)", hook):
        if match[2] in BELOW_A_BLOCK:
            return f"{BELOW_A_BLOCK[match[2]]}.{match[1]}"
    if match := re.fullmatch(r"([\w.]+)\.(input|output)", hook):
        return f"hook:{match[1]}:{match[2]}"
    return None


def hook_of(site: object) -> str | None:
    """The TransformerLens name of a site of a block; None for others."""
    match = re.fullmatch(r"(resid_post|mlp_out|attn_z)\.(\d+)", site or "")
    names = {kind: name for name, kind in TRANSFORMER_LENS.items()}
    return f"blocks.{match[2]}.{names[match[1]]}" if match else None
