"""The splice: known answers for perfect and empty SAEs, and one batch worked out by hand."""

import numpy as np
import pytest
import torch

from data.errors import ModelError
from interp import fidelity
from interp.fidelity import Evaluation, by_position, loss_metrics, position_edges
from sae.models import GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE
from tests import tiny


def _perfect(d_in):
    """x_hat = x exactly: one feature for each sign of each dimension."""
    sae = JumpReLUSAE(d_in, 2 * d_in)
    eye = torch.eye(d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae.requires_grad_(False)


def _evaluate(sae, cache, lm, contexts=None, loss_tokens=10**9, attribution_tokens=0):
    contexts = np.arange(len(cache.ids)) if contexts is None else contexts
    evaluation = Evaluation(sae, cache, lm, contexts, loss_tokens, attribution_tokens)
    steps = list(evaluation)
    assert steps[-1].done == steps[-1].total
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    return evaluation.result


def test_a_perfect_sae_loses_nothing(cache, lm):
    result = _evaluate(_perfect(24), cache, lm)
    assert result["delta_loss"] == 0 and result["loss_recovered"] == 1 and result["kl"] == 0
    assert result["mse"] == 0 and result["fve"] == 1 and result["gamma"] == 1
    assert result["cosine"] == pytest.approx(1) and result["l2_ratio"] == pytest.approx(1)
    assert result["loss_recovered_mean"] == 1
    assert result["n_tokens"] == cache.n_rows and result["ce"] > 1


def test_an_sae_that_gives_zeros_is_zero_ablation(cache, lm):
    result = _evaluate(JumpReLUSAE(24, 8), cache, lm)
    assert result["loss_recovered"] == 0 and result["delta_loss"] != 0 and result["kl"] > 0
    assert result["l0"] == 0 and result["dead"] == 8 and result["gamma"] is None
    assert result["l2_ratio"] == 0 and result["cosine"] is None


def test_an_sae_that_gives_the_mean_is_mean_ablation(cache, lm):
    sae = JumpReLUSAE(24, 8)
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(np.array(cache.x)).double().mean(0))
    result = _evaluate(sae.requires_grad_(False), cache, lm)
    assert result["loss_recovered_mean"] == pytest.approx(0, abs=1e-5)
    assert result["fve"] == pytest.approx(0, abs=1e-6) and result["l0"] == 0
    assert abs(result["loss_recovered"]) > 0.01, "zeros and the mean are not the same ablation"


def _by_hand(sae, cache, lm, contexts):
    """[n, 6] for each scored position: its column, CE, CE with x_hat, with zeros, with the mean of
    all rows of the contexts, KL; position by position, with a hook of its own."""
    block = lm.model.model.layers[1]
    kept = {
        (int(c), int(k)): int(d)
        for c, k, d in zip(cache.context, cache.column, cache.doc, strict=True)
    }
    mean = torch.from_numpy(cache.x[cache.rows_of(np.asarray(contexts))]).mean(0)
    found = []
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

        passes = run(), run(sae), run(torch.zeros_like), run(lambda x: mean.expand_as(x))
        plain, ours, *_ = passes
        for k in range(ids.shape[1] - 1):
            here, after = (int(context), k), (int(context), k + 1)
            if here in kept and after in kept and kept[here] == kept[after]:
                losses = [-log_p[k, ids[0, k + 1]].item() for log_p in passes]
                found.append([k, *losses, (plain[k].exp() * (plain[k] - ours[k])).sum().item()])
    return np.array(found)


def _untrained(kind, cache):
    """SAEs of every architecture, and one that brings each token to one size first."""
    if kind == "jumprelu":
        return tiny.random_sae(cache.x, 40, share=0.2)
    makers = {
        "relu": lambda: ReLUSAE(24, 40),
        "gated": lambda: GatedSAE(24, 40),
        "topk": lambda: TopKSAE(24, 40, k=5),
        "layer_norm": lambda: JumpReLUSAE(24, 40, token_norm="layer_norm"),
    }
    sae, generator = makers[kind](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return sae.requires_grad_(False)


KINDS = ["jumprelu", "relu", "gated", "topk", "layer_norm"]


@pytest.mark.parametrize(
    ("which", "kind"), [("packed", "jumprelu"), *(("cache", k) for k in KINDS)]
)
def test_losses_by_hand(which, kind, lm, request):
    cache = request.getfixturevalue(which)
    sae = _untrained(kind, cache)
    contexts = np.arange(3, 40, 4)
    found = _by_hand(sae, cache, lm, contexts)
    _, ce, spliced, zero, averaged, kl = found.mean(0)
    assert len(found) > 50
    result = _evaluate(sae, cache, lm, contexts)
    assert result["ce"] == pytest.approx(ce, rel=1e-5)
    assert result["delta_loss"] == pytest.approx(spliced - ce, rel=1e-3)
    assert result["loss_recovered"] == pytest.approx(1 - (spliced - ce) / (zero - ce), rel=1e-3)
    assert result["loss_recovered_mean"] == pytest.approx(
        1 - (spliced - ce) / (averaged - ce), rel=1e-3
    )
    assert result["kl"] == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_measures_are_those_of_the_dense_sae(kind, cache, lm):
    sae = _untrained(kind, cache)
    x = torch.from_numpy(np.array(cache.x))
    f, x_hat = sae.encode(x), sae(x).double()
    x = x.double()
    result = _evaluate(sae, cache, lm, loss_tokens=16)
    error = (x - x_hat).square().sum(1)
    expected = {
        "l0": (f > 0).sum(1).double().mean(),
        "fve": 1 - error.sum() / (x - x.mean(0)).square().sum(),
        "mse": error.mean(),
        "gamma": x_hat.square().sum() / (x_hat * x).sum(),
        "cosine": torch.cosine_similarity(x, x_hat).mean(),
        "l2_ratio": (x_hat.norm(dim=1) / x.norm(dim=1)).mean(),
        "dead": (f == 0).all(0).sum(),
    }
    for key, value in expected.items():
        assert result[key] == pytest.approx(float(value), rel=1e-5), key
    assert result["l0_distribution"]["max"] == (f > 0).sum(1).max()


@pytest.mark.parametrize("which", ["cache", "packed"])
def test_positions_by_hand(which, lm, request):
    cache = request.getfixturevalue(which)
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    contexts = np.arange(3, 40, 4)
    losses = _by_hand(sae, cache, lm, contexts)
    rows = cache.rows_of(contexts)
    x = torch.from_numpy(cache.x[rows])
    error = (x - sae(x)).square().sum(1).numpy()
    about = (x - x.mean(0)).square().sum(1).numpy()
    found = _evaluate(sae, cache, lm, contexts)["by_position"]
    bins = [(1, 1), (2, 3), (4, 7), (8, 15)]
    bins = bins[1:] if which == "cache" else bins  # it leaves out two positions after BOS
    assert [(row["position_from"], row["position_to"]) for row in found] == bins
    for row, (low, high) in zip(found, bins, strict=True):
        here = (cache.column[rows] >= low) & (cache.column[rows] <= high)
        scored = (losses[:, 0] >= low) & (losses[:, 0] <= high)
        assert (row["n"], row["n_loss"]) == (here.sum(), scored.sum())
        assert row["mse"] == pytest.approx(error[here].mean(), rel=1e-4)
        assert row["fve"] == pytest.approx(1 - error[here].sum() / about[here].sum(), rel=1e-4)
        delta = (losses[scored, 2] - losses[scored, 1]).mean()
        assert row["delta_loss"] == pytest.approx(delta, rel=1e-3, abs=1e-6)


def test_the_bins_of_positions():
    assert position_edges(16).tolist() == [1, 2, 4, 8, 16]
    assert position_edges(12).tolist() == [1, 2, 4, 8, 12]
    assert position_edges(17).tolist() == [1, 2, 4, 8, 16, 17]


def test_a_bin_without_a_scored_position_has_no_loss():
    groups = [{"n": 0, "mse": None, "fve": None}, {"n": 3, "mse": 1.0, "fve": 0.5}]
    (row,) = by_position(np.array([1, 2, 4]), groups, np.zeros((2, 6)))
    assert (row["position_from"], row["position_to"]) == (2, 3)
    assert (row["delta_loss"], row["n_loss"], row["fve"]) == (None, 0, 0.5)


def _flat(result):
    """Numbers alone."""
    rows = {
        f"{i}.{key}": v for i, row in enumerate(result["by_position"]) for key, v in row.items()
    }
    nested = result["l0_distribution"] | result["attribution"] | rows
    return {k: v for k, v in result.items() if isinstance(v, (int, float))} | nested


def test_the_attribution_is_that_of_the_first_contexts(cache, lm):
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    some = _evaluate(sae, cache, lm, np.arange(20), attribution_tokens=16 * 5)["attribution"]
    alone = _evaluate(sae, cache, lm, np.arange(5), attribution_tokens=10**6)["attribution"]
    assert some == pytest.approx(alone) and some["n_tokens"] > 20
    assert 1 <= some["effective_number"] < 40 and 0 < some["uniformity"] <= 1
    assert _evaluate(sae, cache, lm, np.arange(5))["attribution"] is None


def test_a_transcoder_is_refused(cache, lm):
    for sae in (JumpReLUSAE(24, 8, d_out=30), JumpReLUSAE(24, 8, skip=True)):
        with pytest.raises(ModelError, match="a transcoder cannot be evaluated"):
            Evaluation(sae, cache, lm, np.arange(3))


def test_the_size_of_batches_changes_nothing(cache, lm, monkeypatch):
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    contexts = np.arange(20)
    before = _evaluate(sae, cache, lm, contexts, attribution_tokens=200)
    monkeypatch.setattr(fidelity, "LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(fidelity, "BATCH_ROWS", 13)
    after = _evaluate(sae, cache, lm, contexts, attribution_tokens=200)
    assert _flat(after) == pytest.approx(_flat(before), rel=1e-3, abs=1e-6)
    assert len(_flat(before)) > 40


def test_only_the_first_contexts_are_spliced_but_all_rows_are_measured(cache, lm):
    sae = tiny.random_sae(cache.x, 40, share=0.2)
    some = _evaluate(sae, cache, lm, np.arange(20), loss_tokens=16 * 5)
    first, everything = (
        _evaluate(sae, cache, lm, np.arange(5)),
        _evaluate(sae, cache, lm, np.arange(20)),
    )
    for key in ("ce", "delta_loss", "loss_recovered", "kl"):  # not the mean: it is that of 20
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
        Evaluation(sae, cache, lm, contexts)._losses(contexts, torch.full((24,), 3.0))
    finally:
        handle.remove()
    original, spliced, zeroed, averaged = seen
    kept = np.zeros(cache.ids.shape, dtype=bool)
    kept[cache.context, cache.column] = True
    assert 100 < kept.sum() < kept.size - 100
    assert (np.isin(cache.ids, (0, 1, 2)) & ~kept).sum() > 20
    for changed, value in ((spliced, 7), (zeroed, 0), (averaged, 3)):
        assert torch.equal(changed[~kept], original[~kept]) and (changed[kept] == value).all()


def test_without_a_scored_position_the_losses_are_undefined(lm, tmp_path):
    cache = tiny.cache(tmp_path, lm, ["x", "y", "z"])
    result = _evaluate(tiny.random_sae(cache.x, 8), cache, lm)
    assert result["n_tokens"] == 3
    assert [result[k] for k in LOSSES] == [None] * 5
    assert all(row["delta_loss"] is None for row in result["by_position"])


LOSSES = ("ce", "delta_loss", "loss_recovered", "loss_recovered_mean", "kl")


def test_loss_metrics_by_hand():
    assert loss_metrics(10, 20.0, 25.0, 70.0, 40.0, 3.0) == {
        "ce": 2.0,
        "delta_loss": 0.5,
        "loss_recovered": 0.9,
        "loss_recovered_mean": 0.75,
        "kl": 0.3,
    }
    nothing = loss_metrics(10, 20.0, 25.0, 20.0, 20.0, 3.0)
    assert nothing["loss_recovered"] is None and nothing["loss_recovered_mean"] is None
