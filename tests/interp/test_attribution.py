"""Attribution: a linear readout worked out by hand, and finite differences on a tiny model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data.lm import LanguageModel
from interp.attribution import Attribution, effective_number
from interp.fidelity import Evaluation
from sae.models import JumpReLUSAE, ReLUSAE
from tests import tiny


class Readout(nn.Module):
    """Two-dimensional embeddings, one block that changes nothing, a linear head of two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([nn.Identity()])
        self.embed = nn.Embedding.from_pretrained(
            torch.tensor([[3.0, 0.5], [2.0, -1.0], [-1.0, -1.0]])
        )
        self.head = torch.tensor([[0.5, 0.0], [1.5, 2.0]])  # their difference is (1, 2)

    def forward(self, input_ids, use_cache):
        x = self.model.layers[0](self.embed(input_ids))
        return SimpleNamespace(logits=x @ self.head.T)


def _by_hand_sae():
    """f = ReLU(x), and a third feature that is always 4; its direction does not move the logits."""
    sae = ReLUSAE(2, 3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        sae.b_enc.copy_(torch.tensor([0.0, 0, 4]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [2, -1]]))
    return sae.requires_grad_(False)


def _measure(sae, ids, scored):
    lm = LanguageModel("readout", Readout(), None, "cpu", "none")
    attribution = Attribution(sae, lm, "resid_post.0")
    ids = torch.tensor([ids])
    attribution.update(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([scored]))
    return attribution.result()


def test_by_hand():
    """Token 0 has f = (3, 1/2, 4). The gradient is some multiple of (1, 2) whatever the next token
    is, so |a| is in proportion 3 x 1 : 1/2 x 2 : 4 x 0, and p = (3/4, 1/4, 0)."""
    found = _measure(_by_hand_sae(), [0, 1, 0], [True, False, False])
    number = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert number == pytest.approx(1.7548, abs=1e-4)
    assert found["effective_number"] == pytest.approx(number, rel=1e-4)
    assert found["uniformity"] == pytest.approx(number / 3, rel=1e-4)
    assert (found["n_tokens"], found["n_left_out"]) == (1, 0)


def test_tokens_count_the_same_whatever_their_loss():
    """Token 1 has f = (2, 0, 4): its first feature alone counts. The mean is over tokens, although
    the two predictions, right and wrong, are of very different size."""
    found = _measure(_by_hand_sae(), [0, 1, 0], [True, True, False])
    number = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found["effective_number"] == pytest.approx((number + 1) / 2, rel=1e-4)
    assert found["uniformity"] == pytest.approx((number / 3 + 1 / 2) / 2, rel=1e-4)
    assert found["n_tokens"] == 2


def test_tokens_without_an_attribution_are_left_out_and_counted():
    sae = _by_hand_sae()
    sae.b_enc[2] = -1.0  # token 2 now has no active feature
    assert _measure(sae, [2, 0, 1], [True, True, False])["n_left_out"] == 1
    assert _measure(sae, [2, 0, 1], [True, True, False])["n_tokens"] == 1
    sae.b_enc[2] = 4.0  # and now one that moves nothing
    nothing = _measure(sae, [2, 0, 1], [True, False, False])
    assert nothing == {
        "effective_number": None, "uniformity": None, "n_tokens": 0, "n_left_out": 1,
    }  # fmt: skip


def test_nothing_scored_is_nothing_measured():
    assert _measure(_by_hand_sae(), [0, 1], [False, False])["n_tokens"] == 0


def test_effective_number_by_hand():
    a = torch.tensor([[1.0, -1, 1, -1], [0, -5, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).double()
    number, total = effective_number(a)
    assert number.tolist() == pytest.approx([4, 1, 1, 2])
    assert total.tolist() == [4, 5, 0, 2]


def _random_sae(cache, kind):
    if kind == "jumprelu":
        return tiny.random_sae(cache.x, 40, share=0.2)
    sae, generator = JumpReLUSAE(24, 40, token_norm="layer_norm"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.copy_(0.3 * torch.randn(24, 40, generator=generator))
        sae.W_dec.copy_(0.3 * torch.randn(40, 24, generator=generator))
    return sae.requires_grad_(False)


@pytest.mark.parametrize("kind", ["jumprelu", "layer_norm"])
@pytest.mark.parametrize("which", ["cache", "packed"])
def test_against_finite_differences(kind, which, lm, request):
    """a_i is f_i times what the sum of all scored log-probabilities gains by one more f_i."""
    cache = request.getfixturevalue(which)
    sae, contexts = _random_sae(cache, kind), np.arange(3)
    evaluation = Evaluation(sae, cache, lm, contexts)
    ids, kept, scored = evaluation._inputs(contexts)
    a, active = Attribution(sae, lm, evaluation.site)._attributions(ids, kept, scored)
    f_of = {}

    def total(row=None, feature=None, by=0.0):
        def change(x):
            f = sae.encode(x[kept])
            f_of["f"] = f.clone()
            if row is not None:
                f[row, feature] += by
            new = x.clone()
            new[kept] = sae.decode(f, x[kept])
            return new

        log_p = lm.logits_replacing(ids, evaluation.site, change).double().log_softmax(-1)[:, :-1]
        return log_p.gather(2, ids[:, 1:, None])[..., 0][scored[:, :-1]].sum().item()

    total()
    rows = scored[kept].nonzero()[:, 0]  # rows of kept tokens that are scored
    f = f_of["f"][rows]
    assert torch.equal(active, (f > 0).sum(1)) and torch.equal(a != 0, f > 0)
    largest = a.abs().flatten().topk(6).indices
    for index in largest.tolist():
        token, feature = divmod(index, 40)
        step = 0.02 * f[token, feature].item()
        place = int(rows[token])
        slope = (total(place, feature, step) - total(place, feature, -step)) / (2 * step)
        assert a[token, feature] == pytest.approx(f[token, feature].item() * slope, rel=2e-2)


def test_it_works_inside_inference_mode_and_leaves_no_gradients(cache, lm):
    sae = tiny.random_sae(cache.x, 40, share=0.2).requires_grad_(True)
    evaluation = Evaluation(sae, cache, lm, np.arange(4))
    results = []
    for mode in (True, False):
        attribution = Attribution(sae, lm, evaluation.site)
        with torch.inference_mode(mode):
            attribution.update(*evaluation._inputs(np.arange(4)))
        results.append(attribution.result())
    assert results[0] == results[1] and results[0]["n_tokens"] > 10
    assert all(p.grad is None for p in [*sae.parameters(), *lm.model.parameters()])
