"""Sparse codes against dense ones, for every architecture."""

import pytest
import torch

from sae.config import Refused
from sae.entries import Buffers
from sae.models import MODELS, GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE
from sae.sparse import SparseCode, decode_sparse, encode_sparse

D_IN, D_SAE, ROWS = 12, 45, 33  # odd sizes: the mask's last word is not full


def _sae(theta=0.5, model=JumpReLUSAE, **more):
    g = torch.Generator().manual_seed(4)
    sae = model(D_IN, D_SAE, **more)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) if name != "threshold" else p + theta)
    return sae.requires_grad_(False), torch.randn(ROWS, D_IN, generator=g)


@pytest.mark.parametrize("theta", [0.5, 0.0, 1e4])
def test_sparse_code_is_the_dense_code(theta):
    sae, x = _sae(theta)
    code, pre = encode_sparse(sae, x, with_pre=True)
    assert torch.allclose(code.dense(), sae.encode(x), atol=1e-6)
    assert torch.allclose(pre, sae.pre(x), atol=1e-6)
    assert torch.allclose(decode_sparse(sae, code), sae(x), atol=1e-5)
    flat = code.rows * D_SAE + code.features
    assert bool((flat.diff() > 0).all()) and bool((code.values > 0).all())


@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("model", [ReLUSAE, GatedSAE, TopKSAE, JumpReLUSAE])
def test_every_architecture_listed_is_the_same_dense(model, token_norm):
    sae, x = _sae(model=model, token_norm=token_norm, k=7 if model is TopKSAE else None)
    code, pre = encode_sparse(sae, x, with_pre=True)
    assert torch.allclose(code.dense(), sae.encode(x), atol=1e-5)
    assert torch.allclose(pre, sae.pre(x), atol=1e-5)
    assert torch.allclose(decode_sparse(sae, code, x), sae(x), atol=1e-4)
    flat = code.rows * D_SAE + code.features
    assert bool((flat.diff() > 0).all()) and bool((code.values > 0).all())
    assert 0 < code.values.numel() < ROWS * D_SAE and set(MODELS.values()) >= {model}


def test_buffers_serve_batches_of_any_size():
    sae, x = _sae()
    buffers = Buffers()
    for n in (ROWS, 3, ROWS, 1, 0):
        assert torch.allclose(
            encode_sparse(sae, x[:n], buffers).dense(), sae.encode(x[:n]), atol=1e-6
        )


def test_no_entry_is_lost_or_invented_at_density_extremes():
    sae, x = _sae()
    sae.b_enc += 1e3
    assert encode_sparse(sae, x).values.numel() == ROWS * D_SAE
    empty = encode_sparse(sae, torch.full_like(x, torch.nan))
    assert isinstance(empty, SparseCode) and empty.values.numel() == 0


def test_wrong_width_is_refused():
    sae, _ = _sae()
    with pytest.raises(Refused, match=r"\(3, 5\).*12"):
        encode_sparse(sae, torch.zeros(3, 5))
