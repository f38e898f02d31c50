"""Names of the rows of a store, packed: a name is made into a string when it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ShapeError

__all__ = ["SampleIds"]

CHUNK = 1 << 16
# Odd constants of the splitmix64 generator; any would do, the names that share a hash are compared.
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class SampleIds(Sequence[str]):
    """n names as UTF-8 bytes of one width, in memory or mapped from a file.

    Behaves as a tuple of strings of which none exists until it is read: twenty million names of 12 bytes take 240 MB
    where a tuple takes 1.4 GB.

    Parameters
    ----------
    packed : (n) array of bytes of fixed width, padded with NUL
    """

    __slots__ = ("packed",)

    def __init__(self, packed: NDArray[Any]) -> None:
        self.packed = packed

    @classmethod
    def of(cls, names: Iterable[str]) -> "SampleIds":
        """Pack names, a chunk at a time; packed ones are returned as they are.

        Raises
        ------
        ShapeError
            If a name holds a NUL character, which packed names are padded with.
        """
        if isinstance(names, cls):
            return names
        chunks, rest = [], iter(names)
        while chunk := [name.encode() for name in islice(rest, CHUNK)]:
            if b"\0" in b"".join(chunk):
                bad = next(name for name in chunk if b"\0" in name)
                raise ShapeError(f"A sample id holds a NUL character: {bad!r}. Expected text without.")
            chunks.append(np.array(chunk, dtype=f"S{max(map(len, chunk)) or 1}"))
        width = max((chunk.itemsize for chunk in chunks), default=1)
        packed = np.empty(sum(map(len, chunks)), dtype=f"S{width}")
        done = 0
        for part in chunks:
            packed[done : done + part.size] = part
            done += part.size
        return cls(packed)

    def __len__(self) -> int:
        return int(self.packed.size)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> Self: ...
    def __getitem__(self, key: int | slice) -> "str | SampleIds":
        if isinstance(key, slice):
            return type(self)(self.packed[key])
        return bytes(self.packed[key]).decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            for name in self.packed[start : start + CHUNK].tolist():
                yield name.decode()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and "\0" not in name and bool((self.packed == name.encode()).any())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SampleIds):
            return bool(np.array_equal(self.packed, other.packed))
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        # As of the tuple that it is equal to.
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"SampleIds(n={len(self)}, first={self[0]!r})" if len(self) else "SampleIds(n=0)"

    def take(self, rows: NDArray[Any]) -> "SampleIds":
        """Names of rows by numbers or mask, copied."""
        return SampleIds(self.packed[rows])

    def joined(self) -> Iterator[bytes]:
        """UTF-8 of all names with a NUL between them, in pieces."""
        for start in range(0, len(self), CHUNK):
            chunk = np.ascontiguousarray(self.packed[start : start + CHUNK])
            ended = np.zeros((chunk.size, chunk.itemsize + 1), dtype=np.uint8)
            ended[:, :-1] = chunk.view(np.uint8).reshape(chunk.size, chunk.itemsize)
            wanted = ended != 0
            wanted[:, -1] = True
            wanted[-1, -1] = start + CHUNK < len(self)
            yield ended[wanted].tobytes()

    def repeated(self) -> str | None:
        """A name that stands twice, or None; in time n log n and 16 bytes a row."""
        hashes = np.concatenate([self._hashes(start) for start in range(0, len(self), CHUNK)] or [np.zeros(0)])
        ordered = np.sort(hashes)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size == 0:
            return None
        seen: set[bytes] = set()
        for name in self.packed[np.isin(hashes, twice)].tolist():
            if name in seen:
                return str(name.decode())
            seen.add(name)
        return None

    def _hashes(self, start: int) -> NDArray[Any]:
        """(b) uint64 of a chunk's names; equal names have equal hashes."""
        chunk = np.ascontiguousarray(self.packed[start : start + CHUNK])
        width = chunk.itemsize
        padded = np.zeros((chunk.size, -(-width // 8) * 8), dtype=np.uint8)
        padded[:, :width] = chunk.view(np.uint8).reshape(chunk.size, width)
        found = np.full(chunk.size, MULTIPLIERS[0])
        for word in padded.view(np.uint64).T:
            for multiplier in MULTIPLIERS:
                found = (found ^ word) * multiplier
                found ^= found >> np.uint64(29)
        return found
