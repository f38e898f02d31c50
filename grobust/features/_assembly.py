"""Rows of many parts, put in order window by window: no part and no store is ever held whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from grobust.errors import StoreIncompleteError

__all__ = ["Part", "assemble"]


@dataclass(frozen=True)
class Part:
    """A part file and the least and largest row number in it."""

    path: Path
    first: int
    last: int

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Look at the rows of a part file."""
        with safe_open(path, framework="numpy") as file:
            rows = file.get_tensor("rows")
        return cls(path, int(rows.min()), int(rows.max()))

    def between(self, low: int, high: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Row numbers, ascending, from `low` to `high`, and their features; only these are read where the part is
        in order, as those that are written now are."""
        with safe_open(self.path, framework="numpy") as file:
            rows = file.get_tensor("rows")
            if (rows[1:] > rows[:-1]).all():
                start, stop = np.searchsorted(rows, (low, high + 1)).tolist()
                return rows[start:stop], file.get_slice("features")[start:stop]
            order = np.argsort(rows, kind="stable")
            start, stop = np.searchsorted(rows[order], (low, high + 1)).tolist()
            return rows[order[start:stop]], file.get_tensor("features")[order[start:stop]]


def assemble(parts: Sequence[Part], kept: NDArray[Any]) -> Callable[[int, int, NDArray[Any]], None]:
    """A function that fills windows of the rows that a store keeps.

    Parameters
    ----------
    parts : hold every kept row once
    kept : (n) ascending numbers of the rows that the store keeps

    Returns
    -------
    ``fill(start, stop, out)``: sets (stop − start, d) `out` to the features of the kept rows from start to stop;
    StoreIncompleteError if the parts do not have them all.
    """

    def fill(start: int, stop: int, out: NDArray[Any]) -> None:
        wanted = kept[start:stop]
        low, high = int(wanted[0]), int(wanted[-1])
        filled = 0
        for part in parts:
            if part.last < low or part.first > high:
                continue
            rows, values = part.between(low, high)
            if rows.size == 0:
                continue
            target = np.searchsorted(wanted, rows)
            first, last = int(target[0]), int(target[-1])
            if last - first == rows.size - 1:
                out[first : last + 1] = values
            else:
                out[target] = values
            filled += rows.size
        if filled != len(out):
            raise StoreIncompleteError(f"The parts hold {filled} of the {len(out)} rows from {low} to {high}.")

    return fill
