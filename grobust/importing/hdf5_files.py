"""Datasets of other people's HDF5 files, read slice by slice; nothing is followed out of the file."""

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from grobust.errors import DataError
from grobust.importing.arrays import Rows, refuse_objects

__all__ = ["open_hdf5"]

DEEPEST = 3
# A dataset whose space was never written has any size that its header claims; no compression of features comes near.
LARGEST_RATIO = 100


def open_hdf5(path: Path, stack: ExitStack) -> dict[str, Rows]:
    """Datasets by their path in the file, ``group/name``; the file stays open until the stack closes.

    Raises
    ------
    DataError
        If the file is damaged or leads out of itself.
    """
    found: dict[str, Rows] = {}
    try:
        _walk(path, stack.enter_context(h5py.File(path, "r")), "", found, DEEPEST)
    except DataError:
        raise
    except Exception as error:
        # Its parser raises whatever damaged bytes lead to.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read as HDF5: it is damaged, cut short or something else: {reason}"
        ) from None
    return found


def _walk(path: Path, group: h5py.Group, prefix: str, found: dict[str, Rows], depth: int) -> None:
    for name in group:
        full = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: '{full}' is a link, which may lead out of the file; refused.")
        item = group[name]
        if isinstance(item, h5py.Group) and depth > 1:
            _walk(path, item, f"{full}/", found, depth - 1)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.is_virtual or item.external:
                raise DataError(f"{path}: dataset '{full}' keeps its data in other files; refused.")
            if item.nbytes > LARGEST_RATIO * path.stat().st_size:
                raise DataError(
                    f"{path}: dataset '{full}' claims {item.nbytes} bytes, far more than the file; refused."
                )
            found[full] = _rows(f"{path}, dataset '{full}'", item)


def _rows(where: str, dataset: h5py.Dataset) -> Rows:
    strings = h5py.check_string_dtype(dataset.dtype) is not None
    if not strings:
        refuse_objects(where, dataset.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(dataset.asstr()[start:stop], dtype=str) if strings else np.asarray(dataset[start:stop])
        except Exception as error:
            raise DataError(f"{where}, rows {start} to {stop - 1}, cannot be read: {error}.") from None

    return Rows(where, dataset.shape, np.dtype("U1") if strings else dataset.dtype, read)
