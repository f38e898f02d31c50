"""A shared preconditioner: with second moments G of some rows, head k's Hessian is about c G + λ_k I.

One Cholesky factor per reference strength, half a decade apart, serves all heads near it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, get_blas_funcs

from grobust.arrays import array_namespace, on_cuda
from grobust.device._cuda import cuda
from grobust.probe._cuda_solver import shared_product
from grobust.probe._design import Design
from grobust.probe._moments import new_moments
from grobust.probe._numba_products import multiply, multiply_back
from grobust.probe._numba_solver import cholesky
from grobust.probe._passes import Passes, WithMoments
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["Preconditioner", "build", "references", "shared_inverse"]

# Maps gradients (K, c, d + 1) of the listed heads to steps.
Preconditioner = Callable[[Array, NDArray[Any]], Array]
MAX_REFERENCES = 8
# Keeps the factorization going where features are collinear and λ is tiny, as a share of the mean diagonal.
RIDGE, MAX_RIDGES = 1e-6, 12
# Up to so many heads, solutions with a factor are cheaper than its inverse and products; and up to so many right-hand
# sides, one after another is faster than all together.
FEW = 4
# Rows of a triangle that is inverted in one piece.
INVERTED_AT_ONCE = 96
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
        first, moments = xp.zeros_like(inverse), new_moments(inverse)
        for lo in range(start, stop, piece):
            hi = min(lo + piece, stop)
            weight = xp.asarray(curvature[lo:hi], dtype=design.compute)
            block = design.rows(int(rows[lo]), int(rows[hi - 1]) + 1, stride)
            first += weight @ block
            moments.add(block * xp.sqrt(weight)[:, None])
        return first, moments.total()

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
    d, few = moments.shape[0], heads.size <= FEW
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
                lower = cholesky(matrix)
            except np.linalg.LinAlgError:
                # Rounding of a large eigenvalue can exceed the ridge where many features are collinear.
                share *= 10
                continue
            del matrix
            return lower if few else _inverse(lower)
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
                narrow = np.ascontiguousarray(columns, dtype=factors[r].dtype)
                solved = _solved(factors[r], narrow) if few else _product(factors[r], narrow)
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


def _solved(lower: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """(M, d) solutions for the rows of `right`, from a lower Cholesky factor."""
    # The transpose is in the order that LAPACK reads without a copy.
    upper = lower.T
    if right.shape[0] > FEW:
        return np.asarray(cho_solve((upper, False), right.T, check_finite=False).T)
    solve = get_blas_funcs("trsv", (upper,))
    return np.stack([solve(upper, solve(upper, row, trans=1)) for row in right])


def _inverse(lower: NDArray[Any]) -> NDArray[Any]:
    """The inverse of a lower triangle: for many right-hand sides products take a fraction of what solutions take, and
    threads form them side by side, as SciPy's solutions hold the interpreter's lock."""
    out = np.zeros_like(lower)

    def invert(lo: int, hi: int) -> None:
        if hi - lo <= INVERTED_AT_ONCE:
            out[lo:hi, lo:hi] = np.linalg.inv(lower[lo:hi, lo:hi])
            return
        middle = (lo + hi) // 2
        invert(lo, middle)
        invert(middle, hi)
        above, below = slice(lo, middle), slice(middle, hi)
        np.negative(out[below, below] @ (lower[below, above] @ out[above, above]), out=out[below, above])

    invert(0, len(lower))
    return out


def _product(inverse: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """(M, d) solutions for the rows of `right`, from the inverse of a lower Cholesky factor."""
    half, out = np.empty_like(right), np.empty_like(right)
    multiply(right, inverse, half)
    multiply_back(half, inverse, out)
    return out
