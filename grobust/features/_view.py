"""Rows of a feature store as a read-only array that is read when it is sliced."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ShapeError

__all__ = ["StoreView"]

Reader = Callable[[slice | NDArray[Any]], NDArray[Any]]
# Rows checked at a time before rows are gathered from the mapped file.
CHECKED_ROWS = 1 << 16


class StoreView:
    """(m, d) rows of a store: slices and row numbers give NumPy arrays in the stored dtype; nothing else is read.

    Rows that lie together in the file are mapped, without a copy; others are gathered. Every block of the file is
    checked against its checksum when it is touched first. Several threads may read at once (two that are the first at
    the same block both check it). Made by `FeatureStore.view`; it reads as long as the store is open.

    Parameters
    ----------
    read : checked rows of the file, by slice or numbers
    features : (N, d) the file's features, mapped
    rows : (m) int64 numbers of the view's rows in the file, ascending
    """

    ndim = 2

    def __init__(self, read: Reader, features: NDArray[Any], rows: NDArray[Any]) -> None:
        self._read, self._features, self._rows = read, features, rows

    @property
    def shape(self) -> tuple[int, int]:
        """(m, d)."""
        return int(self._rows.size), int(self._features.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype, float16 or float32."""
        return self._features.dtype

    def __len__(self) -> int:
        return int(self._rows.size)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """``[start:stop:step]``, ``[start:stop:step, :]``, or ``[numbers]`` of rows of the view.

        Raises
        ------
        ShapeError
            If columns are asked for, or a row that the view does not have.
        StoreCorruptError
            If a block read for the first time is damaged.
        """
        if isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], slice) and key[1] == slice(None):
            key = key[0]
        if isinstance(key, slice):
            return self._stretch(key)
        numbers = np.asarray(key)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise ShapeError(f"A view of a store is read by rows: a slice or a list of integers; got {key!r}.")
        if numbers.size == 0:
            return self._none()
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(self):
            raise ShapeError(f"The view has rows 0 to {len(self) - 1}, asked for {numbers.min()} to {numbers.max()}.")
        return self._read(self._rows[numbers])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows: mapped where they lie together in the file, else in memory."""
        whole = self[:]
        return np.array(whole, dtype=dtype) if copy else np.asarray(whole, dtype=dtype)

    def mapped(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The file's features (N, d), mapped, and the numbers (m) of the view's rows in it.

        For loops that gather rows themselves, without a copy of the view. All blocks that hold rows of the view are
        checked here.
        """
        for start in range(0, len(self), CHECKED_ROWS):
            rows = self._rows[start : start + CHECKED_ROWS]
            self._read(slice(int(rows[0]), int(rows[-1]) + 1))
        return self._features, self._rows

    def _stretch(self, key: slice) -> NDArray[Any]:
        rows = self._rows[key]
        if rows.size == 0:
            return self._none()
        first, last = int(rows[0]), int(rows[-1])
        step = 1 if key.step is None else int(key.step)
        # Rows of the view ascend, so that over this distance there are so many only if they lie together.
        if step > 0 and last - first == (rows.size - 1) * step:
            return self._read(slice(first, last + 1, step))
        return self._read(rows)

    def _none(self) -> NDArray[Any]:
        return np.zeros((0, self.shape[1]), self.dtype)
