"""Open any of the file formats that feature caches come in."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from grobust.errors import DataError
from grobust.importing.arrays import Rows
from grobust.importing.hdf5_files import open_hdf5
from grobust.importing.numpy_files import open_npy, open_npz
from grobust.importing.tensor_files import open_safetensors, open_torch

__all__ = ["ArrayFile", "files_of", "open_files"]

Opener = Callable[[Path, ExitStack], dict[str, Rows]]
OPENERS: dict[str, Opener] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".pt": open_torch,
    ".pth": open_torch,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".safetensors": open_safetensors,
}
PICKLES = (".pkl", ".pickle")


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """A file and its arrays by name."""

    path: Path
    arrays: dict[str, Rows]


def files_of(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Files, and those directly in folders that are of a known format, in sorted order.

    Raises
    ------
    DataError
        If a path does not exist, is of another format, or a folder has nothing of use.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in OPENERS)
            if not inside:
                _refuse_pickles(sorted(path.iterdir()))
                raise DataError(f"{path} holds no feature cache: no file ends in {', '.join(OPENERS)}.")
            found += inside
            continue
        if not path.is_file():
            raise DataError(f"{path} does not exist. Expected a feature cache, or a folder of one.")
        _refuse_pickles([path])
        if path.suffix.lower() not in OPENERS:
            raise DataError(f"{path}: unknown format '{path.suffix}'. Expected one of {', '.join(OPENERS)}.")
        found.append(path)
    if len(set(found)) != len(found):
        raise DataError("A file is given twice.")
    return tuple(found)


def open_files(paths: Sequence[Path], stack: ExitStack) -> tuple[ArrayFile, ...]:
    """Open files; they stay open until the stack closes.

    Raises
    ------
    DataError
        If one is damaged, holds Python objects, or leads elsewhere.
    """
    return tuple(ArrayFile(path, OPENERS[path.suffix.lower()](path, stack)) for path in paths)


def _refuse_pickles(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix.lower() in PICKLES:
            new = path.with_suffix(".pt").name
            raise DataError(
                f"{path} is a pickle, which is never read here: that would run code of the file.\n"
                "Where it can be trusted, save its tensors anew, in the environment that wrote it, and import that:\n"
                f"  python -c \"import pickle, torch; torch.save(pickle.load(open('{path.name}', 'rb')), '{new}')\""
            )
