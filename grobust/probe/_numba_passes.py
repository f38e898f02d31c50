"""A whole pass over the rows in one compiled call, for columns so few that register tiles multiply them.

The interpreter would be entered half a dozen times per block, and its lock passed between the threads each time:
with few heads that takes longer than the block.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from grobust.probe._numba import advance, evaluate, expand
from grobust.probe._numba_products import backward, forward
from grobust.probe._numba_rows import shifted, widened

__all__ = ["advance_rows", "evaluate_rows", "row_weights", "rows_of", "scratch"]


def _rows_of(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
    raise NotImplementedError("compiled only")


@overload(_rows_of)
def _(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
    """Rows lo … hi of float32 features, or of float16 given as int16; centred in `room` if there is a centre."""

    def narrow(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
        out = room[: hi - lo]
        widened(features[lo:hi], centre, out)
        return out

    def wide(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
        if centre.size == 0:
            return features[lo:hi]
        out = room[: hi - lo]
        shifted(features[lo:hi], centre, out)
        return out

    return narrow if isinstance(features.dtype, types.Integer) else wide


@njit(nogil=True, cache=True, error_model="numpy")
def rows_of(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
    """Rows lo … hi (r, d) float32, less their centre where there is one, then in `room`."""
    return _rows_of(features, lo, hi, centre, room)


@njit(nogil=True, cache=True, error_model="numpy")
def row_weights(codes: Any, values: Any, dense: Any, lo: int, hi: int, room: Any) -> Any:
    """Weights (U + V, r) of rows lo … hi in `room`, from codes (U, n), values (U, 256) and dense (V, n) ones."""
    coded, rows = codes.shape[0], hi - lo
    own = room[: (coded + dense.shape[0]) * rows].reshape(coded + dense.shape[0], rows)
    expand(codes, values, lo, own[:coded])
    own[coded:] = dense[:, lo:hi]
    return own


@njit(nogil=True, cache=True, error_model="numpy")
def advance_rows(
    features: Any, first: int, start: int, stop: int, block: int, centre: Any, small: Any, z: Any, dz: Any, slots: Any,
    step: Any, offset: Any, labels: Any, codes: Any, values: Any, dense: Any, weighting: Any, sums: Any, total: Any,
) -> None:  # fmt: skip
    """`_numba.advance` of rows start … stop, block by block, with the products before and after it.

    Parameters
    ----------
    features : (., d) contiguous float32, or float16 given as int16; its first row is row `first`
    block : rows of a block, of which `start` is a multiple
    centre : (d) float32 to subtract from rows, or empty for none
    small : (K c, d) float32 weights
    z, dz : (blocks, S, c, block) float32; slots, step, offset, sums : as in `_numba.advance`
    labels : (n) int32
    codes : (U, n) uint8 and values (U, 256) float32, then dense (V, n) float32: weights of U + V weightings
    weighting : (K) the weighting of each head
    total : (K c, d) float64, added to: residuals times rows
    """
    heads, columns, (flat, d) = slots.size, z.shape[2], small.shape
    new, residual, weights, work, room = scratch(flat, d, block, codes.shape[0] + dense.shape[0], centre)
    product = np.empty((flat, d), dtype=np.float32)
    for lo in range(start, stop, block):
        hi = min(lo + block, stop)
        rows = hi - lo
        x = rows_of(features, lo - first, hi - first, centre, room)
        logits, back = new[: flat * rows].reshape(flat, rows), residual[: flat * rows].reshape(flat, rows)
        forward(small, x, logits)
        advance(
            z[lo // block], dz[lo // block], slots, step, logits.reshape(heads, columns, rows), offset, labels[lo:hi],
            row_weights(codes, values, dense, lo, hi, weights), weighting, back.reshape(heads, columns, rows), sums,
            work,
        )  # fmt: skip
        _add_back(back, x, product, total)


@njit(nogil=True, cache=True, error_model="numpy")
def evaluate_rows(
    features: Any, first: int, start: int, stop: int, block: int, centre: Any, z: Any, dz: Any, slots: Any, step: Any,
    labels: Any, codes: Any, values: Any, dense: Any, weighting: Any, sums: Any, total: Any,
) -> None:  # fmt: skip
    """`_numba.evaluate` of rows start … stop; features are not read where `total` is empty."""
    heads, columns, (flat, d) = slots.size, z.shape[2], total.shape
    _, residual, weights, work, room = scratch(heads * columns, d, block, codes.shape[0] + dense.shape[0], centre)
    product = np.empty((flat, d), dtype=np.float32)
    for lo in range(start, stop, block):
        hi = min(lo + block, stop)
        rows = hi - lo
        back = residual[: heads * columns * rows].reshape(heads * columns, rows)
        evaluate(
            z[lo // block], dz[lo // block], slots, step, labels[lo:hi],
            row_weights(codes, values, dense, lo, hi, weights), weighting, back.reshape(heads, columns, rows), sums,
            work,
        )  # fmt: skip
        if flat > 0:
            _add_back(back, rows_of(features, lo - first, hi - first, centre, room), product, total)


@njit(nogil=True, cache=True, error_model="numpy")
def scratch(flat: int, d: int, block: int, weightings: int, centre: Any) -> Any:
    """Room for a block's logits, residuals, weights, the stage's work, and rows less their centre."""
    new, residual = np.empty(flat * block, dtype=np.float32), np.empty(flat * block, dtype=np.float32)
    weights, work = np.empty(weightings * block, dtype=np.float32), np.empty((3, block), dtype=np.float32)
    return new, residual, weights, work, np.empty((block if centre.size else 0, d), dtype=np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_back(residual: Any, x: Any, product: Any, total: Any) -> None:
    """Add residuals (m, r) times rows, summed up in float32 for a block, to float64."""
    backward(residual, x, product)
    for m in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[m, j] += product[m, j]
