"""How the CPU reads rows of features: compiled loops that widen, centre, gather and sum them.

They release the interpreter lock, so that several threads can each read their own rows.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

__all__ = ["as_float", "bits", "gathered", "moments", "pattern", "shifted", "widened"]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}
# Rows and features of a tile: rows lie so far apart that a first-level cache holds few of them.
TILE_ROWS, TILE_FEATURES = 8, 16


@intrinsic
def bits(typingctx: Any, integer: Any) -> Any:
    """The float32 of an int32's bits."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@intrinsic
def pattern(typingctx: Any, number: Any) -> Any:
    """The bits of a float32 as an int32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), build


def _value(x: Any) -> Any:
    raise NotImplementedError("compiled only")


@overload(_value, inline="always")
def _(x: Any) -> Any:
    """A float as it is, or the float32 of a float16's bits given as int16; finite values only."""

    def widen(x: Any) -> Any:
        return bits((np.int32(x) << np.int32(13)) & np.int32(-1879056384)) * np.float32(2.0**112)

    def same(x: Any) -> Any:
        return x

    return widen if isinstance(x, types.Integer) else same


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def as_float(x: Any) -> Any:
    """float32 of a float, or of a float16's bits given as int16; finite values only."""
    return np.float32(_value(x))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def moments(block: Any, shift: Any, first: Any, second: Any) -> None:
    """Add Σ (x − shift) and Σ (x − shift)² of a block (r, d) to float64 accumulators (d).

    Four rows at a time: the accumulators are wider than a row and would pass through the cache with each.
    """
    rows, d = block.shape
    full = rows - rows % 4
    for i in range(0, full, 4):
        i1, i2, i3 = i + 1, i + 2, i + 3
        for j in range(d):
            s = shift[j]
            v0, v1 = np.float64(block[i, j]) - s, np.float64(block[i1, j]) - s
            v2, v3 = np.float64(block[i2, j]) - s, np.float64(block[i3, j]) - s
            first[j] += (v0 + v1) + (v2 + v3)
            second[j] += (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3)
    for i in range(full, rows):
        for j in range(d):
            v0 = np.float64(block[i, j]) - shift[j]
            first[j] += v0
            second[j] += v0 * v0


@njit(nogil=True, cache=True, error_model="numpy")
def shifted(block: Any, shift: Any, out: Any) -> None:
    """out = block − shift, in float32 (r, d)."""
    rows, d = block.shape
    for i in range(rows):
        for j in range(d):
            out[i, j] = block[i, j] - shift[j]


@njit(nogil=True, cache=True, error_model="numpy")
def widened(bits: Any, shift: Any, out: Any) -> None:
    """out = float16 − shift in float32 (r, d), from the float16's bits as int16; finite values only."""
    rows, d = bits.shape
    for i in range(rows):
        for j in range(d):
            out[i, j] = as_float(bits[i, j]) - shift[j]


@njit(nogil=True, cache=True, error_model="numpy")
def gathered(features: Any, rows: Any, mean: Any, inverse: Any, out: Any) -> None:
    """out (d, r) = (x − mean) · inverse of the listed rows x (r) of features (n, d), a feature's values side by side.

    A tile at a time, which NumPy's copy of a transpose is not; in float64 but for what goes in and out.
    """
    for lo in range(0, rows.size, TILE_ROWS):
        hi = min(lo + TILE_ROWS, rows.size)
        for start in range(0, mean.size, TILE_FEATURES):
            for j in range(start, min(start + TILE_FEATURES, mean.size)):
                for i in range(lo, hi):
                    out[j, i] = (np.float64(_value(features[rows[i], j])) - mean[j]) * inverse[j]
