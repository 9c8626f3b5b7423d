"""Saving and loading: identity, deterministic bytes, folding, and refusals with the reason."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.config import Refused, SAEConfig
from sae.formats import check_width, load, save
from sae.models import blank


def some_sae(architecture="jumprelu", d_in=6, d_sae=10, seed=0, dtype=torch.float32, **shape):
    """Random weights; every threshold positive, every decoder row of another norm."""
    g = torch.Generator().manual_seed(seed)
    skip = shape.pop("skip", False)
    k = 3 if architecture == "topk" else None
    sae = blank(SAEConfig(d_in, d_sae, architecture, k, **shape), dtype, skip)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(0.5 + 0.2 * noise.abs() if name == "threshold" else 0.7 * noise)
    return sae.requires_grad_(False)


def rows(d_in=6, n=40, seed=1):
    return 2 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)) + 0.3


def _sae(dtype=torch.float32):
    return some_sae(dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_identity(tmp_path, dtype):
    sae = _sae(dtype=dtype)
    save(sae, tmp_path, {"model_name": "demo", "training": {"lr": 0.01}})
    back, cfg = load(tmp_path)
    assert back.state_dict().keys() == sae.state_dict().keys()
    for name, value in sae.state_dict().items():
        assert (
            torch.equal(value, back.state_dict()[name])
            and value.dtype == back.get_parameter(name).dtype
        )
    assert cfg["metadata"] == {
        "model_name": "demo",
        "training": {"lr": 0.01},
        "sae_lens_version": "6.54.12",
    }
    x = rows().to(dtype)
    assert torch.equal(sae(x), back(x))


SHAPES = {
    "relu": {"architecture": "relu"},
    "gated": {"architecture": "gated"},
    "topk": {"architecture": "topk"},
    "layer_norm": {"architecture": "gated", "token_norm": "layer_norm"},
    "constant_norm": {"architecture": "topk", "token_norm": "constant_norm_rescale"},
    "transcoder": {"architecture": "relu", "d_out": 4},
    "as_wide": {"architecture": "jumprelu", "d_out": 6},
    "skip": {"architecture": "relu", "d_out": 4, "skip": True},
    "gated_transcoder": {"architecture": "gated", "d_out": 4},
    "topk_skip": {"architecture": "topk", "skip": True},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_architecture_comes_back_the_same(tmp_path, shape):
    sae = some_sae(**shape)
    save(sae, tmp_path, {})
    back, _ = load(tmp_path)
    assert type(back) is type(sae)
    for name, value in sae.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    crosses = shape.get("d_out") or (6 if "skip" in shape else None)
    assert dataclasses.replace(back.config, d_out=crosses) == dataclasses.replace(
        sae.config, d_out=crosses
    )
    assert (back.config.d_out is not None) == (crosses is not None)
    assert torch.equal(back(rows()), sae(rows()))


def test_saving_twice_what_was_loaded_changes_no_byte(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    save(some_sae("gated"), tmp_path / "a", {"hook_name": "blocks.1.attn.hook_z"})
    back, cfg = load(tmp_path / "a")
    save(back, tmp_path / "b", cfg["metadata"])
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "cfg.json").read_text())["reshape_activations"] == "hook_z"


def test_a_gated_sae_has_saelens_names(tmp_path):
    sae = some_sae("gated")
    save(sae, tmp_path, {})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert sorted(tensors) == ["W_dec", "W_enc", "b_dec", "b_gate", "b_mag", "r_mag"]
    assert torch.equal(tensors["b_gate"], sae.b_enc)


def test_the_skip_matrix_lies_as_saelens_has_it(tmp_path):
    sae = some_sae("relu", d_out=4, skip=True)
    save(sae, tmp_path, {})
    assert load_file(tmp_path / "sae_weights.safetensors")["W_skip"].shape == (4, 6)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == "skip_transcoder" and cfg["d_out"] == 4


def test_layout_is_saelens_inference(tmp_path):
    save(_sae(), tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg == {
        "architecture": "jumprelu",
        "d_in": 6,
        "d_sae": 10,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12"},
    }
    shapes = {k: tuple(v.shape) for k, v in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {
        "W_enc": (6, 10),
        "W_dec": (10, 6),
        "b_enc": (10,),
        "b_dec": (6,),
        "threshold": (10,),
    }


def test_bytes_are_deterministic(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(_sae(), tmp_path / name, {"b": 1, "a": name == "c"})
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_threshold_stays_float32_under_a_cast():
    sae = _sae()
    theta = sae.threshold.clone()
    sae = sae.to(torch.bfloat16)
    assert sae.W_enc.dtype == torch.bfloat16 and torch.equal(sae.threshold, theta)
    assert sae.encode(torch.ones(2, 6, dtype=torch.bfloat16)).shape == (2, 10)


def test_an_encoder_that_subtracts_b_dec_is_folded(tmp_path):
    sae = _sae()
    save(sae, tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | {"apply_b_dec_to_input": True}))
    back, _ = load(tmp_path)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(back(x), sae(x - sae.b_dec), atol=1e-5)


def test_absent_apply_b_dec_to_input_means_true_as_in_saelens(tmp_path):
    sae = _sae()
    save(sae, tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    del cfg["apply_b_dec_to_input"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    assert torch.allclose(load(tmp_path)[0](rows()), sae(rows() - sae.b_dec), atol=1e-5)


def test_a_log_threshold_of_an_old_checkpoint_is_the_threshold(tmp_path):
    sae = _sae()
    save(sae, tmp_path, {})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    torch.testing.assert_close(load(tmp_path)[0].threshold, sae.threshold, rtol=1e-6, atol=0)


def test_a_finetuning_scale_is_folded_into_the_decoder_if_announced(tmp_path):
    sae, scale = _sae(), torch.linspace(0.5, 2, 10)
    save(sae, tmp_path, {})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    save_file(tensors | {"scaling_factor": scale}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(Refused, match="does not announce"):
        load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | {"finetuning_scaling_factor": True}))
    back, _ = load(tmp_path)
    f = sae.encode(rows())
    assert torch.equal(back.encode(rows()), f)
    assert torch.allclose(back.decode(f), sae.decode(f * scale), atol=1e-5)
    save_file(tensors | {"scaling_factor": torch.ones(10)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    assert torch.equal(load(tmp_path)[0].decode(f), sae.decode(f)), "ones mean nothing"


@pytest.mark.parametrize("metadata", [{"l0": float("nan")}, {"x": "\ud83c"}, {"x": 1e999}])
def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path, metadata):
    with pytest.raises(Refused, match="cannot be written as JSON"):
        save(_sae(), tmp_path, metadata)
    assert list(tmp_path.iterdir()) == []


def test_what_the_layout_has_no_place_for_is_refused(tmp_path):
    with pytest.raises(Refused, match="float64 cannot be saved"):
        save(_sae().double(), tmp_path, {})
    with pytest.raises(Refused, match="transcoder with token_norm"):
        save(some_sae("relu", d_out=6, token_norm="layer_norm"), tmp_path, {})


def _damage(tmp_path, **changes):
    save(_sae(), tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "gated"}, "no b_gate"),
        ({"architecture": "temporal"}, "'temporal' is unknown"),
        ({"architecture": ["jumprelu"]}, "is unknown"),
        ({"architecture": "topk"}, "k is None"),
        ({"architecture": "topk", "k": 11}, "whole k from 1 to d_sae"),
        ({"architecture": "batchtopk"}, "no positive topk_threshold"),
        ({"architecture": "jumprelu_transcoder", "d_out": 5}, r"\(10, 6\).*\(10, 5\)"),
        ({"architecture": "skip_transcoder", "d_out": 6}, "no W_skip"),
        ({"architecture": "transcoder", "apply_b_dec_to_input": True}, "set that to false"),
        ({"activation_fn_str": "tanh-relu", "metadata": None}, "'tanh-relu' is unknown"),
        ({"d_sae": 2**23}, "d_sae is 8388608"),
        ({"apply_b_dec_to_input": "yes"}, "neither true nor false"),
        ({"d_sae": 11}, r"\(6, 10\).*\(6, 11\)|\(10,\).*\(11,\)"),
        ({"d_in": "six"}, "d_in is 'six'"),
        ({"dtype": "int4"}, "'int4' is unknown"),
        ({"normalize_activations": "covariance_whitening"}, "fold the normalisation"),
        ({"normalize_activations": "expected_average_only_in"}, "put activation_scaler.json"),
        ({"architecture": "transcoder", "normalize_activations": "layer_norm"}, "raw outputs"),
    ],
)
def test_configs_that_do_not_fit_are_refused(tmp_path, changes, words):
    _damage(tmp_path, **changes)
    with pytest.raises(Refused, match=words):
        load(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(Refused, match="cfg.json is missing"):
        load(tmp_path)
    save(_sae(), tmp_path, {})
    weights = tmp_path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    for kept in (0, 4, 100, len(whole) - 1):
        weights.write_bytes(whole[:kept])
        with pytest.raises(Refused, match="damaged or cut short"):
            load(tmp_path)
    weights.unlink()
    with pytest.raises(Refused, match="safetensors is missing"):
        load(tmp_path)
    for text in ("{", "[]", "\x00"):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(Refused, match="copy it again"):
            load(tmp_path)


def test_missing_and_infinite_tensors_are_refused(tmp_path):
    save(_sae(), tmp_path, {})
    weights = tmp_path / "sae_weights.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "threshold"}, weights)
    with pytest.raises(Refused, match="no threshold"):
        load(tmp_path)
    save_file(tensors | {"b_enc": torch.full((10,), torch.inf)}, weights)
    with pytest.raises(Refused, match="b_enc.*not finite"):
        load(tmp_path)
    broken = _sae()
    broken.W_dec[0, 0] = torch.nan
    with pytest.raises(Refused, match="W_dec.*not finite"):
        save(broken, tmp_path, {})


def test_width_of_another_model_is_refused():
    check_width(_sae(), 6, "resid_post.2")
    with pytest.raises(Refused, match="width 6, but resid_post.2 is 64 wide"):
        check_width(_sae(), 64, "resid_post.2")
