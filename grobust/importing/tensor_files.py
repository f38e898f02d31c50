"""Tensors of files that torch and safetensors wrote; torch's with ``weights_only=True``, mapped where they can be."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from grobust.errors import DataError
from grobust.importing.arrays import Rows

__all__ = ["open_safetensors", "open_torch"]

DEEPEST = 4
DTYPES = {torch.bool: "bool", torch.uint8: "u1", torch.int8: "i1", torch.int16: "i2", torch.int32: "i4",
          torch.int64: "i8", torch.float16: "f2", torch.float32: "f4", torch.float64: "f8",
          torch.bfloat16: "f4"}  # fmt: skip


def open_torch(path: Path, stack: ExitStack) -> dict[str, Rows]:
    """Tensors of a file of `torch.save`: by key, by place (``0.1``) in lists and tuples; a lone one by the file's name.

    Raises
    ------
    DataError
        If the file is damaged, or holds Python objects other than tensors in dicts, lists and tuples.
    """
    value = _loaded(path)
    found = {}
    for name, tensor in _tensors(value, "", DEEPEST):
        key = name or path.stem
        found[key] = _rows(f"{path}, tensor '{key}'", tensor)
    return found


def _loaded(path: Path) -> Any:
    # Files of torch before 1.6 are no zip archives and cannot be mapped.
    with path.open("rb") as file:
        mapped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            # It warns of its own internals and of pickle protocols, which say nothing to whoever imports a cache.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Please file")[0]
        name = next((word for word in reason.split() if "." in word and "/" not in word and not word.endswith(".")), "")
        raise DataError(
            f"{path} holds Python objects{f' ({name.strip(chr(39))})' if name else ''} beside tensors, or is damaged; "
            "they are never unpickled here: that would run code of the file.\n"
            "Where the file can be trusted, save its tensors alone: torch.save({'e': …, 'y': …, 'g': …}, NEW)."
        ) from None
    except Exception as error:
        # Its parser raises whatever damaged bytes lead to.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read: it is damaged, cut short or not of torch.save: {reason}") from None


def _tensors(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{prefix}.{key}" if prefix else str(key), depth - 1)
    elif depth and isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{prefix}.{i}" if prefix else str(i), depth - 1)


def _rows(where: str, tensor: torch.Tensor) -> Rows:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        raise DataError(f"{where} is {tensor.layout} {tensor.dtype}; expected a dense tensor of numbers.")
    plain = tensor.detach()
    return Rows(where, tuple(plain.shape), np.dtype(DTYPES[tensor.dtype]), lambda a, b: _numpy(plain[a:b]))


def open_safetensors(path: Path, stack: ExitStack) -> dict[str, Rows]:
    """Tensors of a safetensors file by name."""
    try:
        file = stack.enter_context(safe_open(path, framework="pt"))
        return {name: _slice(path, file.get_slice(name), name) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged, cut short or no safetensors file: {error}.") from None


def _slice(path: Path, part: Any, name: str) -> Rows:
    where, shape = f"{path}, tensor '{name}'", tuple(part.get_shape())
    read: Callable[[int, int], NDArray[Any]] = lambda a, b: _numpy(part[a:b])  # noqa: E731
    if not shape:
        return Rows(where, shape, np.dtype("f4"), read)
    dtype = part[0:0].dtype
    if dtype not in DTYPES:
        raise DataError(f"{where} is {dtype}; expected numbers.")
    return Rows(where, shape, np.dtype(DTYPES[dtype]), read)


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
