"""A language model with its weights drawn again: sizes kept, knowledge gone, told by its seed."""

from __future__ import annotations

import json

import pytest
import torch

from data import control_lm
from data import lm as language_models
from data.errors import ModelError, WorkspaceError
from tests import tiny
from tests.tiny import one_thread  # noqa: F401


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in lm.model.named_parameters()}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_tensor_keeps_its_mean_and_deviation_and_nothing_else(family):
    lm = tiny.language_model(family)
    before = weights(lm)
    drawn = control_lm.redraw(lm, "moments", seed=0)
    after = weights(lm)
    assert drawn == sum(p.numel() for p in before.values())
    for name, old in before.items():
        new = after[name]
        if old.numel() > 500:
            assert float(new.std()) == pytest.approx(float(old.std()), rel=0.1), name
            both = torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))
            assert abs(float(both[0, 1])) < 0.2, name


@pytest.mark.parametrize("way", control_lm.WAYS)
def test_the_seed_tells(way):
    logits = []
    for seed in (1, 1, 2):
        lm = tiny.language_model()
        control_lm.redraw(lm, way, seed)
        logits.append(lm.logits(torch.arange(8)[None]))
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])


def test_init_is_what_the_class_begins_with():
    lm = tiny.language_model("llama")
    control_lm.redraw(lm, "init", seed=0)
    found = weights(lm)
    assert (found["model.norm.weight"] == 1).all()
    wide = found["model.layers.0.mlp.up_proj.weight"]
    assert float(wide.std()) == pytest.approx(lm.model.config.initializer_range, rel=0.1)


def test_shared_embeddings_stay_shared_and_can_be_kept():
    lm = tiny.language_model("gpt2")
    ends = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
    assert ends[0] is ends[1]
    old = ends[0].clone()
    control_lm.redraw(lm, "moments", 0, keep_embeddings=True)
    assert torch.equal(lm.model.get_input_embeddings().weight, old)
    assert lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    control_lm.redraw(lm, "moments", 0)
    assert not torch.equal(lm.model.get_input_embeddings().weight, old)


def test_it_is_written_as_a_model_that_loads(tmp_path):
    source = language_models.load(str(tiny.save(tmp_path / "model")), "cpu")
    before = source.fingerprint
    control_lm.redraw(source, "moments", 0)
    fingerprint = control_lm.write(source, tmp_path / "lms" / "control", {"seed": 0})
    again = language_models.load(str(tmp_path / "lms" / "control"), "cpu")
    assert again.fingerprint == fingerprint != before
    ids = torch.arange(10)[None]
    assert torch.allclose(again.logits(ids), source.logits(ids), atol=1e-6)
    assert again.tokenizer.get_vocab() == source.tokenizer.get_vocab()
    note = json.loads((tmp_path / "lms/control" / control_lm.NOTE).read_text())
    assert note == {"seed": 0} and len(list((tmp_path / "lms").iterdir())) == 1
    twin = language_models.load(str(tmp_path / "model"), "cpu")
    control_lm.redraw(twin, "moments", 0)
    assert control_lm.write(twin, tmp_path / "lms" / "twin", {}) == fingerprint
    with pytest.raises(WorkspaceError, match="exists already"):
        control_lm.write(twin, tmp_path / "lms" / "twin", {})


def test_what_cannot_be_is_refused():
    lm = tiny.language_model()
    with pytest.raises(ModelError, match="no way 'x' to draw weights: choose from moments, init"):
        control_lm.redraw(lm, "x", 0)
    with torch.no_grad():
        next(lm.model.parameters()).fill_(float("inf"))
    with pytest.raises(ModelError, match="no finite logits"):
        control_lm.redraw(lm, "moments", 0)
