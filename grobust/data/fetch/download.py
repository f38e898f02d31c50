"""Download one file from one address: continued after a break, tried again with longer and longer waits, checked.

While it arrives, the file is ``NAME.part``, with ``NAME.part.json`` beside it: address, version and size as the server
gave them. A part is continued only if it must be of the same version: the server confirms it (If-Range), or the
SHA-256 of the whole file is known. A finished file is renamed to ``NAME``.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from grobust.data.fetch.http import Answer, open_url
from grobust.data.fetch.sources import RemoteFile
from grobust.data.fetch.space import require_space
from grobust.errors import MirrorError

__all__ = ["Downloaded", "TransferSettings", "download", "sha256_of"]

BLOCK_BYTES = 1 << 18
HASH_BYTES = 1 << 22
# Beginnings of gzip, of zip, of an empty zip, and, at this offset, of tar.
MAGIC = ((0, b"\x1f\x8b"), (0, b"PK\x03\x04"), (0, b"PK\x05\x06"), (257, b"ustar"))

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class TransferSettings:
    """How patient a transfer is.

    Parameters
    ----------
    attempts : of one address without a new byte between them
    backoff_seconds : before the second attempt; doubled each time
    timeout_seconds : without a byte before a connection is given up
    """

    attempts: int = 4
    backoff_seconds: float = 1.0
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class Downloaded:
    """A whole file on disk.

    Parameters
    ----------
    path : where it is
    url : where it came from; None if it was placed by hand
    bytes, sha256 : of its content
    verified : whether the SHA-256 was known beforehand and agrees
    """

    path: Path
    url: str | None
    bytes: int
    sha256: str
    verified: bool


@dataclass(frozen=True)
class _Version:
    """What a part is a part of."""

    url: str
    validator: str | None
    total: int | None


def download(
    file: RemoteFile, url: str, folder: Path, *, settings: TransferSettings, on_progress: Progress | None = None
) -> Downloaded:
    """Bring `file` from `url` into `folder`.

    Raises
    ------
    MirrorError
        If this address does not deliver it; the part that came is kept where it can be continued.
    DataError
        If the disk has too little space.
    """
    transfer = _Transfer(file, url, folder, settings, on_progress)
    furthest, failures = transfer.offset(), 0
    while True:
        try:
            transfer.attempt()
            return transfer.finish()
        except MirrorError as error:
            if not error.retry:
                raise
            size = transfer.size()
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failures >= settings.attempts:
                raise MirrorError(f"{error}, {failures} times") from None
            backoff = settings.backoff_seconds * 2 ** (failures - 1)
            time.sleep(backoff if error.wait_seconds is None else error.wait_seconds)


class _Transfer:
    """One file from one address, attempt by attempt."""

    def __init__(
        self, file: RemoteFile, url: str, folder: Path, settings: TransferSettings, on_progress: Progress | None
    ) -> None:
        self.file, self.url, self.settings, self.on_progress = file, url, settings, on_progress
        self.final, self.part = folder / file.name, folder / f"{file.name}.part"
        self.state = folder / f"{file.name}.part.json"
        self.continued = False

    def size(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def offset(self) -> int:
        """Bytes of the part that may be continued from this address."""
        version = self._version()
        if version is None:
            return 0
        same = version.url == self.url and version.validator is not None
        return self.size() if same or self.file.sha256 is not None else 0

    def attempt(self) -> None:
        """One request, and as much of its body as comes."""
        offset, version = self.offset(), self._version()
        if version is not None and offset and offset == version.total:
            return
        validator = version.validator if version is not None and version.url == self.url else None
        try:
            with open_url(
                self.url, start=offset, validator=validator, timeout_seconds=self.settings.timeout_seconds
            ) as answer:
                self._receive(answer, offset, version)
        except MirrorError as error:
            if error.status == 416:
                self._drop()
                raise MirrorError("it no longer has the version that was begun", retry=True) from None
            raise

    def finish(self) -> Downloaded:
        """Check the whole file and give it its name."""
        size, digest = self.size(), sha256_of(self.part)
        wrong = None
        if self.file.bytes is not None and size != self.file.bytes:
            wrong = f"it sends {size} bytes instead of {self.file.bytes}"
        elif self.file.sha256 is not None and digest != self.file.sha256:
            wrong = f"what it sends has SHA-256 {digest} instead of {self.file.sha256}"
        if wrong is not None:
            self._drop()
            # A part of something else may have been continued; a whole answer is not going to change.
            retry, self.continued = self.continued, False
            raise MirrorError(wrong, retry=retry)
        with self.part.open("rb") as part:
            os.fsync(part.fileno())
        self.part.replace(self.final)
        self.state.unlink(missing_ok=True)
        return Downloaded(self.final, self.url, size, digest, self.file.sha256 is not None)

    def _receive(self, answer: Answer, offset: int, version: _Version | None) -> None:
        if answer.start != offset and answer.status == 206:
            self._drop()
            raise MirrorError(f"it sends the file from byte {answer.start} instead of {offset}", retry=True)
        if answer.start and version is not None and not self._agrees(answer, version):
            self._drop()
            raise MirrorError("the file changed between two attempts", retry=True)
        total = answer.total
        if self.file.bytes is not None and total is not None and total != self.file.bytes:
            raise MirrorError(f"it offers {total} bytes instead of {self.file.bytes}")
        if total is not None and total > self.file.largest_bytes:
            raise MirrorError(f"it offers {total} bytes, far more than the {self.file.about_bytes} or so expected")
        require_space(self.part.parent, (total or self.file.expected_bytes) - answer.start, self.file.name)
        self.continued = self.continued or answer.start > 0
        self._save(_Version(self.url, answer.validator, total))
        received = answer.start
        with self.part.open("r+b" if answer.start else "wb") as part:
            part.seek(answer.start)
            part.truncate()
            for block in answer.blocks(BLOCK_BYTES):
                if received == 0:
                    self._look_at(block)
                received += len(block)
                if received > self.file.largest_bytes:
                    raise MirrorError(f"it sends more than {self.file.largest_bytes} bytes")
                part.write(block)
                if self.on_progress is not None:
                    self.on_progress(received, total)
        if total is not None and received < total:
            raise MirrorError(f"the connection broke after {received} of {total} bytes", retry=True)
        if received == 0:
            raise MirrorError("it sends an empty file")

    def _agrees(self, answer: Answer, version: _Version) -> bool:
        if self.file.sha256 is not None:
            return answer.total is None or version.total is None or answer.total == version.total
        return (answer.validator, answer.total) == (version.validator, version.total)

    def _look_at(self, block: bytes) -> None:
        if self.file.archive and not any(block[at : at + len(magic)] == magic for at, magic in MAGIC):
            page = block.lstrip()[:1] == b"<"
            raise MirrorError(f"it sends {'a web page' if page else 'something'} that is no archive")

    def _version(self) -> _Version | None:
        try:
            return _Version(**json.loads(self.state.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _save(self, version: _Version) -> None:
        self.state.write_text(json.dumps(asdict(version)))

    def _drop(self) -> None:
        self.state.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BYTES):
            state.update(block)
    return state.hexdigest()
