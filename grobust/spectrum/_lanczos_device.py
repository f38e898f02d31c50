"""The k largest eigenvalues of several matrices on a device, by Lanczos iterations side by side.

All vectors are kept and every new one is made orthogonal to them twice, so that a Ritz value is never found twice. The
host sees the tridiagonal matrices once in a while; between two looks nothing waits for it.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.typing import Array

__all__ = ["top_of_each"]

# Steps between looks, and before the first: fewer than k steps hold no k Ritz values.
LOOK_EVERY, FIRST_LOOK = 10, 20
# Steps beyond which the full solver is the quicker way, as a share of the matrix's size.
MOST_STEPS_SHARE = 0.5
# Relative to λ1: what is left of a vector is rounding, and the starting vector's Krylov space ends here.
EXHAUSTED = 1e-13

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def top_of_each(matrices: Sequence[Array], k: int, *, tolerance: float) -> list[Pair | None]:
    """Eigenvalues (k) descending and residual norms (k) of each symmetric float64 matrix (m, m).

    Parameters
    ----------
    matrices : of one size
    k : eigenvalues, fewer than m / 2
    tolerance : of the residual norms, relative to λ1

    Returns
    -------
    None for a matrix whose eigenvalues were not found so: they lie too close together, or repeat until too few differ.
    """
    xp = array_namespace(matrices[0])
    b, m = len(matrices), matrices[0].shape[0]
    limit = max(int(MOST_STEPS_SHARE * m), min(m, 2 * k + FIRST_LOOK))
    start = np.random.default_rng(0).standard_normal(m)
    vector = xp.asarray(np.tile(start / np.linalg.norm(start), (b, 1)))
    basis = xp.zeros((b, limit + 1, m), dtype=xp.float64)
    basis[:, 0, :] = vector
    alphas: list[Array] = []
    betas: list[Array] = []
    found: list[Pair | None] = [None] * b
    open_ = set(range(b))
    for step in range(1, limit + 1):
        product = xp.stack([matrix @ basis[i, step - 1, :] for i, matrix in enumerate(matrices)])
        known = basis[:, :step, :]
        alphas.append(xp.sum(product * known[:, -1, :], axis=1))
        for _ in range(2):
            parts = known @ product[:, :, None]
            product = product - (xp.matrix_transpose(known) @ parts)[:, :, 0]
        beta = xp.sqrt(xp.sum(product * product, axis=1))
        betas.append(beta)
        basis[:, step, :] = product / xp.where(beta > 0, beta, xp.ones_like(beta))[:, None]
        look = step >= max(FIRST_LOOK, k + 1) and (step - FIRST_LOOK) % LOOK_EVERY == 0
        if not (look or step == limit):
            continue
        diagonal, beside = to_numpy(xp.stack(alphas)), to_numpy(xp.stack(betas))
        for i in sorted(open_):
            pair, exhausted = _ritz(diagonal[:, i], beside[:, i], k)
            if exhausted:
                open_.discard(i)
            elif pair[1].max() <= tolerance * pair[0][0]:
                found[i] = pair
                open_.discard(i)
        if not open_:
            break
    return found


def _ritz(diagonal: NDArray[np.float64], beside: NDArray[np.float64], k: int) -> tuple[Pair, bool]:
    """The k largest Ritz values and their residual norms, and whether a vector was of rounding size."""
    j = diagonal.size
    exhausted = bool(beside.min() <= EXHAUSTED * max(np.abs(diagonal).max(), np.finfo(np.float64).tiny))
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1], select="i", select_range=(j - k, j - 1))
    residuals = beside[-1] * np.abs(vectors[-1, :]) + j * np.finfo(np.float64).eps * values[-1]
    return (values[::-1], residuals[::-1]), exhausted
