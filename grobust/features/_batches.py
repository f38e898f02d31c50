"""Decoded and collated batches, prepared beside the network: in loader processes, or in a thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from grobust.errors import DataError

__all__ = ["Batch", "Collate", "Items", "load_batches"]

# Batches prepared ahead of the network.
AHEAD = 4

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
    """

    rows: NDArray[Any]
    tensors: dict[str, Tensor]
    failures: tuple[tuple[int, str], ...]


def load_batches(dataset: Items, collate: Collate, batches: Iterable[NDArray[Any]], *, workers: int) -> Iterator[Batch]:
    """Batches in order, decoded and collated ahead of their use; `batches` is read only as far ahead as that."""
    source = _Batches(dataset, collate)
    if workers > 0:
        # What a loader calls a sampler gives any keys that its data set takes.
        loader = DataLoader(source, batch_size=None, sampler=batches, num_workers=workers, prefetch_factor=2)
        yield from loader
        return
    wanted = iter(batches)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="grobust-loader") as pool:
        waiting: deque[Future[Batch]] = deque(pool.submit(source.__getitem__, rows) for rows in islice(wanted, AHEAD))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(source.__getitem__, rows) for rows in islice(wanted, 1))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


class _Batches(Dataset[Batch]):
    """The batch of the rows given, decoded and collated; what cannot be read is reported, not raised."""

    def __init__(self, dataset: Items, collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, index: NDArray[Any]) -> Batch:
        items, rows, failures = [], [], []
        for row in index.tolist():
            try:
                items.append(self.dataset[row])
                rows.append(row)
            except DataError as error:
                failures.append((row, str(error)))
        return Batch(np.array(rows, dtype=np.int64), self.collate(items) if items else {}, tuple(failures))
