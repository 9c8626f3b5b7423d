"""Saving and loading: identity, deterministic bytes, folding, and refusals with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.config import Refused
from sae.formats import check_width, load, save
from sae.models import JumpReLUSAE


def _sae(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    sae = JumpReLUSAE(6, 10, dtype)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g).abs_() if name == "threshold" else p + 1)
            p.add_(0.1 * torch.randn(p.shape, generator=g).abs())
    return sae.requires_grad_(False)


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
    assert cfg["metadata"] == {"model_name": "demo", "training": {"lr": 0.01}}
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(sae(x), back(x))


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
        "metadata": {},
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


def _damage(tmp_path, **changes):
    save(_sae(), tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "gated"}, "'gated' is unknown"),
        ({"d_sae": 11}, r"\(6, 10\).*\(6, 11\)|\(10,\).*\(11,\)"),
        ({"d_in": "six"}, "d_in is 'six'"),
        ({"dtype": "int4"}, "'int4' is unknown"),
        ({"normalize_activations": "layer_norm"}, "fold the normalisation"),
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
