"""The largest eigenvectors of a float32 matrix in memory, by block Krylov.

Products with a block of vectors read the matrix once for all of them, and several matrices can be worked on side by
side, for which ARPACK is not made.
"""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["top_vectors"]

# Vectors multiplied at once. With more of them a product is faster, but more products are needed in all.
BLOCK = 8
# Dimensions at the first look at Ritz vectors, as a multiple of the vectors wanted, and growth between two looks.
FIRST_LOOK, GROWTH = 3.0, 1.15
# Dimensions beyond which LAPACK is the quicker way, as a multiple of the vectors wanted and as a share of m.
MOST, MOST_SHARE = 5, 0.25
# A new vector this short, relative to λ1, is rounding: the start's Krylov space ends here.
EXHAUSTED = 1e-6


def top_vectors(matrix: NDArray[np.float32], k: int, *, tolerance: float) -> NDArray[np.float32] | None:
    """Vectors of the k largest eigenvalues of a symmetric positive semidefinite matrix (m, m), ascending.

    Parameters
    ----------
    matrix : (m, m) float32
    k : vectors, at most m / 4
    tolerance : of each residual norm, relative to its eigenvalue; float32's rounding comes on top

    Returns
    -------
    (m, k) float32, orthonormal but for rounding: of LAPACK where eigenvalues lie so close together that it is quicker;
    None where new vectors are rounding before there are k, as of a matrix of few dimensions.
    """
    m = matrix.shape[0]
    limit = min(m, round(max(MOST * k, MOST_SHARE * m)))
    basis = np.empty((m, limit + BLOCK), dtype=np.float32, order="F")
    projected = np.zeros((limit + BLOCK, limit + BLOCK), dtype=np.float32)
    basis[:, :BLOCK] = np.linalg.qr(np.random.default_rng(0).standard_normal((m, BLOCK)))[0]
    look = FIRST_LOOK * k
    for step in range(1, limit // BLOCK + 1):
        size = step * BLOCK
        known, last = basis[:, :size], slice(size - BLOCK, size)
        block = matrix @ basis[:, last]
        for _ in range(2):
            inside = known.T @ block
            projected[:size, last] += inside
            block -= known @ inside
        # Cholesky QR in float64, to which a block's condition is nothing: a fifth of the time of Householder's.
        wide = block.astype(np.float64)
        try:
            rest = np.linalg.cholesky(wide.T @ wide).T
        except np.linalg.LinAlgError:
            return None
        if np.diagonal(rest).min() <= EXHAUSTED * np.abs(projected[0, 0]):
            return None
        basis[:, size : size + BLOCK] = wide @ np.linalg.inv(rest)
        if size < look:
            continue
        look = GROWTH * size
        values, turned = np.linalg.eigh(projected[:size, :size], UPLO="U")
        values, turned = values[-k:], turned[:, -k:]
        residuals = np.linalg.norm(rest @ turned[-BLOCK:, :], axis=0)
        if (residuals <= tolerance * values).all():
            return np.asarray(known @ turned)
    found = scipy.linalg.eigh(matrix, subset_by_index=(m - k, m - 1), driver="evr", check_finite=False)
    return np.asarray(found[1])
