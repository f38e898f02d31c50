"""Array namespaces, devices and transfers: the one place that decides where an array lives.

Functions of the core dispatch on the type of their arguments (`array_namespace`); a move between devices is always an
explicit call of `to_device` or `to_numpy`. A device that is asked for and absent is an error.
"""

from typing import Any, Literal

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from grobust.errors import DeviceError
from grobust.typing import Array, ArrayNamespace

__all__ = [
    "DeviceName",
    "array_namespace",
    "cuda_available",
    "is_array",
    "on_cuda",
    "resolve_device",
    "to_device",
    "to_numpy",
]

DeviceName = Literal["cpu", "cuda"]


def array_namespace(*arrays: Array) -> ArrayNamespace:
    """Return the array API namespace that all `arrays` share; TypeError when they are mixed."""
    return array_api_compat.array_namespace(*arrays)


def is_array(value: Any) -> bool:
    """Whether `value` is an array of some namespace, and not a reader with shape, dtype and row slices."""
    return bool(array_api_compat.is_array_api_obj(value))


def on_cuda(array: Any) -> bool:
    """Whether `array` is a CuPy array."""
    return bool(array_api_compat.is_cupy_array(array))


def cuda_available() -> bool:
    """Whether CuPy is installed and sees a GPU. Never raises."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


def resolve_device(name: str) -> DeviceName:
    """Turn ``cpu``, ``cuda`` or ``auto`` into a device that is there.

    Raises
    ------
    DeviceError
        If the name is unknown, or ``cuda`` is asked for and CuPy or a GPU is missing.
    """
    if name == "auto":
        return "cuda" if cuda_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name != "cuda":
        raise DeviceError(f"Unknown device {name!r}. Expected one of: auto, cpu, cuda.")
    if not cuda_available():
        raise DeviceError(
            "Device 'cuda' was asked for, but CuPy is not installed or sees no GPU.\n"
            "Install the extra for your driver (pip install 'grobust[cuda13]' or 'grobust[cuda12]'), "
            "or use --device cpu."
        )
    return "cuda"


def to_device(array: Array, device: DeviceName) -> Array:
    """Copy `array` to a device: a NumPy array for ``cpu``, a CuPy array for ``cuda``."""
    if device == "cpu":
        return to_numpy(array)
    import cupy

    return cupy.asarray(array)


def to_numpy(array: Array) -> NDArray[Any]:
    """Copy `array` to the host as NumPy; a NumPy array comes back as it is."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_cupy_array(array):
        result: NDArray[Any] = array.get()
        return result
    if array_api_compat.is_torch_array(array):
        tensor: NDArray[Any] = array.detach().cpu().numpy()
        return tensor
    return np.asarray(array)
