"""The rows of a weighting as l1 heads read them: all features times residuals, and the columns of some features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.probe import _numba_l1 as _numba
from grobust.typing import Array

__all__ = ["Rows"]

# Rows of a device's block that are float64 at a time.
PIECE = 8192


@dataclass(frozen=True, eq=False)
class Rows:
    """Standardized rows in blocks, and their labels and weights.

    Parameters
    ----------
    blocks : gives (b, d) floating blocks that together are the n rows, on any device; one block when they fit in
        memory, and best the transpose of a contiguous (d, n)
    labels : (n) int64
    weights : (n) float64, summing to 1
    n_features : d
    dtype : of the blocks
    """

    blocks: Callable[[], Iterator[Array]]
    labels: NDArray[Any]
    weights: NDArray[Any]
    n_features: int
    dtype: Any

    def gradient(self, residual: NDArray[Any]) -> NDArray[Any]:
        """(c, d) float64 products of residuals (c, n) with the features, summed in float64."""
        total = np.zeros((residual.shape[0], self.n_features))
        for start, block in self._placed():
            part = residual[:, start : start + block.shape[0]]
            if not isinstance(block, np.ndarray):
                total += _on_device(block, part)
            elif block.T.flags.c_contiguous:
                _numba.dots(block.T, part, total)
            else:
                _numba.weighted_rows(block, part, total)
        return total

    def columns(self, features: NDArray[Any], *, ones: bool = False) -> NDArray[Any]:
        """(p, n) of the blocks' dtype, on the host: a feature is a row. With `ones` another row (p + 1, n) of ones."""
        out = np.empty((features.size + ones, self.labels.size), dtype=self.dtype)
        for start, block in self._placed():
            _take(block, features, out[: features.size, start : start + block.shape[0]])
        out[features.size :] = 1
        return out

    def _placed(self) -> Iterator[tuple[int, Array]]:
        start = 0
        for block in self.blocks():
            yield start, block
            start += block.shape[0]


def _on_device(block: Array, residual: NDArray[Any]) -> NDArray[Any]:
    """(c, d) products of residuals (c, b) with a device's block, widened a piece at a time."""
    xp = array_namespace(block)
    total = xp.zeros((residual.shape[0], block.shape[1]), dtype=xp.float64)
    there = xp.asarray(residual, dtype=xp.float64)
    for lo in range(0, block.shape[0], PIECE):
        hi = min(lo + PIECE, block.shape[0])
        total += there[:, lo:hi] @ xp.astype(block[lo:hi, :], xp.float64)
    return to_numpy(total)


def _take(block: Array, features: NDArray[Any], out: NDArray[Any]) -> None:
    """Write columns of a block to out (p, b)."""
    if not isinstance(block, np.ndarray):
        xp = array_namespace(block)
        out[...] = to_numpy(xp.take(block, xp.asarray(features), axis=1)).T
    elif out.flags.c_contiguous and out.dtype == block.dtype:
        # "clip" is the mode that writes without a buffer; every index is in range.
        np.take(block.T, features, axis=0, out=out, mode="clip")
    else:
        out[...] = block.T[features]
