"""Fewer rows than features: the same heads on n × n features, exactly.

The optimal weights lie in the span of the rows (representer theorem), and only the Gram matrix of the rows matters.
With X Xᵀ = L Lᵀ the features L (n, n) have that Gram matrix; a solution v on them is W = Xᵀ L⁻ᵀ v on X.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

__all__ = ["reduced", "restored", "shrunk"]

# Relative to the trace per row: the Gram matrix is singular where rows repeat. Adds that much to each squared norm.
JITTER = 1e-12


def reduced(rows: NDArray[Any]) -> NDArray[Any]:
    """(n, n) float64 lower triangular L with L Lᵀ = X Xᵀ, for standardized rows X (n, d)."""
    wide = rows.astype(np.float64)
    gram = wide @ wide.T
    gram[np.diag_indices_from(gram)] += JITTER * max(np.trace(gram) / gram.shape[0], 1e-30)
    return np.asarray(cholesky(gram, lower=True, overwrite_a=True, check_finite=False))


def restored(weights: NDArray[Any], factor: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """(K, c, d + 1) weights on X from those (K, c, n + 1) on L."""
    heads, columns, _ = weights.shape
    flat = weights[:, :, :-1].reshape(heads * columns, -1)
    alpha = solve_triangular(factor, flat.T, lower=True, trans="T", check_finite=False)
    features = (alpha.T @ rows.astype(np.float64)).reshape(heads, columns, -1)
    return np.concatenate([features, weights[:, :, -1:]], axis=2)


def shrunk(weights: NDArray[Any], factor: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """(K, c, n + 1) weights on L that give the logits of (K, c, d + 1) on X."""
    logits = weights[:, :, :-1] @ rows.astype(np.float64).T
    flat = logits.reshape(-1, factor.shape[0])
    small = solve_triangular(factor, flat.T, lower=True, check_finite=False).T.reshape(logits.shape)
    return np.concatenate([small, weights[:, :, -1:]], axis=2)
