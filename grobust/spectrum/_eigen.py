"""Largest eigenvalues of a symmetric matrix in float64, each with a bound on the solver's error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.spectrum._lanczos_device import top_of_each
from grobust.typing import Array

__all__ = ["Eigen", "largest_eigenvalues", "largest_of_each"]

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

    Lanczos (float64, relative tolerance 1e-10, fixed start; on the host ARPACK's) where k ≤ m / 10, the full solver
    otherwise or where `complete` asks for all eigenvalues.
    """
    if not isinstance(matrix, np.ndarray):
        return largest_of_each([matrix], k, complete=complete)[0]
    if not complete and _few(matrix.shape[0], k):
        found = _arpack(matrix, k)
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
        if not complete and _few(m, k):
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


def _few(m: int, k: int) -> bool:
    """Whether Lanczos pays."""
    return m > ALWAYS_FULL and k * LANCZOS_SHARE <= m


def _all(ascending: NDArray[np.float64]) -> Eigen:
    values = np.maximum(ascending[::-1], 0)
    bounds = np.full(values.size, values.size * np.finfo(np.float64).eps * (values[0] if values.size else 0))
    return Eigen(values, bounds, complete=True)


def _arpack(matrix: NDArray[np.float64], k: int) -> Eigen | None:
    """None where ARPACK gives up: a matrix of zeros, or eigenvalues too close together for its limit of steps."""
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        # Products with a part of a larger matrix are several times slower.
        matrix = np.ascontiguousarray(matrix)
        values, vectors = scipy.sparse.linalg.eigsh(matrix, k, which="LA", v0=start, tol=TOLERANCE)
    except (scipy.sparse.linalg.ArpackError, np.linalg.LinAlgError):
        return None
    order = np.argsort(values)[::-1]
    bounds = np.linalg.norm(matrix @ vectors - vectors * values[None, :], axis=0)[order]
    return Eigen(np.maximum(values[order], 0), bounds, complete=False)
