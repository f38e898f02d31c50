"""`Rows`: an array in somebody's file, of which shape and type are known and rows are read when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import DataError

__all__ = ["NUMBERS", "Rows", "codes_of", "refuse_objects"]

# Kinds of NumPy types: booleans, integers, floats.
NUMBERS = "biuf"
# Beyond this a column holds identifiers, not labels; the names of so many groups would fill the memory.
LARGEST_CODE = 99_999


@dataclass(frozen=True, eq=False)
class Rows:
    """An array (n, …) in a file.

    Parameters
    ----------
    where : file and name, for messages
    shape, dtype : known before anything is read; strings have kind ``U``
    read : rows from `start` to before `stop`; cheapest when called in ascending order
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], NDArray[Any]]

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def all(self) -> NDArray[Any]:
        """Every row."""
        return self.read(0, len(self))


def refuse_objects(where: str, dtype: np.dtype[Any]) -> None:
    """Refuse arrays of Python objects: reading them would run what is in the file.

    Raises
    ------
    DataError
        With what to do instead.
    """
    if dtype.hasobject:
        raise DataError(
            f"{where} holds pickled Python objects, which are never read here: that would run code of the file.\n"
            "Where the file can be trusted, save its arrays anew as plain numbers: numpy.savez(NEW, features=…, y=…)."
        )


def codes_of(rows: Rows, n: int, what: str) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Labels, attributes or groups of n rows: (n) int64, and their names where the array holds names.

    Integers, and floats that are whole numbers, are codes 0, 1, …; strings are numbered in sorted order. (n, 1) is
    taken for (n).

    Raises
    ------
    DataError
        With file, array and row of what is no code.
    """
    if rows.shape not in ((n,), (n, 1)):
        raise DataError(f"{rows.where} has shape {rows.shape}; expected the {what} of {n} rows, ({n},).")
    values = rows.all().reshape(n)
    if values.dtype.kind in "US":
        levels, codes = np.unique(values.astype(str), return_inverse=True)
        return codes.astype(np.int64), tuple(str(level) for level in levels)
    if values.dtype.kind not in NUMBERS:
        raise DataError(f"{rows.where} has dtype {values.dtype}; expected integers or names.")
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values) & (values >= 0) & (values <= LARGEST_CODE) & (values == np.floor(values))
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(
            f"{rows.where}, row {row}: {values[row]}; expected {what} 0, 1, 2, … to {LARGEST_CODE} "
            f"({int((~whole).sum())} such row(s); rows count from 0)."
        )
    return values.astype(np.int64), None
