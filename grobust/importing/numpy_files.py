"""Arrays of .npy files, mapped, and of .npz files, read from front to back; never pickled ones."""

import math
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import DataError
from grobust.importing.arrays import Rows, refuse_objects

__all__ = ["open_npy", "open_npz"]

SKIPPED_BYTES = 1 << 22


def open_npy(path: Path, stack: ExitStack) -> dict[str, Rows]:
    """The array of a .npy file, under the name of the file without its suffix."""
    try:
        with path.open("rb") as file:
            shape, _, dtype = _header(file, str(path))
        # Nothing cannot be mapped.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False) if math.prod(shape) else np.empty(shape, dtype)
    except (ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged, cut short or no .npy file: {_first_line(error)}.") from None
    return {path.stem: Rows(str(path), mapped.shape, mapped.dtype, lambda start, stop: mapped[start:stop])}


def open_npz(path: Path, stack: ExitStack) -> dict[str, Rows]:
    """The arrays of a .npz file by name; the file stays open until the stack closes."""
    found = {}
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                found[name] = _Member(path, archive, info, name, stack).rows
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged, cut short or no .npz file: {_first_line(error)}.") from None
    return found


class _Member:
    """One array of a .npz file; reading backward begins anew. The zip's checksum is compared at the array's end."""

    def __init__(
        self, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, stack: ExitStack
    ) -> None:
        self.where = f"{path}, array '{name}'"
        self.archive, self.info = archive, info
        self.file: IO[bytes] = archive.open(info)
        stack.callback(lambda: self.file.close())
        self.shape, self.fortran, self.dtype = _header(self.file, self.where)
        self.begin = self.file.tell()
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize if self.shape else 0
        stated = (self.shape[0] if self.shape else 0) * self.row_bytes
        if self.shape and info.file_size != self.begin + stated:
            raise DataError(
                f"{self.where} is cut short or damaged: shape {self.shape} needs {stated} bytes, "
                f"it has {info.file_size - self.begin}."
            )
        self.row = 0
        self.rows = Rows(self.where, self.shape, self.dtype, self._read)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        try:
            if self.fortran and len(self.shape) > 1:
                # Columns lie together: no row is had without the whole.
                with self.archive.open(self.info) as file:
                    whole: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
                return whole[start:stop]
            return self._forward(start, min(stop, self.shape[0]))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise DataError(f"{self.where} is damaged: {_first_line(error)}.") from None

    def _forward(self, start: int, stop: int) -> NDArray[Any]:
        if start < self.row:
            self.file.close()
            self.file = self.archive.open(self.info)
            self._take(self.begin)
            self.row = 0
        left = (start - self.row) * self.row_bytes
        while left:
            left -= len(self._take(min(left, SKIPPED_BYTES)))
        content = self._take((stop - start) * self.row_bytes)
        self.row = stop
        if stop == self.shape[0]:
            self.file.read(1)
        return np.frombuffer(content, dtype=self.dtype).reshape(stop - start, *self.shape[1:])

    def _take(self, size: int) -> bytes:
        content = self.file.read(size)
        if len(content) != size:
            raise EOFError("it ends too early")
        return content


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns lie together, and type."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version in readers:
            shape, fortran, dtype = readers[version](file)
    except Exception as error:
        # Its parser raises whatever damaged bytes lead to.
        raise DataError(f"{where} is damaged, cut short or no array: {_first_line(error)}.") from None
    if version not in readers:
        raise DataError(f"{where} has .npy version {version}; expected 1.0 or 2.0, as plain arrays have.")
    if any(size < 0 for size in shape):
        raise DataError(f"{where} is damaged: its shape is {shape}.")
    refuse_objects(where, dtype)
    return shape, fortran, dtype


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
