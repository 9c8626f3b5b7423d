"""The splice: known answers for perfect and empty SAEs, and one batch worked out by hand."""

import numpy as np
import pytest
import torch

from interp import fidelity
from interp.fidelity import Evaluation, loss_metrics
from sae.models import JumpReLUSAE
from tests import tiny


def _perfect(d_in):
    """x_hat = x exactly: one feature for each sign of each dimension."""
    sae = JumpReLUSAE(d_in, 2 * d_in)
    eye = torch.eye(d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae.requires_grad_(False)


def _evaluate(sae, cache, lm, contexts=None, loss_tokens=10**9):
    contexts = np.arange(len(cache.ids)) if contexts is None else contexts
    evaluation = Evaluation(sae, cache, lm, contexts, loss_tokens)
    steps = list(evaluation)
    assert steps[-1].done == steps[-1].total
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    return evaluation.result


def test_a_perfect_sae_loses_nothing(cache, lm):
    result = _evaluate(_perfect(24), cache, lm)
    assert result["delta_loss"] == 0 and result["loss_recovered"] == 1 and result["kl"] == 0
    assert result["mse"] == 0 and result["fve"] == 1 and result["gamma"] == 1
    assert result["n_tokens"] == cache.n_rows and result["ce"] > 1


def test_an_sae_that_gives_zeros_is_zero_ablation(cache, lm):
    result = _evaluate(JumpReLUSAE(24, 8), cache, lm)
    assert result["loss_recovered"] == 0 and result["delta_loss"] != 0 and result["kl"] > 0
    assert result["l0"] == 0 and result["dead"] == 8 and result["gamma"] is None


def _by_hand(sae, cache, lm, contexts):
    """Mean CE, CE with x_hat, CE with zeros, KL, position by position, with a hook of its own."""
    block = lm.model.model.layers[1]
    kept = {
        (int(c), int(k)): int(d)
        for c, k, d in zip(cache.context, cache.column, cache.doc, strict=True)
    }
    sums, n = np.zeros(4), 0
    for context in contexts:
        ids = torch.from_numpy(np.array(cache.ids[context]))[None].long()
        mask = torch.tensor([(int(context), k) in kept for k in range(ids.shape[1])])

        def run(replacement=None, ids=ids, mask=mask):
            def hook(_module, _args, x):
                new = x.clone()
                new[0, mask] = replacement(x[0, mask])
                return new

            handle = block.register_forward_hook(hook) if replacement else None
            logits = lm.model(input_ids=ids).logits[0].double()
            if handle:
                handle.remove()
            return logits.log_softmax(-1)

        plain, ours, zero = run(), run(sae), run(torch.zeros_like)
        for k in range(ids.shape[1] - 1):
            here, after = (int(context), k), (int(context), k + 1)
            if here in kept and after in kept and kept[here] == kept[after]:
                target = ids[0, k + 1]
                n += 1
                sums += [
                    -plain[k, target].item(),
                    -ours[k, target].item(),
                    -zero[k, target].item(),
                    (plain[k].exp() * (plain[k] - ours[k])).sum().item(),
                ]
    return sums / n, n


@pytest.mark.parametrize("which", ["cache", "packed"])
def test_losses_by_hand(which, lm, request):
    cache = request.getfixturevalue(which)
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    contexts = np.arange(3, 40, 4)
    (ce, spliced, zero, kl), n = _by_hand(sae, cache, lm, contexts)
    assert n > 50
    result = _evaluate(sae, cache, lm, contexts)
    assert result["ce"] == pytest.approx(ce, rel=1e-5)
    assert result["delta_loss"] == pytest.approx(spliced - ce, rel=1e-3)
    assert result["loss_recovered"] == pytest.approx(1 - (spliced - ce) / (zero - ce), rel=1e-3)
    assert result["kl"] == pytest.approx(kl, rel=1e-3)


def test_the_size_of_batches_changes_nothing(cache, lm, monkeypatch):
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    contexts = np.arange(20)
    before = _evaluate(sae, cache, lm, contexts)
    monkeypatch.setattr(fidelity, "LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(fidelity, "BATCH_ROWS", 13)
    after = _evaluate(sae, cache, lm, contexts)
    assert after == {key: pytest.approx(value, rel=1e-4) for key, value in before.items()}


def test_only_the_first_contexts_are_spliced_but_all_rows_are_measured(cache, lm):
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    some = _evaluate(sae, cache, lm, np.arange(20), loss_tokens=16 * 5)
    first, everything = (
        _evaluate(sae, cache, lm, np.arange(5)),
        _evaluate(sae, cache, lm, np.arange(20)),
    )
    for key in ("ce", "delta_loss", "loss_recovered", "kl"):
        assert some[key] == pytest.approx(first[key], rel=1e-5)
    for key in ("l0", "fve", "mse", "n_tokens"):
        assert some[key] == everything[key] != first[key]


@pytest.mark.parametrize("which", ["cache", "packed"])
def test_masked_positions_keep_their_activation(which, lm, request):
    """Prefix, separators, special tokens, skipped positions and padding pass unchanged."""
    cache = request.getfixturevalue(which)
    sae = JumpReLUSAE(24, 4)
    with torch.no_grad():
        sae.b_dec.fill_(7.0)
    seen = []

    def record(_module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())

    contexts = np.arange(len(cache.ids))
    handle = lm.model.model.layers[2].register_forward_pre_hook(record, with_kwargs=True)
    try:
        Evaluation(sae, cache, lm, contexts)._losses(contexts)
    finally:
        handle.remove()
    original, spliced, zeroed = seen
    kept = np.zeros(cache.ids.shape, dtype=bool)
    kept[cache.context, cache.column] = True
    assert 100 < kept.sum() < kept.size - 100
    assert (np.isin(cache.ids, (0, 1, 2)) & ~kept).sum() > 20
    assert torch.equal(spliced[~kept], original[~kept]) and torch.equal(
        zeroed[~kept], original[~kept]
    )
    assert (spliced[kept] == 7).all() and (zeroed[kept] == 0).all()


def test_without_a_scored_position_the_losses_are_undefined(lm, tmp_path):
    cache = tiny.cache(tmp_path, lm, ["x", "y", "z"])
    result = _evaluate(tiny.random_sae(cache.x, 8), cache, lm)
    assert result["n_tokens"] == 3
    assert [result[k] for k in ("ce", "delta_loss", "loss_recovered", "kl")] == [None] * 4


def test_loss_metrics_by_hand():
    assert loss_metrics(10, 20.0, 25.0, 70.0, 3.0) == {
        "ce": 2.0,
        "delta_loss": 0.5,
        "loss_recovered": 0.9,
        "kl": 0.3,
    }
    assert loss_metrics(10, 20.0, 25.0, 20.0, 3.0)["loss_recovered"] is None
