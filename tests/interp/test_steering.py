"""Steered text against forward passes written out by hand, one token after the other."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from data.errors import ModelError, TextError, WorkbenchError
from data.tokens import ContextRule, mask_rule
from interp import steering
from interp.ablation import Joined
from interp.engine import Engine
from interp.steering import Plan, generate
from sae.models import JumpReLUSAE
from tests import tiny
from tests.interp import by_hand

PROMPT = [5, 70, 200, 9, 12, 30]
ALWAYS = 29  # the feature of _sae that is active on every token


def _sae(lm, site, token_norm="none"):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, len(lm.tokenizer), (30, 16), generator=generator)
    x = lm.capture(ids, [site])[site].flatten(0, 1)
    sae = tiny.random_sae(x.numpy(), 30, share=0.2)
    if token_norm == "none":
        return sae
    normed = JumpReLUSAE(x.shape[1], 30, token_norm=token_norm)
    with torch.no_grad():
        for name, value in sae.named_parameters():
            getattr(normed, name).copy_(value)
        normed.threshold.fill_(0.1)
    return normed.requires_grad_(False)


def _joined(lm, site="resid_post.1", token_norm="none", norm_limit=None):
    mask = mask_rule(lm.tokenizer, ContextRule(16, skip_first=1), norm_limit)
    return Joined(lm, _sae(lm, site, token_norm), site, (0,), mask)


def _slowly(joined, plan, way, ids):
    """Log-probabilities of the next token after ids, worked out by the definitions."""
    strength = plan.ways[way]

    def change(x):
        x = x.clone()
        rows = x[0].float()
        size = joined.sae.token_frame(rows)[2]
        f = joined.sae.encode(rows)[:, plan.feature]
        d = joined.sae.W_dec[plan.feature].double()
        limit = joined.mask.norm_limit
        for p in range(len(joined.prefix), len(ids)):
            here = float(size[p]) if torch.is_tensor(size) else 1.0
            if strength is not None:
                x[0, p] += strength * (plan.max_act or 0.0) * here * d
                continue
            kept = p >= len(joined.prefix) + joined.mask.skip_first
            kept &= ids[p] not in joined.mask.special
            kept &= limit is None or float(rows[p].norm()) <= limit
            x[0, p] -= kept * float(f[p]) * here * d
        return x

    logits = by_hand.logits(joined.lm.model, torch.tensor([ids]), joined.site, change)
    return logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "attn_z.2"])
@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_every_token_by_hand(family, site, mode):
    """Greedy, so that each token is the likeliest by the hand-written pass, at its probability."""
    joined = _joined(tiny.language_model(family), site)
    options = {"strengths": (-1.5, 2.0), "max_act": 1.3} if mode == "add" else {}
    plan = Plan(ALWAYS, mode, n_tokens=6, temperature=0, **options)
    texts = generate(joined, PROMPT, plan)
    assert [t.strength for t in texts] == list(plan.ways)
    for way, text in enumerate(texts):
        ids = [0, *PROMPT]
        assert len(text.ids) == 6 or text.ended
        for token, probability in zip(text.ids, text.probabilities, strict=True):
            log_p = _slowly(joined, plan, way, ids)
            assert float(log_p[token]) == pytest.approx(float(log_p.max()), abs=1e-5)
            assert probability == pytest.approx(float(log_p[token].exp()), rel=1e-3)
            ids.append(token)


@pytest.mark.parametrize("token_norm", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_rows_brought_to_one_size_are_steered_by_their_own(token_norm, mode):
    joined = _joined(tiny.language_model(), token_norm=token_norm, norm_limit=11.0)
    options = {"strengths": (1.0,), "max_act": 0.5} if mode == "add" else {}
    for feature in range(4):
        plan = Plan(feature, mode, n_tokens=3, temperature=0, **options)
        for way, text in enumerate(generate(joined, PROMPT, plan)):
            ids = [0, *PROMPT]
            for token, probability in zip(text.ids, text.probabilities, strict=True):
                log_p = _slowly(joined, plan, way, ids)
                assert probability == pytest.approx(float(log_p[token].exp()), rel=1e-3)
                ids.append(token)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_cache_of_keys_and_values_changes_nothing(family, monkeypatch):
    joined = _joined(tiny.language_model(family))
    for plan in (
        Plan(ALWAYS, "add", (1.0, -2.0), 1.0, n_tokens=12, seed=3),
        Plan(ALWAYS, "ablate", n_tokens=12, seed=3),
    ):
        with monkeypatch.context() as patched:
            quick = generate(joined, PROMPT, plan)
            patched.setattr(steering, "PLAIN", ())
            whole = generate(joined, PROMPT, plan)
        for one, other in zip(quick, whole, strict=True):
            assert one.ids == other.ids and one.ended == other.ended
            assert one.probabilities == pytest.approx(other.probabilities, rel=1e-3)


def test_the_cache_is_used_and_the_model_is_whole_afterwards(monkeypatch):
    lm = tiny.language_model()
    joined, widths = _joined(lm), []
    handle = lm.model.model.layers[0].register_forward_hook(
        lambda _m, _a, output: widths.append(output.shape[1])
    )
    generate(joined, PROMPT, Plan(3, "ablate", n_tokens=4, temperature=0))
    handle.remove()
    assert widths == [7, 1, 1, 1]
    assert not lm.model._forward_pre_hooks
    monkeypatch.setattr(steering, "_choose", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(joined, PROMPT, Plan(3, "ablate"))
    assert not lm.model._forward_pre_hooks


# ---------------------------------------------------------------- the same randomness for all


def test_strength_zero_and_a_silent_feature_write_the_unsteered_text():
    joined = _joined(tiny.language_model())
    dead = 28
    add = generate(joined, PROMPT, Plan(3, "add", (0.0, 5.0), 1.0, n_tokens=20, seed=1))
    ablated = generate(joined, PROMPT, Plan(dead, "ablate", n_tokens=20, seed=1))
    assert add[0].ids == add[1].ids == ablated[0].ids == ablated[1].ids
    assert add[2].ids != add[0].ids


def test_the_same_seed_writes_the_same_and_another_one_does_not():
    joined = _joined(tiny.language_model())
    plan = Plan(3, "add", (1.0, 2.0), 1.0, n_tokens=15, seed=7)
    one, two = generate(joined, PROMPT, plan), generate(joined, PROMPT, plan)
    assert one == two
    other = generate(joined, PROMPT, dataclasses.replace(plan, seed=8))
    assert [t.ids for t in other] != [t.ids for t in one]
    alone = generate(joined, PROMPT, dataclasses.replace(plan, strengths=(2.0,)))
    assert alone[1].ids == one[2].ids, "a text does not depend on what stands beside it"


def test_a_strong_direction_towards_a_token_writes_that_token():
    """Planted truth: the direction is the head's row of the token, after the last block."""
    lm = tiny.language_model()
    joined = _joined(lm, "resid_post.2")
    token = 123
    joined.sae.W_dec[5] = lm.model.lm_head.weight[token] / lm.model.model.norm.weight
    plain, steered = generate(joined, PROMPT, Plan(5, "add", (30.0,), 10.0, 8, temperature=0))
    assert steered.ids == [token] * 8 and min(steered.probabilities) > 0.05
    assert plain.ids != steered.ids


# ---------------------------------------------------------------- sampling


def _draws(log_p, n=4000, **options):
    plan = Plan(0, "ablate", **options)
    generator = torch.Generator().manual_seed(0)
    drawn = [steering._choose(log_p[None], len(log_p), plan, generator)[0].item() for _ in range(n)]
    return Counter(drawn)


def test_tokens_come_as_often_as_their_probability_says():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    counts = _draws(p.log())
    for token, share in enumerate(p.tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=4 * (share / 4000) ** 0.5)
    # Temperature 1/2 squares the probabilities: 25 : 9 : 2.25 : 0.25.
    counts = _draws(p.log(), temperature=0.5)
    assert counts[0] / 4000 == pytest.approx(25 / 36.5, abs=0.03)
    assert set(_draws(p.log(), n=100, temperature=0)) == {0}


@pytest.mark.parametrize(
    ("top_p", "tokens"), [(1.0, 4), (0.96, 4), (0.94, 3), (0.79, 2), (0.49, 1), (1e-6, 1)]
)
def test_the_nucleus_is_the_fewest_tokens_that_hold_top_p(top_p, tokens):
    p = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    kept = steering._nucleus(p.log(), top_p)[0]
    assert set(kept.nonzero()[:, 0].tolist()) == set([1, 3, 0, 2][:tokens])
    if top_p < 0.96:
        counts = _draws(p[0].log(), n=500, top_p=top_p)
        assert set(counts) <= set(kept.nonzero()[:, 0].tolist())


def test_the_probability_is_the_models_own_whatever_is_sampled_from():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    for plan in (Plan(0, "ablate", temperature=0.1, top_p=0.4), Plan(0, "ablate", temperature=0)):
        chosen, probability = steering._choose(p.log(), 4, plan, torch.Generator())
        assert chosen.tolist() == [0] and probability.tolist() == pytest.approx([0.5])


def test_padding_rows_of_the_head_are_never_written():
    p = torch.tensor([[0.1, 0.1, 0.8]])
    chosen, probability = steering._choose(
        p.log(), 2, Plan(0, "ablate", temperature=0), torch.Generator()
    )
    assert chosen.item() == 0 and probability.item() == pytest.approx(0.1)


def test_a_text_ends_with_its_end_token(monkeypatch):
    joined = _joined(tiny.language_model())
    plan = Plan(3, "add", (4.0,), 1.0, n_tokens=20, temperature=0)
    plain, steered = generate(joined, PROMPT, plan)
    end = plain.ids[3]
    monkeypatch.setattr(steering, "_end_tokens", lambda lm: {end})
    shorter, beside = generate(joined, PROMPT, plan)
    until = plain.ids.index(end) + 1
    assert shorter.ended and shorter.ids == plain.ids[:until]
    assert len(shorter.probabilities) == until
    if end not in steered.ids:
        assert beside.ids == steered.ids and not beside.ended


def test_the_end_tokens_are_the_models_and_the_tokenizers():
    lm = tiny.language_model()
    lm.model.generation_config.eos_token_id = [7, 8]
    assert steering._end_tokens(lm) == {7, 8, 1}
    lm.model.generation_config.eos_token_id = 9
    assert steering._end_tokens(lm) == {9, 1}


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "push"}, "no mode 'push': choose from add, ablate"),
        ({"mode": "ablate", "strengths": (1.0,)}, "give no strengths"),
        ({"max_act": 1.0}, "0 strengths: give 1 to 4"),
        ({"strengths": (1.0,) * 5, "max_act": 1.0}, "5 strengths: give 1 to 4"),
        ({"strengths": (float("nan"),), "max_act": 1.0}, "give finite numbers"),
        ({"strengths": (1.0,)}, "feature 3 has no largest activation"),
        ({"strengths": (1.0,), "max_act": 0.0}, "feature 3 has no largest activation"),
        ({"mode": "ablate", "n_tokens": 0}, "0 new tokens: give 1 to 512"),
        ({"mode": "ablate", "temperature": -1.0}, "temperature -1.0"),
        ({"mode": "ablate", "temperature": float("nan")}, "temperature nan"),
        ({"mode": "ablate", "top_p": 0.0}, "top-p 0.0"),
        ({"mode": "ablate", "seed": -1}, "seed -1"),
    ],
)
def test_plans_that_are_refused(options, says):
    with pytest.raises(WorkbenchError, match=says):
        Plan(3, **options)


def test_a_transcoder_is_refused():
    lm = tiny.language_model()
    mask = mask_rule(lm.tokenizer, ContextRule(16), None)
    with pytest.raises(ModelError, match="cannot be ablated or steered"):
        Joined(lm, JumpReLUSAE(24, 8, d_out=30), "resid_post.1", (0,), mask)


# ---------------------------------------------------------------- through the engine


@pytest.fixture
def engine():
    joined = _joined(tiny.language_model())
    return Engine(joined.lm, joined.sae, joined.site, ContextRule(16, skip_first=1), joined.mask)


def test_the_engine_gives_bytes_and_the_prompt_back(engine):
    plan = Plan(ALWAYS, "add", (1.0, 3.0), 1.5, n_tokens=5, temperature=0)
    found = engine.steer("def read(file)", plan)
    ids = engine.lm.tokenizer("def read(file)", add_special_tokens=False)["input_ids"]
    assert b"".join(raw for raw, special in found.prompt if not special) == b"def read(file)"
    assert found.prompt[0] == (tiny.BOS.encode(), True) and not found.truncated and found.ms > 0
    expected = generate(_joined(engine.lm), ids, plan)
    for text, written in zip(found.texts, expected, strict=True):
        assert text.strength == written.strength and text.ended == written.ended
        assert [t.id for t in text.tokens] == written.ids
        assert [t.probability for t in text.tokens] == pytest.approx(written.probabilities)
        assert all((t.bytes, t.special) == engine.bytes[t.id] for t in text.tokens)
    assert np.isfinite([t.probability for text in found.texts for t in text.tokens]).all()


def test_a_prompt_is_cut_to_leave_room_for_the_text(engine):
    plan = Plan(3, "ablate", n_tokens=60, temperature=0)
    found = engine.steer("return " * 30, plan)
    assert found.truncated and len(found.prompt) == tiny.LIMIT - 60
    assert len(engine.steer("return " * 30, dataclasses.replace(plan, n_tokens=5)).prompt) == 16
    with pytest.raises(WorkbenchError, match="64 new tokens leave no room .* 64 positions"):
        engine.steer("return", dataclasses.replace(plan, n_tokens=64))


def test_the_engine_refuses_what_there_is_not(engine):
    for feature in (-1, 30):
        with pytest.raises(WorkbenchError, match="no feature .* it has 0 to 29"):
            engine.steer("def", Plan(feature, "ablate"))
    with pytest.raises(TextError, match="type some text"):
        engine.steer("  ", Plan(3, "ablate"))
