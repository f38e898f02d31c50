"""Second moments of a few thousand rows less their group's shift, in room that is used again: by BLAS or in tiles."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grobust import matrix_tiles
from grobust.arrays import array_namespace
from grobust.matrix_tiles.second_moments import SecondMoments
from grobust.spectrum._staging import Piece, addresses, coarse_and_fine, require_finite, row_chunks, stage
from grobust.typing import Array

__all__ = ["Product", "new_product", "takes_tiles"]

PANEL = 128
# The rounding of two bfloat16 per number is then averaged to less than 1e-7 of a variance.
LEAST_ROWS = 4096


@runtime_checkable
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


def new_product(source: Array, dtype: str, *, rows: int, tiles: bool) -> Product:
    """Room for products of up to `rows` rows of features (., d) like `source`, in `dtype` or in `tiles`."""
    return _TileProduct(source.shape[1]) if tiles else _BlasProduct(source, dtype, rows)


def takes_tiles(source: Array, dtype: str, rows: int) -> bool:
    """Whether products of so many rows of features (., d) in `dtype` are formed in tiles, from two bfloat16 each."""
    return (
        isinstance(source, np.ndarray)
        and dtype == "float32"
        and rows >= LEAST_ROWS
        and source.dtype in (np.float16, np.float32)
        and source.shape[1] % matrix_tiles.SIDE == 0
        and matrix_tiles.available()
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
        with np.errstate(invalid="ignore"):
            for start, stop in row_chunks(self._product.shape[0], PANEL):
                products[start:stop, start:] += self._product[start:stop, start:]


class _TileProduct:
    """Of float16 or float32 in memory, split into two bfloat16: see `matrix_tiles`. Sums are float32, as of BLAS."""

    def __init__(self, dim: int) -> None:
        self._moments = SecondMoments(dim)

    def form(self, pieces: Sequence[Piece], shift: NDArray[np.float64]) -> NDArray[np.float64]:
        self._moments.clear()
        total, parts = np.zeros(shift.shape), coarse_and_fine(shift)
        for rows, half, source in addresses(pieces):
            total += self._moments.add(rows, half, *parts)
            # Until here the addresses must hold.
            del source
        if not np.isfinite(total).all():
            require_finite(pieces)
        return total

    def add_to(self, products: NDArray[np.float64]) -> None:
        self._moments.add_to(products)
