"""Second moments of a few thousand rows less their group's shift, in room that is used again: by BLAS or in tiles."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.spectrum import _tiles
from grobust.spectrum._staging import Piece, addresses, coarse_and_fine, require_finite, row_chunks, stage
from grobust.typing import Array

__all__ = ["Product", "new_product", "takes_tiles"]

PANEL = 128
# Rows split and multiplied at once: what is in a core's second-level cache then is read many times.
TILE_ROWS = 128


class Product(Protocol):
    """Room for one product at a time."""

    def form(self, pieces: Sequence[Piece], shift: Array) -> Array:
        """Σ (x − shift) (d) float64 of the pieces' rows; Σ (x − shift)(x − shift)ᵀ is kept.

        Raises
        ------
        ShapeError
            If a feature is not finite; the row is named.
        """
        ...

    def add_to(self, products: Array) -> None:
        """Add what is kept to (d, d) float64, the upper triangle at least."""
        ...


def new_product(source: Array, dtype: str, *, rows: int) -> Product:
    """Room for products in `dtype` of up to `rows` rows of features (., d) like `source`."""
    return _TileProduct(source.shape[1]) if takes_tiles(source, dtype) else _BlasProduct(source, dtype, rows)


def takes_tiles(source: Array, dtype: str) -> bool:
    """Whether products of these features (., d) in `dtype` are formed in tiles, from two bfloat16 per number."""
    return (
        isinstance(source, np.ndarray)
        and dtype == "float32"
        and source.dtype in (np.float16, np.float32)
        and source.shape[1] % _tiles.SIDE == 0
        and _tiles.available()
    )


class _BlasProduct:
    """In `dtype`, of any arrays."""

    def __init__(self, source: Array, dtype: str, rows: int) -> None:
        self._dtype, self._staged, self._out, d = dtype, None, None, source.shape[1]
        if isinstance(source, np.ndarray):
            self._staged, self._out = np.empty((rows, d), dtype), np.empty((d, d), dtype)
        self._product: Array = None

    def form(self, pieces: Sequence[Piece], shift: Array) -> Array:
        staged = stage(pieces, shift, dtype=self._dtype, out=self._staged)
        xp = array_namespace(staged)
        ones = xp.ones((1, staged.shape[0]), dtype=staged.dtype, device=staged.device)
        with np.errstate(invalid="ignore", over="ignore"):
            total = (ones @ staged)[0, :]
            if not bool(xp.all(xp.isfinite(total))):
                require_finite(pieces)
            host = isinstance(staged, np.ndarray)
            self._product = np.matmul(staged.T, staged, out=self._out) if host else staged.T @ staged
        return xp.astype(total, xp.float64)

    def add_to(self, products: Array) -> None:
        if not isinstance(self._product, np.ndarray):
            products += self._product
            return
        for start, stop in row_chunks(self._product.shape[0], PANEL):
            products[start:stop, start:] += self._product[start:stop, start:]


class _TileProduct:
    """Of float16 or float32 in memory, split into two bfloat16: see `_tiles`. Sums are float32, as those of BLAS.

    Parameters
    ----------
    dim : d, a multiple of 32
    """

    def __init__(self, dim: int) -> None:
        panels, steps = dim // _tiles.SIDE, TILE_ROWS // _tiles.STEP_ROWS
        self._packed = _tiles.aligned((panels, steps, _tiles.PANEL_BYTES // 4), np.int32)
        self._panel = _tiles.aligned((steps, _tiles.PANEL_BYTES // 4), np.int32)
        self._sums = _tiles.aligned((panels * (panels + 1) // 2, 2, 2, _tiles.LANES, _tiles.LANES), np.float32)
        self._squares = np.empty(dim)

    def form(self, pieces: Sequence[Piece], shift: NDArray[np.float64]) -> NDArray[np.float64]:
        self._sums[:], self._squares[:] = 0, 0
        total = np.zeros(self._squares.shape)
        parts = coarse_and_fine(shift)
        for rows, half, kept in addresses(pieces):
            _tiles.add_rows(rows, half, *parts, total, self._squares, self._packed, self._panel, self._sums)
            del kept
        if not np.isfinite(total).all():
            require_finite(pieces)
        return total

    def add_to(self, products: NDArray[np.float64]) -> None:
        _tiles.unpack(self._sums, self._squares, products)
