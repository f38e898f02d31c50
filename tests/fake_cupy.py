"""Arrays that behave as CuPy's where the engine could go wrong, in NumPy's memory, for kernels run by the shim.

As CuPy does, they refuse to be mixed with NumPy arrays or turned into one silently, and reductions give arrays.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import array_api_compat
import numpy as np
import pytest
from shim_device import ShimDevice

from grobust.device import _cuda
from grobust.device._interface import Product

# What takes arrays of the host: a transfer, said aloud.
TRANSFERS = {"asarray", "array"}


class FakeArray:
    """A device array."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_namespace__(self, **_: Any) -> Any:
        return XP

    def get(self) -> np.ndarray:
        return self.memory.copy()

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.memory.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.memory, name)
        return wrapped(found) if not callable(found) else through(found, name)

    def __getitem__(self, key: Any) -> "FakeArray":
        return wrapped(self.memory[plain(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory[plain(key)] = plain(value)

    def __iter__(self) -> Iterator["FakeArray"]:
        return (wrapped(part) for part in self.memory)

    def __len__(self) -> int:
        return len(self.memory)

    def __bool__(self) -> bool:
        return bool(self.memory)

    def __float__(self) -> float:
        return float(self.memory)

    def __int__(self) -> int:
        return int(self.memory)

    def __index__(self) -> int:
        return self.memory.__index__()


def plain(value: Any) -> Any:
    """Fake arrays as their memory; arrays of the host are refused."""
    if isinstance(value, FakeArray):
        return value.memory
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)):
        parts = [plain(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def wrapped(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return FakeArray(np.asarray(value))
    if isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
        return tuple(map(wrapped, value))
    return value


def through(function: Any, name: str) -> Any:
    """A NumPy function on fake arrays."""

    def call(*args: Any, **settings: Any) -> Any:
        if name not in TRANSFERS or any(isinstance(arg, FakeArray) for arg in args):
            args = plain(args)
        with np.errstate(all="ignore"):
            return wrapped(function(*args, **{key: plain(value) for key, value in settings.items()}))

    return call


def _operator(name: str) -> Any:
    def operate(self: FakeArray, *others: Any) -> Any:
        # As on a GPU, arithmetic warns of nothing.
        with np.errstate(all="ignore"):
            found = getattr(self.memory, name)(*plain(others))
        if name.startswith("__i") and name not in ("__invert__",):
            self.memory = found
            return self
        return NotImplemented if found is NotImplemented else wrapped(found)

    return operate


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow", "mod", "floordiv", "and", "or"):
    for _side in ("", "r", "i"):
        setattr(FakeArray, f"__{_side}{_name}__", _operator(f"__{_side}{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"):
    setattr(FakeArray, f"__{_name}__", _operator(f"__{_name}__"))


class _Namespace:
    """NumPy's functions on fake arrays."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "linalg":
            return _Namespace(found)
        return through(found, name) if callable(found) and not isinstance(found, type) else found


XP = _Namespace(np)


class FakeCuda:
    """`ShimDevice` on fake arrays."""

    def __init__(self, shim: ShimDevice, *, memory: int = 1 << 40) -> None:
        self.xp, self.shared_bytes, self._shim, self.memory = XP, shim.shared_bytes, shim, memory

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
    ) -> None:
        self._shim.launch(kernel, grid, block, plain(tuple(args)), shared=shared)

    def product(self, product: Product) -> None:
        self._shim.product(plain(product))

    def slab(self, rows: int, d: int, dtype: Any) -> "FakeSlab":
        return FakeSlab(rows, d, dtype)

    def upload(self, rows: np.ndarray) -> "FakeArray":
        return XP.asarray(rows)

    def free_bytes(self) -> int:
        return self.memory

    def inverses(self, matrices: Any, shifts: Sequence[float], ridge: float, tries: int) -> Any:
        return wrapped(self._shim.inverses(plain(matrices), shifts, ridge, tries))


class FakeSlab:
    """A slab of a stream."""

    def __init__(self, rows: int, d: int, dtype: Any) -> None:
        self.memory = np.empty((rows, d), dtype=dtype)

    def fill(self, rows: np.ndarray) -> None:
        self.memory[: len(rows)] = rows

    def ready(self, rows: int) -> FakeArray:
        return FakeArray(self.memory[:rows])

    def release(self) -> None:
        pass


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> FakeCuda:
    """Make this process believe that it has a GPU, which is `FakeCuda`, until the test ends."""
    fake = FakeCuda(ShimDevice(folder), **settings)
    is_cupy = array_api_compat.is_cupy_array
    monkeypatch.setattr(array_api_compat, "is_cupy_array", lambda a: isinstance(a, FakeArray) or is_cupy(a))
    monkeypatch.setitem(
        sys.modules, "cupy",
        SimpleNamespace(asarray=XP.asarray, ndarray=NoArray, cuda=SimpleNamespace(is_available=lambda: True)),
    )  # fmt: skip
    monkeypatch.setattr(_cuda, "Cuda", lambda: fake)
    _cuda.cuda.cache_clear()
    return fake


class NoArray:
    """What array-api-compat may ask for as CuPy's own array: nothing is one."""
