"""Ablation against forward passes written out by hand; attribution against finite differences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from data.errors import ModelError, TextError, WorkbenchError
from data.records import ExampleEffect, Stretch
from data.tokens import ContextRule, mask_rule
from interp import ablation, splice
from interp.ablation import Ablation
from interp.causal import feature_effect
from interp.engine import Engine
from sae.models import GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE
from tests import tiny
from tests.interp import by_hand

SITES = ["resid_post.1", "mlp_out.0", "attn_z.2"]
DOWN = "hook:model.layers.1.mlp.down_proj:input"
LISTS = ("scored", "delta_losses", "kls", "up_ids", "up_logits", "down_ids", "down_logits")


def _sae(lm, site, kind="jumprelu", d_sae=30):
    """An SAE on that site, its features active on a fifth of random tokens (TopK: four a token)."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, len(lm.tokenizer), (30, 16), generator=generator)
    x = lm.capture(ids, [site])[site].flatten(0, 1)
    jump = tiny.random_sae(x.numpy(), d_sae, share=0.2)
    if kind == "jumprelu":
        return jump
    d_in = x.shape[1]
    made = {
        "relu": lambda: ReLUSAE(d_in, d_sae),
        "topk": lambda: TopKSAE(d_in, d_sae, k=4),
        "gated": lambda: GatedSAE(d_in, d_sae),
        "layer_norm": lambda: JumpReLUSAE(d_in, d_sae, token_norm="layer_norm"),
        "rescale": lambda: JumpReLUSAE(d_in, d_sae, token_norm="constant_norm_rescale"),
    }[kind]()
    with torch.no_grad():
        for name, value in jump.named_parameters():
            if hasattr(made, name) and name != "threshold":
                getattr(made, name).copy_(value)
        pre = made.pre(x)
        made.b_enc.sub_(0.0 if kind == "topk" else pre.quantile(0.8, dim=0))
    return made.requires_grad_(False)


def _ablation(lm, site="resid_post.1", sae=None, skip_first=1, norm_limit=None, **more):
    mask = mask_rule(lm.tokenizer, ContextRule(16, skip_first=skip_first), norm_limit)
    return Ablation(lm, sae or _sae(lm, site), site, (0,), mask, **more)


def _stretches(sae_features, n=6, length=20, seed=0, vocabulary=300):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        ids = rng.integers(3, vocabulary, size=length - (i % 3))
        feature = sae_features[i % len(sae_features)]
        made.append(Stretch(feature, "top", "", i, i, 0, int(rng.integers(len(ids))), tuple(ids)))
    return [dataclasses.replace(s, ids=tuple(int(i) for i in s.ids)) for s in made]


def _slowly(a: Ablation, stretch: Stretch, direction=None, scale=1.0) -> dict:
    """The definitions, word for word, one position after the other; the forward pass is
    tests/interp/by_hand.py's. direction: another unit vector in the decoder row's place."""
    ids = torch.tensor([[*a.prefix, *stretch.ids]])
    special, start = set(a.mask.special), len(a.prefix) + a.mask.skip_first
    held = {}

    def read(x):
        held["x"] = x.clone()
        return x

    plain = by_hand.logits(a.lm.model, ids, a.site, read)[0].log_softmax(-1)
    x = held["x"][0].float()
    kept = [
        p >= start and int(ids[0, p]) not in special
        and (a.mask.norm_limit is None or float(x[p].norm()) <= a.mask.norm_limit)
        for p in range(ids.shape[1])
    ]  # fmt: skip
    f = a.sae.encode(x)[:, stretch.feature]
    size = a.sae.token_frame(x)[2]
    active = [p for p in range(len(kept)) if kept[p] and f[p] > 0]
    if not active:
        return {"status": "silent"}

    def change(x):
        x = x.clone()
        for p in active:
            here = float(size[p]) if torch.is_tensor(size) else size
            d = scale * float(f[p]) * here * a.sae.W_dec[stretch.feature].double()
            x[0, p] -= d if direction is None else d.norm() * direction
        return x

    changed = by_hand.logits(a.lm.model, ids, a.site, change)[0].log_softmax(-1)
    scored = [p for p in range(active[0], len(kept) - 1) if kept[p] and kept[p + 1]]
    delta = [float(plain[p, ids[0, p + 1]] - changed[p, ids[0, p + 1]]) for p in scored]
    kl = [float((plain[p].exp() * (plain[p] - changed[p])).sum()) for p in scored]
    peak = stretch.peak + len(a.prefix)
    if peak not in active:
        peak = max(active, key=lambda p: float(f[p]))
    shift = plain[peak] - changed[peak]
    shift = (shift - shift.mean())[: len(a.lm.tokenizer)]
    return {
        "status": "ok" if scored else "not_scored",
        "first": active[0] - len(a.prefix),
        "peak": peak - len(a.prefix),
        "scored": tuple(p - len(a.prefix) for p in scored),
        "delta_losses": delta,
        "kls": kl,
        "delta_loss": np.mean(delta) if scored else None,
        "kl": np.mean(kl) if scored else None,
        "peak_kl": float((plain[peak].exp() * (plain[peak] - changed[peak])).sum()),
        "shift": shift,
    }


def _close(a, b, **tolerance) -> bool:
    return a is b is None or np.allclose(a, b, **tolerance)


def _check(found: ExampleEffect, expected: dict) -> None:
    for name in ("status", "first", "peak", "scored"):
        assert getattr(found, name) == expected[name], name
    for name in ("delta_losses", "kls", "delta_loss", "kl", "peak_kl"):
        assert _close(getattr(found, name), expected[name], rtol=2e-3, atol=2e-6), name
    shift = expected["shift"]
    assert len(found.up_ids) == len(found.down_ids) == 10
    np.testing.assert_allclose(found.up_logits, shift.topk(10).values, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shift[list(found.up_ids)], found.up_logits, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        found.down_logits, shift.topk(10, largest=False).values, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(shift[list(found.down_ids)], found.down_logits, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- against the forward pass by hand


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("site", SITES)
def test_by_hand(family, site):
    lm = tiny.language_model(family)
    a = _ablation(lm, site)
    stretches = _stretches(range(20), n=20)
    found = a.measure(stretches)
    for effect, stretch in zip(found, stretches, strict=True):
        assert (effect.feature, effect.rank, effect.doc) == (
            stretch.feature, stretch.rank, stretch.doc,
        )  # fmt: skip
        expected = _slowly(a, stretch)
        if expected["status"] == "silent":
            assert effect.status == "silent"
        else:
            _check(effect, expected)
    assert sum(e.status == "ok" and e.kl > 1e-5 for e in found) >= 5


def test_by_hand_inside_an_mlp():
    lm = tiny.language_model("llama")
    a = _ablation(lm, DOWN)
    stretches = _stretches(range(6))
    for effect, stretch in zip(a.measure(stretches), stretches, strict=True):
        if effect.status == "ok":
            _check(effect, _slowly(a, stretch))


@pytest.mark.parametrize("kind", ["relu", "topk", "gated", "layer_norm", "rescale"])
def test_every_architecture_by_hand(kind):
    lm = tiny.language_model("llama")
    a = _ablation(lm, sae=_sae(lm, "resid_post.1", kind))
    stretches = _stretches(range(12), n=12)
    found = a.measure(stretches)
    for effect, stretch in zip(found, stretches, strict=True):
        expected = _slowly(a, stretch)
        if expected["status"] == "silent":
            assert effect.status == "silent"
        else:
            _check(effect, expected)
    assert sum(e.status == "ok" for e in found) >= 3


def test_a_shared_blocks_first_run_is_the_site(monkeypatch):
    """As in models that run one block several times; what stands before it then runs each time."""
    monkeypatch.setattr(splice, "PLAIN", ())
    lm = tiny.language_model("llama")
    lm.model.model.layers[2] = lm.model.model.layers[1]
    a = _ablation(lm)
    stretches = _stretches([29, 3, 4], n=3)
    for effect, stretch in zip(a.measure(stretches), stretches, strict=True):
        if effect.status != "silent":
            _check(effect, _slowly(a, stretch))


def test_special_tokens_and_high_norms_are_neither_ablated_nor_scored():
    lm = tiny.language_model("llama")
    stretches = _stretches([29], n=3)  # a feature that is active on every token
    stretches = [
        dataclasses.replace(s, ids=(*s.ids[:4], 1, *s.ids[5:]), kind="active") for s in stretches
    ]
    x = lm.capture(torch.tensor([[0, *stretches[0].ids]]), ["resid_post.1"])["resid_post.1"][0]
    limit = float(x[2:].norm(dim=-1).sort().values[-2])  # leaves the largest out
    a = _ablation(lm, norm_limit=limit)
    found = a.measure(stretches)
    for effect, stretch in zip(found, stretches, strict=True):
        _check(effect, _slowly(a, stretch))
        assert effect.first >= 1 and not {3, 4} & set(effect.scored)


def test_the_random_direction_has_the_features_size_at_the_same_positions():
    lm = tiny.language_model("gpt2")
    a = _ablation(lm, seed=5)
    for stretch in _stretches(range(4), n=4):
        (effect,) = a.measure([stretch])
        if effect.status != "ok":
            continue
        key = [5, stretch.feature, stretch.doc, stretch.start, stretch.peak]
        u = np.random.default_rng(key).standard_normal(tiny.WIDTH, dtype=np.float32)
        direction = torch.from_numpy(u).double() / np.linalg.norm(u)
        expected = _slowly(a, stretch, direction)
        assert effect.random_kl == pytest.approx(expected["kl"], rel=2e-3, abs=1e-6)


def test_another_seed_moves_the_random_direction_alone():
    lm = tiny.language_model("llama")
    stretches, sae = _stretches(range(4), n=4), _sae(lm, "resid_post.1")
    one, two, same = (_ablation(lm, sae=sae, seed=s).measure(stretches) for s in (0, 1, 0))
    assert one == same
    for a, b in zip(one, two, strict=True):
        assert dataclasses.replace(a, random_kl=None) == dataclasses.replace(b, random_kl=None)
        assert a.status != "ok" or a.random_kl != b.random_kl


# ---------------------------------------------------------------- known answers and properties


@pytest.mark.parametrize("site", SITES)
def test_a_decoder_of_zeros_changes_nothing_at_all(site):
    lm = tiny.language_model("llama")
    sae = _sae(lm, site)
    sae.W_dec[29] = 0
    found = _ablation(lm, site, sae).measure(_stretches([29], n=4))
    for effect in found:
        assert effect.status == "ok" and effect.delta_loss == 0 == effect.kl == effect.random_kl
        assert effect.peak_kl == 0 == effect.attribution
        assert set(effect.delta_losses) == {0.0} == set(effect.kls)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attribution_is_delta_loss_to_first_order(site, family):
    """With a decoder row of c d, (delta_loss - attribution) shrinks with c squared."""
    lm = tiny.language_model(family)
    stretches = _stretches([29, *range(9)], n=10)
    gaps, deltas = [], []
    for c in (1e-2, 1e-3):
        sae = _sae(lm, site)
        sae.W_dec.mul_(c)
        found = [e for e in _ablation(lm, site, sae).measure(stretches) if e.status == "ok"]
        assert len(found) >= 3
        gaps.append(np.array([e.delta_loss - e.attribution for e in found]))
        deltas.append(np.array([e.delta_loss for e in found]))
    noise = 3e-6  # of float32
    assert np.abs(deltas[1]).max() > 20 * noise and np.abs(gaps[0]).max() > 3 * noise
    assert (np.abs(gaps[0]) < 0.3 * np.abs(deltas[0]).max()).all()
    assert (np.abs(gaps[1] - gaps[0] / 100) < 0.3 * np.abs(gaps[0] / 100) + noise).all()


@pytest.mark.parametrize("site", SITES)
def test_batched_equals_one_by_one(site):
    lm = tiny.language_model("llama")
    sae, stretches = _sae(lm, site), _stretches(range(10), n=10)
    alone = _ablation(lm, site, sae, batch=1).measure(stretches)
    for batch in (3, 10, None):
        together = _ablation(lm, site, sae, batch=batch).measure(stretches)
        for one, other in zip(alone, together, strict=True):
            assert one.status == other.status and one.scored == other.scored
            assert one.first == other.first and one.peak == other.peak
            for name in ("delta_loss", "kl", "peak_kl", "attribution", "random_kl"):
                mine, theirs = getattr(one, name), getattr(other, name)
                assert _close(mine, theirs, rtol=1e-3, atol=1e-6), name
            assert _close(one.kls, other.kls, rtol=1e-3, atol=1e-6)


def test_small_pieces_give_the_same(monkeypatch):
    """Codes and log-probabilities are computed by blocks of rows."""
    lm = tiny.language_model("llama")
    a, stretches = _ablation(lm), _stretches(range(6))
    whole = a.measure(stretches)
    monkeypatch.setattr(ablation, "ROWS_AT_ONCE", 700)  # two rows of the vocabulary
    for one, other in zip(whole, a.measure(stretches), strict=True):
        np.testing.assert_allclose(one.kls, other.kls, rtol=1e-6, atol=1e-12)
    monkeypatch.setitem(ablation.LOGITS_AT_ONCE, "cpu", 2 * 13 * len(lm.model.lm_head.weight))
    assert [len(b) for b in a._batches([12, 12, 12, 5, 5])] == [2, 2, 1]


def test_a_causal_model_does_not_change_before_the_first_position():
    lm = tiny.language_model("llama")
    for effect in _ablation(lm).measure(_stretches(range(10), n=10)):
        assert all(p >= effect.first for p in effect.scored)
        assert effect.status != "ok" or effect.kls[0] >= 0


def test_it_works_inside_inference_mode_and_leaves_no_gradients():
    lm = tiny.language_model("llama")
    sae, stretches = _sae(lm, "resid_post.1").requires_grad_(True), _stretches(range(4), n=4)
    results = []
    for mode in (True, False):
        with torch.inference_mode(mode):
            results.append(_ablation(lm, sae=sae).measure(stretches))
    assert results[0] == results[1]
    assert all(p.grad is None for p in [*sae.parameters(), *lm.model.parameters()])


def test_a_bfloat16_model_is_measured_too():
    lm = tiny.language_model("llama")
    sae, stretches = _sae(lm, "resid_post.1"), _stretches([29], n=3)
    full = _ablation(lm, sae=sae).measure(stretches)
    lm.model = lm.model.to(torch.bfloat16)
    half = _ablation(lm, sae=sae).measure(stretches)
    for one, other in zip(full, half, strict=True):
        assert other.kl == pytest.approx(one.kl, rel=0.3)


# ---------------------------------------------------------------- statuses and refusals


def test_a_silent_feature_has_a_status_and_no_numbers():
    lm = tiny.language_model("llama")
    sae = _sae(lm, "resid_post.1")
    dead, always = 28, 29
    for features in ([dead], [dead, always]):
        for effect in _ablation(lm, sae=sae).measure(_stretches(features, n=2)):
            if effect.feature != dead:
                assert effect.status == "ok"
                continue
            assert effect.status == "silent"
            assert all(getattr(effect, name) == () for name in LISTS)
            numbers = set(vars(effect)) - set(LISTS)
            numbers -= {"feature", "kind", "part", "rank", "doc", "start", "status"}
            assert all(getattr(effect, name) is None for name in numbers)


def test_a_feature_active_on_the_last_token_alone_is_not_scored_but_seen():
    """No next token: no loss. What it does to the logits there is known all the same."""
    lm = tiny.language_model("llama")
    a = _ablation(lm)
    (stretch,) = _stretches([29], n=1)
    (effect,) = a.measure([dataclasses.replace(stretch, ids=stretch.ids[:2], peak=1)])
    assert effect.status == "not_scored" and effect.first == effect.peak == 1
    assert effect.delta_loss is None and effect.kl is None and effect.random_kl is None
    assert effect.attribution is None and effect.scored == () == effect.kls
    assert effect.peak_kl > 0 and len(effect.up_ids) == 10


def test_the_peak_is_the_examples_own_where_active_and_the_strongest_elsewhere():
    lm = tiny.language_model("llama")
    a = _ablation(lm)
    (stretch,) = _stretches([29], n=1)
    for peak in (3, 5):
        assert a.measure([dataclasses.replace(stretch, peak=peak)])[0].peak == peak
    skipped = a.measure([dataclasses.replace(stretch, peak=0)])[0]  # masked: not active there
    assert skipped.peak == _slowly(a, dataclasses.replace(stretch, peak=0))["peak"] != 0


def test_nothing_to_measure_is_nothing():
    lm = tiny.language_model("llama")
    assert _ablation(lm).measure([]) == []
    specials = [dataclasses.replace(s, ids=(1, 2, 1), peak=0) for s in _stretches([29], n=2)]
    for sae in (None, _sae(lm, "resid_post.1", "topk")):
        assert [e.status for e in _ablation(lm, sae=sae).measure(specials)] == ["silent"] * 2


def test_refusals():
    lm = tiny.language_model("llama")
    with pytest.raises(ModelError, match="a transcoder's features cannot be ablated"):
        _ablation(lm, sae=JumpReLUSAE(24, 8, d_out=30))
    with pytest.raises(WorkbenchError, match="--batch 0: give 1 or more"):
        _ablation(lm, batch=0)


# ---------------------------------------------------------------- through the engine


@pytest.fixture
def engine():
    a = _ablation(tiny.language_model("llama"))
    return Engine(a.lm, a.sae, a.site, ContextRule(16, skip_first=1), a.mask)


def test_a_prompt_without_a_feature_by_hand(engine):
    text = "def read(file): return key"
    ids = tuple(engine.lm.tokenizer(text, add_special_tokens=False)["input_ids"])[:15]
    seen = set()
    for feature in range(20):
        found = engine.ablate(text, feature)
        codes = engine.encode(text, top=30).tokens
        own = [dict(token.features).get(feature, 0.0) for token in codes]
        assert [t.activation for t in found.tokens] == pytest.approx(own)
        for token, code in zip(found.tokens, codes, strict=True):
            assert (token.bytes, token.special, token.kept) == (
                code.bytes, code.special, code.kept,
            )  # fmt: skip
        stretch = Stretch(feature, "live", "", 0, 0, 0, int(np.argmax(own[1:])), ids)
        expected = _slowly(_ablation(engine.lm, sae=engine.sae), stretch)
        assert found.status == expected["status"] and found.ms > 0
        seen.add(found.status)
        if found.status == "silent":
            assert found.kl is None and found.peak is None and found.up == ()
            assert all(t.kl is None for t in found.tokens)
            continue
        assert found.peak == int(np.argmax(own)) == expected["peak"] + 1
        scored = [i for i, t in enumerate(found.tokens) if t.kl is not None]
        assert scored == [p + 1 for p in expected["scored"]]
        kls = [found.tokens[i].kl for i in scored]
        deltas = [found.tokens[i].delta_loss for i in scored]
        assert _close(kls, expected["kls"], rtol=2e-3, atol=2e-6)
        assert _close(deltas, expected["delta_losses"], rtol=2e-3, atol=2e-6)
        assert _close(found.kl, expected["kl"], rtol=2e-3, atol=2e-6)
        up = expected["shift"].topk(10)
        assert [raw for raw, _ in found.up] == [engine.bytes[i][0] for i in up.indices.tolist()]
        assert [value for _, value in found.up] == pytest.approx(up.values.tolist(), abs=1e-4)
        assert len(found.down) == 10 and all(value < 0 for _, value in found.down)
    assert {"ok", "silent"} <= seen


def test_a_long_prompt_is_cut_and_a_bad_one_refused(engine):
    found = engine.ablate("return " * 50, 29)
    assert found.truncated and len(found.tokens) == 16
    with pytest.raises(TextError, match="type some text"):
        engine.ablate(" ", 29)
    for feature in (-1, 30):
        with pytest.raises(WorkbenchError, match="no feature .* it has 0 to 29"):
            engine.ablate("def", feature)


# ---------------------------------------------------------------- planted truth, precision


def test_a_feature_the_model_listens_to_exceeds_random_directions_and_a_deaf_one_does_not():
    """Planted truth: after the last block only the final norm and the head remain. A direction
    along the head's strongest singular vector moves the logits more than a random one; along its
    weakest, less."""
    lm = tiny.language_model("llama")
    site = "resid_post.2"
    sae = _sae(lm, site)
    head = lm.model.lm_head.weight * lm.model.model.norm.weight
    _, _, v = torch.linalg.svd(head, full_matrices=False)
    size = sae.W_dec[29].norm()
    found = {}
    for name, direction in (("loud", v[0]), ("deaf", v[-1])):
        sae.W_dec[29] = size * direction
        found[name] = feature_effect(29, _ablation(lm, site, sae).measure(_stretches([29], n=12)))
    assert found["loud"].kl > found["loud"].random_kl
    assert found["deaf"].kl < found["deaf"].random_kl


def test_small_and_large_differences_of_logits_keep_their_kl():
    """float32 against float64: a KL of 1e-7 keeps three digits, one of 90 does not overflow."""
    generator = torch.Generator().manual_seed(0)
    before = 5 * torch.randn(6, 5000, generator=generator)
    size = torch.tensor([[1e-4], [1e-2], [1.0], [30.0], [0.0], [1e-3]])
    d = size * torch.randn(6, 5000, generator=generator)
    d += torch.tensor([[3.0], [-2.0], [1.0], [0.0], [0.0], [50.0]])  # softmax ignores a shift
    d[3, 7] = 120.0
    log_p = before.double().log_softmax(-1)
    log_q = (before.double() + d.double()).log_softmax(-1)
    kl, added = ablation._shifted(before.softmax(-1), d.clone())
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert expected[0] < 1e-7 and expected[3] > 50
    np.testing.assert_allclose(kl[:4], expected[:4], rtol=5e-3)
    assert abs(kl[4]) < 1e-12 and kl[5] == pytest.approx(float(expected[5]), rel=5e-2)
    torch.testing.assert_close(added.double(), log_q - log_p, rtol=1e-4, atol=2e-5)
