"""Decoded and collated batches: by loader processes or a thread beside the network, or by threads in turn with it."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from grobust.data.tables import smallest_side
from grobust.errors import DataError
from grobust.threads import Threads

__all__ = ["Batch", "Collate", "Items", "ItemwiseCollate", "load_batches"]

# Batches prepared ahead of the network.
AHEAD = 4
# Read by the tokenizers library.
TOKENIZERS = "TOKENIZERS_PARALLELISM"
# Seconds of an item below which threads would wait for the interpreter's lock longer than they save.
WORTH_THREADS = 1e-3

Collate = Callable[[Sequence[Any]], dict[str, Tensor]]


class Items(Protocol):
    """What is decoded one by one: a data set, say. Must pickle; an item that cannot be read is a `DataError`."""

    def __getitem__(self, index: int) -> Any: ...


@runtime_checkable
class ItemwiseCollate(Protocol):
    """A collate that does its work item by item, so that threads can share it.

    ``collate(items)`` is ``joined([prepared(item) for item in items])``.
    """

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]: ...

    def prepared(self, item: Any) -> Any:
        """What several threads may do at once, without torch, whose own threads would come to each of them."""
        ...

    def joined(self, prepared: Sequence[Any]) -> dict[str, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """A collated batch.

    Parameters
    ----------
    rows : (b) row numbers that could be read
    tensors : collated, empty if no row could be read
    failures : (row, reason) of those that could not
    decode_seconds, collate_seconds : that it took to read the items, and to make tensors of them, all threads together
    """

    rows: NDArray[Any]
    tensors: dict[str, Tensor]
    failures: tuple[tuple[int, str], ...]
    decode_seconds: float = 0.0
    collate_seconds: float = 0.0

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU copies from by itself; torch's loader calls this by its name."""
        return replace(self, tensors={name: tensor.pin_memory() for name, tensor in self.tensors.items()})


def load_batches(
    dataset: Items,
    collate: Collate,
    batches: Iterable[NDArray[Any]],
    *,
    workers: int,
    threads: int | None = None,
    pin: bool = False,
    side: int | None = None,
) -> Generator[Batch, None, None]:
    """Batches in order, decoded and collated ahead of their use; `batches` is read only as far ahead as that.

    Parameters
    ----------
    workers : loader processes; 0 for threads of this one
    threads : without loader processes: None for a thread that loads ahead; else so many load a batch when it is asked
        for. A network on the same cores then has all of them to itself: beside a loader its own threads wait at every
        layer for the one that shares a core
    pin : put tensors into pinned memory, for copies to a GPU
    side : decode JPEG files no larger than their shorter side needs, see `grobust.data.tables.smallest_side`
    """
    source = _Batches(dataset, collate, side)
    if workers > 0:
        with _tokenizers_in_one_thread():
            # What a loader calls a sampler gives any keys that its data set takes.
            yield from DataLoader(
                source, batch_size=None, sampler=batches, num_workers=workers, prefetch_factor=2, pin_memory=pin
            )
        return
    if threads is not None:
        with ExitStack() as stack:
            helpers = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(threads - 1)]
            team = Threads(helpers)
            for rows in batches:
                yield source.load(rows, team)
        return

    def prepared(rows: NDArray[Any]) -> Batch:
        batch = source[rows]
        return batch.pin_memory() if pin else batch

    wanted = iter(batches)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="grobust-loader") as pool:
        waiting: deque[Future[Batch]] = deque(pool.submit(prepared, rows) for rows in islice(wanted, AHEAD))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(prepared, rows) for rows in islice(wanted, 1))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class _Read:
    """An item decoded and prepared, or the reason why not."""

    row: int
    item: Any
    failure: str | None
    decode_seconds: float
    prepare_seconds: float


class _Batches(Dataset[Batch]):
    """The batch of the rows given, decoded and collated; what cannot be read is reported, not raised."""

    def __init__(self, dataset: Items, collate: Collate, side: int | None) -> None:
        self.dataset, self.collate, self.side = dataset, collate, side

    def __getitem__(self, index: NDArray[Any]) -> Batch:
        return self.load(index, None)

    def load(self, index: NDArray[Any], team: Threads | None) -> Batch:
        """The batch, its items read by a team where that pays, as the first two say."""
        rows: list[int] = index.tolist()
        # The quicker of two: one alone may meet a cold cache, or a library that is still loading.
        read, others = [self._read(row) for row in rows[:2]], rows[2:]
        if team is not None and min(each.decode_seconds + each.prepare_seconds for each in read) > WORTH_THREADS:
            read += team.map(self._read, others)
        else:
            read += map(self._read, others)
        found = [each for each in read if each.failure is None]
        items = [each.item for each in found]
        started = time.perf_counter()
        join = self.collate.joined if isinstance(self.collate, ItemwiseCollate) else self.collate
        tensors = join(items) if items else {}
        joined = time.perf_counter() - started
        return Batch(
            rows=np.array([each.row for each in found], dtype=np.int64),
            tensors=tensors,
            failures=tuple((each.row, each.failure) for each in read if each.failure is not None),
            decode_seconds=sum(each.decode_seconds for each in read),
            collate_seconds=sum(each.prepare_seconds for each in read) + joined,
        )

    def _read(self, row: int) -> _Read:
        started = time.perf_counter()
        try:
            # In every thread: it is a setting of the thread that decodes.
            with smallest_side(self.side):
                item = self.dataset[row]
        except DataError as error:
            return _Read(row, None, str(error), time.perf_counter() - started, 0.0)
        decoded = time.perf_counter()
        prepared = self.collate.prepared(item) if isinstance(self.collate, ItemwiseCollate) else item
        return _Read(row, prepared, None, decoded - started, time.perf_counter() - decoded)


@contextmanager
def _tokenizers_in_one_thread() -> Iterator[None]:
    """Fork without the tokenizers library's threads, which do not come along: it warns of it, or hangs.

    Loader processes are many themselves. Where the user has decided, nothing is changed.
    """
    if TOKENIZERS in os.environ:
        yield
        return
    os.environ[TOKENIZERS] = "false"
    try:
        yield
    finally:
        os.environ.pop(TOKENIZERS, None)
