"""Where an installed package keeps a file that is read as data; the package's code is never imported."""

from importlib import metadata
from pathlib import Path

from grobust.errors import DataError

__all__ = ["packaged_file"]


def packaged_file(package: str, name: str) -> Path:
    """Path of the file of an installed distribution whose path ends with `name`.

    Raises
    ------
    DataError
        If the distribution or the file in it is missing.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise DataError(
            f"The package '{package}' is not installed; '{name}' is part of it.\n"
            "Install the demo extra: pip install 'grobust[demo]'."
        ) from None
    for file in files:
        if file.as_posix().endswith(name):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise DataError(f"The package '{package}' is installed but has no file '{name}'; reinstall it.")
