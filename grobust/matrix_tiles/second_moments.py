"""Second moments of rows less a shift.

Off the diagonal rounding is that of three products of parts. On it every term of what is left out is positive; squares
of the numbers themselves are summed up instead, float32 for 128 rows and float64 from there.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from grobust.matrix_tiles._instructions import (
    LANES,
    LINE,
    NUMBERS,
    PANEL,
    SIDE,
    STEP,
    TILE,
    aligned,
    configured,
    prefetch,
    product,
    restored,
    transposed,
)  # fmt: skip
from grobust.matrix_tiles._splitting import split_half, split_single

__all__ = ["SecondMoments"]

# Rows ahead that are asked for.
AHEAD = 4
# Rows split and multiplied at once: from a core's second-level cache they are read many times.
AT_ONCE = 128


class SecondMoments:
    """Σ v vᵀ of rows v (d), d a multiple of 32, in room that is used again; `available` must have been asked."""

    def __init__(self, dim: int) -> None:
        panels, steps = dim // SIDE, AT_ONCE // STEP
        self._packed = aligned((panels, steps, NUMBERS), np.int32)
        self._panel = aligned((steps, NUMBERS), np.int32)
        self._sums = np.zeros((panels * (panels + 1) // 2, NUMBERS), np.float32)
        self._squares = np.zeros(dim)

    def clear(self) -> None:
        """Begin again from zero."""
        self._sums[:], self._squares[:] = 0, 0

    def add(
        self, rows: NDArray[np.int64], half: bool, coarse: NDArray[np.float32], fine: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Add rows x as v = (x − coarse) − fine.

        Parameters
        ----------
        rows : (m) addresses of d numbers each, float32 or, if `half`, float16; they must hold until this returns
        coarse, fine : (d) the shift in two parts

        Returns
        -------
        (d) Σ v of these rows
        """
        total = np.zeros(self._squares.shape)
        _add_rows(rows, half, coarse, fine, total, self._squares, self._packed, self._panel, self._sums)
        return total

    def add_to(self, out: NDArray[np.float64]) -> None:
        """Add what there is to (d, d): above the diagonal all of it, below it some."""
        _unpack(self._sums, self._squares, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_rows(
    rows: Any, half: Any, coarse: Any, fine: Any, total: Any, squares: Any, packed: Any, panel: Any, sums: Any
) -> None:
    """Add the products of columns of rows less a shift, the upper triangle.

    Parameters
    ----------
    rows : (m) int64 addresses of rows of d numbers, float32 or, if `half`, float16
    coarse, fine : (d) float32, the shift in two parts
    total, squares : (d) float64, gain Σ v and Σ v²
    packed, panel : (d / 32, s, 4096 bytes), (s, 4096 bytes) int32, aligned: room for 32 s rows at a time
    sums : ((d / 32) (d / 32 + 1) / 2, 1024) float32: pairs of panels (0, 0), (0, 1) … of four tiles each
    """
    few_total, few_squares = np.zeros(coarse.size, np.float32), np.zeros(coarse.size, np.float32)
    most, before = packed.shape[1] * STEP, configured()
    for start in range(0, rows.size, most):
        few_total[:], few_squares[:] = 0, 0
        steps = _pack(rows[start : start + most], half, coarse, fine, few_total, few_squares, packed)
        _multiply(packed, steps, panel, sums)
        for j in range(coarse.size):
            total[j] += np.float64(few_total[j])
            squares[j] += np.float64(few_squares[j])
    restored(before)


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(rows: Any, half: Any, coarse: Any, fine: Any, total: Any, squares: Any, packed: Any) -> Any:
    """Split rows; the number of panels in use, of which rows beyond the last are zero."""
    steps = (rows.size + STEP - 1) // STEP
    size = np.int64(2 if half else 4)
    apart = packed.strides[0]
    for pair in range(steps * LANES):
        # A row that is not there is the first one times zero.
        there_x, there_y = 2 * pair < rows.size, 2 * pair + 1 < rows.size
        keep_x, keep_y = np.float32(1 if there_x else 0), np.float32(1 if there_y else 0)
        x, y = rows[2 * pair if there_x else 0], rows[2 * pair + 1 if there_y else 0]
        # Rows lie anywhere, so that the processor cannot foresee them.
        ahead = min(2 * pair + AHEAD, rows.size - 2)
        next_x, next_y = rows[ahead], rows[ahead + 1]
        to = packed.ctypes.data + (pair // LANES) * PANEL + (pair % LANES) * LINE
        for group in range(coarse.size // LANES):
            at = np.int64(group * LANES)
            high = to + (group // 2) * apart + (group % 2) * TILE
            c, f = coarse.ctypes.data + 4 * at, fine.ctypes.data + 4 * at
            t, q = total.ctypes.data + 4 * at, squares.ctypes.data + 4 * at
            prefetch(next_x + size * at)
            prefetch(next_y + size * at)
            if half:
                split_half(x + size * at, y + size * at, c, f, t, q, high, high + 2 * TILE, keep_x, keep_y)
            else:
                split_single(x + size * at, y + size * at, c, f, t, q, high, high + 2 * TILE, keep_x, keep_y)
    return steps


@njit(nogil=True, cache=True, error_model="numpy")
def _multiply(packed: Any, steps: Any, panel: Any, sums: Any) -> None:
    """Add the products of all pairs of panels' columns: each formed by itself, for float32 sums of fewer terms."""
    room = np.empty(NUMBERS + LINE // 4, np.float32)
    skipped = (-room.ctypes.data % LINE) // 4
    formed = room[skipped : skipped + NUMBERS]
    apart, a, at = packed.strides[0], panel.ctypes.data, 0
    for i in range(packed.shape[0]):
        own = packed.ctypes.data + i * apart
        for tile in range(4 * steps):
            transposed(own + tile * TILE, a + tile * TILE, LINE)
        for j in range(i, packed.shape[0]):
            product(formed.ctypes.data, a, packed.ctypes.data + j * apart, steps)
            for k in range(NUMBERS):
                sums[at, k] += formed[k]
            at += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _unpack(sums: Any, squares: Any, out: Any) -> None:
    """Add what `_add_rows` left to a float64 matrix.

    Parameters
    ----------
    sums : (p (p + 1) / 2, 1024)
    squares : (d), for the diagonal instead of the sums
    out : (d, d), p = d / 32; above the diagonal all of it, below it some
    """
    at, panels = 0, out.shape[0] // SIDE
    diagonal = squares.copy()
    for i in range(out.shape[0]):
        diagonal[i] += out[i, i]
    for i in range(panels):
        for j in range(i, panels):
            for down in range(2):
                for row in range(LANES):
                    for right in range(2):
                        first = ((2 * down + right) * LANES + row) * LANES
                        for column in range(LANES):
                            value = np.float64(sums[at, first + column])
                            out[i * SIDE + down * LANES + row, j * SIDE + right * LANES + column] += value
            at += 1
    for i in range(out.shape[0]):
        out[i, i] = diagonal[i]
