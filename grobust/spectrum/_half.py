"""Second moments of float16 rows on a GPU's tensor cores, with nothing lost to centring.

A row less its group's shift is no float16 in general. It is kept as two: high + low / 2048, 22 bits together, of the
difference in float32, scaled by a power of two per feature. Then Σ y yᵀ = Σ h hᵀ + (Σ h lᵀ + Σ l hᵀ) / 2048; what is
left out, Σ l lᵀ, is below 2⁻²⁴ of it.

Tensor cores do not round their float32 sums but cut them off, so that a product loses about 1.4e-9 of itself per row:
products are of 512 rows, and their sum is float64. Emulated with sums that are cut off after every 16 rows
(tests/spectrum/test_half.py): relative error of λ1..λ10 of float16 features 8e-7 at most, for means of 0 to 3,000
standard deviations, where one product of 4,096 rows has 6e-6.

float32 features go another way. Their split is as good for λ1..λ10 (8e-7), but not for λ1..λ50 (1.0e-6 against the 1e-6
allowed, and 2e-7 by float32 products), and the rounding of tensor cores is not documented. They take float32 products.
"""

from collections.abc import Sequence

import numpy as np

from grobust.arrays import on_cuda
from grobust.device._interface import Device, backward, outer, squares
from grobust.spectrum._staging import Piece, require_finite, stage
from grobust.typing import Array

__all__ = ["HalfRoom", "HalfSums", "takes_halves"]

# Rows of a product, see above.
PIECE_ROWS = 512
# Of the products that are summed up at once.
PRODUCT_BYTES = 256 << 20
# A feature's largest difference in the sample becomes an eighth, and is taken to be at least this share of all
# features' largest: a float16 holds half a million times as much, so that rows unlike the sample fit too.
HEADROOM, SMALLEST_SHARE = 8.0, 2.0**-8
LOW = 2048
THREADS, MOST_ROW_BLOCKS = 256, 4096


def takes_halves(source: Array, dtype: str) -> bool:
    """Whether products of these features in `dtype` are for tensor cores."""
    return on_cuda(source) and dtype == "float32" and source.dtype == np.float16


class HalfRoom:
    """Work arrays that the sums of all groups share: what one group has started is done before the next begins.

    Parameters
    ----------
    device : where the features are
    dim : d
    rows : most rows of one `HalfSums.add`
    """

    def __init__(self, device: Device, dim: int, *, rows: int) -> None:
        xp, pieces = device.xp, -(-rows // PIECE_ROWS)
        self.device = device
        self.high, self.low = (xp.empty((pieces * PIECE_ROWS, dim), dtype=np.float16) for _ in range(2))
        self.ones = xp.ones((1, pieces * PIECE_ROWS), dtype=np.float16)
        together = max(1, min(pieces, PRODUCT_BYTES // (4 * dim * dim)))
        self.parts = xp.empty((together, dim, dim), dtype=np.float32)


class HalfSums:
    """Σ (x − shift) and Σ (x − shift)(x − shift)ᵀ over rows of one group.

    Parameters
    ----------
    room : work arrays
    shift : (d) float64, near the group's mean
    sample : (b, d) float64 rows of the group, for the scale of each feature
    """

    def __init__(self, room: HalfRoom, shift: Array, sample: Array) -> None:
        xp, d = room.device.xp, shift.shape[0]
        self._device, self._room, self._shift = room.device, room, shift
        self._coarse = shift.astype(np.float32)
        self._fine = (shift - self._coarse.astype(np.float64)).astype(np.float32)
        peak = xp.max(xp.abs(sample - shift[None, :]), axis=0)
        peak = xp.maximum(peak, SMALLEST_SHARE * xp.max(peak))
        peak = xp.where(peak > 0, peak, xp.ones_like(peak)) * HEADROOM
        self._scale = (2.0 ** -xp.ceil(xp.log2(peak))).astype(np.float32)
        self._mixed = xp.zeros((d, d), dtype=np.float32)
        self._total, self._products = xp.zeros(d, dtype=np.float64), xp.zeros((d, d), dtype=np.float64)

    def add(self, pieces: Sequence[Piece]) -> None:
        """Take in rows.

        Raises
        ------
        ShapeError
            If a feature is not finite; the row is named.
        """
        xp, count = self._device.xp, sum(map(len, pieces))
        fill = 0
        for piece in pieces:
            self._split(piece, fill)
            fill += len(piece)
        stop = -(-count // PIECE_ROWS) * PIECE_ROWS
        high, low = self._room.high[:stop], self._room.low[:stop]
        high[count:], low[count:] = 0, 0
        total = self._sum(high) + self._sum(low) / LOW
        if not bool(xp.all(xp.isfinite(total))):
            self._add_wide(pieces)
            return
        self._total += total
        step = self._room.parts.shape[0] * PIECE_ROWS
        for start in range(0, stop, step):
            rows = high[start : start + step]
            parts = self._room.parts[: rows.shape[0] // PIECE_ROWS]
            squares(self._device, rows, parts)
            self._products += xp.sum(parts, axis=0, dtype=np.float64)
        outer(self._device, high, low, self._mixed)

    def finish(self) -> tuple[Array, Array]:
        """(d) and (d, d) float64; the sums are used up."""
        mixed = self._mixed.astype(np.float64) / LOW
        self._products += mixed
        self._products += mixed.T
        unscale = 1 / self._scale.astype(np.float64)
        self._products *= unscale[:, None]
        self._products *= unscale[None, :]
        return self._total * unscale, self._products

    def _split(self, piece: Piece, at: int) -> None:
        xp, (_, d) = self._device.xp, self._room.high.shape
        source = xp.ascontiguousarray(piece.source)
        self._device.launch(
            "split_rows", (-(-d // THREADS), min(len(piece), MOST_ROW_BLOCKS)), (THREADS,),
            (source, np.int32(source.dtype == np.float16), np.int64(d), xp.asarray(piece.rows), np.int64(len(piece)),
             np.int32(d), self._coarse, self._fine, self._scale, self._room.high[at:], self._room.low[at:]),
        )  # fmt: skip

    def _sum(self, rows: Array) -> Array:
        parts = backward(self._device, self._room.ones[:, : rows.shape[0]], rows, PIECE_ROWS)
        return self._device.xp.sum(parts, axis=0, dtype=np.float64)[0, :]

    def _add_wide(self, pieces: Sequence[Piece]) -> None:
        """Rows that are too far from the sample for scaled float16, by float32 products."""
        xp = self._device.xp
        rows = stage(pieces, self._shift, dtype="float32") * self._scale[None, :]
        total = xp.sum(rows, axis=0, dtype=np.float64)
        if not bool(xp.all(xp.isfinite(total))):
            require_finite(pieces)
        self._total += total
        self._products += rows.T @ rows
