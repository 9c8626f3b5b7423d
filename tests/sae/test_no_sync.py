"""Between log steps nothing is read back from the device: a host that waits leaves a GPU idle."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae.config import ARCHITECTURES, shape_for
from sae.presets import preset
from sae.trainer import Trainer
from tests.sae.planted import planted

D_IN, D_SAE = 24, 48
# Operations whose result's value or size the host must wait for.
WAITING = (
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount",
    "_unique", "unique", "repeat_interleave", "multinomial", "argwhere",
)  # fmt: skip


class Reads(TorchDispatchMode):
    """Counts operations that would make the host wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if (
            name in ("index", "index_put_") and isinstance(args[1], (list, tuple))
        ) else []  # fmt: skip
        if any(name.startswith(word) for word in WAITING) or masks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


VARIANTS = {
    **{name: ("small_budget", {"architecture": name}) for name in ARCHITECTURES},
    "silverman, kde, quadratic frequency": (
        "small_budget",
        {"bandwidth_rule": "silverman", "kde_beta": 0.9, "penalty": "quadratic_frequency"},
    ),
    "a bandwidth each, pre-activation loss": (
        "small_budget",
        {"bandwidth_rule": "per_feature", "pre_activation_coefficient": 1e-6, "clip": 1.0},
    ),
    "lambda by a loop": (
        "small_budget",
        {"control": "price", "coefficient": 0.01, "decoder_norm": "free", "penalty": "tanh"},
    ),
    "token norm, pre-encoder bias": (
        "small_budget",
        {"token_norm": "layer_norm", "pre_encoder_bias": True, "precision": "bfloat16"},
    ),
    "AuxK": ("small_budget", {"aux_coefficient": 1 / 32, "dead_after": 500}),
}


def _trainer(changes):
    rows, _ = planted(3000, D_IN, 40, 4.0, seed=0)
    c = preset("small_budget", **{"l0": 4.0, "batch": 64, "tokens": 64 * 100, **changes})
    return Trainer(rows[500:], shape_for(D_IN, D_SAE, c), c, calibrate=rows[:500])


@pytest.mark.parametrize("changes", [v[1] for v in VARIANTS.values()], ids=VARIANTS)
def test_steps_read_nothing_back(changes, monkeypatch):
    monkeypatch.setattr("sae.entries.DENSE_SHARE", -1.0)  # the way a GPU takes
    trainer = _trainer(changes)
    for raw in trainer.batches():
        x = trainer.units(raw)
        with Reads() as reads:
            trainer.step(x)
        assert reads.seen == [], f"step {trainer.done} waits for {reads.seen}"
        if trainer.record_due():
            trainer.record(1.0)


def test_the_count_counts():
    """Log steps do read, and so would a careless step."""
    trainer = _trainer({})
    with Reads() as reads:
        for raw in trainer.batches():
            trainer.step(trainer.units(raw))
            if trainer.record_due():
                break
    assert "nonzero" in reads.seen or "bincount" in reads.seen, "lists of entries wait on a CPU"
    with Reads() as reads:
        trainer.record(1.0)
    assert "_local_scalar_dense" in reads.seen
    with Reads() as reads:
        x = torch.arange(4.0)
        x[x > 1]
    assert reads.seen, "a mask as an index has a size to wait for"
