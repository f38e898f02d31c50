"""Check a data set against what was published, and its items one by one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from grobust.data.content import item_digest
from grobust.data.dataset import GroupedDataset
from grobust.data.published import Published
from grobust.data.tables import ImageFiles
from grobust.errors import DataError
from grobust.groups import Split

__all__ = ["Duplicate", "ItemsChecked", "Mismatch", "check_items", "compare_counts"]

# Decoding leaves the interpreter's lock, reading waits for the disk.
THREADS = 4
AHEAD = 64


@dataclass(frozen=True)
class Mismatch:
    """A count that is not the published one; `group` is None for all rows of a split."""

    split: str
    group: str | None
    found: int
    published: int


@dataclass(frozen=True)
class Duplicate:
    """Rows of equal content that stand in different splits: (split, sample id) of each."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ItemsChecked:
    """What reading the items found.

    Parameters
    ----------
    n : items read, or files looked for
    decoded : whether the items were read, and not only looked for
    missing : files that are not there
    unreadable : (sample id, reason) of items that are there and cannot be read
    duplicates : contents that stand in more than one split
    n_repeated : rows whose content stood in an earlier row of the same or another split
    """

    n: int
    decoded: bool
    missing: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    duplicates: tuple[Duplicate, ...]
    n_repeated: int


def compare_counts(dataset: GroupedDataset, published: Published) -> tuple[Mismatch, ...]:
    """Rows per split, and per group where the sizes of the groups are known, that differ from the published ones."""
    found = []
    for number, split in enumerate(Split):
        chosen = dataset.groups.take(dataset.split == split)
        if len(chosen) != published.rows[number]:
            found.append(Mismatch(split.name.lower(), None, len(chosen), published.rows[number]))
        if not published.groups:
            continue
        if published.groups != chosen.names:
            raise DataError(f"{dataset.name}: groups {', '.join(chosen.names)} are not the published ones.")
        for name, count, wanted in zip(chosen.names, chosen.counts, published.counts[number], strict=True):
            if count != wanted:
                found.append(Mismatch(split.name.lower(), name, int(count), int(wanted)))
    return tuple(found)


def check_items(
    dataset: GroupedDataset, *, decode: bool = True, on_progress: Callable[[int, int], None] | None = None
) -> ItemsChecked:
    """Read every item, or with ``decode=False`` only look for the files.

    Contents are compared as decoded pixels or texts, so copies under another name or in another lossless format count.

    Parameters
    ----------
    on_progress : called with the number of items done and of all items
    """
    missing = _missing(dataset)
    if not decode:
        return ItemsChecked(len(dataset), False, tuple(missing), (), (), 0)
    absent = set(missing)
    unreadable: list[tuple[str, str]] = []
    first: dict[bytes, int] = {}
    rows_of: dict[bytes, list[int]] = {}
    repeated = 0
    for row, content in enumerate(_contents(dataset, absent)):
        if isinstance(content, DataError):
            unreadable.append((dataset.sample_ids[row], str(content)))
        elif content is not None:
            if content in first:
                repeated += 1
                rows_of.setdefault(content, [first[content]]).append(row)
            else:
                first[content] = row
        if on_progress is not None:
            on_progress(row + 1, len(dataset))
    duplicates = tuple(_duplicate(dataset, rows) for rows in rows_of.values() if _straddles(dataset, rows))
    return ItemsChecked(len(dataset), True, tuple(missing), tuple(unreadable), duplicates, repeated)


def _contents(dataset: GroupedDataset, absent: set[str]) -> Iterator[bytes | DataError | None]:
    """Digest of every item in order; None for a missing file, the error of one that cannot be read."""

    def one(row: int) -> bytes | DataError | None:
        if dataset.sample_ids[row] in absent:
            return None
        try:
            return item_digest(dataset[row])
        except DataError as error:
            return error

    if dataset.kind == "text":
        yield from map(one, range(len(dataset)))
        return
    with ThreadPoolExecutor(THREADS, thread_name_prefix="grobust-verify") as pool:
        # In blocks, so that an interrupt does not wait for a million tasks.
        for start in range(0, len(dataset), AHEAD):
            yield from pool.map(one, range(start, min(start + AHEAD, len(dataset))))


def _missing(dataset: GroupedDataset) -> list[str]:
    if not isinstance(dataset, ImageFiles):
        return []
    return [name for name in dataset.sample_ids if not (dataset.root / name).is_file()]


def _straddles(dataset: GroupedDataset, rows: list[int]) -> bool:
    return bool(np.unique(dataset.split[rows]).size > 1)


def _duplicate(dataset: GroupedDataset, rows: list[int]) -> Duplicate:
    return Duplicate(tuple((Split(int(dataset.split[row])).name.lower(), dataset.sample_ids[row]) for row in rows))
