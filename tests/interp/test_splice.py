"""The shortcut before the site: the same numbers from fewer computations, or none where unknown."""

import pytest
import torch

from interp import splice
from interp.splice import prefix_once
from tests import tiny

IDS = torch.tensor([[0, 5, 70, 200, 9, 12, 30, 31], [0, 8, 9, 9, 100, 7, 3, 4]])


def _passes(lm, site):
    # The third changes the tensor it is given, as some families do to a block's output.
    changes = (lambda x: 0.5 * x + 0.1, torch.zeros_like, lambda x: x.mul_(2), lambda x: x.clone())
    replaced = [lm.logits_replacing(IDS, site, change) for change in changes]
    return [lm.logits(IDS), *replaced, lm.logits(IDS)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["resid_post.0", "resid_post.1", "mlp_out.2", "attn_z.1"])
def test_every_pass_gives_what_it_gives_alone(family, site):
    lm = tiny.language_model(family)
    alone = _passes(lm, site)
    with prefix_once(lm, site):
        together = _passes(lm, site)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, _passes(lm, site), strict=True))


@pytest.mark.parametrize(
    ("site", "runs"),
    [
        ("resid_post.1", [1, 1, 6]),
        ("mlp_out.1", [1, 6, 6]),
        ("attn_z.0", [6, 6, 6]),
        ("hook:model.layers.2:input", [1, 1, 6]),
        ("hook:model.layers.1.mlp.up_proj:output", [1, 6, 6]),
        ("hook:model.norm:output", [6, 6, 6]),
    ],
)
def test_blocks_before_the_site_run_once(site, runs):
    lm, seen = tiny.language_model(), [0, 0, 0]

    def count(number):
        def hook(*_):
            seen[number] += 1

        return hook

    for number, block in enumerate(lm.model.model.layers):
        block.self_attn.register_forward_hook(count(number))
    with prefix_once(lm, site):
        _passes(lm, site)
    assert seen == runs


def test_an_unknown_family_runs_whole(monkeypatch):
    lm = tiny.language_model()
    monkeypatch.setattr(splice, "PLAIN", ("gpt2",))
    assert splice._before(lm.model, "resid_post.1") == []


def test_the_model_is_whole_again_after_an_error():
    lm = tiny.language_model()
    plain = lm.logits(IDS)
    with pytest.raises(ZeroDivisionError), prefix_once(lm, "resid_post.1"):
        lm.logits(IDS)
        raise ZeroDivisionError
    assert torch.equal(lm.logits(IDS), plain) and not torch.equal(lm.logits(IDS + 1), plain)
    assert all("forward" not in vars(block) for block in lm.model.model.layers)
