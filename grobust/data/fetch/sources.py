"""Where data sets can be had: the list of mirrors, read from one TOML file and checked."""

import re
import tomllib
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grobust.errors import DataError

__all__ = ["DataSource", "RemoteFile", "check_url", "load_sources"]

SCHEMES = ("https", "http")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
RELATIVE = re.compile(r"[A-Za-z0-9._+ -]+(/[A-Za-z0-9._+ -]+)*")
# A size that is not known exactly may be this many times the rough one before a transfer is given up.
SLACK = 4
DEFAULT_ABOUT_BYTES = 1 << 30


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set and the addresses that offer it.

    Parameters
    ----------
    name : plain file name while it is downloaded
    mirrors : addresses, tried in this order
    archive : zip, tar or tar.gz, to be unpacked; otherwise the file is kept as it is
    bytes, sha256 : exact size and SHA-256; None where nobody has published them
    about_bytes, unpacked_bytes : rough sizes, for the check of free space
    """

    name: str
    mirrors: tuple[str, ...]
    archive: bool = False
    bytes: int | None = None
    sha256: str | None = None
    about_bytes: int = DEFAULT_ABOUT_BYTES
    unpacked_bytes: int | None = None

    def __post_init__(self) -> None:
        if not PLAIN_NAME.fullmatch(self.name):
            raise DataError(f"file name {self.name!r}: expected letters, digits and . _ + - only.")
        if not self.mirrors:
            raise DataError(f"file {self.name!r} has no mirrors.")
        for url in self.mirrors:
            check_url(url)
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise DataError(
                f"file {self.name!r}: sha256 is {self.sha256!r}; expected 64 lower-case hexadecimal digits."
            )
        for what in ("bytes", "about_bytes", "unpacked_bytes"):
            value = getattr(self, what)
            if value is not None and value < 0:
                raise DataError(f"file {self.name!r}: {what} is {value}; expected a size in bytes.")

    @property
    def expected_bytes(self) -> int:
        """Size, exact or rough."""
        return self.about_bytes if self.bytes is None else self.bytes

    @property
    def largest_bytes(self) -> int:
        """Beyond this a transfer is given up."""
        return SLACK * self.about_bytes if self.bytes is None else self.bytes

    @property
    def disk_bytes(self) -> int:
        """What the disk needs while this file is fetched and unpacked, roughly."""
        unpacked = (self.unpacked_bytes or 2 * self.expected_bytes) if self.archive else 0
        return self.expected_bytes + unpacked


@dataclass(frozen=True)
class DataSource:
    """A data set that can be fetched.

    Parameters
    ----------
    name : as in the catalog of data sets
    title, homepage, license : shown before anything is downloaded
    files : what to download
    needs : paths that must be in the folder in the end
    manual : what to do by hand when no mirror works; ``{folder}``, ``{downloads}`` and ``{homepage}`` are filled in
    """

    name: str
    title: str
    homepage: str
    license: str
    files: tuple[RemoteFile, ...]
    needs: tuple[str, ...] = ()
    manual: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            raise DataError("it has no files.")
        for path in self.needs:
            if not RELATIVE.fullmatch(path) or ".." in path.split("/"):
                raise DataError(f"needs {path!r}: expected a path inside the folder.")
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise DataError(f"file names repeat: {', '.join(names)}.")

    @property
    def disk_bytes(self) -> int:
        """What the disk needs in all, roughly."""
        return sum(file.disk_bytes for file in self.files)


def check_url(url: str) -> None:
    """Refuse what is no address of a web server.

    Raises
    ------
    DataError
        With the address and the reason.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in SCHEMES and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable or re.search(r"[\x00-\x20\x7f]", url):
        raise DataError(f"mirror {url!r}: expected an address that begins with https:// or http://.")


def load_sources(path: Path | None = None) -> dict[str, DataSource]:
    """Read a list of mirrors; None for the one that comes with grobust.

    Raises
    ------
    DataError
        With file, data set and key, for whatever is missing, unknown or malformed.
    """
    where = "the list of mirrors" if path is None else str(path)
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath("mirrors.toml").read_bytes()
        table = tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{where} cannot be read as TOML: {error}.") from None
    sources = {}
    for name, entry in table.items():
        try:
            sources[name] = _source(name, entry)
        except DataError as error:
            raise DataError(f"{where}, [{name}]: {error}") from None
    return sources


def _source(name: str, entry: Any) -> DataSource:
    values = _checked(DataSource, entry, given={"name"})
    files = values["files"]
    if not isinstance(files, list):
        raise DataError("files must be a list of tables.")
    read = []
    for file in files:
        one = _checked(RemoteFile, file)
        read.append(RemoteFile(**one | {"mirrors": _texts(one["mirrors"], "mirrors")}))
    lists = {key: _texts(values.get(key, []), key) for key in ("needs", "manual")}
    return DataSource(**values | lists | {"name": name, "files": tuple(read)})


def _checked(kind: type, entry: Any, given: Collection[str] = ()) -> dict[str, Any]:
    """The entry, if its keys are those of the type: none unknown, none missing, texts and whole numbers in place."""
    if not isinstance(entry, dict):
        raise DataError(f"expected a table, got {entry!r}.")
    known = {f.name: f for f in fields(kind) if f.name not in given}
    for key, value in entry.items():
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise DataError(f"unknown key '{key}'.{hint} Known are: {', '.join(known)}.")
        expected = {"archive": bool, "bytes": int, "about_bytes": int, "unpacked_bytes": int}.get(key, str)
        if key not in ("files", "mirrors", "needs", "manual") and type(value) is not expected:
            raise DataError(f"'{key}' is {value!r}; expected {expected.__name__}.")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in entry]
    if missing:
        raise DataError(f"'{missing[0]}' is missing.")
    return dict(entry)


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"'{key}' is {value!r}; expected a list of texts.")
    return tuple(value)
