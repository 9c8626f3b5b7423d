"""Live prompts against model and SAE called by hand; what an SAE must record to be joined again."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from data.errors import ModelError, TextError
from data.tokens import ContextRule
from interp.engine import Engine, join, open_engine
from sae import formats
from sae.config import Refused
from tests import tiny


@pytest.fixture
def engine(lm, cache):
    sae = tiny.random_sae(cache.x, 20, share=0.2)
    return Engine(lm, sae, "resid_post.1", ContextRule(16, skip_first=2), cache.mask)


def _ids(engine, text):
    return engine.lm.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_features_of_each_token_strongest_first(engine):
    text = "def read(file): return key"
    ids = _ids(engine, text)
    found = engine.encode(text, top=3)
    x = engine.lm.capture(torch.tensor([[0, *ids]]), ["resid_post.1"])["resid_post.1"][0]
    f = engine.sae.encode(x)
    assert len(found.tokens) == len(ids) + 1 and not found.truncated and found.ms > 0
    assert found.tokens[0].special and found.tokens[0].bytes == tiny.BOS.encode()
    assert b"".join(t.bytes for t in found.tokens[1:]) == text.encode()
    for place, token in enumerate(found.tokens):
        assert token.kept == (place >= 3), "BOS and two skipped positions"
        values = [v for _, v in token.features]
        assert values == sorted(values, reverse=True) and len(values) <= 3
        if token.kept:
            expected = f[place].topk(3)
            assert [i for i, _ in token.features] == expected.indices[expected.values > 0].tolist()
            assert values == pytest.approx(expected.values[expected.values > 0].tolist())
        else:
            assert token.features == ()
    assert sum(len(t.features) for t in found.tokens) > 5


def test_special_and_enormous_tokens_are_shown_but_left_out(engine):
    text = f"zqxjkv{tiny.EOS}wy"
    engine.mask = dataclasses.replace(engine.mask, norm_limit=None)
    (special,) = [t for t in engine.encode(text).tokens[1:] if t.special]
    assert special.bytes == tiny.EOS.encode() and not special.kept and special.features == ()
    x = engine.lm.capture(torch.tensor([[0, *_ids(engine, text)]]), ["resid_post.1"])
    norms = x["resid_post.1"][0].norm(dim=-1).numpy()
    limit = float(np.sort(norms[3:])[-3])
    engine.mask = dataclasses.replace(engine.mask, norm_limit=limit)
    for token, norm in list(zip(engine.encode(text).tokens, norms, strict=True))[3:]:
        assert token.kept == (norm <= limit and not token.special)


def test_the_prompt_shows_what_the_harvest_stored(engine, cache):
    """The document's first context typed in gives the cache's numbers."""
    document = next(d for d in cache.documents if d.n_tokens > 20)
    ids = cache.document_ids[document.doc][:15].tolist()
    found = engine.encode(engine.lm.tokenizer.decode(ids), top=20)
    rows = np.flatnonzero((cache.doc == document.doc) & (cache.position < 15))
    f = engine.sae.encode(torch.from_numpy(np.array(cache.x[rows]))).numpy()
    for row, stored in zip(rows, f, strict=True):
        live = np.zeros(20)
        for feature, value in found.tokens[cache.position[row] + 1].features:
            live[feature] = value
        np.testing.assert_allclose(live, stored, rtol=1e-3, atol=1e-3)


def test_a_text_longer_than_a_context_is_cut_and_says_so(engine):
    found = engine.encode("return " * 50)
    assert found.truncated and len(found.tokens) == 16
    room = engine.encode("zqxjkvwyzqxjkvw")
    assert len(room.tokens) == 16 and not room.truncated


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_prompt_is_refused(engine, text):
    with pytest.raises(TextError, match="type some text"):
        engine.encode(text)


@pytest.mark.parametrize(
    "text",
    ["\x00", "\U0001f469\u200d\U0001f467", "\u202eאב", "x" * 100_000, "half \ud83c emoji"],
    ids=["null", "joiners", "right-to-left", "long", "surrogate"],
)
def test_hard_prompts(engine, text):
    found = engine.encode(text)
    raw = b"".join(t.bytes for t in found.tokens[1:])
    assert text.encode("utf-8", "replace").replace(b"?", "\ufffd".encode()).startswith(raw) and raw


# ---------------------------------------------------------------- joining again


@pytest.fixture
def folder(tmp_path, cache):
    """A saved SAE and the model folder it names."""
    model = tiny.save(tmp_path / "model")
    from data import lm as language_models

    lm = language_models.load(str(model), "cpu")
    made = {
        "lm": str(model),
        "lm_weights": lm.fingerprint,
        "dtype": "float32",
        "site": "resid_post.1",
        "text": "text.jsonl",
        "text_field": "text",
        "corpus_tokens": 1000,
        "rule": dataclasses.asdict(ContextRule(16)),
        "mask": dataclasses.asdict(cache.mask),
    }
    (tmp_path / "sae").mkdir()
    formats.save(tiny.random_sae(cache.x, 20), tmp_path / "sae", {"workbench": made})
    return tmp_path / "sae"


def _change(folder, **changes):
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["workbench"].update(changes)
    path.write_text(json.dumps(config))


def test_an_sae_is_joined_with_the_model_it_names(folder, cache):
    engine = open_engine(folder, "cpu")
    assert engine.site == "resid_post.1" and engine.rule == ContextRule(16)
    assert engine.mask == cache.mask
    assert sum(len(t.features) for t in engine.encode("def read return").tokens) > 0


def test_an_sae_stored_in_bfloat16_works_in_float32(folder, cache):
    sae = tiny.random_sae(cache.x, 20).to(torch.bfloat16)
    formats.save(sae, folder, json.loads((folder / "cfg.json").read_text())["metadata"])
    joined, _, _ = join(folder, "cpu")
    assert joined.W_enc.dtype == torch.float32
    assert torch.equal(joined.W_enc, sae.W_enc.float())


def test_an_sae_from_elsewhere_says_what_it_lacks(folder):
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    del config["metadata"]["workbench"]["rule"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not record its rule"):
        join(folder, "cpu")
    config["metadata"] = None
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not record its lm, lm_weights"):
        join(folder, "cpu")


def test_another_model_of_the_same_name_is_refused(folder):
    tiny.save(folder.parent / "model", seed=5)
    with pytest.raises(ModelError, match="has other weights .* train again"):
        join(folder, "cpu")


def test_a_site_of_another_width_is_refused(folder):
    wider = tiny.save(folder.parent / "gemma", "gemma")
    from data import lm as language_models

    weights = language_models.load(str(wider), "cpu").fingerprint
    _change(folder, lm=str(wider), lm_weights=weights, site="attn_z.1")
    with pytest.raises(Refused, match="width 24, but attn_z.1 of .* is 36 wide"):
        join(folder, "cpu")
