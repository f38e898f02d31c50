"""A shared preconditioner: with second moments G of some rows, head k's Hessian is about c G + λ_k I.

One Cholesky factor per reference strength, half a decade apart, serves all heads near it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, get_blas_funcs

from grobust.arrays import array_namespace, on_cuda
from grobust.device._cuda import cuda
from grobust.probe._cuda_solver import shared_product
from grobust.probe._design import Design
from grobust.probe._passes import Passes, WithMoments
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["Preconditioner", "build", "references", "shared_inverse"]

# Maps gradients (K, c, d + 1) of the listed heads to steps.
Preconditioner = Callable[[Array, NDArray[Any]], Array]
MAX_REFERENCES = 8
# Keeps the factorization going where features are collinear and λ is tiny, as a share of the mean diagonal.
RIDGE, MAX_RIDGES = 1e-6, 12
# Up to so many right-hand sides, one after another is faster than all together.
FEW = 4
# Rows of which a copy on a device adds to the moments at a time.
MOMENT_ROWS = 1 << 16
# On the host at least so many, so that rows gathered from a store are never held whole.
HOST_MOMENT_ROWS = 1024


def references(l2: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Reference strengths (r) half a decade apart (or `MAX_REFERENCES` evenly), and the nearest for each λ (K)."""
    logs = np.log10(np.maximum(l2, 1e-12))
    grid = np.unique(np.round(2 * logs) / 2)
    if grid.size > MAX_REFERENCES:
        grid = np.linspace(logs.min(), logs.max(), MAX_REFERENCES)
    nearest = np.abs(logs[:, None] - grid).argmin(axis=1)
    used, nearest = np.unique(nearest, return_inverse=True)
    return 10 ** grid[used], nearest


def build(
    design: Design, passes: Passes, heads: NDArray[Any], l2: NDArray[Any], rows_wanted: int, threads: Threads
) -> Preconditioner:
    """Mean Hessian of the running heads' loss, where they are now, from strided rows."""
    xp = array_namespace(design.mean)
    n = design.features.shape[0]
    stride = max(1, n // rows_wanted)
    if isinstance(passes, WithMoments):
        known, total = passes.moments(stride)
        return shared_inverse(known, float(total), heads, l2, threads)
    rows = np.arange(0, n, stride)
    curvature = passes.curvature(stride) * (n / rows.size)
    inverse = xp.astype(1 / design.scale, design.compute)
    piece = max(HOST_MOMENT_ROWS, inverse.shape[0]) if isinstance(design.mean, np.ndarray) else MOMENT_ROWS

    def part(start: int, stop: int) -> tuple[Array, Array]:
        first, moments = xp.zeros_like(inverse), xp.zeros((inverse.shape[0],) * 2, dtype=inverse.dtype)
        for lo in range(start, stop, piece):
            hi = min(lo + piece, stop)
            weight = xp.asarray(curvature[lo:hi], dtype=design.compute)
            block = design.rows(int(rows[lo]), int(rows[hi - 1]) + 1, stride)
            scaled = block * xp.sqrt(weight)[:, None]
            first += weight @ block
            moments += scaled.T @ scaled
        return first, moments

    if isinstance(design.mean, np.ndarray):
        parts: Iterator[tuple[Array, Array]] = iter(threads.ranges(part, rows.size, -(-rows.size // threads.count)))
    else:
        parts = (part(lo, min(lo + MOMENT_ROWS, rows.size)) for lo in range(0, rows.size, MOMENT_ROWS))
    first, moments = next(parts)
    for more, other in parts:
        first += more
        moments += other
    # The mean's part and the scales: exact enough in the dtype of the products, as this only preconditions.
    moments -= (first / float(curvature.sum()))[:, None] * first[None, :]
    moments *= inverse[:, None]
    moments *= inverse
    return shared_inverse(moments, float(curvature.sum()), heads, l2, threads)


def shared_inverse(
    moments: Array, bias: float, heads: NDArray[Any], l2: NDArray[Any], threads: Threads
) -> Preconditioner:
    """Apply (G + λ_k I)⁻¹ to the features' part of a gradient and 1 / bias to the intercepts'.

    Parameters
    ----------
    moments : (d, d) Hessian G of the loss
    bias : its second derivative by the intercept
    heads, l2 : (K) heads and their strengths
    """
    xp = array_namespace(moments)
    host = isinstance(moments, np.ndarray)
    strengths, of_given = references(l2)
    nearest = np.empty(int(heads.max()) + 1, dtype=np.int64)
    nearest[heads] = of_given
    d = moments.shape[0]
    ridge = RIDGE * float(xp.linalg.trace(moments)) / d
    if on_cuda(moments):
        narrow = xp.astype(moments, xp.float32)
        inverses = cuda().inverses(narrow, strengths.tolist(), ridge, MAX_RIDGES)
        return lambda gradient, heads: shared_product(cuda(), inverses, gradient, nearest[heads], bias)

    def factor(strength: float) -> Array:
        share = ridge
        for _ in range(MAX_RIDGES):
            if not host:
                return xp.linalg.inv(moments + (strength + share) * xp.eye(d, dtype=moments.dtype))
            matrix = moments.copy()
            matrix[np.diag_indices(d)] += strength + share
            try:
                # The transpose of a symmetric matrix is in the order that LAPACK factors without a copy.
                return cholesky(matrix.T, lower=True, check_finite=False, overwrite_a=True)
            except np.linalg.LinAlgError:
                # Rounding of a large eigenvalue can exceed the ridge where many features are collinear.
                share *= 10
        raise AssertionError("the Hessian of the loss is positive semi-definite and finite")

    factors = threads.map(factor, strengths.tolist())

    def apply(gradient: Array, heads: NDArray[Any]) -> Array:
        of = nearest[heads]
        places = [np.flatnonzero(of == r) for r in range(len(factors))]
        used = [(r, chosen) for r, chosen in enumerate(places) if chosen.size]

        def part(item: tuple[int, NDArray[Any]]) -> Array:
            r, chosen = item
            own = gradient if chosen.size == of.size else xp.take(gradient, xp.asarray(chosen), axis=0)
            columns = xp.reshape(own[:, :, :-1], (-1, d))
            if host:
                solved = _solved(factors[r], columns.astype(factors[r].dtype))
            else:
                solved = xp.astype(columns, factors[r].dtype) @ factors[r]
            solved = xp.reshape(xp.astype(solved, gradient.dtype), own[:, :, :-1].shape)
            return xp.concat([solved, own[:, :, -1:] / bias], axis=2)

        parts = threads.map(part, used) if host else [part(item) for item in used]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([chosen for _, chosen in used]))
        return xp.take(xp.concat(parts, axis=0), xp.asarray(order), axis=0)

    return apply


def _solved(factor: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """(M, d) solutions for the rows of `right`, from a lower Cholesky factor."""
    if right.shape[0] > FEW:
        return np.asarray(cho_solve((factor, True), right.T, check_finite=False).T)
    solve = get_blas_funcs("trsv", (factor,))
    return np.stack([solve(factor, solve(factor, row, lower=1), lower=1, trans=1) for row in right])
