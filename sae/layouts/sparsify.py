"""EleutherAI's sparsify: a folder named after its hook point, cfg.json and sae.safetensors.

In: such a folder. Out: a TopK SAE (or transcoder, with or without a skip connection).

    encoder.weight [d_sae, d_in]  encoder.bias  W_dec [d_sae, d_in]  b_dec  W_skip [d_in, d_in]
    f = TopK(ReLU((x - b_dec) encoder.weight^T + bias)); a transcoder does not subtract b_dec
"""

from __future__ import annotations

import re
from pathlib import Path

from sae.config import Refused
from sae.layouts.build import assemble, check_tensors, matrix, subtract_b_dec
from sae.layouts.files import read_json, read_safetensors
from sae.layouts.sites import hook_of
from sae.models import SAE

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE and what its folder, its cfg.json and the run's config.json beside it say."""
    folder = path if path.is_dir() else path.parent
    where, cfg = folder / WEIGHTS, read_json(folder / CONFIG)
    if cfg.get("activation", "topk") != "topk" or cfg.get("signed"):
        kind = "signed" if cfg.get("signed") else cfg["activation"]
        raise Refused(f"{folder / CONFIG}: activation {kind!r} is unknown; this program takes topk")
    tensors = read_safetensors(where)
    transcoder = bool(cfg.get("transcode"))
    named = {
        "W_enc": matrix(where, tensors, "encoder.weight").T,
        # SAELens's reader turns this one over; sparsify itself saves [num_latents, d_in].
        "W_dec": matrix(where, tensors, "W_dec"),
        "b_enc": tensors.get("encoder.bias"),
        "b_dec": tensors.get("b_dec"),
    }
    if "W_skip" in tensors:
        named["W_skip"] = matrix(where, tensors, "W_skip").T
    check_tensors(where, named, ("b_enc", "b_dec"))
    sae = assemble(where, "topk", named, k=cfg.get("k"), transcoder=transcoder)
    if not transcoder:
        sae = subtract_b_dec(sae)
    return sae, _facts(folder, transcoder)


def _facts(folder: Path, transcoder: bool) -> dict:
    run = folder.parent / "config.json"
    said = read_json(run) if run.exists() else {}
    hook_point = folder.absolute().name
    # The output of a whole block; the paths of its parts depend on the model's family.
    match = re.fullmatch(r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)", hook_point)
    out = site = int(match[1]) if match else None
    if transcoder and site is not None:  # reads what the block before it left
        site = site - 1 if site > 0 else None
    site = None if site is None else f"resid_post.{site}"
    model = said.get("model")
    return {
        "format": "sparsify",
        "model": model if isinstance(model, str) else None,
        "site": site,
        "site_out": f"resid_post.{out}" if transcoder and out is not None else None,
        "hook_name": hook_of(site),
        "hook_point": hook_point,
        "l0": None,
        "context_size": said.get("ctx_len"),
        "dataset_path": said.get("dataset"),
    }
