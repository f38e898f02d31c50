"""Rows of many parts, put in order window by window: no part and no store is ever held whole."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from grobust.errors import StoreIncompleteError

__all__ = ["Part", "assemble", "in_order", "part_content"]

# As safetensors names them.
DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64"}
NAMES = {letters: name for name, letters in DTYPES.items()}


@dataclass(frozen=True)
class Part:
    """A part file, the least and largest row number in it, and whether its rows ascend."""

    path: Path
    first: int
    last: int
    ascending: bool

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Look at the rows of a part file."""
        with safe_open(path, framework="numpy") as file:
            rows = file.get_tensor("rows")
        return cls(path, int(rows.min()), int(rows.max()), bool((rows[1:] > rows[:-1]).all()))

    def between(self, low: int, high: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Row numbers, ascending, from `low` to `high`, and their features, mapped where the part's rows ascend, as
        those that are written now do."""
        rows, features = _mapped(self.path)
        if self.ascending:
            start, stop = np.searchsorted(rows, (low, high + 1)).tolist()
            return rows[start:stop], features[start:stop]
        order = np.argsort(rows, kind="stable")
        start, stop = np.searchsorted(rows[order], (low, high + 1)).tolist()
        return rows[order[start:stop]], features[order[start:stop]]


def part_content(rows: NDArray[Any], features: NDArray[Any], metadata: dict[str, str]) -> list[Any]:
    """A safetensors file of a part as buffers to be written one after the other: `safetensors.save` would copy the
    features once more."""
    rows, features = np.ascontiguousarray(rows, "<i8"), np.ascontiguousarray(features)
    end = rows.nbytes + features.nbytes
    header: dict[str, Any] = {
        "__metadata__": metadata,
        "rows": {"dtype": DTYPES["int64"], "shape": list(rows.shape), "data_offsets": [0, rows.nbytes]},
        "features": {
            "dtype": DTYPES[features.dtype.name], "shape": list(features.shape), "data_offsets": [rows.nbytes, end]
        },
    }  # fmt: skip
    text = json.dumps(header, sort_keys=True).encode()
    # Tensors begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, rows.data, features.data]


def _mapped(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows (b) and features (b, d) of a part file whose header `safe_open` has accepted, without a copy."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = np.memmap(path, dtype=np.uint8, mode="r")
    tensors = []
    for name in ("rows", "features"):
        start, stop = (8 + size + int(offset) for offset in header[name]["data_offsets"])
        tensors.append(np.asarray(found[start:stop]).view(NAMES[header[name]["dtype"]]).reshape(header[name]["shape"]))
    return tensors[0], tensors[1]


def in_order(parts: Sequence[Part]) -> bool:
    """Whether each part begins after the one before it ends, so that a window needs one or two of them."""
    ordered = sorted(parts, key=lambda part: part.first)
    return all(a.last < b.first for a, b in pairwise(ordered))


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
            # Where no row between is left out, places are differences.
            target = rows - low if high - low == wanted.size - 1 else np.searchsorted(wanted, rows)
            first, last = int(target[0]), int(target[-1])
            if last - first == rows.size - 1:
                out[first : last + 1] = values
            else:
                out[target] = values
            filled += rows.size
        if filled != len(out):
            raise StoreIncompleteError(f"The parts hold {filled} of the {len(out)} rows from {low} to {high}.")

    return fill
