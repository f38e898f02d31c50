"""A file that is read from front to back, for a library that believes it can seek."""

from collections.abc import Callable
from typing import Protocol

from grobust.errors import DataError

__all__ = ["ForwardReader"]

BLOCK_BYTES = 1 << 20
# No header of a tar needs more at once; a header that says so is meant to fill the memory.
LARGEST_READ = 8 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ForwardReader:
    """What `tarfile` needs of a file, on top of `read` alone; it steps back by one byte at most.

    A decompressed stream cannot seek; imitating it means to begin again, which a tar with one bad size per member
    would turn into hours.

    Parameters
    ----------
    source : to read from
    check : called with the bytes read so far; it raises where they are too many

    `last` is what the latest `read` gave.
    """

    def __init__(self, source: _Readable, check: Callable[[int], None]) -> None:
        self._source, self._check = source, check
        self._position = 0
        self._last = b""
        self.last = b""
        self._again = False

    def tell(self) -> int:
        """Position in the decompressed stream."""
        return self._position - self._again

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        if not 0 <= size <= LARGEST_READ:
            raise DataError(f"the archive asks for {size} bytes at once; refused.")
        if size == 0:
            return b""
        blocks = [self._last] if self._again else []
        left = size - self._again
        self._again = False
        while left and (block := self._source.read(left)):
            left -= len(block)
            self._position += len(block)
            self._last = block[-1:]
            blocks.append(block)
            self._check(self._position)
        self.last = b"".join(blocks)
        return self.last

    def seek(self, position: int, whence: int = 0, /) -> int:
        """Go forward, or back by one byte.

        Raises
        ------
        DataError
            If the archive leads further back.
        """
        assert whence == 0
        if position == self._position - 1 and self._last:
            self._again = True
            return position
        if position < self.tell():
            raise DataError("the archive leads back to what was read already; refused.")
        while self.tell() < position and self.read(min(BLOCK_BYTES, position - self.tell())):
            pass
        return self.tell()

    def seekable(self) -> bool:
        """Enough for this purpose."""
        return True
