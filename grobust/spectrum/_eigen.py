"""Largest eigenvalues of a symmetric matrix in float64, each with a bound on the solver's error.

Where float32 rounding is in the matrix already, vectors are found in float32 in half the time, and their Rayleigh
quotients are computed in float64: an error of the vectors shows in the eigenvalues by its square over the gap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.spectrum._block_krylov import top_vectors
from grobust.spectrum._lanczos_device import top_of_each
from grobust.typing import Array

__all__ = ["Eigen", "few", "largest_eigenvalues", "largest_of_each", "refined"]

# ARPACK's relative tolerance on residuals; eigenvalue errors are their squares over the gap.
TOLERANCE = 1e-10
# Lanczos pays while few eigenvalues are wanted; a matrix this small is decomposed in milliseconds.
LANCZOS_SHARE = 10
ALWAYS_FULL = 128
# Of residuals of vectors in float32: eigenvalues have its square over the gap, and their own rounding is not far below.
SINGLE_TOLERANCE = 1e-4
# Vectors beyond k: eigenvalues close to the k-th are told apart from it.
EXTRA_VECTORS = 4
# Bounds, as a share of their eigenvalues, that refined ones must keep, and products with the operator until they do.
REFINED_BOUND = 1e-7
REFINEMENTS = 2


@dataclass(frozen=True, eq=False)
class Eigen:
    """Eigenvalues, descending, rounding below zero cut off.

    Parameters
    ----------
    values : (k) or, if `complete`, all of them
    bounds : (k) an eigenvalue of the matrix lies within this distance: the residual norm ‖Cv − λv‖ of a Lanczos pair,
        or the square of all pairs' over the gap, see `refined`; the backward error of LAPACK's solver otherwise
    complete : whether `values` are all
    """

    values: NDArray[np.float64]
    bounds: NDArray[np.float64]
    complete: bool


def largest_eigenvalues(matrix: Array, k: int, *, complete: bool = False, rounded: bool = False) -> Eigen:
    """The k largest eigenvalues of a symmetric positive semidefinite float64 matrix (m, m).

    Lanczos (float64, relative tolerance 1e-10, fixed start; on the host ARPACK's) where k ≤ m / 10, the full solver
    otherwise or where `complete` asks for all eigenvalues. `rounded` says that eigenvalues to 1e-7 will do, as those of
    float32 features.
    """
    if not isinstance(matrix, np.ndarray):
        return largest_of_each([matrix], k, complete=complete)[0]
    if not complete and few(matrix.shape[0], k):
        found = refined(matrix, k, lambda vectors: matrix @ vectors) if rounded else None
        found = found or _arpack(matrix, k)
        if found is not None:
            return found
    values = scipy.linalg.eigh(matrix, eigvals_only=True, check_finite=False, driver="evd")
    return _all(values)


def largest_of_each(matrices: Sequence[Array], k: int, *, complete: bool = False) -> list[Eigen]:
    """The same of several matrices on a device: those of one size side by side, since one alone does not fill it."""
    found: dict[int, Eigen] = {}
    by_size: dict[int, list[int]] = {}
    for i, matrix in enumerate(matrices):
        by_size.setdefault(matrix.shape[0], []).append(i)
    for m, places in by_size.items():
        own = [matrices[i] for i in places]
        if not complete and few(m, k):
            pairs = top_of_each(own, k, tolerance=TOLERANCE)
            found |= {
                i: Eigen(np.maximum(pair[0], 0), pair[1], complete=False)
                for i, pair in zip(places, pairs, strict=True)
                if pair is not None
            }
        left = [i for i in places if i not in found]
        if left and m <= ALWAYS_FULL:
            xp = array_namespace(own[0])
            stack = xp.stack([matrices[i] for i in left])
            found |= dict(zip(left, map(_all, to_numpy(xp.linalg.eigvalsh(stack))), strict=True))
        elif left:
            # Batched solvers for larger matrices go by Jacobi rotations, and take longer than one after another.
            found |= {i: _all(to_numpy(array_namespace(own[0]).linalg.eigvalsh(matrices[i]))) for i in left}
    return [found[i] for i in range(len(matrices))]


def refined(matrix: NDArray[np.float64], k: int, times: Callable[[Array], Array]) -> Eigen | None:
    """The k largest eigenvalues of the operator `times`, from vectors of a `matrix` near it.

    Parameters
    ----------
    matrix : (m, m), near the operator up to a factor; its largest vectors are found in float32
    k : at most m / 10
    times : (m, c) float64 → the operator's product with it, float64

    Returns
    -------
    Rayleigh–Ritz values in the span of the vectors, in float64; if need be, of their products with the operator. Each
    has as bound its residual norm or, if smaller, ‖R‖² / (θ_i − θ_{k+4}) with the residuals R of all k + 4 vectors
    (Mathias 1998; it supposes that no eigenvalue above θ_{k+4} was missed). None unless every bound is below 1e-7 of
    its eigenvalue, which ranks below k and eigenvalues below the rounding of float32 are not.
    """
    scale = float(np.trace(matrix))
    if not 0 < scale < np.inf:
        return None
    single = np.empty(matrix.shape, dtype=np.float32)
    np.multiply(matrix, 1 / scale, out=single, casting="same_kind")
    vectors = top_vectors(single, k + EXTRA_VECTORS, tolerance=SINGLE_TOLERANCE)
    del single
    if vectors is None:
        return None
    block = vectors.astype(np.float64)
    for _ in range(REFINEMENTS):
        basis = np.linalg.qr(block)[0]
        block = times(basis)
        found = _ritz(basis, block, k)
        if (found.bounds <= REFINED_BOUND * found.values).all():
            return found
    return None


def _ritz(basis: NDArray[np.float64], product: NDArray[np.float64], k: int) -> Eigen:
    """The k largest Ritz values in the span of `basis` (m, c), c > k; `product` (m, c) is the operator's with it."""
    small = basis.T @ product
    values, turned = np.linalg.eigh((small + small.T) / 2)
    values, turned = values[::-1], turned[:, ::-1]
    residual = product @ turned - (basis @ turned) * values[None, :]
    crossed = residual.T @ residual
    alone, together = np.diagonal(crossed)[:k], np.linalg.eigvalsh(crossed)[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = together / (values[:k] - values[-1])
    bounds = np.fmin(np.sqrt(np.maximum(alone, 0)), np.where(values[:k] > values[-1], squared, np.inf))
    return Eigen(values[:k], bounds, complete=False)


def few(m: int, k: int) -> bool:
    """Whether Lanczos pays for k eigenvalues of m."""
    return m > ALWAYS_FULL and k * LANCZOS_SHARE <= m


def _all(ascending: NDArray[np.float64]) -> Eigen:
    values = np.maximum(ascending[::-1], 0)
    bounds = np.full(values.size, values.size * np.finfo(np.float64).eps * (values[0] if values.size else 0))
    return Eigen(values, bounds, complete=True)


def _arpack(matrix: NDArray[np.float64], k: int) -> Eigen | None:
    """None where ARPACK gives up: a matrix of zeros, or eigenvalues too close together for its limit of steps."""
    # Products with a part of a larger matrix are several times slower.
    matrix = np.ascontiguousarray(matrix)
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        values, vectors = scipy.sparse.linalg.eigsh(matrix, k, which="LA", v0=start, tol=TOLERANCE)
    except (scipy.sparse.linalg.ArpackError, np.linalg.LinAlgError):
        return None
    order = np.argsort(values)[::-1]
    bounds = np.linalg.norm(matrix @ vectors - vectors * values[None, :], axis=0)[order]
    return Eigen(np.maximum(values[order], 0), bounds, complete=False)
