"""Logit effects against the model's own readout, worked out by hand for each family."""

import numpy as np
import pytest
import torch

from interp import effects
from interp.effects import logit_effects
from tests import tiny

IDS = torch.tensor([[0, 5, 70, 200, 9, 12]])


def _by_hand(lm, directions):
    """W_dec diag(scale) W_U^T with the scale read off the modules, centred over the vocabulary."""
    family = lm.fingerprint.split("-")[0]
    model = lm.model
    if family in ("gpt2", "gpt_neox"):
        norm = model.transformer.ln_f if family == "gpt2" else model.gpt_neox.final_layer_norm
        directions, scale = directions - directions.mean(1, keepdim=True), norm.weight
    else:
        scale = model.model.norm.weight + (1 if family.startswith("gemma") else 0)
    effect = (directions * scale) @ model.get_output_embeddings().weight.T
    return effect - effect.mean(1, keepdim=True)


def _check(found, effect):
    top_ids, top, bottom_ids, bottom = found
    order = effect.argsort(dim=1, descending=True)
    assert top_ids.tolist() == order[:, :10].tolist()
    assert bottom_ids.tolist() == order.flip(1)[:, :10].tolist()
    np.testing.assert_allclose(top, effect.gather(1, order[:, :10]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        bottom, effect.gather(1, order.flip(1)[:, :10]), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "attn_z.2"])
def test_effects_by_hand(family, site, monkeypatch):
    lm = tiny.language_model(family)
    monkeypatch.setattr(effects, "BLOCK", 3)
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(7, lm.width(site), generator=generator)
    directions = W_dec
    if site.startswith("attn_z"):
        if family == "gpt2":
            directions = W_dec @ lm.model.transformer.h[2].attn.c_proj.weight
        elif family == "gpt_neox":
            directions = W_dec @ lm.model.gpt_neox.layers[2].attention.dense.weight.T
        else:
            directions = W_dec @ lm.model.model.layers[2].self_attn.o_proj.weight.T
    _check(logit_effects(lm, site, W_dec), _by_hand(lm, directions))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_are_the_slope_of_the_logits_with_the_norms_division_undone(family):
    """Adding a little of a direction to the last residual moves the logits along its effect, once
    the change that the norm's division makes along the stream itself is taken out."""
    lm = tiny.language_model(family)
    d = torch.randn(1, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    x = lm.capture(IDS, ["resid_post.2"])["resid_post.2"][0, -1]
    centred = x - x.mean() if family == "gpt2" else x
    part = d[0] - d.mean() if family == "gpt2" else d[0]
    d = d - (part @ centred) / (centred @ centred) * x  # then the norm divides by the same number
    length = centred.square().mean().sqrt()

    def logits(size):
        def change(x):
            moved = x.clone()
            moved[0, -1] += size * length * d[0]
            return moved

        return lm.logits_replacing(IDS, "resid_post.2", change)[0, -1].double()

    slope = (logits(1e-2) - logits(-1e-2)) / 2e-2
    slope -= slope.mean()
    effect = _by_hand(lm, d)[0]
    torch.testing.assert_close(slope.float(), effect, rtol=2e-2, atol=2e-2)
    _check(logit_effects(lm, "resid_post.2", d), effect[None])


def test_sites_that_do_not_write_to_the_stream_have_no_effects():
    lm = tiny.language_model("llama")
    for site in (
        "hook:model.layers.0.self_attn.q_proj:output",  # as wide as the stream, by chance
        "hook:model.layers.0.mlp.gate_proj:input",
        "hook:model.layers.0.mlp.up_proj:output",
        "hook:model.layers.0.input_layernorm:input",
        "hook:model.embed_tokens:output",
    ):
        assert logit_effects(lm, site, torch.randn(3, lm.width(site))) is None


def test_a_named_site_spelt_as_a_path_has_the_same_effects():
    lm = tiny.language_model("llama")
    W_dec = torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    for site, path in [
        ("resid_post.1", "hook:model.layers.1:output"),
        ("mlp_out.0", "hook:model.layers.0.mlp:output"),
        ("attn_z.1", "hook:model.layers.1.self_attn.o_proj:input"),
    ]:
        one, two = logit_effects(lm, site, W_dec), logit_effects(lm, path, W_dec)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_rows_that_pad_the_output_matrix_are_no_tokens():
    made = tiny.tokenizer()
    lm = tiny.language_model("llama")
    lm.model = tiny.network("llama", len(made) + 50)
    ids, _, bottom_ids, _ = logit_effects(lm, "resid_post.1", torch.randn(20, tiny.WIDTH))
    assert ids.max() < len(made) and bottom_ids.max() < len(made)


def test_a_model_in_bfloat16_gives_float32_numbers():
    lm = tiny.language_model("llama")
    lm.model = lm.model.to(torch.bfloat16)
    found = logit_effects(lm, "resid_post.1", torch.randn(3, tiny.WIDTH))
    assert found[1].dtype == np.float32 and found[0].dtype == np.int64
