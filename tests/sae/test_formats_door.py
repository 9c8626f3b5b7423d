"""One door to all formats: which one a path is, and what is written for others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sae import formats
from sae.config import Refused
from sae.layouts.sites import hook_of, site_of
from tests.sae.test_formats import rows, some_sae
from tests.sae.test_formats_foreign import (
    HOOK,
    batch_topk,
    jumprelu,
    llamascopium,
    noise,
    npz,
    openai,
    params_2,
    same,
    sparsify,
)

# ---------------------------------------------------------------- detection


def test_one_folder_of_each_format_is_told_apart(tmp_path):
    made = {name: tmp_path / name for name in
            ("saelens", "sparsify", "gemma_scope", "gemma_scope_2", "llamascopium", "openai",
             "dictionary_learning")}  # fmt: skip
    made["saelens"].mkdir()
    formats.save(some_sae(), made["saelens"], {})
    sparsify(made["sparsify"])
    npz(made["gemma_scope"] / "params.npz")
    params_2(made["gemma_scope_2"], None)
    llamascopium(made["llamascopium"], {HOOK: 1.0})
    openai(made["openai"] / "7.pt")
    batch_topk(made["dictionary_learning"])
    files = {
        "saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors",
        "gemma_scope": "params.npz", "gemma_scope_2": "params.safetensors",
        "llamascopium": "sae_weights.safetensors", "openai": "7.pt", "dictionary_learning": "ae.pt",
    }  # fmt: skip
    assert set(made) == set(formats.READERS)
    for name, folder in made.items():
        assert formats.read(folder)[1]["format"] == name
        assert formats.read(folder / files[name])[1]["format"] == name
        assert formats.read(folder, name)[1]["format"] == name
        for fact in ("model", "site", "site_out", "hook_name", "l0", "context_size"):
            assert fact in formats.read(folder)[1], (name, fact)
    found = formats.find(tmp_path)
    assert found == sorted(set(made.values()) - {made["openai"]}), "a lone .pt is named by hand"
    assert formats.find(made["saelens"]) == [made["saelens"]]
    assert formats.find(tmp_path / "nothing") == []


def test_an_ambiguous_folder_asks_for_the_format(tmp_path):
    llamascopium(tmp_path, {HOOK: 1.0})
    formats.save(some_sae(), tmp_path, {})
    with pytest.raises(Refused, match="llamascopium or saelens .seen: cfg.json, config.json"):
        formats.read(tmp_path)
    assert formats.read(tmp_path, "saelens")[1]["format"] == "saelens"


def test_an_unknown_folder_says_what_was_seen(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(Refused, match="seen there: notes.txt, sub/"):
        formats.read(tmp_path)
    torch.save({"weight": noise(2)}, tmp_path / "a.pt")
    with pytest.raises(Refused, match="its keys are weight"):
        formats.read(tmp_path / "a.pt")
    with pytest.raises(Refused, match="no file or folder at"):
        formats.read(tmp_path / "b.pt")
    with pytest.raises(Refused, match="'pytorch' is unknown: use auto, saelens"):
        formats.read(tmp_path, "pytorch")


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.12.hook_resid_post", "resid_post.12"),
        ("blocks.12.hook_resid_pre", "resid_post.11"),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.3.attn.hook_z", "attn_z.3"),
        ("blocks.3.hook_mlp_out", "mlp_out.3"),
        ("blocks.3.ln2.hook_normalized", None),
        ("model.layers.3.output", "resid_post.3"),
        ("model.layers.3.self_attn.o_proj.input", "attn_z.3"),
        ("model.layers.3.post_feedforward_layernorm.output", "mlp_out.3"),
        ("transformer.h.3.mlp.output", "hook:transformer.h.3.mlp:output"),
        ("attn_z.7", "attn_z.7"),
        ("hook:model.norm:input", "hook:model.norm:input"),
        ("somewhere", None),
        (None, None),
        (["blocks.1.hook_resid_post"], None),
    ],
)
def test_hook_names_of_others_as_our_sites(hook, site):
    assert site_of(hook) == site
    if isinstance(hook, str) and hook_of(site) and hook.startswith("blocks.3"):
        assert hook_of(site) == hook


# ---------------------------------------------------------------- writing for others


@pytest.mark.parametrize("architecture", ["jumprelu", "relu", "gated"])
def test_gemma_scopes_file_has_the_same_features(tmp_path, architecture):
    sae = some_sae(architecture, dtype=torch.float32)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        formats.write(sae, tmp_path / name, "gemma_scope", {})
    with np.load(tmp_path / "a/params.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    assert sorted(arrays) == ["W_dec", "W_enc", "b_dec", "b_enc", "threshold"]
    f, x_hat = jumprelu(arrays, rows())
    same(f, sae.encode(rows()))
    same(x_hat, sae(rows()))
    assert (tmp_path / "a/params.npz").read_bytes() == (tmp_path / "b/params.npz").read_bytes()


@pytest.mark.parametrize("shape", [{}, {"token_norm": "layer_norm"}])
@pytest.mark.parametrize("architecture", ["jumprelu", "relu", "gated"])
def test_a_gated_sae_with_the_same_features(tmp_path, architecture, shape):
    sae = some_sae(architecture, **shape)
    formats.write(sae, tmp_path, "gated", {"model_name": "demo"})
    back, cfg = formats.load(tmp_path)
    assert cfg["architecture"] == "gated" and cfg["metadata"]["model_name"] == "demo"
    same(back.encode(rows()), sae.encode(rows()))
    same(back(rows()), sae(rows()))


def test_dictionary_learnings_config_says_where_the_sae_reads(tmp_path):
    about = {"model_name": "demo", "context_size": 64, "workbench": {"site": "mlp_out.2"}}
    formats.write(some_sae("topk"), tmp_path, "dictionary_learning", about)
    trainer = json.loads((tmp_path / "config.json").read_text())["trainer"]
    assert trainer["dict_class"] == "AutoEncoderTopK" and trainer["k"] == 3
    facts = formats.read(tmp_path)[1]
    assert (facts["model"], facts["site"], facts["context_size"]) == ("demo", "mlp_out.2", 64)


@pytest.mark.parametrize(
    ("shape", "format", "words"),
    [
        ({"architecture": "topk"}, "gemma_scope", "a topk SAE has no threshold"),
        ({"token_norm": "layer_norm"}, "gemma_scope", "no place for a token norm"),
        ({"d_out": 6, "skip": True}, "gemma_scope", "skip connection"),
        ({"architecture": "gated", "d_out": 4}, "gemma_scope", "--format saelens"),
        ({"architecture": "topk"}, "gated", "features of a TopK SAE"),
        ({"d_out": 6}, "gated", "features of a transcoder"),
        ({"d_out": 6}, "dictionary_learning", "no class for"),
        ({"token_norm": "layer_norm"}, "dictionary_learning", "no class for"),
        ({}, "llamascopium", "'llamascopium' is unknown: use one of saelens"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, shape, format, words):
    with pytest.raises(Refused, match=words):
        formats.write(some_sae(**shape), tmp_path, format, {})
    assert list(tmp_path.iterdir()) == []
