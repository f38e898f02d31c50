"""Features as two numbers per row, for the eye: principal components, or UMAP."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from grobust.errors import ConfigError

__all__ = ["Plane", "principal_plane", "umap_plane"]


@dataclass(frozen=True, eq=False)
class Plane:
    """The two directions of largest variance.

    Parameters
    ----------
    mean : (d) float64
    directions : (2, d) float64, orthonormal; the largest entry of each is positive
    shares : of the variance of the rows it was fitted to, along each
    """

    mean: NDArray[Any]
    directions: NDArray[Any]
    shares: tuple[float, float]

    def place(self, features: NDArray[Any]) -> NDArray[Any]:
        """(m, 2) float64 of (m, d) features."""
        return np.asarray((features.astype(np.float64) - self.mean) @ self.directions.T)


def principal_plane(features: NDArray[Any]) -> Plane:
    """Principal components of (m, d) features, m and d at least 2, accumulated in float64.

    The smaller of the d × d covariance and the m × m Gram matrix is decomposed. Directions without variance are
    filled up with unit vectors.
    """
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    m, d = x.shape
    total = float(np.sum(x * x))
    if d <= m:
        values, vectors = eigh(x.T @ x, subset_by_index=(d - 2, d - 1))
        directions = vectors.T[::-1]
    else:
        values, vectors = eigh(x @ x.T, subset_by_index=(m - 2, m - 1))
        directions = (x.T @ vectors).T[::-1]
    directions = _orthonormal(directions)
    shares = np.clip(values[::-1], 0, None) / total if total > 0 else np.zeros(2)
    signs = np.sign(directions[np.arange(2), np.abs(directions).argmax(axis=1)])
    return Plane(mean, directions * signs[:, None], (float(shares[0]), float(shares[1])))


def umap_plane(features: NDArray[Any], *, seed: int) -> NDArray[Any]:
    """(m, 2) UMAP embedding of (m, d) features with the library's own settings.

    Raises
    ------
    ConfigError
        If umap-learn is not installed.
    """
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise ConfigError(
            "UMAP is not installed. Use --projection pca, or install it: pip install 'grobust[report]'."
        ) from error
    neighbors = min(15, len(features) - 1)
    reducer = umap.UMAP(n_components=2, n_neighbors=neighbors, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(features), dtype=np.float64)


def _orthonormal(rows: NDArray[Any]) -> NDArray[Any]:
    """Two orthonormal rows that span the given ones; unit vectors for those that are zero."""
    kept: list[NDArray[Any]] = []
    scale = float(np.abs(rows).max(initial=0.0))
    candidates = [*rows, *np.eye(3, rows.shape[1])[: min(3, rows.shape[1])]]
    for row in candidates:
        left = row - sum((float(row @ k) * k for k in kept), np.zeros(rows.shape[1]))
        norm = float(np.linalg.norm(left))
        if norm > 1e-10 * max(scale, 1e-300) and len(kept) < 2:
            kept.append(left / norm)
    return np.stack(kept)
