"""Passes on a GPU: two matrix products and a fused stage per block of rows, a dozen launches, no waiting for the host.

Labels, codes and tables of the weights are on the device for the length of a solve. Logits stay where they are when
heads leave the batch: a list of slots says which are left.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import to_numpy
from grobust.device._interface import NULL, Device, square
from grobust.probe._columns import MOST_ROW_BLOCKS, Fresh, Operand, padded
from grobust.probe._cuda_moments import column_moments, reduce
from grobust.probe._design import Design
from grobust.probe._passes import CURVATURE_HEADS, Evaluation
from grobust.probe._weights import WeightTable
from grobust.typing import Array

__all__ = ["MOST_COLUMNS", "CudaPasses"]

THREADS = 256
# Blocks per head of the fused stage, whatever the device: sums must not depend on it.
MOST_BLOCKS, MOST_TILES = 128, 512
# Logits of a row's columns are kept in shared memory.
MOST_COLUMNS = 1024
# Residuals are scaled so that the largest possible is between these two powers of two.
HALF_EXPONENT = 14


class CudaPasses:
    """float16 products on tensor cores or float32 products, compiled stage; sums over rows in float64.

    Parameters
    ----------
    device : where the arrays are
    labels : (n) integers on the device
    rows : rows of a block: as many as the work arrays' budget allows
    """

    def __init__(
        self, device: Device, design: Design, labels: Array, weights: WeightTable, columns: int, *, rows: int
    ) -> None:
        xp = device.xp
        self._device, self._operand, self._columns, self._block = device, Operand(device, design), columns, rows
        self._n, self._d = design.features.shape
        self._labels = labels.astype(np.uint16)
        # Kernels go from row to row by n: a table restricted to some rows may lie in memory column by column.
        self._codes = xp.asarray(np.ascontiguousarray(weights.codes))
        self._dense = xp.asarray(np.ascontiguousarray(weights.dense, dtype=np.float32))
        self._values = xp.asarray(weights.values, dtype=np.float32)
        self._coded = weights.values.shape[0]
        heads = weights.weighting.size
        largest = [float(values.max(initial=0)) for values in (*weights.values, *weights.dense)]
        scale = np.ldexp(1.0, HALF_EXPONENT - np.frexp(np.array(largest)[weights.weighting])[1])
        self._weighting = xp.asarray(weights.weighting, dtype=np.int32)
        self._scale = xp.asarray(scale if self._operand.split else np.ones(heads), dtype=np.float32)
        self._slots = xp.arange(heads, dtype=np.int32)
        shape = (heads, columns, padded(self._n))
        self._z, self._dz = xp.zeros(shape, dtype=np.float32), xp.zeros(shape, dtype=np.float32)
        self._step = xp.zeros(heads, dtype=np.float32)

    @property
    def weighting(self) -> NDArray[Any]:
        return to_numpy(self._weighting)

    def advance(self, direction: Array) -> Evaluation:
        heads, columns, width = direction.shape
        folded = self._operand.fold(direction.reshape(heads * columns, width))
        step, self._step = self._step, self._device.xp.zeros_like(self._step)
        everyone = (self._slots, self._weighting, self._scale)

        def stage(block: Array, lo: int, hi: int, residual: Array | None, sums: Array) -> None:
            fresh = self._operand.forward(block, folded)
            self._stage(everyone, step, fresh, (folded.unscale, folded.offset), lo, hi, residual, sums)

        return self._over_blocks(stage, self._scale)

    def evaluate(self, heads: NDArray[Any], step: NDArray[Any], *, gradient: bool) -> Evaluation:
        xp = self._device.xp
        at = xp.asarray(heads)
        steps = xp.asarray(step, dtype=np.float32)
        chosen = (self._slots[at], self._weighting[at], self._scale[at])
        unused = xp.zeros(heads.size * self._columns, dtype=np.float32)

        def stage(block: Array, lo: int, hi: int, residual: Array | None, sums: Array) -> None:
            self._stage(chosen, steps, None, (unused, unused), lo, hi, residual, sums)

        if gradient:
            return self._over_blocks(stage, chosen[2])
        sums = xp.empty((heads.size, 2 + self._columns), dtype=np.float64)
        stage(None, 0, self._n, None, sums)
        return Evaluation(sums[:, 0], sums[:, 1], None)

    def take(self, step: NDArray[Any]) -> None:
        self._step = self._device.xp.asarray(step, dtype=np.float32)

    def keep(self, heads: NDArray[Any]) -> None:
        at = self._device.xp.asarray(heads)
        self._slots, self._weighting = self._slots[at], self._weighting[at]
        self._scale, self._step = self._scale[at], self._step[at]

    def curvature(self, stride: int) -> Array:
        xp = self._device.xp
        some = slice(None, None, -(-self._slots.size // CURVATURE_HEADS))
        slots, weighting, step = (xp.ascontiguousarray(a[some]) for a in (self._slots, self._weighting, self._step))
        rows = -(-self._n // stride)
        out = xp.empty(rows, dtype=np.float64)
        self._device.launch(
            "curvature", (-(-rows // THREADS),), (THREADS,),
            (self._z, self._dz, np.int64(self._z.shape[2]), np.int32(self._columns), slots, step, np.int32(slots.size),
             *self._weights_at(0), weighting, np.int32(rows), np.int32(stride), out),
        )  # fmt: skip
        return out

    def moments(self, stride: int) -> tuple[Array, Array]:
        """Second moments (d, d) float32 of the running heads' mean Hessian on standardized features, centred, and its
        total weight (), from every stride-th row; in the width of the features."""
        xp, operand, d = self._device.xp, self._operand, self._d
        weights = self.curvature(stride)
        weights *= self._n / weights.size
        grow = 1 / xp.maximum(xp.max(weights, keepdims=True), 1e-300)
        first, second = xp.zeros(d, dtype=np.float64), xp.zeros((d, d), dtype=np.float32)
        at, length = 0, -(-self._block // stride) * stride
        for lo in range(0, self._n, length):
            block = operand.block(lo, min(lo + length, self._n), stride)
            part = weights[at : at + block.shape[0]]
            at += block.shape[0]
            first += column_moments(self._device, block, None, part)[0]
            scaled = xp.empty_like(block)
            self._device.launch(
                "root_weighted", (-(-d // THREADS), min(block.shape[0], MOST_ROW_BLOCKS)), (THREADS,),
                (block, np.int32(block.dtype == np.float16), np.int64(d), np.int64(block.shape[0]), np.int32(d), part,
                 grow, scaled),
            )  # fmt: skip
            square(self._device, scaled, second)
        total = xp.sum(weights)
        centred = second.astype(np.float64) / grow - (first / total)[:, None] * first[None, :]
        centred *= operand.inverse[:, None] * operand.inverse[None, :]
        return centred.astype(np.float32), total

    def _over_blocks(self, stage: Any, scale: Array) -> Evaluation:
        """Run a stage that leaves residuals, and the product back, block after block."""
        xp, operand, d, columns = self._device.xp, self._operand, self._d, self._columns
        heads = scale.shape[0]
        total = heads * columns
        sums = xp.zeros((heads, 2 + columns), dtype=np.float64)
        product = xp.empty((total, d) if self._block < self._n else (0, d), dtype=np.float64)
        gradient = xp.empty((heads, columns, d + 1), dtype=np.float64)
        for lo in range(0, self._n, self._block):
            hi = min(lo + self._block, self._n)
            last = hi == self._n
            block = operand.block(lo, hi)
            kind = np.float16 if operand.split else np.float32
            residual = xp.empty((operand.terms * total, padded(hi - lo)), dtype=kind)
            stage(block, lo, hi, residual, sums)
            parts = operand.backward(residual, block)
            self._device.launch(
                "unfold", (total, -(-(d + 1) // THREADS)), (THREADS,),
                (parts, np.int32(parts.shape[0]), np.int32(operand.terms), np.int32(d), np.int32(total), scale,
                 np.int32(columns), product, np.int32(lo == 0), sums if last else NULL, operand.rest, operand.inverse,
                 gradient),
            )  # fmt: skip
        return Evaluation(sums[:, 0], sums[:, 1], gradient)

    def _stage(
        self, heads: tuple[Array, Array, Array], step: Array, fresh: Fresh | None, folded: tuple[Array, Array],
        lo: int, hi: int, residual: Array | None, sums: Array,
    ) -> None:  # fmt: skip
        """Logits, losses, slopes and residuals of rows lo … hi; adds to sums (K, 2 + c), or sets them at lo = 0."""
        xp, columns, rows = self._device.xp, self._columns, hi - lo
        slots, weighting, scale = heads
        wide = high = low = NULL
        if residual is not None and self._operand.split:
            high, low = residual, residual[residual.shape[0] // 2 :]
        elif residual is not None:
            wide = residual
        new, new_low, pitch = (NULL, NULL, padded(rows)) if fresh is None else fresh
        shared = 0
        block: tuple[int, ...] = (THREADS,)
        tail: tuple[Any, ...] = ()
        blocks = min(-(-rows // THREADS), MOST_BLOCKS)
        if columns > 1:
            tile, lanes, segments = _tile(columns)
            shared = 8 * columns * segments + 4 * (columns * (tile + 1) + 3 * lanes * tile + 4 * tile)
            block, tail = (tile, lanes), (np.int32(columns), np.int32(segments))
            blocks = min(-(-rows // tile), MOST_TILES)
        count = slots.shape[0]
        partials = xp.empty((count * (2 + columns), blocks), dtype=np.float64)
        self._device.launch(
            "stage_sigmoid" if columns == 1 else "stage_softmax", (blocks, count), block,
            (self._z[:, :, lo:], self._dz[:, :, lo:], np.int64(self._z.shape[2]), slots, step, new, new_low, *folded,
             np.int64(pitch), np.int32(rows), self._labels[lo:], *self._weights_at(lo), weighting, scale, wide, high,
             low, partials, *tail),
            shared=shared,
        )  # fmt: skip
        reduce(self._device, partials, sums, add=lo > 0)

    def _weights_at(self, lo: int) -> tuple[Any, ...]:
        return (
            self._codes[:, lo:], self._values, self._dense[:, lo:], np.int64(self._n), np.int32(self._coded),
        )  # fmt: skip


def _tile(columns: int) -> tuple[int, int, int]:
    """Rows of a block's tile, threads per row, and threads per column that add up its residuals."""
    rows, lanes = (256, 1) if columns <= 8 else (128, 2) if columns <= 32 else (32, 8) if columns <= 256 else (16, 32)
    segments = 1
    while segments < rows and 2 * segments * columns <= rows * lanes:
        segments *= 2
    return rows, lanes, segments
