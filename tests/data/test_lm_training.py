"""Training the demo model in miniature: corpus, batches, rates, resuming, bits per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from data import lm as language_models
from data import lm_training
from data.errors import ModelError
from data.lm_training import (
    Corpus,
    LMTrainConfig,
    batch_at,
    bits_per_byte,
    new_model,
    prepare,
    train_lm,
    train_tokenizer,
)
from data.records import Document
from data.text import min_hash, split_of
from tests import tiny

SMALL = LMTrainConfig(
    tokens=45 * 2 * 16, vocab=300, context=16, d_model=16, layers=1, heads=2, d_mlp=24, batch=2,
    warmup_steps=5,
)  # fmt: skip


@pytest.fixture
def sources(monkeypatch):
    """Two small sources in place of this installation's; the second repeats one text."""
    library = [Document(f"l{i}", t) for i, t in enumerate(tiny.sentences(60, seed=1))]
    packages = [Document(f"p{i}", t) for i, t in enumerate(tiny.sentences(30, seed=2))]
    packages.append(Document("copy", library[3].text))
    found = {"python:stdlib": library, "python:installed": packages}
    monkeypatch.setattr(lm_training, "documents", lambda source: iter(found[source]))
    return found


def test_the_corpus_holds_training_documents_once_and_the_held_out_apart(sources, tmp_path):
    tokenizer, corpus = prepare(SMALL, tmp_path)
    library, packages = sources["python:stdlib"], sources["python:installed"]
    heldout = [d.text for d in library if split_of(min_hash(d.text)) == "heldout"]
    assert corpus.heldout == heldout and len(heldout) > 1
    for stream, source in [(corpus.stdlib, library), (corpus.installed, packages[:-1])]:
        texts = [d.text for d in source if split_of(min_hash(d.text)) == "train"]
        assert (stream == tokenizer.bos_token_id).sum() == len(texts)
        assert tokenizer.decode(stream, skip_special_tokens=True) == "".join(texts)
    again, stored = prepare(SMALL, tmp_path)
    assert np.array_equal(stored.stdlib, corpus.stdlib) and stored.heldout == heldout
    assert again.get_vocab() == tokenizer.get_vocab()


def test_the_tokenizer_puts_bos_in_front_and_encodes_any_text():
    tokenizer = train_tokenizer(iter(tiny.sentences(20)), 300, 16)
    assert tokenizer("def x").input_ids[0] == tokenizer.bos_token_id == 0
    for text in ("caf\u00e9 \U0001f469\u200d\U0001f467\x00", "  two\n\n\tindents", "12345 .join"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer) <= 300


def test_a_batch_is_bos_and_a_stretch_of_either_stream_and_follows_seed_and_step():
    corpus = Corpus(
        np.arange(100, 900, dtype=np.uint16), np.arange(2000, 9000, dtype=np.uint16), []
    )
    config = LMTrainConfig(tokens=1e6, context=16, batch=400, stdlib_share=0.25)
    batch = batch_at(corpus, config, 7, bos=0)
    assert batch.shape == (400, 16) and (batch[:, 0] == 0).all()
    assert (batch[:, 2:] - batch[:, 1:-1] == 1).all(), "consecutive tokens"
    share = (batch[:, 1] < 1000).float().mean().item()
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400)
    assert torch.equal(batch_at(corpus, config, 7, 0), batch)
    assert not torch.equal(batch_at(corpus, config, 8, 0), batch)


def test_the_rate_rises_stays_and_falls_to_zero():
    config = LMTrainConfig(tokens=100 * 16 * 512, warmup_steps=10, decay=0.4)
    assert config.steps == 100
    assert config.rate(0) == pytest.approx(0.1) and config.rate(9) == 1
    assert {config.rate(step) for step in range(9, 60)} == {1.0}
    assert config.rate(80) == pytest.approx(0.5) and config.rate(99) == pytest.approx(1 / 40)


def test_a_budget_below_one_batch_is_refused():
    with pytest.raises(ModelError, match="less than one batch of 16 x 512"):
        LMTrainConfig(tokens=100)


@pytest.fixture
def uniform(sources, tmp_path):
    """A model that gives every token the same probability."""
    tokenizer, _ = prepare(SMALL, tmp_path)
    model = new_model(SMALL, tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    return model, tokenizer


def test_bits_per_byte_of_a_uniform_model_are_tokens_times_log2_of_the_vocabulary(uniform):
    model, tokenizer = uniform
    texts = [*tiny.sentences(7, seed=3), "caf\u00e9"]
    n_tokens = sum(len(tokenizer.encode(t, add_special_tokens=False)) for t in texts)
    n_bytes = sum(len(t.encode()) for t in texts)
    expected = n_tokens * math.log2(len(tokenizer)) / n_bytes
    for batch in (1, 3, 16):
        found = bits_per_byte(model, tokenizer, texts, context=16, batch=batch)
        assert found == pytest.approx(expected, rel=1e-5)


def test_training_learns_resumes_exactly_and_leaves_a_model_folder(sources, tmp_path):
    def weights(folder):
        lm = language_models.load(str(folder), "cpu")
        return {name: p.clone() for name, p in lm.model.named_parameters()}

    whole = list(train_lm(SMALL, tmp_path / "work", tmp_path / "whole", "cpu"))
    assert [s.step for s in whole] == [20, 40, 45] and whole[-1].tokens == SMALL.tokens
    assert whole[-1].loss < whole[0].loss < math.log(300)
    for step in train_lm(SMALL, tmp_path / "other", tmp_path / "stopped", "cpu", 0.0):
        if step.step == 40:
            break  # ended without warning after the checkpoint of step 39
    assert not (tmp_path / "stopped").exists()
    rest = list(train_lm(SMALL, tmp_path / "other", tmp_path / "resumed", "cpu"))
    assert [s.step for s in rest] == [40, 45]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(one[name], two[name]) for name in one)
    figures = (tmp_path / "whole" / "figures.json").read_text()
    assert '"bits_per_byte"' in figures
    assert all(f.stat().st_mode & 0o777 == 0o644 for f in (tmp_path / "whole").iterdir())
