"""Fewer rows than features: the same heads on n × n features, exactly.

The optimal weights lie in the span of the rows (representer theorem), and only the Gram matrix of the rows matters.
With X Xᵀ = L Lᵀ the features L (n, n) have that Gram matrix; a solution v on them is W = Xᵀ L⁻ᵀ v on X.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dsyrk

from grobust.arrays import array_namespace
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["reduced", "restored", "shrunk"]

# Relative to the trace per row: the Gram matrix is singular where rows repeat. Adds that much to each squared norm.
JITTER = 1e-12


def reduced(rows: Array, threads: Threads) -> Array:
    """(n, n) float64 lower triangular L with L Lᵀ = X Xᵀ, for standardized rows X (n, d)."""
    xp = array_namespace(rows)
    gram = _gram(rows, threads)
    n = gram.shape[0]
    jitter = JITTER * max(float(xp.linalg.trace(gram)) / n, 1e-30)
    if isinstance(gram, np.ndarray):
        gram[np.diag_indices(n)] += jitter
        return np.asarray(cholesky(gram, lower=True, overwrite_a=True, check_finite=False))
    return xp.linalg.cholesky(gram + jitter * xp.eye(n, dtype=xp.float64))


def _gram(rows: Array, threads: Threads) -> Array:
    xp = array_namespace(rows)
    if not isinstance(rows, np.ndarray):
        wide = xp.astype(rows, xp.float64)
        return wide @ wide.T

    def of_features(start: int, stop: int) -> NDArray[Any]:
        # One triangle is enough for the factorization.
        return np.asarray(dsyrk(1.0, rows[:, start:stop].astype(np.float64).T, trans=1, lower=1))

    d = rows.shape[1]
    first, *others = threads.ranges(of_features, d, -(-d // threads.count))
    for other in others:
        first += other
    return first


def restored(weights: Array, factor: Array, rows: Array) -> Array:
    """(K, c, d + 1) weights on X from those (K, c, n + 1) on L."""
    xp = array_namespace(factor)
    heads, columns, _ = weights.shape
    alpha = _solved(factor, xp.reshape(weights[:, :, :-1], (heads * columns, -1)), transposed=True)
    features = xp.reshape(alpha @ xp.astype(rows, xp.float64), (heads, columns, -1))
    return xp.concat([features, weights[:, :, -1:]], axis=2)


def shrunk(weights: Array, factor: Array, rows: Array) -> Array:
    """(K, c, n + 1) weights on L that give the logits of (K, c, d + 1) on X."""
    xp = array_namespace(factor)
    logits = weights[:, :, :-1] @ xp.astype(rows, xp.float64).T
    small = _solved(factor, xp.reshape(logits, (-1, factor.shape[0])), transposed=False)
    return xp.concat([xp.reshape(small, logits.shape), weights[:, :, -1:]], axis=2)


def _solved(factor: Array, rows: Array, *, transposed: bool) -> Array:
    """(M, n) solutions v of L v = row, or Lᵀ v = row, for every row."""
    if isinstance(factor, np.ndarray):
        return solve_triangular(factor, rows.T, lower=True, trans="T" if transposed else "N", check_finite=False).T
    # The array API has no triangular solver; an n × n system with few right-hand sides costs little next to the Gram.
    return array_namespace(factor).linalg.solve(factor.T if transposed else factor, rows.T).T
