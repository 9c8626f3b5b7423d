"""A two-dimensional map of features by what they write.

In:  unit decoder directions. Out: a place in the plane for each feature that has a direction.

PCA shows how the directions lie as a whole; UMAP, where it is installed, which lie close together.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from data.errors import WorkbenchError
from interp.neighbours import BLOCK, Directions

METHODS = ("pca", "umap")
UMAP_NEIGHBOURS, UMAP_MIN_DIST = 15, 0.1  # umap-learn's own defaults


@dataclass(frozen=True)
class FeatureMap:
    """Places of features; dead ones, without a direction, have none."""

    features: np.ndarray  # int64 [n], ascending
    places: np.ndarray  # float64 [n, 2]
    explained: tuple[float, float] | None  # share of the variance along each axis; None: no axes


def refuse_map(method: str) -> None:
    """WorkbenchError for a method there is not, and for umap where it is not installed."""
    if method not in METHODS:
        raise WorkbenchError(f"--map {method!r} is unknown: use {' or '.join(METHODS)}")
    if method == "umap":
        _umap()


def feature_map(directions: Directions, method: str, seed: int) -> FeatureMap:
    """The map by one of METHODS; the seed matters to umap only. WorkbenchError as `refuse_map`."""
    refuse_map(method)
    return principal_plane(directions) if method == "pca" else umap_plane(directions, seed)


@torch.no_grad()
def principal_plane(directions: Directions) -> FeatureMap:
    """The first two principal components (Pearson 1901) of unit directions, which count alike
    however strongly their features fire.

    From the covariance [d, d], summed in float64 over blocks of fixed size. The sign of a component
    is that which makes its largest entry positive, the first of equal ones.
    """
    units = directions.units.cpu()
    n, d = units.shape
    total, products = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for rows in units.split(BLOCK):
        rows = rows.double()
        total += rows.sum(0)
        products.addmm_(rows.T, rows)
    mean = total / max(n, 1)
    variances, vectors = torch.linalg.eigh(products / max(n, 1) - torch.outer(mean, mean))
    axes = torch.zeros(d, 2, dtype=torch.float64)
    axes[:, : min(d, 2)] = vectors.flip(1)[:, :2]
    largest = axes.abs().argmax(0)
    axes *= torch.where(axes[largest, torch.arange(2)] < 0, -1.0, 1.0)
    places = torch.cat([(rows.double() - mean) @ axes for rows in units.split(BLOCK)])
    variances = variances.clamp_min(0)
    shares = torch.cat([variances.flip(0), variances.new_zeros(1)])[:2] / variances.sum()
    explained = (float(shares[0]), float(shares[1])) if variances.sum() > 0 else None
    return FeatureMap(directions.features, places.numpy(), explained)


def umap_plane(directions: Directions, seed: int) -> FeatureMap:
    """UMAP (McInnes, Healy and Melville 2018) of the directions by cosine, with a fixed seed.

    Raises WorkbenchError where it is not installed, and for too few directions.
    """
    umap = _umap()
    units = directions.units.cpu().numpy()
    if len(units) <= UMAP_NEIGHBOURS:
        raise WorkbenchError(
            f"--map umap needs more than {UMAP_NEIGHBOURS} features with a direction, there are "
            f"{len(units)}: use --map pca"
        )
    reducer = umap.UMAP(
        n_neighbors=UMAP_NEIGHBOURS,
        min_dist=UMAP_MIN_DIST,
        metric="cosine",
        random_state=seed % 2**32,  # what numpy's old generator takes
        n_jobs=1,  # more would not repeat
    )
    places = np.asarray(reducer.fit_transform(units), dtype=np.float64)
    return FeatureMap(directions.features, places, None)


def _umap() -> ModuleType:
    """The package umap-learn, which is optional."""
    try:
        import umap
    except ImportError:
        raise WorkbenchError(
            "--map umap needs the package umap-learn, which is not installed: "
            "pip install umap-learn, or use --map pca"
        ) from None
    return umap
