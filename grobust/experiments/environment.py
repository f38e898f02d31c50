"""Versions of what a run used, for records."""

import platform
from importlib import metadata

__all__ = ["library_versions"]

_LIBRARIES = ("grobust", "numpy", "scipy", "torch", "h5py", "cupy-cuda13x", "cupy-cuda12x")


def library_versions() -> dict[str, str]:
    """Python's version and those of the installed libraries that decide numbers."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
