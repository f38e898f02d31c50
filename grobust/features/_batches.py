"""Decoded and collated batches, prepared beside the network: in loader processes, or in a thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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


def load_batches(dataset: Items, collate: Collate, batches: Sequence[NDArray[Any]], *, workers: int) -> Iterator[Batch]:
    """Batches in order, decoded and collated ahead of their use."""
    source = _Batches(dataset, collate, batches)
    if workers > 0:
        loader = DataLoader(source, batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=2)
        yield from loader
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="grobust-loader") as pool:
        waiting: list[Future[Batch]] = [pool.submit(source.__getitem__, i) for i in range(min(AHEAD, len(batches)))]
        try:
            for index in range(len(batches)):
                batch = waiting.pop(0).result()
                if index + AHEAD < len(batches):
                    waiting.append(pool.submit(source.__getitem__, index + AHEAD))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


class _Batches(Dataset[Batch]):
    """The i-th batch, decoded and collated; what cannot be read is reported, not raised."""

    def __init__(self, dataset: Items, collate: Collate, batches: Sequence[NDArray[Any]]) -> None:
        self.dataset, self.collate, self.batches = dataset, collate, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        items, rows, failures = [], [], []
        for row in self.batches[index].tolist():
            try:
                items.append(self.dataset[row])
                rows.append(row)
            except DataError as error:
                failures.append((row, str(error)))
        return Batch(np.array(rows, dtype=np.int64), self.collate(items) if items else {}, tuple(failures))
