"""A whole pass over the rows in one compiled call, for columns so few that register tiles multiply them.

The interpreter would be entered half a dozen times per block, and its lock passed between the threads each time:
with few heads that takes longer than the block.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from grobust.probe._numba import advance, expand
from grobust.probe._numba_products import backward, forward
from grobust.probe._numba_rows import shifted, widened

__all__ = ["advance_rows"]


def _block(features: Any, lo: int, hi: int, centre: Any, room: Any) -> Any:
    raise NotImplementedError("compiled only")


@overload(_block)
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
def advance_rows(
    features: Any, start: int, stop: int, block: int, small: Any, centre: Any, z: Any, dz: Any, step: Any, offset: Any,
    labels: Any, codes: Any, values: Any, dense: Any, weighting: Any, sums: Any, total: Any,
) -> None:  # fmt: skip
    """`_numba.advance` of rows start … stop, block by block, with the products before and after it.

    Parameters
    ----------
    features : (n, d) contiguous float32, or float16 given as int16
    block : rows of a block
    small : (K c, d) float32 weights; centre : (d) float32 to subtract from rows, or empty for none
    z, dz, step, offset, sums : as in `_numba.advance`
    labels : (n) int32
    codes : (U, n) uint8 and values (U, 256) float32, then dense (V, n) float32: weights of U + V weightings
    weighting : (K) the weighting of each head
    total : (K c, d) float64, added to: residuals times rows
    """
    heads, columns, _ = z.shape
    flat, d = small.shape
    coded, weightings = codes.shape[0], codes.shape[0] + dense.shape[0]
    new, residual = np.empty(flat * block, dtype=np.float32), np.empty(flat * block, dtype=np.float32)
    weights, work = np.empty(weightings * block, dtype=np.float32), np.empty((3, block), dtype=np.float32)
    product, room = np.empty((flat, d), dtype=np.float32), np.empty((block if centre.size else 0, d), dtype=np.float32)
    for lo in range(start, stop, block):
        hi = min(lo + block, stop)
        rows = hi - lo
        x = _block(features, lo, hi, centre, room)
        logits, back = new[: flat * rows].reshape(flat, rows), residual[: flat * rows].reshape(flat, rows)
        own = weights[: weightings * rows].reshape(weightings, rows)
        expand(codes, values, lo, own[:coded])
        own[coded:] = dense[:, lo:hi]
        forward(small, x, logits)
        advance(
            z, dz, step, logits.reshape(heads, columns, rows), offset, labels[lo:hi], own, weighting, lo,
            back.reshape(heads, columns, rows), sums, work,
        )  # fmt: skip
        backward(back, x, product)
        for m in range(flat):
            for j in range(d):
                total[m, j] += product[m, j]
