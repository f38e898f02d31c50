"""Products of rows on a GPU with weights and residuals, in the form that fits the features' width.

float16 features stay float16: the small factor is split into two float16 of 22 bits together, scaled by a power of two
per column, and the products sum up in float32 on tensor cores. A product is then as exact as in float32 (by test) where
one float16 would lose four digits. float32 features take float32 products.
"""

from typing import Any, NamedTuple

import numpy as np

from grobust.device._interface import NULL, Device, backward, chunk_rows, forward
from grobust.probe._design import Design
from grobust.typing import Array

__all__ = ["MOST_ROW_BLOCKS", "Folded", "Fresh", "Operand", "padded"]

# Rows of work arrays begin at multiples of so many elements, as tensor cores want.
PITCH = 64
THREADS = 256
# A second product over the features costs less than reading a second column of logits when there are so many columns
# per feature.
COLUMNS_PER_FEATURE = 0.25
# Blocks of rows of a kernel that copies: each takes several rows.
MOST_ROW_BLOCKS = 4096


def padded(rows: int) -> int:
    """Rows, rounded up."""
    return -(-rows // PITCH) * PITCH


class Folded(NamedTuple):
    """Weights (M, d) on stored features, in float32, or in two float16 stacked (2 M, d); the power of two to undo (M)
    and the offsets (M), float32."""

    weights: Array
    unscale: Array
    offset: Array


class Fresh(NamedTuple):
    """Products (M, pitch) float32, the second of two or `NULL`, and the pitch."""

    high: Array
    low: Any
    pitch: int


class Operand:
    """The features as the products take them, block by block.

    Parameters
    ----------
    device : where they are
    design : features and their standardization; float16 that is far from its mean is centred in float32 instead
    """

    def __init__(self, device: Device, design: Design) -> None:
        self._device, self._design = device, design
        half = design.features.dtype == np.float16
        self.split = bool(half and design.near)
        xp = device.xp
        self._shift = None
        if not design.near:
            self._shift = xp.asarray(design.mean, dtype=np.float32)
        self.mean = xp.asarray(design.mean, dtype=np.float64)
        self.rest = self.mean if self._shift is None else self.mean - self._shift.astype(np.float64)
        self.inverse = xp.asarray(1 / design.scale, dtype=np.float64)
        self._chunk = chunk_rows(design.features.shape[0])

    @property
    def terms(self) -> int:
        """Columns of a small factor's form for each of its own."""
        return 2 if self.split else 1

    def block(self, start: int, stop: int, stride: int = 1) -> Array:
        """(b, d) rows, contiguous: float16 as they are, or float32 and centred where that is needed."""
        xp = self._device.xp
        rows = xp.asarray(self._design.features[start:stop, :])
        rows = rows if stride == 1 else rows[::stride]
        if rows.dtype not in (np.float16, np.float32):
            rows = rows.astype(np.float32)
        if self._shift is None:
            return xp.ascontiguousarray(rows)
        rows, half, pitch = self._raw(rows)
        b, d = rows.shape
        out = xp.empty((b, d), dtype=np.float32)
        grid = (-(-d // THREADS), min(b, MOST_ROW_BLOCKS))
        self._device.launch(
            "centred", grid, (THREADS,), (rows, half, pitch, np.int64(b), np.int32(d), self._shift, out)
        )
        return out

    def fold(self, weights: Array) -> Folded:
        """Weights (M, d + 1) float64 on standardized features, the last the intercepts."""
        xp, (columns, width) = self._device.xp, weights.shape
        d = width - 1
        unscale, offset = xp.empty(columns, dtype=np.float32), xp.empty(columns, dtype=np.float32)
        if self.split:
            out = xp.empty((2 * columns, d), dtype=np.float16)
            forms = (NULL, out, out[columns:])
        else:
            out = xp.empty((columns, d), dtype=np.float32)
            forms = (out, NULL, NULL)
        self._device.launch(
            "fold", (columns,), (THREADS,),
            (xp.ascontiguousarray(weights), self.inverse, self.rest, np.int32(d), np.int32(columns), *forms, unscale,
             offset),
        )  # fmt: skip
        return Folded(out, unscale, offset)

    def forward(self, block: Array, folded: Folded) -> Fresh:
        """Products of a block with weights; `unscale` and `offset` are left to who reads them."""
        b, d = block.shape
        pitch, columns = padded(b), folded.unscale.shape[0]
        if not self.split or columns < COLUMNS_PER_FEATURE * d:
            out = self._device.xp.empty((folded.weights.shape[0], pitch), dtype=np.float32)
            forward(self._device, block, folded.weights, out)
            return Fresh(out, out[columns:] if self.split else NULL, pitch)
        out = self._device.xp.empty((columns, pitch), dtype=np.float32)
        forward(self._device, block, folded.weights[:columns], out)
        forward(self._device, block, folded.weights[columns:], out, alpha=1 / 2048, beta=1.0)
        return Fresh(out, NULL, pitch)

    def backward(self, residual: Array, block: Array) -> Array:
        """(chunks, terms · M, d) float32 products of residuals (terms · M, pitch) with a block."""
        return backward(self._device, residual, block, self._chunk)

    def _raw(self, rows: Array) -> tuple[Array, np.int32, np.int64]:
        """Rows for a kernel: the array, whether it is float16, and its elements from row to row."""
        if rows.strides[1] != rows.dtype.itemsize:
            rows = self._device.xp.ascontiguousarray(rows)
        pitch = rows.strides[0] // rows.dtype.itemsize
        return rows, np.int32(rows.dtype == np.float16), np.int64(pitch)
