"""A pass over the rows whose products a CPU's matrix tiles form: rows are split once for the product there and back."""

# mypy: disallow_untyped_decorators=false
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from grobust import matrix_tiles
from grobust.matrix_tiles.row_products import (
    add_back,
    configured,
    flush,
    forward,
    pack_columns,
    pack_left,
    pack_rows,
    restored,
)
from grobust.probe._numba import advance, evaluate
from grobust.probe._numba_passes import row_weights, rows_of, scratch

__all__ = ["LEAST_COLUMNS", "TileRoom", "advance_tiles", "evaluate_tiles", "new_room", "takes_tiles", "tile_rows"]

# Fewer columns leave most of a tile empty; registers of their own are as fast there.
LEAST_COLUMNS = 12
# Split rows and their logits stay in a core's second-level cache; a factor's panels want some rows.
CACHED_NUMBERS, LEAST_ROWS, MOST_ROWS = 96_000, 64, 192
# Rows whose products are summed up in float32 before they go to float64.
SUMMED_ROWS = 2048


class TileRoom(NamedTuple):
    """Room of one thread, aligned: for a block's rows, the columns, residuals, and sums in tiles there and back."""

    by_row: NDArray[Any]
    by_pair: NDArray[Any]
    columns: NDArray[Any]
    left: NDArray[Any]
    ahead: NDArray[Any]
    back: NDArray[Any]


def takes_tiles(columns: int, d: int) -> bool:
    """Whether float32 products of rows (., d) with so many columns are formed in tiles."""
    return columns >= LEAST_COLUMNS and d % matrix_tiles.SIDE == 0 and matrix_tiles.available()


def tile_rows(columns: int, d: int, most: int) -> int:
    """Rows of a block, whole panels: at most `most` or one panel, fewer where they would not stay in the cache."""
    side = matrix_tiles.SIDE
    cached = min(max(LEAST_ROWS, CACHED_NUMBERS // (columns + d)), MOST_ROWS) // side
    return side * max(1, min(cached, most // side))


def new_room(columns: int, d: int, block: int) -> TileRoom:
    """Room for blocks of so many rows with so many columns."""
    across, steps, panels = (-(-size // matrix_tiles.SIDE) for size in (block, d, columns))
    fine, coarse = matrix_tiles.FINE_NUMBERS, matrix_tiles.NUMBERS
    room = TileRoom(
        by_row=matrix_tiles.aligned((across, steps, fine), np.int32),
        by_pair=matrix_tiles.aligned((steps, across, coarse), np.int32),
        columns=matrix_tiles.aligned((panels, steps, fine), np.int32),
        left=matrix_tiles.aligned((panels, across, coarse), np.int32),
        ahead=matrix_tiles.aligned((panels, coarse), np.float32),
        back=matrix_tiles.aligned((panels, steps, coarse), np.float32),
    )
    # What the columns do not fill is multiplied as well.
    for array in (room.columns, room.left, room.back):
        array[:] = 0
    return room


@njit(nogil=True, cache=True, error_model="numpy")
def advance_tiles(
    features: Any, first: int, start: int, stop: int, room: Any, centre: Any, small: Any, z: Any, dz: Any, slots: Any,
    step: Any, offset: Any, labels: Any, codes: Any, values: Any, dense: Any, weighting: Any, sums: Any, total: Any,
) -> None:  # fmt: skip
    """`_numba_passes.advance_rows` in tiles, with `room` for its columns and blocks."""
    heads, columns, block, (flat, d) = slots.size, z.shape[2], z.shape[3], small.shape
    new, residual, weights, work, widened = scratch(flat, d, block, codes.shape[0] + dense.shape[0], centre)
    zeros, before, summed = np.zeros(d, dtype=np.float32), configured(), 0
    pack_columns(small, room.columns)
    for lo in range(start, stop, block):
        hi = min(lo + block, stop)
        rows = hi - lo
        pack_rows(rows_of(features, lo - first, hi - first, centre, widened), zeros, room.by_row, room.by_pair)
        logits, back = new[: flat * rows].reshape(flat, rows), residual[: flat * rows].reshape(flat, rows)
        forward(room.by_row, room.columns, room.ahead, logits)
        advance(
            z[lo // block], dz[lo // block], slots, step, logits.reshape(heads, columns, rows), offset, labels[lo:hi],
            row_weights(codes, values, dense, lo, hi, weights), weighting, back.reshape(heads, columns, rows), sums,
            work,
        )  # fmt: skip
        summed = _add_back(back, room, summed, total, hi == stop)
    restored(before)


@njit(nogil=True, cache=True, error_model="numpy")
def evaluate_tiles(
    features: Any, first: int, start: int, stop: int, room: Any, centre: Any, z: Any, dz: Any, slots: Any, step: Any,
    labels: Any, codes: Any, values: Any, dense: Any, weighting: Any, sums: Any, total: Any,
) -> None:  # fmt: skip
    """`_numba_passes.evaluate_rows` in tiles, with `room` for its columns and blocks."""
    heads, columns, block, (flat, d) = slots.size, z.shape[2], z.shape[3], total.shape
    _, residual, weights, work, widened = scratch(flat, d, block, codes.shape[0] + dense.shape[0], centre)
    zeros, before, summed = np.zeros(d, dtype=np.float32), configured(), 0
    for lo in range(start, stop, block):
        hi = min(lo + block, stop)
        rows = hi - lo
        back = residual[: flat * rows].reshape(flat, rows)
        evaluate(
            z[lo // block], dz[lo // block], slots, step, labels[lo:hi],
            row_weights(codes, values, dense, lo, hi, weights), weighting, back.reshape(heads, columns, rows), sums,
            work,
        )  # fmt: skip
        pack_rows(rows_of(features, lo - first, hi - first, centre, widened), zeros, room.by_row, room.by_pair)
        summed = _add_back(back, room, summed, total, hi == stop)
    restored(before)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_back(residual: Any, room: Any, summed: int, total: Any, last: bool) -> Any:
    """Add residuals (m, r) times the rows in `room`; the rows whose products are not yet in `total`."""
    rows = residual.shape[1]
    pack_left(residual, room.left)
    add_back(room.left, (rows + matrix_tiles.STEP - 1) // matrix_tiles.STEP, room.by_pair, room.back)
    if last or summed + rows >= SUMMED_ROWS:
        flush(room.back, total)
        return 0
    return summed + rows
