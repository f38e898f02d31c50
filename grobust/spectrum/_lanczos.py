"""λ1 of many symmetric operators at once, by Lanczos iterations side by side.

The three-term recurrence is kept without reorthogonalization: copies of converged eigenvalues that rounding brings back
do not change the largest one. Vectors have the operator's precision; dot products and the small tridiagonal matrices
are float64.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.typing import Array

__all__ = ["largest_of_many"]

# Steps between looks at the tridiagonal matrices, whose eigenvalues cost about as much as a step.
LOOK_EVERY = 4
# Operators that need more steps than this have a largest eigenvalue in a dense bulk; what is found then is a lower
# bound within about tolerance of it.
MAX_STEPS = 200

Apply = Callable[[Array, NDArray[np.int64]], Array]


def largest_of_many(apply: Apply, start: Array, *, tolerance: float) -> NDArray[np.float64]:
    """λ1 of b positive semidefinite operators on vectors of length m.

    Parameters
    ----------
    apply : (vectors (c, m), numbers (c) of the operators) → products (c, m); may drop converged operators
    start : (b, m), a vector per operator, not zero and inside its range
    tolerance : relative, of λ1; the residual norm β|s| bounds the error by itself and by its square over the gap

    Returns
    -------
    (b) float64
    """
    xp = array_namespace(start)
    b, m = start.shape
    found = np.zeros(b)
    active = np.arange(b)
    norm = _norms(start)
    vectors = xp.astype(start, xp.float64) / xp.where(norm > 0, norm, xp.ones_like(norm))[:, None]
    before, beta = xp.zeros_like(vectors), xp.zeros_like(norm)
    alphas: list[NDArray[np.float64]] = []
    betas: list[NDArray[np.float64]] = []
    last = np.full(b, -1.0)
    limit = min(MAX_STEPS, 2 * m + LOOK_EVERY)
    for step in range(1, limit + 1):
        product = xp.astype(apply(vectors, active), xp.float64)
        alpha = _dots(product, vectors)
        product -= alpha[:, None] * vectors
        if step > 1:
            product -= beta[:, None] * before
        beta = _norms(product)
        alphas.append(to_numpy(alpha))
        betas.append(to_numpy(beta))
        floor = xp.maximum(beta, xp.full_like(beta, np.finfo(np.float64).tiny))
        before, vectors = vectors, product / floor[:, None]
        if step % LOOK_EVERY and step < limit and step < m:
            continue
        top, error = _top_of_tridiagonals(np.stack(alphas, axis=1), np.stack(betas, axis=1))
        found[active] = top
        small = tolerance * np.maximum(top, np.finfo(np.float64).tiny)
        open_ = (error > small) | (np.abs(top - last[active]) > small) if step < m else error > small
        last[active] = top
        if not open_.any():
            break
        if open_.mean() < 0.75:
            keep = np.flatnonzero(open_)
            alphas, betas = [a[keep] for a in alphas], [a[keep] for a in betas]
            rows = xp.asarray(keep, device=start.device)
            vectors, before = xp.take(vectors, rows, axis=0), xp.take(before, rows, axis=0)
            beta, active = xp.take(beta, rows, axis=0), active[keep]
    return np.maximum(found, 0)


def _top_of_tridiagonals(
    alphas: NDArray[np.float64], betas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest eigenvalues (c) of matrices with diagonals (c, j), and bounds on their distance from the operators'."""
    c, j = alphas.shape
    matrices = np.zeros((c, j, j))
    steps = np.arange(j)
    matrices[:, steps, steps] = alphas
    # LAPACK reads the lower triangle.
    matrices[:, steps[1:], steps[:-1]] = betas[:, :-1]
    values, vectors = np.linalg.eigh(matrices)
    top = values[:, -1]
    residual = betas[:, -1] * np.abs(vectors[:, -1, -1])
    gap = top - values[:, -2] if j > 1 else np.zeros(c)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(gap > 0, residual**2 / gap, np.inf)
    return top, np.minimum(residual, squared)


def _dots(a: Array, b: Array) -> Array:
    if isinstance(a, np.ndarray):
        return np.einsum("ij,ij->i", a, b, dtype=np.float64)
    xp = array_namespace(a)
    return xp.sum(xp.astype(a, xp.float64) * xp.astype(b, xp.float64), axis=1)


def _norms(a: Array) -> Array:
    return array_namespace(a).sqrt(_dots(a, a))
