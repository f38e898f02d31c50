"""Decoded and collated batches, prepared beside the network: in loader processes, or in a thread."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from grobust.data.tables import smallest_side
from grobust.errors import DataError

__all__ = ["Batch", "Collate", "Items", "load_batches"]

# Batches prepared ahead of the network.
AHEAD = 4
# Read by the tokenizers library.
TOKENIZERS = "TOKENIZERS_PARALLELISM"

Collate = Callable[[Sequence[Any]], dict[str, Tensor]]


class Items(Protocol):
    """What is decoded one by one: a data set, say. Must pickle; an item that cannot be read is a `DataError`."""

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """A collated batch.

    Parameters
    ----------
    rows : (b) row numbers that could be read
    tensors : collated, empty if no row could be read
    failures : (row, reason) of those that could not
    decode_seconds, collate_seconds : that it took to read the items, and to make tensors of them
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
    pin: bool = False,
    side: int | None = None,
) -> Generator[Batch, None, None]:
    """Batches in order, decoded and collated ahead of their use; `batches` is read only as far ahead as that.

    Parameters
    ----------
    workers : loader processes; 0 for a thread of this one
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


class _Batches(Dataset[Batch]):
    """The batch of the rows given, decoded and collated; what cannot be read is reported, not raised."""

    def __init__(self, dataset: Items, collate: Collate, side: int | None) -> None:
        self.dataset, self.collate, self.side = dataset, collate, side

    def __getitem__(self, index: NDArray[Any]) -> Batch:
        items, rows, failures = [], [], []
        started = time.perf_counter()
        with smallest_side(self.side):
            for row in index.tolist():
                try:
                    items.append(self.dataset[row])
                    rows.append(row)
                except DataError as error:
                    failures.append((row, str(error)))
        decoded = time.perf_counter()
        tensors = self.collate(items) if items else {}
        return Batch(
            np.array(rows, dtype=np.int64), tensors, tuple(failures), decoded - started, time.perf_counter() - decoded
        )


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
