"""`FeatureStore`: read a finished feature store.

The reader takes the small datasets into memory when it opens and closes the HDF5 file at once. Features are mapped
into memory at their offset, so that slices copy nothing, and every block of rows is checked against its checksum the
first time it is touched.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from grobust.errors import (
    StoreCorruptError,
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
)
from grobust.features._hdf5 import read_metadata
from grobust.features._read_ahead import read_ahead
from grobust.features._sample_ids import SampleIds
from grobust.features._schema import FORMAT_VERSION, Provenance
from grobust.features._view import StoreView
from grobust.features.widen import all_finite, to_float32
from grobust.groups import Groups, Split
from grobust.typing import PathLike

__all__ = ["FeatureStore", "mismatch_message", "parts_folder"]

# Blocks that a thread prepares while the caller works on one: one being made, one ready.
READ_AHEAD = 1


class FeatureStore:
    """A finished feature store, opened for reading.

    Usable in several processes: no HDF5 handle is kept, and pickling carries the path alone.

    Parameters
    ----------
    path : file that `grobust extract` wrote
    expect : provenance that the features must have

    Raises
    ------
    StoreIncompleteError
        If there is no finished file, or it was cut short.
    StoreCorruptError
        If something in it does not fit: a missing dataset, a wrong shape, metadata that fail their digest.
    StoreMismatchError
        If its provenance differs from `expect`; the message shows the difference.
    StoreError
        If it is no feature store, of an unknown version, or refers outside itself.
    """

    def __init__(self, path: PathLike, *, expect: Provenance | None = None) -> None:
        self.path = Path(path)
        self._expect = expect
        if not self.path.is_file():
            raise _missing(self.path)
        metadata = read_metadata(self.path)
        self.provenance: Provenance = metadata.provenance
        self.n, self.dim, self.dtype = metadata.n, metadata.dim, metadata.dtype
        self.groups: Groups = metadata.groups
        self.split: NDArray[Any] = metadata.split
        self.sample_ids: SampleIds = metadata.sample_ids
        self.skipped: tuple[tuple[str, str], ...] = metadata.skipped
        self._block_rows, self._checksums = metadata.block_rows, metadata.checksums
        self._checked = np.zeros(self._checksums.size, dtype=bool)
        self._closed = False
        if expect is not None and (difference := self.provenance.difference(expect)):
            raise StoreMismatchError(mismatch_message(f"features in {self.path}", difference))
        shape = (self.n, self.dim)
        self._features: NDArray[Any] = (
            np.memmap(self.path, dtype=self.dtype, mode="r", offset=metadata.offset, shape=shape)
            if self.n
            else np.zeros(shape, self.dtype)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self._expect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n

    def close(self) -> None:
        """Drop the mapping; arrays that `read` gave out stay valid, and reading more is an error."""
        self._features = np.zeros((0, self.dim), self.dtype)
        self._closed = True

    def rows(self, split: Split) -> NDArray[Any]:
        """(m) int64 row numbers of one split."""
        return np.flatnonzero(self.split == split)

    def read(self, rows: slice | NDArray[Any] | None = None) -> NDArray[Any]:
        """Features in their stored dtype.

        A slice of step 1 (None: all rows) is a read-only view of the file and copies nothing; an array of row numbers
        copies those rows. Blocks touched for the first time are checked.

        Raises
        ------
        StoreCorruptError
            If a block differs from its checksum or holds a value that is not finite; dataset and rows are named.
        StoreError
            If a row is not there, or the store is closed.
        """
        if self._closed:
            raise StoreError(f"{self.path} is closed. Read inside its `with` block, or open it again.")
        if rows is None:
            rows = slice(None)
        if isinstance(rows, slice):
            numbers = range(self.n)[rows]
            if len(numbers):
                first, last = min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1])
                self._check(np.arange(first // self._block_rows, last // self._block_rows + 1))
        else:
            rows = np.asarray(rows)
            if rows.size and not (int(rows.min()) >= 0 and int(rows.max()) < self.n):
                raise StoreError(f"{self.path} has rows 0 to {self.n - 1}; asked for {rows.min()} to {rows.max()}.")
            self._check(np.unique(rows // self._block_rows))
        view: NDArray[Any] = np.asarray(self._features)[rows]
        return view

    def view(self, rows: Split | NDArray[Any]) -> StoreView:
        """One split, or rows by ascending numbers (m), as an array (m, d) in the stored dtype that is read when it is
        sliced, never whole."""
        numbers = rows if isinstance(rows, np.ndarray) else self.rows(rows)
        return StoreView(self.read, np.asarray(self._features), numbers)

    def load(self, split: Split) -> tuple[NDArray[Any], Groups]:
        """One split in memory: features (m, d) float32 and its groups."""
        rows = self.rows(split)
        features = np.empty((rows.size, self.dim), dtype=np.float32)
        done = 0
        for _, block in self.blocks(split=split):
            features[done : done + len(block)] = block
            done += len(block)
        return features, self.groups.take(rows)

    def blocks(
        self, *, split: Split | None = None, block_rows: int | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Iterate in row order over (row numbers (b), features (b, d) float32), widened block by block.

        A thread reads, checks and widens ahead of the caller, at most `READ_AHEAD` blocks; so memory is a few blocks,
        whatever the store's size.
        """
        step = block_rows or self._block_rows
        rows = range(self.n) if split is None else self._span(split)
        starts = range(rows.start // step * step, rows.stop, step)
        blocks = (self._block(start, step, split) for start in starts)
        return read_ahead((block for block in blocks if block is not None), READ_AHEAD)

    def _block(self, start: int, step: int, split: Split | None) -> tuple[NDArray[Any], NDArray[Any]] | None:
        stop = min(start + step, self.n)
        numbers = np.arange(start, stop)
        if split is None:
            return numbers, to_float32(self.read(slice(start, stop)))
        mask = self.split[start:stop] == split
        if not mask.any():
            return None
        features = self.read(slice(start, stop))
        return (numbers, to_float32(features)) if mask.all() else (numbers[mask], to_float32(features[mask]))

    def _span(self, split: Split) -> range:
        """From the first row of a split to its last."""
        rows = self.rows(split)
        return range(int(rows[0]), int(rows[-1]) + 1) if rows.size else range(0)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every byte again and check it, whatever was checked before.

        Raises
        ------
        StoreCorruptError
            At the first damage, with dataset and rows.
        """
        read_metadata(self.path)
        self._checked[:] = False
        total = int(self._checksums.size)
        for block in range(total):
            self._check(np.array([block]))
            if progress is not None:
                progress(block + 1, total)

    def info(self) -> dict[str, Any]:
        """JSON-able description: sizes, rows per split and group, skipped inputs, provenance."""
        groups = {
            split.name.lower(): dict(
                zip(self.groups.names, self.groups.take(self.split == split).counts.tolist(), strict=True)
            )
            for split in Split
        }
        return {
            "path": str(self.path),
            "format_version": FORMAT_VERSION,
            "n": self.n,
            "dim": self.dim,
            "dtype": str(self.dtype),
            "bytes": self.path.stat().st_size,
            "classes": list(self.groups.class_names),
            "attributes": list(self.groups.attribute_names),
            "groups": groups,
            "skipped": [{"id": name, "reason": reason} for name, reason in self.skipped],
            "provenance": asdict(self.provenance),
        }

    def _check(self, blocks: NDArray[Any]) -> None:
        for block in blocks[~self._checked[blocks]].tolist():
            start = block * self._block_rows
            stop = min(start + self._block_rows, self.n)
            data = np.asarray(self._features[start:stop])
            if xxhash.xxh3_64_intdigest(data.data) != int(self._checksums[block]):
                raise StoreCorruptError(
                    f"{self.path} is damaged: dataset 'features', rows {start} to {stop - 1} differ from their "
                    "checksum.\nExtract again; grobust never returns damaged features."
                )
            if not all_finite(data):
                raise _not_finite(self.path, data, start, self.sample_ids)
            self._checked[block] = True


def parts_folder(path: PathLike) -> Path:
    """Folder of the parts of an unfinished store."""
    target = Path(path)
    return target.with_name(target.name + ".parts")


def mismatch_message(what: str, difference: dict[str, tuple[str, str]]) -> str:
    """Text of a `StoreMismatchError`: what the file has beside what was asked for."""
    lines = [f"{what} were made with other settings."]
    lines += [f"  {name}: there {there}, asked for {asked}" for name, (there, asked) in difference.items()]
    lines.append(
        "Use another --out, or extract again with --overwrite; to read the file as it is, leave out `expect=`."
    )
    return "\n".join(lines)


def _reopen(path: str, expect: Provenance | None) -> FeatureStore:
    return FeatureStore(path, expect=expect)


def _not_finite(path: Path, data: NDArray[Any], start: int, sample_ids: SampleIds) -> StoreCorruptError:
    row = start + int(np.flatnonzero(~np.isfinite(data).all(axis=1))[0])
    return StoreCorruptError(
        f"{path}: dataset 'features', row {row} ({sample_ids[row]}) holds a value that is not finite."
    )


def _missing(path: Path) -> StoreError:
    if path.exists():
        return StoreError(f"{path} is not a file. Expected a feature store that `grobust extract` wrote.")
    parts = parts_folder(path)
    if parts.is_dir():
        count = 0
        with suppress(OSError):
            count = sum(1 for _ in parts.glob("part-*"))
        return StoreIncompleteError(
            f"{path} is not finished: {count} part(s) wait in {parts}. "
            "Run the same `grobust extract` again; it continues."
        )
    return StoreIncompleteError(f"{path} does not exist. Write it with `grobust extract --out {path}`.")
