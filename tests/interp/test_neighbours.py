"""Nearest directions against the whole matrix; ties, dead features, blocks, two SAEs, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from interp import neighbours
from interp.neighbours import Best, Cosines, decoder, directions, encoder, refuse_other_widths
from sae.config import Refused
from sae.models import GatedSAE, JumpReLUSAE, TopKSAE


def random(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def found(cosines, reverse=False):
    """The lists, once every step is done."""
    steps = list(cosines)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert not steps or steps[-1].done == steps[-1].total
    return cosines.lists(reverse)


def by_feature(lists):
    """feature -> its others, the nearest first."""
    return {f: lists["other"][lists["feature"] == f].tolist() for f in set(lists["feature"])}


def literal(a, b, keep, same):
    """(feature, rank, other, value) by the whole matrix of exact products."""
    rows = []
    for i, u in zip(a.features, a.units.double(), strict=True):
        found = [
            (-min(max(float(u @ v), -1.0), 1.0), int(j))
            for j, v in zip(b.features, b.units.double(), strict=True)
            if not (same and i == j)
        ]
        for rank, (value, j) in enumerate(sorted(found)[:keep]):
            rows.append((int(i), rank, j, -value))
    return rows


def rows_of(lists):
    return list(
        zip(*(lists[c].tolist() for c in ("feature", "rank", "other", "value")), strict=True)
    )


def test_five_directions_by_hand():
    W = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 5.0], [0.0, 0.0], [-1.0, 0.0]])
    lists = found(Cosines(directions(W), keep=2))
    root = 0.5**0.5
    assert rows_of(lists) == [
        (0, 0, 2, pytest.approx(root, abs=1e-7)), (0, 1, 1, 0.0),
        (1, 0, 2, pytest.approx(root, abs=1e-7)), (1, 1, 0, 0.0),  # 4 is at a right angle too
        (2, 0, 0, pytest.approx(root, abs=1e-7)), (2, 1, 1, pytest.approx(root, abs=1e-7)),
        (4, 0, 1, 0.0), (4, 1, 2, pytest.approx(-root, abs=1e-7)),
    ]  # fmt: skip
    assert not np.signbit(lists["value"][1::2][:2]).any(), "no negative zero"


def test_rounding_to_the_grid_moves_a_cosine_by_next_to_nothing():
    W = random(50, 300) * torch.logspace(-20, 20, 50)[:, None]
    exact = W.double() / W.double().norm(dim=1, keepdim=True)
    units = directions(W).units.double()
    assert ((units @ units.T) - (exact @ exact.T)).abs().max() < 3e-7


def test_sums_are_exact_in_any_order():
    u = directions(random(2, 1000)).units.double()
    products = u[0] * u[1]
    orders = [products[torch.randperm(1000)].cumsum(0)[-1].item() for _ in range(20)]
    assert len(set(orders)) == 1


@pytest.mark.parametrize("keep", [1, 5, 200])
def test_equals_the_whole_matrix(keep):
    unit = directions(random(90, 6))
    assert rows_of(found(Cosines(unit, keep=keep, block=16))) == literal(unit, unit, keep, True)


def test_ties_go_to_the_smaller_number():
    generator = torch.Generator().manual_seed(1)
    # Multiples of few directions: most cosines are equal.
    W = torch.eye(4)[torch.randint(0, 4, (80,), generator=generator)]
    W = W * torch.randint(1, 9, (80, 1), generator=generator)
    W[17] = 0
    unit = directions(W)
    lists = found(Cosines(unit, keep=30, block=9))
    assert rows_of(lists) == literal(unit, unit, 30, True)
    assert 17 not in lists["feature"] and 17 not in lists["other"]


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("settle", [1, 2**18])
def test_blocks_equal_the_whole(block, settle, monkeypatch):
    W = torch.cat([random(35, 16), random(35, 16), torch.zeros(3, 16)])  # each direction twice
    whole = found(Cosines(directions(W), keep=8, block=1000))
    monkeypatch.setattr(neighbours, "SETTLE", settle)
    lists = found(Cosines(directions(W), keep=8, block=block))
    for name, column in whole.items():
        np.testing.assert_array_equal(lists[name], column)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_features(n):
    lists = found(Cosines(directions(torch.cat([torch.zeros(2, 3), random(n, 3)])), keep=4))
    expected = {2: [3], 3: [2]} if n == 2 else {}
    assert by_feature(lists) == expected


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_two_saes_in_both_directions(block):
    W, V = random(40, 5), random(23, 5, seed=1)
    W[3], V[0] = 0, 0
    V[5] = 4 * W[11]
    a, b = directions(W), directions(V)
    across = Cosines(a, b, keep=6, block=block)
    assert rows_of(found(across)) == literal(a, b, 6, False)
    assert rows_of(across.lists(reverse=True)) == literal(b, a, 6, False)
    assert by_feature(across.lists())[11][0] == 5 and by_feature(across.lists(True))[5][0] == 11
    swapped = Cosines(b, a, keep=6, block=block)
    assert rows_of(found(swapped)) == rows_of(across.lists(reverse=True))


def test_what_a_feature_writes_and_what_it_reads():
    for kind in (JumpReLUSAE, GatedSAE):
        sae = kind(4, 7)
        with torch.no_grad():
            sae.W_enc.copy_(random(4, 7))
            sae.W_dec.copy_(random(7, 4, seed=1))
        assert torch.equal(encoder(sae).units, directions(sae.W_enc.T.contiguous()).units)
        assert torch.equal(decoder(sae).units, directions(sae.W_dec).units)
    assert len(encoder(TopKSAE(4, 7, k=2)).features) == 0, "of zero weights"


class Largest(TorchDispatchMode):
    """The most bytes any one tensor had that an operation gave."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_no_tensor_grows_with_the_square_of_the_features():
    W = random(500, 8)
    with Largest() as largest:
        found(Cosines(directions(W), keep=4, block=32))
    assert largest.bytes <= 500 * 8 * 8, "the directions in float64"
    assert largest.bytes < 500 * 500 * 8 / 50


def test_other_widths_are_refused():
    refuse_other_widths(JumpReLUSAE(8, 4), TopKSAE(8, 99, k=3))
    with pytest.raises(Refused, match="8 and 6 wide .* name two of the same width"):
        refuse_other_widths(JumpReLUSAE(8, 4), JumpReLUSAE(6, 4))
    with pytest.raises(Refused, match="8 and 8 to 6 wide"):
        refuse_other_widths(JumpReLUSAE(8, 4), JumpReLUSAE(8, 4, d_out=6))


PAIRS = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 30)),
    st.tuples(st.integers(-2, 2), st.integers(0, 2)),
    max_size=80,
)


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.integers(1, 6), st.integers(1, 9), st.randoms(use_true_random=False))
def test_best_of_pairs_in_any_pieces(pairs, keep, piece, order):
    items = [(f, o, float(v), float(t)) for (f, o), (v, t) in pairs.items()]
    expected = []
    for feature in range(5):
        mine = sorted((-v, -t, o) for f, o, v, t in items if f == feature)[:keep]
        expected += [(feature, rank, o, -v, -t) for rank, (v, t, o) in enumerate(mine)]
    order.shuffle(items)
    best, before = Best(5, keep, ("tie",)), neighbours.SETTLE
    try:
        neighbours.SETTLE = 3
        for start in range(0, len(items), piece):
            f, o, v, t = (np.array(c) for c in zip(*items[start : start + piece], strict=True))
            best.offer(f, o, v, t)
    finally:
        neighbours.SETTLE = before
    lists = best.lists()
    columns = (lists[c].tolist() for c in ("feature", "rank", "other", "value", "tie"))
    assert list(zip(*columns, strict=True)) == expected
