"""Products of a block of rows with the columns of all heads, in float32 tiles of four rows and four columns.

BLAS packs both factors before it multiplies, which does not pay where one has few columns; a tile reads a row of
features once for four columns and keeps its sixteen sums in registers. That needs the 32 registers of AVX-512: without
them BLAS multiplies.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import njit
from numpy.typing import NDArray

__all__ = ["FEW", "backward", "forward", "multiply", "multiply_back"]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}
# Up to so many columns a tile is as fast as BLAS or faster; beyond, packing pays.
FEW = 64 if get_host_cpu_features().get("avx512f", False) else 2


def multiply(weights: NDArray[Any], block: NDArray[Any], out: NDArray[Any]) -> None:
    """out = weights · blockᵀ in their dtype, (M, d) and (r, d) to (M, r), whichever way is faster."""
    if weights.shape[0] > FEW and block.flags.forc:
        np.matmul(weights, block.T, out=out)
    else:
        forward(weights, block, out)


def multiply_back(residual: NDArray[Any], block: NDArray[Any], out: NDArray[Any]) -> None:
    """out = residual · block in their dtype, (M, r) and (r, d) to (M, d), whichever way is faster."""
    if residual.shape[0] > FEW and block.flags.forc:
        np.matmul(residual, block, out=out)
    else:
        backward(residual, block, out)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def forward(weights: Any, block: Any, out: Any) -> None:
    """out = weights · blockᵀ in float32, (M, d) and (r, d) to (M, r)."""
    columns, (rows, d) = weights.shape[0], block.shape
    tiles, full, zero = columns - columns % 4, rows - rows % 4, np.float32(0)
    for m in range(0, tiles, 4):
        m1, m2, m3 = m + 1, m + 2, m + 3
        for i in range(0, full, 4):
            i1, i2, i3 = i + 1, i + 2, i + 3
            a00, a01, a02, a03 = zero, zero, zero, zero
            a10, a11, a12, a13 = zero, zero, zero, zero
            a20, a21, a22, a23 = zero, zero, zero, zero
            a30, a31, a32, a33 = zero, zero, zero, zero
            for j in range(d):
                w0, w1, w2, w3 = weights[m, j], weights[m1, j], weights[m2, j], weights[m3, j]
                x0, x1, x2, x3 = block[i, j], block[i1, j], block[i2, j], block[i3, j]
                a00 += w0 * x0
                a01 += w0 * x1
                a02 += w0 * x2
                a03 += w0 * x3
                a10 += w1 * x0
                a11 += w1 * x1
                a12 += w1 * x2
                a13 += w1 * x3
                a20 += w2 * x0
                a21 += w2 * x1
                a22 += w2 * x2
                a23 += w2 * x3
                a30 += w3 * x0
                a31 += w3 * x1
                a32 += w3 * x2
                a33 += w3 * x3
            out[m, i], out[m, i1], out[m, i2], out[m, i3] = a00, a01, a02, a03
            out[m1, i], out[m1, i1], out[m1, i2], out[m1, i3] = a10, a11, a12, a13
            out[m2, i], out[m2, i1], out[m2, i2], out[m2, i3] = a20, a21, a22, a23
            out[m3, i], out[m3, i1], out[m3, i2], out[m3, i3] = a30, a31, a32, a33
    for m in range(tiles, columns):
        for i in range(0, full, 4):
            i1, i2, i3 = i + 1, i + 2, i + 3
            a00, a01, a02, a03 = zero, zero, zero, zero
            for j in range(d):
                w0 = weights[m, j]
                a00 += w0 * block[i, j]
                a01 += w0 * block[i1, j]
                a02 += w0 * block[i2, j]
                a03 += w0 * block[i3, j]
            out[m, i], out[m, i1], out[m, i2], out[m, i3] = a00, a01, a02, a03
    for m in range(columns):
        for i in range(full, rows):
            a00 = zero
            for j in range(d):
                a00 += weights[m, j] * block[i, j]
            out[m, i] = a00


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def backward(residual: Any, block: Any, out: Any) -> None:
    """out = residual · block in float32, (M, r) and (r, d) to (M, d)."""
    columns, (rows, d) = residual.shape[0], block.shape
    tiles, full = columns - columns % 4, rows - rows % 4
    out[:, :] = 0
    for m in range(0, tiles, 4):
        m1, m2, m3 = m + 1, m + 2, m + 3
        for i in range(0, full, 4):
            i1, i2, i3 = i + 1, i + 2, i + 3
            r00, r01, r02, r03 = residual[m, i], residual[m, i1], residual[m, i2], residual[m, i3]
            r10, r11, r12, r13 = (
                residual[m1, i],
                residual[m1, i1],
                residual[m1, i2],
                residual[m1, i3],
            )
            r20, r21, r22, r23 = (
                residual[m2, i],
                residual[m2, i1],
                residual[m2, i2],
                residual[m2, i3],
            )
            r30, r31, r32, r33 = (
                residual[m3, i],
                residual[m3, i1],
                residual[m3, i2],
                residual[m3, i3],
            )
            for j in range(d):
                x0, x1, x2, x3 = block[i, j], block[i1, j], block[i2, j], block[i3, j]
                out[m, j] += r00 * x0 + r01 * x1 + r02 * x2 + r03 * x3
                out[m1, j] += r10 * x0 + r11 * x1 + r12 * x2 + r13 * x3
                out[m2, j] += r20 * x0 + r21 * x1 + r22 * x2 + r23 * x3
                out[m3, j] += r30 * x0 + r31 * x1 + r32 * x2 + r33 * x3
    for m in range(tiles, columns):
        for i in range(0, full, 4):
            i1, i2, i3 = i + 1, i + 2, i + 3
            r00, r01, r02, r03 = residual[m, i], residual[m, i1], residual[m, i2], residual[m, i3]
            for j in range(d):
                out[m, j] += r00 * block[i, j] + r01 * block[i1, j] + r02 * block[i2, j] + r03 * block[i3, j]
    for m in range(columns):
        for i in range(full, rows):
            r00 = residual[m, i]
            for j in range(d):
                out[m, j] += r00 * block[i, j]
