"""Second moments of rows for the preconditioner, summed up piece by piece: by the array's own product, or in tiles."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.matrix_tiles.second_moments import SecondMoments
from grobust.probe._tile_passes import takes_tiles
from grobust.typing import Array

__all__ = ["Moments", "new_moments"]


@runtime_checkable
class Moments(Protocol):
    """Σ v vᵀ of rows v (d)."""

    def add(self, rows: Array) -> None:
        """Add those of rows (b, d)."""
        ...

    def total(self) -> Array:
        """(d, d) in the rows' dtype."""
        ...


def new_moments(like: Array) -> Moments:
    """Moments of rows of the kind, dtype and size of `like` (d)."""
    tiles = isinstance(like, np.ndarray) and like.dtype == np.float32 and takes_tiles(like.size, like.size)
    return _TileMoments(like.size) if tiles else _ArrayMoments(like)


class _ArrayMoments:
    def __init__(self, like: Array) -> None:
        xp = array_namespace(like)
        self._total = xp.zeros((like.shape[0],) * 2, dtype=like.dtype)

    def add(self, rows: Array) -> None:
        self._total += rows.T @ rows

    def total(self) -> Array:
        return self._total


class _TileMoments:
    """A number split into two bfloat16 is exact enough, as the sum only preconditions."""

    def __init__(self, d: int) -> None:
        self._moments, self._shift = SecondMoments(d), np.zeros(d, dtype=np.float32)

    def add(self, rows: NDArray[np.float32]) -> None:
        rows = np.ascontiguousarray(rows)
        places = rows.ctypes.data + rows.strides[0] * np.arange(len(rows))
        self._moments.add(places, False, self._shift, self._shift)

    def total(self) -> NDArray[np.float32]:
        wide = np.zeros((self._shift.size,) * 2)
        self._moments.add_to(wide)
        out = wide.astype(np.float32)
        for i in range(1, len(out)):
            out[i, :i] = out[:i, i]
        return out
