"""Logit effects against the model's own readout, worked out by hand for each family."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

from data import schema
from data.lm import Readout
from interp import effects
from interp.effects import logit_table, raised_most, vocabulary_effect
from tests import tiny
from tests.data.handmade import arrow_schema

IDS = torch.tensor([[0, 5, 70, 200, 9, 12]])


def _by_hand(lm, directions, scaled=True):
    """W_dec diag(scale) W_U^T with the scale read off the modules, centred over the vocabulary."""
    family = lm.fingerprint.split("-")[0]
    model = lm.model
    scale = 1.0
    if scaled and family in ("gpt2", "gpt_neox"):
        norm = model.transformer.ln_f if family == "gpt2" else model.gpt_neox.final_layer_norm
        directions, scale = directions - directions.mean(1, keepdim=True), norm.weight
    elif scaled:
        scale = model.model.norm.weight + (1 if family.startswith("gemma") else 0)
    effect = (directions * scale) @ model.get_output_embeddings().weight.T
    return effect - effect.mean(1, keepdim=True)


def _into_the_stream(lm, directions):
    """Concatenated heads of block 2 through the output projection."""
    family = lm.fingerprint.split("-")[0]
    if family == "gpt2":
        return directions @ lm.model.transformer.h[2].attn.c_proj.weight
    if family == "gpt_neox":
        return directions @ lm.model.gpt_neox.layers[2].attention.dense.weight.T
    return directions @ lm.model.model.layers[2].self_attn.o_proj.weight.T


def _check(found, effect):
    """Every column against the plainest way to compute it from effects [n, vocabulary]."""
    order = effect.argsort(dim=1, descending=True)
    assert found.top_ids.tolist() == order[:, :10].tolist()
    assert found.bottom_ids.tolist() == order.flip(1)[:, :10].tolist()
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(found.top_logits, effect.gather(1, order[:, :10]), **close)
    np.testing.assert_allclose(
        found.bottom_logits, effect.gather(1, order.flip(1)[:, :10]), **close
    )
    values = effect.double().numpy()
    np.testing.assert_allclose(found.sd, values.std(1), **close)
    np.testing.assert_allclose(found.skew, stats.skew(values, axis=1), **close)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(values, axis=1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.low, values.min(1), **close)
    np.testing.assert_allclose(found.high, values.max(1), **close)
    for counts, row in zip(found.counts, values, strict=True):
        # One token may stand at an edge and fall to the other side by rounding.
        assert counts.sum() == len(row)
        assert np.abs(counts - np.histogram(row, bins=40)[0]).sum() <= 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "attn_z.2"])
@pytest.mark.parametrize("scaled", [False, True])
def test_effects_by_hand(family, site, scaled, monkeypatch):
    lm = tiny.language_model(family)
    monkeypatch.setattr(effects, "BLOCK_BYTES", 4 * 3 * len(lm.tokenizer))  # three at once
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(7, lm.width(site), generator=generator)
    directions = _into_the_stream(lm, W_dec) if site == "attn_z.2" else W_dec
    _check(vocabulary_effect(lm, site, W_dec, scaled), _by_hand(lm, directions, scaled))


def test_four_tokens_by_hand(monkeypatch):
    """Head rows (1, 0), (0, 1), (1, 1), (2, 0), no norm. The direction (1, 2) gives 1, 2, 3, 2,
    centred -1, 0, 1, 0: sd sqrt(1/2), no skew, kurtosis (1/2) / (1/4) - 3 = -1."""
    head = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0], [50, 50]])
    lm = SimpleNamespace(tokenizer=range(4), readout=lambda: Readout(head, None, False))
    monkeypatch.setattr(effects, "_into_the_stream", lambda lm, site, W_dec: W_dec)
    for scaled in (False, True):
        found = vocabulary_effect(lm, "resid_post.0", torch.tensor([[1.0, 2.0]]), scaled)
        assert found.top_ids[0, 0] == 2 and found.bottom_ids[0, 0] == 0
        assert found.top_logits.tolist() == [[1, 0, 0, -1]]
        assert found.bottom_logits.tolist() == [[-1, 0, 0, 1]]
        assert (found.low[0], found.high[0]) == (-1, 1)
        assert found.sd[0] == pytest.approx(0.5**0.5)
        assert found.skew[0] == pytest.approx(0) and found.kurtosis[0] == pytest.approx(-1)
        expected = np.zeros(40)
        expected[[0, 20, 39]] = 1, 2, 1
        assert found.counts[0].tolist() == expected.tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_are_the_slope_of_the_logits_with_the_norms_division_undone(family):
    """Adding a little of a direction to the last residual moves the logits along its effect, once
    the change that the norm's division makes along the stream itself is taken out."""
    lm = tiny.language_model(family)
    d = torch.randn(1, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    x = lm.capture(IDS, ["resid_post.2"])["resid_post.2"][0, -1]
    centred = x - x.mean() if family == "gpt2" else x
    part = d[0] - d.mean() if family == "gpt2" else d[0]
    d = d - (part @ centred) / (centred @ centred) * x  # then the norm divides by the same number
    length = centred.square().mean().sqrt()

    def logits(size):
        def change(x):
            moved = x.clone()
            moved[0, -1] += size * length * d[0]
            return moved

        return lm.logits_replacing(IDS, "resid_post.2", change)[0, -1].double()

    slope = (logits(1e-2) - logits(-1e-2)) / 2e-2
    slope -= slope.mean()
    effect = _by_hand(lm, d)[0]
    torch.testing.assert_close(slope.float(), effect, rtol=2e-2, atol=2e-2)
    _check(vocabulary_effect(lm, "resid_post.2", d, scaled=True), effect[None])


def test_sites_that_do_not_write_to_the_stream_have_no_effects():
    lm = tiny.language_model("llama")
    for site in (
        "hook:model.layers.0.self_attn.q_proj:output",  # as wide as the stream, by chance
        "hook:model.layers.0.mlp.gate_proj:input",
        "hook:model.layers.0.mlp.up_proj:output",
        "hook:model.layers.0.input_layernorm:input",
        "hook:model.embed_tokens:output",
    ):
        W_dec = torch.randn(3, lm.width(site))
        assert vocabulary_effect(lm, site, W_dec, scaled=True) is None
        assert logit_table(lm, site, W_dec) is None
    assert raised_most(None, range(3)) == [None, None, None]


def test_a_named_site_spelt_as_a_path_has_the_same_effects():
    lm = tiny.language_model("llama")
    W_dec = torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    for site, path in [
        ("resid_post.1", "hook:model.layers.1:output"),
        ("mlp_out.0", "hook:model.layers.0.mlp:output"),
        ("attn_z.1", "hook:model.layers.1.self_attn.o_proj:input"),
    ]:
        assert logit_table(lm, site, W_dec).equals(logit_table(lm, path, W_dec))


def test_rows_that_pad_the_output_matrix_are_no_tokens():
    made = tiny.tokenizer()
    lm = tiny.language_model("llama")
    lm.model = tiny.network("llama", len(made) + 50)
    found = vocabulary_effect(lm, "resid_post.1", torch.randn(20, tiny.WIDTH), scaled=True)
    assert found.top_ids.max() < len(made) and found.bottom_ids.max() < len(made)
    assert (found.counts.sum(1) == len(made)).all()


def test_a_model_in_bfloat16_gives_float32_numbers(monkeypatch):
    lm = tiny.language_model("llama")
    lm.model = lm.model.to(torch.bfloat16)
    W_dec = torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    found = vocabulary_effect(lm, "resid_post.1", W_dec, scaled=False)
    effect = W_dec @ lm.model.get_output_embeddings().weight.float().T
    _check(found, effect - effect.mean(1, keepdim=True))
    monkeypatch.setattr(effects, "HEAD_ROWS", 100)
    again = vocabulary_effect(lm, "resid_post.1", W_dec, scaled=False)
    np.testing.assert_allclose(found.top_logits, again.top_logits, rtol=1e-6)


# ---------------------------------------------------------------- the table


def _rows(table: pa.Table) -> dict[tuple[int, bool], dict]:
    return {(row["feature"], row["scaled"]): row for row in table.to_pylist()}


def test_the_table_is_the_stores_and_sorted_by_its_key():
    lm = tiny.language_model("gpt2")
    W_dec = torch.randn(5, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    table = logit_table(lm, "resid_post.1", W_dec, first=100)
    expected = arrow_schema("logit")
    assert {f.name: f.type for f in table.schema} == {f.name: f.type for f in expected}
    rows = _rows(table)
    assert list(rows) == [(100 + i, scaled) for i in range(5) for scaled in (False, True)]
    for scaled in (False, True):
        found = vocabulary_effect(lm, "resid_post.1", W_dec, scaled)
        for i in range(5):
            for name in ("top_ids", "top_logits", "bottom_ids", "counts", "sd", "skew", "high"):
                assert rows[100 + i, scaled][name] == getattr(found, name)[i].tolist()
    assert raised_most(table, [103, 99]) == [rows[103, True]["top_ids"][0], None]
    con = schema.connect()
    schema.create_features(con)
    schema.load(con, {"logit": table})
    con.close()


def test_a_direction_of_zeros_has_no_rows():
    lm = tiny.language_model("llama")
    W_dec = torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    W_dec[1] = 0
    table = logit_table(lm, "resid_post.1", W_dec)
    assert table["feature"].to_pylist() == [0, 0, 2, 2]
    assert all(np.isfinite(table[name]).all() for name in ("sd", "skew", "kurtosis", "low", "high"))
    first, none, last = raised_most(table, range(3))
    assert none is None and first is not None and last is not None
