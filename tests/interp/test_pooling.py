"""Vectors of documents against the model's own activations, document by document."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import TextError
from data.records import Document
from data.tokens import ContextRule, mask_rule
from interp import pooling
from interp.pooling import Pooling, Reader
from tests import tiny

TEXTS = [*tiny.sentences(12, words=16), f"open {tiny.EOS} read", tiny.EOS, "x"]
RULE = ContextRule(context=16, skip_first=1)
SITES = ("resid_post.0", "mlp_out.1")


@pytest.fixture(scope="module")
def readers(lm):
    """An SAE at each of two sites; the second leaves out loud tokens."""
    made = []
    for number, site in enumerate(SITES):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(3, tiny.VOCAB, (20, 16), generator=generator)
        x = lm.capture(ids, [site])[site].flatten(0, 1)
        limit = float(x.norm(dim=1).median()) if number else None
        sae = tiny.random_sae(x.numpy(), 20, share=0.3, seed=number)
        made.append(Reader(f"sae{number}", sae, site, mask_rule(lm.tokenizer, RULE, limit)))
    return made


def _documents(texts=TEXTS):
    return [Document(str(i), text) for i, text in enumerate(texts)]


def _pooled(lm, readers, pool, rule=RULE):
    work = Pooling(lm, readers, _documents(), rule, pool)
    begun = list(work)
    assert begun == sorted(begun) and begun[-1] == len(TEXTS)
    return work.pooled


def _rows(lm, reader, text):
    """Activations [n, d_in] of a document's kept tokens, one context after the other."""
    tokens = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = []
    for start in range(0, len(tokens), 15):
        ids = [0, *tokens[start : start + 15]]
        x = lm.capture(torch.tensor([ids]), [reader.site])[reader.site][0]
        limit = reader.mask.norm_limit or float("inf")
        special = (0, 1, 2)
        kept = [k for k in range(2, len(ids)) if ids[k] not in special and x[k].norm() <= limit]
        rows += [x[k] for k in kept]
    return torch.stack(rows) if rows else torch.empty(0, tiny.WIDTH)


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
@pytest.mark.parametrize("at_once", [2**25, 20 * 7])
def test_vectors_by_hand(pool, at_once, lm, readers, monkeypatch):
    monkeypatch.setattr(pooling, "FEATURES_AT_ONCE", at_once)
    pooled = _pooled(lm, readers, pool)
    how = {"mean": lambda v: v.mean(0), "max": lambda v: v.amax(0), "last": lambda v: v[-1]}[pool]
    for reader in readers:
        found, on = pooled[reader.name], torch.zeros(20, dtype=torch.bool)
        for number, text in enumerate(TEXTS):
            rows = _rows(lm, reader, text)
            assert found.tokens[number] == len(rows)
            if len(rows):
                f = reader.sae.encode(rows)
                on |= (f > 0).any(0)
                assert torch.allclose(found.raw[number], how(rows), atol=1e-5)
                assert torch.allclose(found.features[number], how(f), atol=1e-4)
        assert torch.equal(found.on, on) and 5 < on.sum() < 20
    tokens = torch.stack([pooled[reader.name].tokens for reader in readers])
    assert (tokens == 0).any() and (tokens[0] > 15).any() and (tokens[0] != tokens[1]).any()


def test_packing_is_left_out(lm, readers):
    rule = ContextRule(context=16, skip_first=1, pack=True)
    ours, plain = (_pooled(lm, readers, "mean", r)["sae0"] for r in (rule, RULE))
    assert torch.equal(ours.raw, plain.raw)


def test_what_comes_out_can_be_trained_on(lm, readers):
    """Tensors of inference mode could not be."""
    found = _pooled(lm, readers, "mean")["sae0"]
    W = torch.zeros(20, 2, requires_grad=True)
    (found.features @ W).square().sum().backward()
    assert not found.raw.is_inference() and W.grad is not None


def test_an_unknown_pool_is_refused(lm, readers):
    with pytest.raises(TextError, match="use mean, max, last"):
        Pooling(lm, readers, _documents(), RULE, "median")


def test_sums_are_exact_to_rounding_in_any_batch(lm, readers):
    one = _pooled(lm, readers, "mean")["sae1"].raw
    assert np.array_equal(one, _pooled(lm, readers, "mean")["sae1"].raw)
