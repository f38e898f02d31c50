"""A preconditioner from fewer rows than features: for a few heads on wide features, where second moments are dear.

With B (m, d) some rows times the root of their curvature, a head's Hessian is about Bᵀ B + τ I, whose inverse needs
that of B Bᵀ + τ I (m, m) only (Woodbury). τ is the head's λ and a multiple of the mean eigenvalue for the directions
that the rows do not show.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, get_lapack_funcs

from grobust.probe._design import Design
from grobust.probe._passes import Passes
from grobust.probe._precondition import Preconditioner, references
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["from_few_rows"]

# Of the mean eigenvalue of the Hessian. More than 1 is measured to be best, with and without overlap of the classes.
UNSEEN = 4.0
# Features that a thread multiplies at a time.
PIECE = 512


def from_few_rows(
    design: Design, passes: Passes, heads: NDArray[Any], l2: NDArray[Any], rows_wanted: int, threads: Threads
) -> Preconditioner | None:
    """Mean Hessian of the running heads' loss, where they are now, from strided rows; for NumPy arrays.

    None where most of these rows have no weight, as in folds by row number: they would say little, or nothing.
    """
    n, d = design.features.shape
    stride = max(1, n // rows_wanted)
    curvature = passes.curvature(stride)
    if 2 * np.count_nonzero(curvature > 0) < curvature.size:
        return None
    root, bias = _rows(design, curvature * (n / curvature.size), stride, threads)
    gram = np.sum(threads.map(lambda lo: root[:, lo : lo + PIECE] @ root[:, lo : lo + PIECE].T,
                              range(0, d, PIECE)), axis=0)  # fmt: skip
    unseen = UNSEEN * float(np.trace(gram)) / d
    strengths, of_given = references(l2)
    nearest = np.empty(int(heads.max()) + 1, dtype=np.int64)
    nearest[heads] = of_given

    def inverse(strength: float) -> tuple[float, NDArray[Any]]:
        shift = strength + unseen
        matrix = gram.copy()
        matrix[np.diag_indices(gram.shape[0])] += shift
        lower = cholesky(matrix.T, lower=True, check_finite=False, overwrite_a=True)
        # A product with the inverse takes a tenth of two solutions with a factor.
        half, _ = get_lapack_funcs("potri", (lower,))(lower, lower=1, overwrite_c=1)
        return shift, np.tril(half) + np.tril(half, -1).T

    inverses = threads.map(inverse, strengths.tolist())

    def apply(gradient: Array, heads: NDArray[Any]) -> Array:
        inner = gradient[:, :, :-1].astype(root.dtype)
        seen = inner @ root.T
        out = np.empty_like(gradient)
        for r, (shift, solved) in enumerate(inverses):
            chosen = np.flatnonzero(nearest[heads] == r)
            if chosen.size:
                right = seen[chosen].reshape(-1, root.shape[0])
                rest = (right @ solved @ root).reshape(chosen.size, -1, d)
                out[chosen, :, :-1] = (inner[chosen] - rest) / shift
        out[:, :, -1] = gradient[:, :, -1] / bias
        return out

    return apply


def _rows(design: Design, curvature: NDArray[Any], stride: int, threads: Threads) -> tuple[NDArray[Any], float]:
    """(m, d) rows, standardized, the intercept's part taken out, times the root of their curvature; and the loss's
    second derivative by the intercept."""
    n, d = design.features.shape
    rows = np.arange(0, n, stride)
    bias = float(curvature.sum())
    out = np.empty((rows.size, d), dtype=design.compute)
    mean = np.zeros(d)

    def load(start: int, stop: int) -> NDArray[Any]:
        out[start:stop] = design.rows(int(rows[start]), int(rows[stop - 1]) + 1, stride)
        return np.asarray(curvature[start:stop].astype(out.dtype) @ out[start:stop], dtype=np.float64)

    def scale(start: int, stop: int) -> None:
        out[start:stop] -= mean.astype(out.dtype)
        out[start:stop] *= (1 / design.scale).astype(out.dtype)
        out[start:stop] *= np.sqrt(curvature[start:stop]).astype(out.dtype)[:, None]

    each = -(-rows.size // threads.count)
    mean += np.sum(threads.ranges(load, rows.size, each), axis=0) / bias
    threads.ranges(scale, rows.size, each)
    return out, bias
