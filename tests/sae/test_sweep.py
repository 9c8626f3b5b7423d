"""Several SAEs on one stream: the same as one by one, one product, resumable."""

from dataclasses import replace

import pytest
import torch

from sae.config import Refused, shape_for
from sae.presets import preset
from sae.sources import TensorSource
from sae.sweep import Sweep
from sae.trainer import Trainer
from tests.sae.planted import planted

D_IN, D_SAE = 24, 48


def _trainers(rows, recipes, **more):
    source = TensorSource(rows, seed=7)
    return [Trainer(source, shape_for(D_IN, D_SAE, c), c, **more) for c in recipes]


def _recipes():
    short = {"l0": 4.0, "batch": 128, "tokens": 128 * 70}
    return [
        preset("small_budget", **short),
        preset("small_budget", **{**short, "l0": 6.0}, pre_encoder_bias=True),
        preset("small_budget", "gated", **short, seed=3),
        preset("small_budget", "batchtopk", **short),
    ]


def test_side_by_side_is_one_by_one():
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    sweep = Sweep(_trainers(rows, _recipes()))
    assert len(sweep.groups) == 1, "one shape, one scale: one product"
    steps = list(sweep)
    assert [i for i, step in steps if step.step == 70] == [0, 1, 2, 3]
    for c, together in zip(_recipes(), sweep.trainers, strict=True):
        (alone,) = _trainers(rows, [c])
        list(alone)
        for name, value in alone.sae().state_dict().items():
            assert torch.allclose(together.sae().state_dict()[name], value, atol=2e-3), name


def test_encoders_share_memory():
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    sweep = Sweep(_trainers(rows, _recipes()))
    places = [t.weights.W_enc.untyped_storage().data_ptr() for t in sweep.trainers]
    assert len(set(places)) == 1


def test_shapes_and_scales_that_differ_are_not_mixed():
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    short = {"l0": 4.0, "batch": 128, "tokens": 128 * 60}
    recipes = [preset("small_budget", **short), preset("small_budget", **short, centre=False)]
    source = TensorSource(rows)
    trainers = [Trainer(source, shape_for(D_IN, D_SAE, c), c) for c in recipes]
    trainers.append(Trainer(source, shape_for(D_IN, 32, recipes[0]), recipes[0]))
    sweep = Sweep(trainers)
    assert len(sweep.groups) == 3
    assert len({i for i, _ in sweep}) == 3


def test_trainers_at_different_steps_end_together(tmp_path):
    """Killed between two checkpoints: the later one waits, and both end as if nothing happened."""
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    recipes = _recipes()[:2]
    whole = _trainers(rows, recipes)
    for trainer in whole:
        list(trainer)
    stopped = _trainers(rows, recipes)
    for trainer, stop in zip(stopped, (30, 50), strict=True):
        for raw, _ in zip(trainer.batches(), range(stop), strict=False):
            trainer.step(trainer.units(raw))
        trainer.save(tmp_path / str(stop))
    source = TensorSource(rows, seed=7)
    again = Sweep(
        [
            Trainer(source, shape_for(D_IN, D_SAE, c), c, resume=tmp_path / str(stop))
            for c, stop in zip(recipes, (30, 50), strict=True)
        ]
    )
    assert again.done == 30
    list(again)
    for a, b in zip(again.trainers, whole, strict=True):
        assert torch.allclose(a.sae().W_dec, b.sae().W_dec, atol=2e-3)


def test_the_place_in_a_sweep_does_not_matter():
    """The last correction of each SAE looks at the same rows."""
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    recipe = _recipes()[0]
    sweep = Sweep(_trainers(rows, [recipe, recipe, recipe], calibrate=rows[:500]))
    list(sweep)
    first, *others = (trainer.sae() for trainer in sweep.trainers)
    for other in others:
        assert torch.equal(first.threshold, other.threshold)


def test_trainers_that_cannot_share_a_stream_are_refused():
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    a, b = _recipes()[:2]
    with pytest.raises(Refused, match="share one source"):
        Sweep([*_trainers(rows, [a]), *_trainers(rows, [b])])
    with pytest.raises(Refused, match="differ in batch: 128, 64"):
        Sweep(_trainers(rows, [a, replace(b, batch=64)]))
    with pytest.raises(Refused, match="at least one"):
        Sweep([])
