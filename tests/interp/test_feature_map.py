"""The map of directions: by hand, against numpy's decomposition; signs; umap there and not."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from data.errors import WorkbenchError
from interp.feature_map import feature_map, principal_plane
from interp.neighbours import directions


def random(n, d, seed=0):
    scale = torch.linspace(3, 0.1, d)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale


def test_four_directions_by_hand():
    # Unit vectors e1, -e1, e2 / and a dead one: mean e2 / 3, axes e1 and e2.
    W = torch.tensor([[2.0, 0, 0], [-5.0, 0, 0], [0, 0, 0], [0, 4.0, 0]])
    found = principal_plane(directions(W))
    assert found.features.tolist() == [0, 1, 3]
    np.testing.assert_allclose(found.places, [[1, -1 / 3], [-1, -1 / 3], [0, 2 / 3]], atol=1e-7)
    # Variances 2/3 and 2/9.
    assert found.explained == pytest.approx((0.75, 0.25))


def test_equals_a_decomposition_of_the_centred_directions():
    W = random(500, 20)
    unit = torch.nn.functional.normalize(W.double(), dim=1).numpy()
    centred = unit - unit.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])
    found = principal_plane(directions(W))
    np.testing.assert_allclose(found.places, centred @ (axes[:2] * signs[:, None]).T, atol=1e-6)
    assert found.explained == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()), abs=1e-6)


def test_lengths_do_not_matter_and_the_sign_is_fixed():
    W = random(300, 12)
    lengths = torch.logspace(-3, 3, 300)[torch.randperm(300)]
    places = principal_plane(directions(W)).places
    np.testing.assert_allclose(principal_plane(directions(W * lengths[:, None])).places, places,
                               atol=1e-6)  # fmt: skip
    assert (principal_plane(directions(W)).places == places).all()
    # Other blocks of the sum, the same features in another order: the same axes, signs included.
    order = torch.randperm(300)
    np.testing.assert_allclose(principal_plane(directions(W[order])).places, places[order],
                               atol=1e-9)  # fmt: skip


@pytest.mark.parametrize(("n", "d"), [(0, 3), (1, 3), (2, 1), (2, 5)])
def test_too_few_directions_or_dimensions(n, d):
    found = principal_plane(directions(random(n, d)))
    assert found.places.shape == (n, 2) and np.isfinite(found.places).all()
    if n < 2:
        assert found.explained is None and (found.places == 0).all()
    if d == 1:
        assert (found.places[:, 1] == 0).all()


def test_unknown_methods_are_refused():
    with pytest.raises(WorkbenchError, match="--map 'tsne' is unknown: use pca or umap"):
        feature_map(directions(random(3, 3)), "tsne", 0)


def test_umap_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(WorkbenchError, match="not installed: pip install umap-learn, or use"):
        feature_map(directions(random(30, 3)), "umap", 0)


def test_umap_gets_the_directions_and_the_seed(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, x):
            return x[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    W = random(30, 3)
    W[4] = 0
    unit = directions(W)
    found = feature_map(unit, "umap", 7)
    assert asked["random_state"] == 7 and asked["metric"] == "cosine"
    np.testing.assert_array_equal(found.places, unit.units[:, :2].double().numpy())
    assert 4 not in found.features and found.explained is None
    with pytest.raises(WorkbenchError, match="needs more than 15 features .* there are 10"):
        feature_map(directions(random(10, 3)), "umap", 0)
