"""Products of rows with the columns of a small matrix, forward and back, of the same split rows.

Forward, numbers are split into three parts and six of the nine products of parts are summed up, which is as exact as
float32: errors of logits would stay. Back, two parts and three products do: gradients are formed anew every time.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit

from grobust.matrix_tiles._instructions import (
    FINE_PANEL,
    LANES,
    LINE,
    PANEL,
    SIDE,
    STEP,
    TILE,
    configured,
    fine_product,
    prefetch,
    product_added,
    restored,
    transposed,
)  # fmt: skip
from grobust.matrix_tiles._splitting import split_fine_row, split_pair, split_row

__all__ = ["add_back", "configured", "flush", "forward", "pack_columns", "pack_left", "pack_rows", "restored"]

# Rows ahead that are asked for.
AHEAD = 4


@njit(nogil=True, cache=True, error_model="numpy")
def pack_rows(block: Any, zeros: Any, by_row: Any, by_pair: Any) -> None:
    """Split rows as left factor of the product forward, in three parts, and as right factor of that back, in two.

    Parameters
    ----------
    block : (r, d) float32 with contiguous rows; zeros : (d) float32
    by_row : (⌈r / 32⌉ or more, d / 32, 1536) int32, aligned, out
    by_pair : (d / 32, ⌈r / 32⌉ or more, 1024) int32, aligned, out
    """
    rows, d = block.shape
    start, apart, none = np.int64(block.ctypes.data), block.strides[0], np.int64(zeros.ctypes.data)
    for pair in range((rows + STEP - 1) // STEP * LANES):
        i = 2 * pair
        x, y = start + i * apart if i < rows else none, start + (i + 1) * apart if i + 1 < rows else none
        ahead = start + min(i + AHEAD, max(rows - 2, 0)) * apart
        panel, line = i // STEP, i % STEP
        left = by_row.ctypes.data + panel * by_row.strides[0] + (line // LANES) * TILE + (line % LANES) * LINE
        right = by_pair.ctypes.data + panel * PANEL + (line // 2) * LINE
        for j in range(d // SIDE):
            at = 4 * SIDE * j
            prefetch(ahead + at)
            prefetch(ahead + at + LINE)
            prefetch(ahead + apart + at)
            prefetch(ahead + apart + at + LINE)
            split_pair(x + at, y + at, left + j * FINE_PANEL, right + j * by_pair.strides[0])


@njit(nogil=True, cache=True, error_model="numpy")
def pack_left(matrix: Any, packed: Any) -> None:
    """Split a left factor (m, k) float32 with contiguous rows into (⌈m / 32⌉, ⌈k / 32⌉, 1024) int32, aligned.

    What lies beyond its last row is left as it is; numbers beyond its last column are zeros.
    """
    m, k = matrix.shape
    rest = np.zeros(STEP, np.float32)
    for i in range(m):
        to = packed.ctypes.data + (i // SIDE) * packed.strides[0] + (i % SIDE // LANES) * TILE + (i % LANES) * LINE
        source = matrix.ctypes.data + i * matrix.strides[0]
        for s in range(k // STEP):
            split_row(source + 4 * STEP * s, to + s * PANEL)
        if k % STEP:
            for j in range(k % STEP):
                rest[j] = matrix[i, k - k % STEP + j]
            split_row(rest.ctypes.data, to + (k // STEP) * PANEL)


@njit(nogil=True, cache=True, error_model="numpy")
def pack_columns(matrix: Any, packed: Any) -> None:
    """Split a right factor's columns, given as rows (m, k) float32, k a multiple of 32, into (⌈m / 32⌉, k / 32, 1536)
    int32, aligned. Columns beyond the last are whatever was there; products with them go nowhere."""
    m, k = matrix.shape
    for i in range(m):
        to = packed.ctypes.data + (i // SIDE) * packed.strides[0] + (i % SIDE // LANES) * TILE + (i % LANES) * LINE
        for s in range(k // STEP):
            split_fine_row(matrix.ctypes.data + i * matrix.strides[0] + 4 * STEP * s, to + s * FINE_PANEL)
    # Rows of a left factor hold their numbers in pairs: columns, when a tile is transposed.
    for tile in range(packed.size * 4 // TILE):
        place = packed.ctypes.data + tile * TILE
        transposed(place, place, LINE)


@njit(nogil=True, cache=True, error_model="numpy")
def forward(by_row: Any, columns: Any, sums: Any, out: Any) -> None:
    """out (m, r) = columns · rowsᵀ.

    Parameters
    ----------
    by_row : from `pack_rows`; columns : (⌈m / 32⌉, d / 32, 1536) from `pack_columns`
    sums : (⌈m / 32⌉, 1024) float32, aligned: room
    out : (m, r) float32, contiguous
    """
    m, rows = out.shape
    apart = 4 * rows
    for panel in range((rows + SIDE - 1) // SIDE):
        a = by_row.ctypes.data + panel * by_row.strides[0]
        for c in range(columns.shape[0]):
            b = columns.ctypes.data + c * columns.strides[0]
            fine_product(sums.ctypes.data + c * PANEL, a, b, columns.shape[1])
        for c in range(columns.shape[0]):
            for tile in range(4):
                i, k = panel * SIDE + (tile // 2) * LANES, c * SIDE + (tile % 2) * LANES
                if i + LANES <= rows and k + LANES <= m:
                    source = sums.ctypes.data + c * PANEL + tile * TILE
                    transposed(source, out.ctypes.data + k * apart + 4 * i, apart)
                else:
                    for u in range(min(LANES, m - k)):
                        for v in range(min(LANES, rows - i)):
                            out[k + u, i + v] = sums[c, tile * LANES * LANES + v * LANES + u]


@njit(nogil=True, cache=True, error_model="numpy")
def add_back(left: Any, steps: int, by_pair: Any, sums: Any) -> None:
    """Add left · rows.

    Parameters
    ----------
    left : (⌈m / 32⌉, `steps` or more, 1024) from `pack_left`; by_pair : from `pack_rows`
    sums : (⌈m / 32⌉, d / 32, 1024) float32, aligned, added to
    """
    for c in range(left.shape[0]):
        a = left.ctypes.data + c * left.strides[0]
        for j in range(by_pair.shape[0]):
            b = by_pair.ctypes.data + j * by_pair.strides[0]
            product_added(sums.ctypes.data + c * sums.strides[0] + j * PANEL, a, b, steps)


@njit(nogil=True, cache=True, error_model="numpy")
def flush(sums: Any, out: Any) -> None:
    """Add what `add_back` left to a float64 matrix (m, d), and begin again from zero."""
    m, d = out.shape
    for i in range(m):
        for j in range(0, d, LANES):
            tile, line = 2 * (i % SIDE // LANES) + j % SIDE // LANES, i % LANES
            for k in range(LANES):
                out[i, j + k] += np.float64(sums[i // SIDE, j // SIDE, (tile * LANES + line) * LANES + k])
    sums[:] = 0
