"""Where a data set lies: a folder of this machine, or one in a cloud, read through fsspec.

A `CloudPath` has what the loaders use of `pathlib.Path`. Credentials and endpoints are fsspec's own affair: its
environment variables and config files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec

from grobust.errors import DataError
from grobust.typing import PathLike

__all__ = ["CloudPath", "Place", "place_of", "readable"]

# pathlib folds the two slashes of an address into one.
_ADDRESS = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<path>.*)", re.DOTALL)
_LOCAL = ("file", "local")


@dataclass(frozen=True)
class CloudPath:
    """A file or folder of a file system that fsspec knows.

    Parameters
    ----------
    protocol : ``s3``, ``gs``, ``http``, …
    path : bucket or host and what is below it, without a slash at the end
    """

    protocol: str
    path: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    def __truediv__(self, name: str) -> "CloudPath":
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name:
            raise DataError(f"{self}: '{name}' leads out of the folder; refused.")
        return CloudPath(self.protocol, "/".join((self.path, *parts)))

    @property
    def name(self) -> str:
        """Last part."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "CloudPath":
        """The folder that it lies in."""
        return CloudPath(self.protocol, self.path.rpartition("/")[0] or self.path)

    def absolute(self) -> "CloudPath":
        """Itself."""
        return self

    def is_file(self) -> bool:
        """Whether there is such a file; a web server does not say, so there a file is what has an ending."""
        if self.protocol.startswith("http") and not self.suffix:
            return False
        with _cloud_errors(self) as files:
            return bool(files.isfile(self._full))

    def is_dir(self) -> bool:
        """Whether there is such a folder."""
        with _cloud_errors(self) as files:
            return bool(files.isdir(self._full))

    def exists(self) -> bool:
        """Whether there is something."""
        with _cloud_errors(self) as files:
            return bool(files.exists(self._full))

    def iterdir(self) -> Iterator["CloudPath"]:
        """What the folder holds."""
        with _cloud_errors(self) as files:
            found = files.ls(self._full, detail=False)
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        return iter([self / name for name in sorted(names - {"", "."})])

    def glob(self, pattern: str) -> Iterator["CloudPath"]:
        """Of what the folder itself holds, that with such a name."""
        return (path for path in self.iterdir() if fnmatch(path.name, pattern))

    def names_below(self) -> list[str]:
        """Every file at any depth, relative to this folder."""
        with _cloud_errors(self) as files:
            found = files.find(self._full)
        # Some file systems name files with the protocol or a leading slash, some without.
        start = f"{self.path}/"
        return sorted(str(path).partition(start)[2] for path in found if start in str(path))

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, to be read.

        Raises
        ------
        FileNotFoundError
            If there is none.
        DataError
            If it cannot be opened.
        """
        with _cloud_errors(self) as files:
            return cast(BinaryIO, files.open(self._full, mode))

    def read_bytes(self) -> bytes:
        """The whole file, in as few requests as there may be.

        Raises
        ------
        FileNotFoundError
            If there is none.
        DataError
            If it cannot be read to its end.
        """
        with _cloud_errors(self) as files, files.open(self._full, "rb") as file:
            return bytes(file.read())

    @property
    def _full(self) -> str:
        # HTTP's file system takes addresses, the others what stands behind the protocol.
        return str(self) if self.protocol.startswith("http") else self.path


Place = Path | CloudPath


def place_of(where: PathLike | CloudPath) -> Place:
    """A folder from what a user writes: a path, or an address such as ``s3://bucket/folder``.

    Raises
    ------
    DataError
        If the address is of a kind that fsspec does not know, or needs a library that is not installed.
    """
    if isinstance(where, CloudPath):
        return where
    if "::" in str(where) and ":/" in str(where) and not Path(where).exists():
        raise DataError(f"{where}: chained addresses are not read; give one such as s3://bucket/folder.")
    address = _ADDRESS.fullmatch(str(where))
    if address is None or Path(where).exists():
        return Path(where)
    protocol, path = address["protocol"].lower(), address["path"].rstrip("/")
    if protocol in _LOCAL:
        return Path(f"/{path.lstrip('/')}")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise DataError(f"{protocol}://{path} needs a library that is not installed: {error}.") from None
    except ValueError:
        raise DataError(
            f"'{protocol}://' is no kind of address that fsspec knows; expected a folder, or s3://, gs://, http://, …"
        ) from None
    if not path:
        raise DataError(f"{protocol}:// names no folder; expected {protocol}://bucket/folder.")
    return CloudPath(protocol, path)


@contextmanager
def readable(place: Place) -> Iterator[Path | BinaryIO]:
    """What libraries read tables from: the path itself, or an open file."""
    if isinstance(place, Path):
        yield place
        return
    with place.open() as file:
        yield file


@contextmanager
def _cloud_errors(path: CloudPath) -> Iterator[Any]:
    """The file system; what goes wrong there, of whatever library, is an error that names the path."""
    try:
        # fsspec keeps one for each process and kind.
        yield fsspec.filesystem(path.protocol)
    except (FileNotFoundError, DataError):
        raise
    # botocore, aiohttp, gcsfs: each has errors of its own.
    except Exception as error:
        raise DataError(f"{path} cannot be reached: {type(error).__name__}: {error}") from error
