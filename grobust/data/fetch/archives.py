"""Unpack zip, tar and tar.gz archives that nobody vouches for, into a folder that is new.

Every member is checked before a byte of it is written: relative paths of plain names, no links, no devices, no
encryption, nothing twice; numbers, sizes and ratios are bounded, both as the archive states them and as they come.
Permissions, owners and times of the archive are not taken over. An archive with one bad member is refused whole.
"""

import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Protocol

from grobust.data.fetch.forward import ForwardReader
from grobust.data.fetch.space import require_space
from grobust.errors import DataError

__all__ = ["ArchiveLimits", "unpack"]

BLOCK_BYTES = 1 << 20
LONGEST_NAME = 255
DEEPEST = 32
# What archivers of macOS leave behind; MultiNLI's zip has all of them.
LITTER = ("__MACOSX", ".DS_Store", "Icon\r")
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = (b"\x1f\x8b",)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold; more is refused.

    Parameters
    ----------
    members : files and folders
    member_bytes, total_bytes : unpacked size of one, and of all
    ratio : unpacked over packed size, for archives of more than `ratio_from_bytes` unpacked
    """

    members: int = 2_000_000
    member_bytes: int = 32 << 30
    total_bytes: int = 64 << 30
    ratio: float = 200.0
    ratio_from_bytes: int = 16 << 20


@dataclass(frozen=True)
class _Member:
    """A file of an archive that has passed its checks."""

    path: PurePosixPath
    size: int


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def unpack(
    archive: Path,
    folder: Path,
    *,
    limits: ArchiveLimits | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Unpack an archive into `folder`, which must not exist yet. Returns the number of files.

    Parameters
    ----------
    archive : zip, tar or tar.gz, told apart by content
    folder : created; what an error leaves in it is for the caller to remove
    limits : see `ArchiveLimits`
    on_progress : called with bytes unpacked, and bytes in all where the archive says so

    Raises
    ------
    DataError
        If the archive is damaged, cut short or no archive, or a member is refused; the member is named.
    """
    folder.mkdir(parents=True)
    limits = limits or ArchiveLimits()
    unpacking = _Unpacking(archive, folder, limits, on_progress)
    try:
        if _begins_with(archive, ZIP_MAGIC):
            _unpack_zip(archive, unpacking)
        else:
            _unpack_tar(archive, unpacking)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive.name} is damaged, cut short or no archive: {error}.") from None
    except (NotImplementedError, UnicodeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive.name} cannot be unpacked: {error}.") from None
    except OSError as error:
        # The archive, not the disk: an offset that a damaged table of contents made negative.
        if error.errno != errno.EINVAL:
            raise
        raise DataError(f"{archive.name} is damaged: it leads to before its beginning.") from None
    return unpacking.files


class _Unpacking:
    """The checks that need memory of what came before, and the writing."""

    def __init__(
        self, archive: Path, folder: Path, limits: ArchiveLimits, on_progress: Callable[[int, int | None], None] | None
    ) -> None:
        self.archive, self.folder, self.limits, self.on_progress = archive, folder, limits, on_progress
        self.packed = max(1, archive.stat().st_size)
        self.files = self.members = self.total = 0
        self.stated: int | None = None
        self.seen: dict[PurePosixPath, bool] = {}

    def refuse(self, name: str, why: str) -> DataError:
        """The error for a member."""
        return DataError(f"{self.archive.name} holds {name!r}, {why}; nothing of it is used.")

    def member(self, name: str, size: int, *, folder: bool) -> _Member | None:
        """Check a name and a size; None for a folder and for litter.

        Raises
        ------
        DataError
            If the member is refused.
        """
        self.members += 1
        if self.members > self.limits.members:
            raise self.refuse(name, f"beyond the {self.limits.members} members that an archive may have")
        if any(part in LITTER or part.startswith("._") for part in name.split("/")):
            return None
        path = self._path(name)
        if path == PurePosixPath("."):
            if folder:
                return None
            raise self.refuse(name, "which names no file")
        if not 0 <= size <= self.limits.member_bytes:
            raise self.refuse(name, f"of {size} bytes, more than the {self.limits.member_bytes} that a file may have")
        if any(not self.seen.get(parent, True) for parent in path.parents):
            raise self.refuse(name, "inside of something that is a file in the same archive")
        for parent in path.parents[:-1]:
            self.seen[parent] = True
        if folder:
            if not self.seen.setdefault(path, True):
                raise self.refuse(name, "as a folder, and as a file before")
            return None
        if path in self.seen:
            raise self.refuse(name, "twice")
        self.seen[path] = False
        return _Member(path, size)

    def _path(self, name: str) -> PurePosixPath:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root:
            raise self.refuse(name, "an absolute path")
        if ".." in {*posix.parts, *windows.parts}:
            raise self.refuse(name, "a path that leads out of the folder")
        if "\\" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
            raise self.refuse(name, "a name with a backslash or a control character")
        if len(posix.parts) > DEEPEST or any(len(part.encode()) > LONGEST_NAME for part in posix.parts):
            raise self.refuse(name, "a name that is too long or too deep")
        return posix

    def write(self, member: _Member, source: _Reader) -> None:
        """Copy a member; its real size may not differ from the stated one."""
        target = self.folder / member.path
        target.parent.mkdir(parents=True, exist_ok=True)
        left = member.size
        with target.open("xb") as out:
            while left:
                block = source.read(min(BLOCK_BYTES, left))
                if not block:
                    raise DataError(f"{self.archive.name} is cut short: {str(member.path)!r} lacks {left} bytes.")
                left -= len(block)
                self.count(len(block), str(member.path))
                out.write(block)
        self.files += 1

    def count(self, size: int, name: str) -> None:
        """Add to what was unpacked and hold it against the limits."""
        self.total += size
        self.bound(self.total, name)
        if self.on_progress is not None:
            self.on_progress(self.total, self.stated)

    def bound(self, total: int, name: str) -> None:
        """Refuse a total that is too large, absolutely or for the packed size."""
        if total > self.limits.total_bytes:
            raise self.refuse(name, f"beyond {self.limits.total_bytes} bytes unpacked in all")
        if total > self.limits.ratio_from_bytes and total > self.limits.ratio * self.packed:
            raise self.refuse(name, f"unpacked more than {self.limits.ratio:g} times the archive's size: a bomb")


def _begins_with(path: Path, magics: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(magics)


def _unpack_zip(archive: Path, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(archive) as file:
        chosen: list[tuple[zipfile.ZipInfo, _Member]] = []
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refuse(info.filename, "a link or a device")
            if info.flag_bits & 0x1:
                raise unpacking.refuse(info.filename, "which is encrypted")
            member = unpacking.member(info.filename, info.file_size, folder=info.filename.endswith("/"))
            if member is not None:
                chosen.append((info, member))
        unpacking.stated = sum(member.size for _, member in chosen)
        if chosen:
            unpacking.bound(unpacking.stated, chosen[-1][0].filename)
        require_space(unpacking.folder, unpacking.stated, f"unpacking {archive.name}")
        for info, member in chosen:
            with file.open(info) as source:
                unpacking.write(member, source)
                # Reading to the end is what makes the library compare the checksum.
                if source.read(1):
                    raise unpacking.refuse(info.filename, "which is longer than stated")


def _unpack_tar(archive: Path, unpacking: _Unpacking) -> None:
    packed = _begins_with(archive, GZIP_MAGIC)
    with archive.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        reader = ForwardReader(stream, lambda total: unpacking.bound(total, "a member"))
        for info, source in _tar_members(reader):
            if not (info.isreg() or info.isdir()) or info.sparse is not None:
                raise unpacking.refuse(info.name, "a link, a device or a file with holes")
            member = unpacking.member(info.name, info.size, folder=info.isdir())
            if member is not None:
                unpacking.write(member, source)
        # The library takes a damaged header, and a missing one, for the end; that is a block of zeros.
        if any(reader.last) or not (reader.last or packed):
            raise tarfile.ReadError(f"a header is damaged or missing after {unpacking.files} files")
        # To the very end: gzip compares its checksum there.
        while reader.read(BLOCK_BYTES):
            pass


def _tar_members(reader: ForwardReader) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    with tarfile.open(fileobj=reader, mode="r:", errorlevel=2) as file:  # type: ignore[call-overload]
        while (info := file.next()) is not None:
            source = file.extractfile(info) if info.isreg() else None
            yield info, source  # type: ignore[misc]
            # The library would keep every header; hundreds of thousands are a lot.
            file.members = []
