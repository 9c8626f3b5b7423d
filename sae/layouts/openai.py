"""OpenAI's sparse_autoencoder: one .pt with the state_dict of its Autoencoder class.

In: such a file. Out: a TopK or ReLU SAE. pre_bias is subtracted before the encoder and added after
the decoder; a TopK file also normalises each row (mean 0, standard deviation 1), as its own
loader decides by the activation's name.

    pre_bias [d_in]  latent_bias [d_sae]  encoder.weight [d_sae, d_in]  decoder.weight [d_in, d_sae]
    activation  activation_state_dict {k, postact_fn}
"""

from __future__ import annotations

import re
from pathlib import Path

from sae.config import Refused
from sae.layouts.build import assemble, check_tensors, matrix, subtract_b_dec, whole
from sae.layouts.files import pickle_in, read_torch
from sae.layouts.sites import hook_of
from sae.models import SAE

KEYS = {"pre_bias", "latent_bias", "encoder.weight"}
# Locations in the published paths -> sites of GPT-2.
SITES = {
    "resid_post_mlp": "resid_post.{}",
    "resid_delta_mlp": "mlp_out.{}",
    "resid_post_attn": "hook:transformer.h.{}.ln_2:input",
    "resid_delta_attn": "hook:transformer.h.{}.attn.c_proj:output",
    "mlp_post_act": "hook:transformer.h.{}.mlp.act:output",
}


def read(path: Path) -> tuple[SAE, dict]:
    """The SAE and what its path says. Refuses activations other than ReLU and TopK over ReLU."""
    path = pickle_in(path)
    state = read_torch(path)
    activation = state.get("activation", "ReLU")
    more = state.get("activation_state_dict", {})
    more = more if isinstance(more, dict) else {}
    if (
        not isinstance(activation, str)
        or activation not in ("ReLU", "TopK")
        or more.get("postact_fn", "ReLU") != "ReLU"
    ):
        raise Refused(
            f"{path}: activation {activation!r} over {more.get('postact_fn', 'ReLU')!r} is unknown;"
            " this program takes ReLU, and TopK over ReLU"
        )
    encoder = matrix(path, state, "encoder.weight")
    tied = "decoder.weight" not in state and "decoder.linear.weight" in state
    named = {
        "W_enc": encoder.T,
        "W_dec": encoder if tied else matrix(path, state, "decoder.weight").T,
        "b_enc": state.get("latent_bias"),
        "b_dec": state.get("pre_bias"),
    }
    check_tensors(path, named, ("b_enc", "b_dec"))
    normalised = state.get("normalize")
    if not isinstance(normalised, bool):  # their loader's rule
        normalised = activation == "TopK"
    sae = assemble(
        path,
        "topk" if activation == "TopK" else "relu",
        named,
        k=whole(more.get("k")) if activation == "TopK" else None,
        token_norm="layer_norm" if normalised else "none",
    )
    return subtract_b_dec(sae), _facts(path)


def _facts(path: Path) -> dict:
    text = path.absolute().as_posix()
    match = re.search(rf"/({'|'.join(SITES)})(?:_v\d+\w*)?/autoencoders/(\d+)\.pt$", text)
    site = SITES[match[1]].format(match[2]) if match else None
    return {
        "format": "openai",
        "model": "gpt2" if "/gpt2-small/" in text else None,
        "site": site,
        "site_out": None,
        "hook_name": hook_of(site),
        "l0": None,
    }
