"""Where an l1 path begins: the smallest strength at which every weight is zero."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.probe._design import DEVICE_BLOCK, HOST_BLOCK, design
from grobust.probe._weights import weight_table
from grobust.threads import threads

__all__ = ["largest_l1"]


def largest_l1(
    features: Any,
    labels: NDArray[Any],
    weights: Sequence[NDArray[Any] | None],
    *,
    n_classes: int,
    standardize: bool = True,
) -> NDArray[Any]:
    """λ₁ from which on a head of `fit_probes` has no weights but its intercept, for each of U weightings.

    With p the classes' shares of the weight, it is the largest |Σ_i w_i (p_c − [y_i = c]) x_ij| over classes c and
    features j: the gradient at zero weights and the best intercept. An l2 penalty does not change it.

    Parameters
    ----------
    features : (n, d) NumPy or CuPy, a memory map or `FeatureStore.view`; read twice, block by block
    labels : (n) integers 0 … k−1, on the host
    weights : U arrays (n), as in `Head.weights`
    n_classes, standardize : as in `fit_probes`

    Returns
    -------
    (U) float64. Products are of the engine's dtype, sums over blocks float64.
    """
    y = np.asarray(labels, dtype=np.int64)
    table = weight_table(weights, [f"Weighting {i}" for i in range(len(weights))], y, n_classes)
    used = n_classes if n_classes > 2 else 1
    target = (y[None, :] == np.arange(n_classes)[n_classes - used :, None]).astype(np.float64)
    shares = np.stack([target @ w for w in (table.of_head(i) for i in range(len(weights)))])
    host = isinstance(features[:1, :], np.ndarray)
    size = HOST_BLOCK if host else DEVICE_BLOCK
    with threads() as pool:
        data = design(features, standardize=standardize, threads=pool, block_rows=size)

        def work(start: int, stop: int) -> NDArray[Any]:
            total = np.zeros((len(weights) * used, features.shape[1]))
            for lo in range(start, stop, size):
                hi = min(lo + size, stop)
                rows = table.rows(lo, hi)[table.weighting]
                residual = rows[:, None, :] * (shares[:, :, None] - target[None, :, lo:hi])
                block = data.block(lo, hi)
                xp = array_namespace(block)
                total += to_numpy(xp.asarray(residual.reshape(total.shape[0], hi - lo), dtype=block.dtype) @ block)
            return total

        # A device does one block after another; threads on the host share the rows.
        parts = pool.ranges(work, y.size, size) if host else [work(0, y.size)]
        gradient = np.sum(parts, axis=0) / to_numpy(data.scale)
    return np.asarray(np.abs(gradient).reshape(len(weights), -1).max(axis=1))
