"""Other libraries' files against their forward passes written out by hand, and what paths tell.

Libraries that `make peers` installs are asked themselves in test_formats_peers.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae import formats
from sae.config import Refused
from sae.layouts import llamascopium as llama
from sae.layouts.sites import hook_of
from sae.models import JumpReLUSAE, TopKSAE
from tests.sae.test_formats import rows, some_sae

D_IN, D_SAE = 6, 10


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def same(actual, expected):
    assert (expected != 0).any(), "a comparison of zeros says nothing"
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def top(pre, k):
    values, features = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, features, values)


# ---------------------------------------------------------------- Gemma Scope


def npz(path: Path, seed=0, d_out=D_IN, small=False) -> dict[str, np.ndarray]:
    arrays = {
        "W_enc": noise(D_IN, D_SAE, seed=seed),
        "W_dec": noise(D_SAE, d_out, seed=seed),
        "b_enc": noise(D_SAE, seed=seed),
        "b_dec": noise(d_out, seed=seed),
        "threshold": 0.5 + noise(D_SAE, seed=seed + 9).abs(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{("w_" + k[2:] if small and k[:2] == "W_" else k): v.numpy()
                      for k, v in arrays.items()})  # fmt: skip
    return arrays


def jumprelu(arrays, x):
    pre = x @ arrays["W_enc"] + arrays["b_enc"]
    f = pre.relu() * (pre > arrays["threshold"])
    return f, f @ arrays["W_dec"] + arrays["b_dec"]


RELEASE = "google/gemma-scope-{}"
PLACES = [
    ("2b-pt-res/layer_12/width_16k/average_l0_82", "google/gemma-2-2b", "resid_post.12", 82,
     "gemma-2-2b-res-layer12-width16k-l0-82"),
    ("9b-it-res/layer_20/width_131k/average_l0_81", "google/gemma-2-9b-it", "resid_post.20", 81,
     "gemma-2-9b-it-res-layer20-width131k-l0-81"),
    ("9b-pt-att/layer_3/width_16k/average_l0_9", "google/gemma-2-9b", "attn_z.3", 9,
     "gemma-2-9b-att-layer3-width16k-l0-9"),
    ("27b-pt-mlp/layer_0/width_1m/average_l0_7", "google/gemma-2-27b", "mlp_out.0", 7,
     "gemma-2-27b-mlp-layer0-width1m-l0-7"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "model", "site", "l0", "name"), PLACES)
def test_gemma_scope_and_what_its_path_says(tmp_path, place, model, site, l0, name):
    folder = tmp_path / RELEASE.format(place)
    arrays = npz(folder / "params.npz")
    for path in (folder, folder / "params.npz"):
        sae, facts = formats.read(path)
        f, x_hat = jumprelu(arrays, rows())
        same(sae.encode(rows()), f)
        same(sae(rows()), x_hat)
        assert sae.config.d_out is None
        assert facts["format"] == "gemma_scope" and facts["name"] == name
        assert (facts["model"], facts["site"], facts["l0"]) == (model, site, l0)
        assert facts["hook_name"] == hook_of(site) and facts["site_out"] is None
        assert facts["context_size"] == 1024 and facts["prepend_bos"] is True


def test_the_hub_caches_path_says_the_same(tmp_path):
    folder = tmp_path / "models--google--gemma-scope-2b-pt-res/snapshots/0a/layer_5/width_65k"
    npz(folder / "average_l0_30/params.npz")
    facts = formats.read(folder / "average_l0_30")[1]
    assert facts["name"] == "gemma-2-2b-res-layer5-width65k-l0-30"


def test_a_path_that_says_nothing_leaves_the_facts_empty(tmp_path):
    npz(tmp_path / "params.npz")
    facts = formats.read(tmp_path)[1]
    assert [facts[k] for k in ("model", "site", "l0", "name", "context_size")] == [None] * 5
    npz(tmp_path / "layer_4/width_16k/average_l0_3/params.npz")
    facts = formats.read(tmp_path / "layer_4/width_16k/average_l0_3")[1]
    assert facts["site"] is None and facts["l0"] == 3, "which kind of site is not said"


def test_gemma_scope_transcoders_read_one_place_and_write_another(tmp_path):
    folder = tmp_path / RELEASE.format("2b-pt-transcoders/layer_7/width_16k/average_l0_10")
    arrays = npz(folder / "params.npz", small=True)
    sae, facts = formats.read(folder)
    same(sae(rows()), jumprelu(arrays, rows())[1])
    assert sae.config.d_out == D_IN, "as wide as its input, and yet no autoencoder"
    assert facts["site"] == "hook:model.layers.7.pre_feedforward_layernorm:output"
    assert facts["site_out"] == "mlp_out.7" and facts["hook_name_out"] == "blocks.7.hook_mlp_out"


def test_sae_on_embeddings_work_on_what_the_model_makes_of_them(tmp_path):
    folder = tmp_path / RELEASE.format("2b-pt-res/embedding/width_4k/average_l0_6")
    arrays = npz(folder / "params.npz")
    sae, facts = formats.read(folder)
    scale = math.sqrt(D_IN)  # the model multiplies its embeddings by it
    f, x_hat = jumprelu(arrays, rows())
    same(sae.encode(scale * rows()), scale * f)
    same(sae(scale * rows()), scale * x_hat)
    assert facts["site"] == "hook:model.embed_tokens:output"
    assert facts["name"] == "gemma-2-2b-res-embedding-width4k-l0-6"


def params_2(folder: Path, config: dict | None, skip=False, d_out=D_IN):
    tensors = {
        "w_enc": noise(D_IN, D_SAE),
        "w_dec": noise(D_SAE, d_out),
        "b_enc": noise(D_SAE),
        "b_dec": noise(d_out),
        "threshold": 0.5 + noise(D_SAE).abs(),
    }
    if skip:
        tensors["affine_skip_connection"] = noise(D_IN, d_out, seed=4)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu"} | config))
    arrays = {("W_" + k[2:] if k[:2] == "w_" else k): v for k, v in tensors.items()}
    f, x_hat = jumprelu(arrays, rows())
    return f, x_hat + rows() @ tensors["affine_skip_connection"] if skip else x_hat


def test_gemma_scope_2_with_and_without_a_config(tmp_path):
    release = tmp_path / "gemma-scope-2-1b-pt"
    said = {
        "model_name": "gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.13.output",
        "hf_hook_point_out": "model.layers.13.output",
        "l0": 60,
    }
    for config, model, l0 in ((said, "gemma-3-1b-pt", 60), (None, "google/gemma-3-1b-pt", None)):
        folder = release / ("resid_post" if config else "resid_post_all")
        f, x_hat = params_2(folder / "layer_13_width_16k_l0_medium", config)
        sae, facts = formats.read(folder / "layer_13_width_16k_l0_medium")
        same(sae.encode(rows()), f)
        same(sae(rows()), x_hat)
        assert sae.config.d_out is None and facts["format"] == "gemma_scope_2"
        assert (facts["model"], facts["site"], facts["l0"]) == (model, "resid_post.13", l0)
        assert facts["name"] == "gemma-3-1b-pt-resid_post-layer13-width16k-l0-medium"
    params_2(release / "attn_out/layer_5_width_65k_l0_small_seed_1", None)
    facts = formats.read(release / "attn_out/layer_5_width_65k_l0_small_seed_1")[1]
    assert facts["site"] == "attn_z.5" and facts["l0_level"] == "small"


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_transcoders(tmp_path, skip):
    name = "layer_9_width_16k_l0_big" + "_affine" * skip
    folder = tmp_path / "gemma-scope-2-270m-it/transcoder" / name
    _, x_hat = params_2(folder, {"affine_connection": skip}, skip, d_out=4)
    sae, facts = formats.read(folder / "params.safetensors")
    same(sae(rows()), x_hat)
    assert (sae.d_out, sae.W_skip is not None) == (4, skip)
    assert facts["site"] == "hook:model.layers.9.pre_feedforward_layernorm:output"
    assert facts["site_out"] == "mlp_out.9"
    assert facts["name"].endswith("l0-big-affine" if skip else "l0-big")


def test_a_cross_layer_transcoder_is_refused(tmp_path):
    params_2(tmp_path / "x", None)
    tensors = {"w_enc": noise(6, 10), "w_dec": noise(10, 3, 6), "b_enc": noise(10)}
    save_file(tensors, tmp_path / "x/params.safetensors")
    with pytest.raises(Refused, match="cross-layer transcoder"):
        formats.read(tmp_path / "x")


# ---------------------------------------------------------------- sparsify


def sparsify(folder: Path, skip=False, **cfg) -> dict:
    tensors = {
        "encoder.weight": noise(D_SAE, D_IN),
        "encoder.bias": noise(D_SAE),
        "W_dec": noise(D_SAE, D_IN, seed=3),
        "b_dec": noise(D_IN),
    } | ({"W_skip": noise(D_IN, D_IN, seed=5)} if skip else {})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 3, "d_in": D_IN, **cfg}))
    return tensors


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_sparsify(tmp_path, transcode, skip):
    (tmp_path / "config.json").write_text('{"model": "EleutherAI/pythia-70m", "ctx_len": 2048}')
    t = sparsify(tmp_path / "layers.4", skip=skip, transcode=transcode, skip_connection=skip)
    sae, facts = formats.read(tmp_path / "layers.4")
    centred = rows() if transcode else rows() - t["b_dec"]
    f = top(centred @ t["encoder.weight"].T + t["encoder.bias"], 3)
    same(sae.encode(rows()), f)
    same(sae(rows()), f @ t["W_dec"] + t["b_dec"] + (rows() @ t["W_skip"].T if skip else 0))
    assert isinstance(sae, TopKSAE) and facts["format"] == "sparsify"
    assert facts["model"] == "EleutherAI/pythia-70m" and facts["context_size"] == 2048
    sites = ("resid_post.3", "resid_post.4") if transcode else ("resid_post.4", None)
    assert (facts["site"], facts["site_out"]) == sites


def test_a_part_of_a_block_has_no_site_without_its_model(tmp_path):
    sparsify(tmp_path / "layers.4.mlp")
    facts = formats.read(tmp_path / "layers.4.mlp")[1]
    assert facts["site"] is None and facts["hook_point"] == "layers.4.mlp"


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"activation": "groupmax"}, "'groupmax' is unknown"),
        ({"signed": True}, "'signed' is unknown"),
        ({"k": None}, "k is None"),
    ],
)
def test_sparsify_of_another_kind_is_refused(tmp_path, cfg, words):
    sparsify(tmp_path / "layers.4", **cfg)
    with pytest.raises(Refused, match=words):
        formats.read(tmp_path / "layers.4")


# ---------------------------------------------------------------- Llamascopium

HOOK, HOOK_OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"
LOG = llama.LOG_THRESHOLDS[0]


def llamascopium(folder: Path, norms=None, drop=(), **cfg) -> dict:
    tensors = {
        "W_E": noise(D_IN, D_SAE),
        "b_E": noise(D_SAE),
        "W_D": noise(D_SAE, D_IN, seed=2),
        "b_D": noise(D_IN),
        LOG: 0.3 * noise(D_SAE, seed=7),
    }
    tensors["W_D"][4] = 0
    tensors = {name: value for name, value in tensors.items() if name not in drop}
    said = {f"{llama.NORM}.{k}": torch.tensor(v) for k, v in (norms or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors | said, folder / "sae_weights.safetensors")
    cfg = {"sae_type": "sae", "d_model": D_IN, "act_fn": "jumprelu", "hook_point_in": HOOK,
           "hook_point_out": HOOK, "top_k": 3} | cfg  # fmt: skip
    (folder / "config.json").write_text(json.dumps(cfg))
    return tensors


def llama_forward(t, x, act="jumprelu", by_norm=True):
    """Their encode and decode, in their units; also the norms by which TopK chooses."""
    norms = t["W_D"].norm(dim=1) if by_norm else torch.ones(D_SAE)
    pre = (x @ t["W_E"] + t["b_E"]) * norms
    f = {
        "jumprelu": lambda: pre * (pre > t[LOG].exp()) if LOG in t else pre,
        "relu": lambda: pre.relu(),
        "topk": lambda: top(pre, 3),
    }[act]()
    f = torch.where(norms > 0, f / norms, 0.0)
    return f, f @ t["W_D"] + t.get("b_D", 0.0), norms


@pytest.mark.parametrize("act", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("by_norm", [False, True])
def test_llamascopium_on_scaled_activations(tmp_path, act, by_norm):
    t = llamascopium(tmp_path, {HOOK: 7.0}, act_fn=act, sparsity_include_decoder_norm=by_norm)
    sae, facts = formats.read(tmp_path)
    scale = 7.0 / math.sqrt(D_IN)
    f, x_hat, norms = llama_forward(t, rows() / scale, act, by_norm)
    if act == "relu":  # a row of zeros leaves no trace in the output
        f = (rows() / scale @ t["W_E"] + t["b_E"]).relu()
    same(sae.encode(rows()), scale * f * (norms if act == "topk" else 1))
    same(sae(rows()), scale * x_hat)
    assert facts["format"] == "llamascopium" and facts["site"] == "resid_post.3"


def test_a_llamascopium_transcoder_has_a_scale_at_each_end(tmp_path):
    t = llamascopium(tmp_path, {HOOK: 7.0, HOOK_OUT: 4.0}, hook_point_out=HOOK_OUT)
    sae, facts = formats.read(tmp_path)
    f, x_hat, _ = llama_forward(t, rows() * math.sqrt(D_IN) / 7)
    same(sae.encode(rows()), f * 7 / math.sqrt(D_IN))
    same(sae(rows()), x_hat * 4 / math.sqrt(D_IN))
    assert sae.config.d_out == D_IN and facts["site_out"] == "mlp_out.3"


def test_llamascopium_folded_by_its_library_or_normed_by_token(tmp_path):
    t = llamascopium(tmp_path, {HOOK: math.nan}, norm_activation="inference")
    sae, _ = formats.read(tmp_path)
    same(sae.encode(rows()), llama_forward(t, rows())[0])
    t = llamascopium(tmp_path, norm_activation="token-wise", use_decoder_bias=False, drop=("b_D",))
    sae, _ = formats.read(tmp_path)
    size = rows().norm(dim=1, keepdim=True) / math.sqrt(D_IN)
    f, x_hat, _ = llama_forward(t, rows() / size)
    same(sae.encode(rows()), f)
    same(sae(rows()), x_hat * size)


def test_llama_scope_of_before_2_0(tmp_path):
    """One threshold for all features, matrices the other way, norms in hyperparams.json."""
    t = llamascopium(tmp_path / "new", drop=(LOG,))
    turned = {
        "encoder.weight": t["W_E"].T.contiguous(),
        "encoder.bias": t["b_E"],
        "decoder.weight": t["W_D"].T.contiguous(),
        "decoder.bias": t["b_D"],
    }
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    save_file(turned, tmp_path / "old/checkpoints/final.safetensors")
    cfg = {"d_model": D_IN, "act_fn": "jumprelu", "jump_relu_threshold": 0.7, "hook_point_in": HOOK,
           "hook_point_out": HOOK, "norm_activation": "dataset-wise",
           "dataset_average_activation_norm": {"in": 7.0, "out": 7.0}}  # fmt: skip
    (tmp_path / "old/hyperparams.json").write_text(json.dumps(cfg))
    sae, facts = formats.read(tmp_path / "old")
    scale = 7.0 / math.sqrt(D_IN)
    f, x_hat, _ = llama_forward(t | {LOG: torch.full((D_SAE,), math.log(0.7))}, rows() / scale)
    same(sae.encode(rows()), scale * f)
    same(sae(rows()), scale * x_hat)
    assert facts["site"] == "resid_post.3"


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"sae_type": "crosscoder"}, "'crosscoder' is unknown"),
        ({"act_fn": "batchtopk"}, "depends on the batch"),
        ({"use_glu_encoder": True}, "gated linear unit"),
        ({"norm_activation": "batch-wise"}, "'batch-wise' is unknown"),
        ({"norm_activation": "token-wise", "hook_point_out": HOOK_OUT}, "raw outputs"),
        ({}, "mean norm of .* is missing"),
        ({"norm_activation": "inference", "d_model": 7}, "not d_model 7"),
        ({"hook_point_in": None}, "does not name the hook points"),
    ],
)
def test_llamascopium_that_cannot_be_taken_is_refused(tmp_path, cfg, words):
    llamascopium(tmp_path, **cfg)
    with pytest.raises(Refused, match=words):
        formats.read(tmp_path)


# ---------------------------------------------------------------- OpenAI


def openai(path: Path, **more) -> dict:
    state = {
        "pre_bias": noise(D_IN),
        "latent_bias": noise(D_SAE),
        "encoder.weight": noise(D_SAE, D_IN),
        "decoder.weight": noise(D_IN, D_SAE),
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "activation": "TopK",
        "activation_state_dict": {"k": 3, "postact_fn": "ReLU"},
    } | more
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return state


def test_openai_topk_normalises_each_row(tmp_path):
    path = tmp_path / "gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt"
    t = openai(path)
    x = 20 * rows()  # far from the 1e-5 beside the standard deviation
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    normed = (x - mean) / (std + 1e-5)
    f = top((normed - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"], 3)
    x_hat = (f @ t["decoder.weight"].T + t["pre_bias"]) * std + mean
    for place in (path, path.parent):
        sae, facts = formats.read(place)
        same(sae.encode(x), f)
        same(sae(x) / 20, x_hat / 20)
        assert facts["format"] == "openai" and facts["model"] == "gpt2"
        assert facts["site"] == "resid_post.8"


@pytest.mark.parametrize("tied", [False, True])
def test_openai_relu_works_on_raw_rows(tmp_path, tied):
    encoder = noise(D_SAE, D_IN)
    more = {"decoder.weight": None, "decoder.linear.weight": encoder} if tied else {}
    t = openai(tmp_path / "a.pt", activation="ReLU", activation_state_dict={}, **more)
    sae, facts = formats.read(tmp_path / "a.pt")
    f = ((rows() - t["pre_bias"]) @ encoder.T + t["latent_bias"]).relu()
    same(sae.encode(rows()), f)
    same(sae(rows()), f @ (encoder if tied else t["decoder.weight"].T) + t["pre_bias"])
    assert facts["site"] is None and facts["model"] is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"activation": "Identity"}, "'Identity'"),
        ({"activation": torch.zeros(2)}, "is unknown"),
        ({"activation_state_dict": {"k": 3, "postact_fn": "Identity"}}, "over 'Identity'"),
        ({"activation_state_dict": {"postact_fn": "ReLU"}}, "k is None"),
        ({"activation_state_dict": {"k": torch.ones(2).int(), "postact_fn": "ReLU"}}, "k is None"),
        ({"latent_bias": torch.zeros(D_SAE).int()}, "int32, not a tensor of floats"),
        ({"decoder.weight": noise(D_IN)}, "not a matrix"),
    ],
)
def test_openai_of_another_kind_is_refused(tmp_path, more, words):
    openai(tmp_path / "a.pt", **more)
    with pytest.raises(Refused, match=words):
        formats.read(tmp_path / "a.pt")


# ---------------------------------------------------------------- dictionary_learning


def batch_topk(folder: Path, threshold=0.4, config=True, **more) -> dict:
    state = {
        "encoder.weight": noise(D_SAE, D_IN),
        "encoder.bias": noise(D_SAE),
        "decoder.weight": noise(D_IN, D_SAE),
        "b_dec": noise(D_IN),
        "k": torch.tensor(3, dtype=torch.int),
        "threshold": torch.tensor(threshold),
    } | more
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if config:
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE"}}))
    return state


def _encoded(t, x):
    return ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()


def test_batch_topk_is_read_with_its_threshold(tmp_path):
    t = batch_topk(tmp_path)
    sae, _ = formats.read(tmp_path)
    pre = _encoded(t, rows())
    assert isinstance(sae, JumpReLUSAE)
    same(sae.encode(rows()), pre * (pre > 0.4))


@pytest.mark.parametrize("threshold", [-1.0, math.nan])
def test_batch_topk_without_a_threshold_yet_is_topk_and_says_so(tmp_path, threshold):
    t = batch_topk(tmp_path, threshold)
    sae, facts = formats.read(tmp_path)
    assert "read as TopK" in facts["note"]
    same(sae.encode(rows()), top(_encoded(t, rows()), 3))


def test_the_config_of_a_checkpoint_lies_one_folder_up(tmp_path):
    batch_topk(tmp_path / "trainer_0")
    batch_topk(tmp_path / "trainer_0/checkpoints", config=False)
    (tmp_path / "trainer_0/checkpoints/ae.pt").rename(tmp_path / "trainer_0/checkpoints/ae_500.pt")
    assert formats.read(tmp_path / "trainer_0/checkpoints/ae_500.pt")[1]["class"] == "BatchTopKSAE"
    assert formats.read(tmp_path / "trainer_0/checkpoints")[1]["class"] == "BatchTopKSAE"


def test_twins_without_a_config_are_refused(tmp_path):
    batch_topk(tmp_path, config=False)
    with pytest.raises(Refused, match="AutoEncoderTopK and BatchTopKSAE have the same keys"):
        formats.read(tmp_path)


def test_a_class_is_known_by_its_keys_alone(tmp_path):
    for name in ("jumprelu", "relu", "gated"):
        (tmp_path / name).mkdir()
        formats.write(some_sae(name), tmp_path / name, "dictionary_learning", {})
        (tmp_path / name / "config.json").unlink()
        sae, _ = formats.read(tmp_path / name)
        same(sae(rows()), some_sae(name)(rows()))


def test_an_unknown_class_and_strange_keys_are_refused(tmp_path):
    batch_topk(tmp_path)
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict"}}')
    with pytest.raises(Refused, match="'IdentityDict' is unknown"):
        formats.read(tmp_path)
    torch.save({"encoder.weight": noise(3, 2), "q": noise(2)}, tmp_path / "ae.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(Refused, match="holds encoder.weight, q: no class"):
        formats.read(tmp_path)
