"""Largest eigenvalues of a symmetric matrix in float64, each with a bound on the solver's error."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.typing import Array

__all__ = ["Eigen", "largest_eigenvalues"]

# ARPACK's relative tolerance on residuals; eigenvalue errors are their squares over the gap.
TOLERANCE = 1e-10
# Lanczos pays while few eigenvalues are wanted; a matrix this small is decomposed in milliseconds.
LANCZOS_SHARE = 10
ALWAYS_FULL = 128


@dataclass(frozen=True, eq=False)
class Eigen:
    """Eigenvalues, descending, rounding below zero cut off.

    Parameters
    ----------
    values : (k) or, if `complete`, all of them
    bounds : (k) an eigenvalue of the matrix lies within this distance: the residual norm ‖Cv − λv‖ of a Lanczos pair,
        the backward error of LAPACK's solver otherwise
    complete : whether `values` are all
    """

    values: NDArray[np.float64]
    bounds: NDArray[np.float64]
    complete: bool


def largest_eigenvalues(matrix: Array, k: int, *, complete: bool = False) -> Eigen:
    """The k largest eigenvalues of a symmetric positive semidefinite float64 matrix (m, m).

    Lanczos (ARPACK, float64, relative tolerance 1e-10, fixed start) where k ≤ m / 10, LAPACK's full solver otherwise or
    where `complete` asks for all eigenvalues.
    """
    m = matrix.shape[0]
    if not complete and m > ALWAYS_FULL and k * LANCZOS_SHARE <= m:
        found = _lanczos(matrix, k)
        if found is not None:
            return found
    if isinstance(matrix, np.ndarray):
        values = scipy.linalg.eigh(matrix, eigvals_only=True, check_finite=False, driver="evd")
    else:
        values = to_numpy(array_namespace(matrix).linalg.eigvalsh(matrix))
    values = np.maximum(values[::-1], 0)
    bounds = np.full(values.size, m * np.finfo(np.float64).eps * (values[0] if values.size else 0))
    return Eigen(values, bounds, complete=True)


def _lanczos(matrix: Array, k: int) -> Eigen | None:
    """None where ARPACK gives up: a matrix of zeros, or eigenvalues too close together for its limit of steps."""
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        if isinstance(matrix, np.ndarray):
            # Products with a part of a larger matrix are several times slower.
            matrix = np.ascontiguousarray(matrix)
            values, vectors = scipy.sparse.linalg.eigsh(matrix, k, which="LA", v0=start, tol=TOLERANCE)
        else:
            values, vectors = _device_lanczos(matrix, k, start)
    except (scipy.sparse.linalg.ArpackError, np.linalg.LinAlgError):
        return None
    order = np.argsort(to_numpy(values))[::-1]
    xp = array_namespace(matrix)
    residuals = matrix @ vectors - vectors * values[None, :]
    bounds = to_numpy(xp.linalg.vector_norm(residuals, axis=0))[order]
    return Eigen(np.maximum(to_numpy(values)[order], 0), bounds, complete=False)


def _device_lanczos(matrix: Array, k: int, start: NDArray[np.float64]) -> tuple[Array, Array]:
    import cupy
    from cupyx.scipy.sparse.linalg import eigsh

    values, vectors = eigsh(matrix, k, which="LA", v0=cupy.asarray(start), tol=TOLERANCE)
    return values, vectors
