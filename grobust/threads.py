"""Rows and factorizations over threads of our own, with BLAS on one thread inside each.

BLAS's threads would wait for each other at every small product, and those of NumPy's and SciPy's own copies would take
turns in spinning; one level of threads, over large pieces of work, does neither.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

# Loaded before `_blas` looks for it: SciPy has a BLAS of its own.
import scipy.linalg.blas  # noqa: F401
from threadpoolctl import ThreadpoolController

__all__ = ["Threads", "one_thread", "threads"]

S = TypeVar("S")
T = TypeVar("T")


class Threads:
    """A pool for the length of a solve. Results come in the order of the work, so sums do not depend on luck."""

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self.count, self._pool = count, pool

    def map(self, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """``[work(item) for item in items]``, side by side."""
        return list(self.each(work, items))

    def each(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        """The same, one result at a time as soon as it and those before it are there."""
        # A single item stays here, with BLAS at one thread too: on a busy machine its threads wait for each other
        # longer than they save.
        if self._pool is None or len(items) == 1:
            return map(work, items)
        return self._pool.map(work, items)

    def ranges(self, work: Callable[[int, int], T], n: int, block_rows: int) -> list[T]:
        """Call ``work(start, stop)`` on stretches of whole blocks that together are the rows 0 … n."""
        blocks = -(-n // block_rows)
        count = min(self.count, blocks)
        edges = [min(n, block_rows * (blocks * i // count)) for i in range(count + 1)]
        if self._pool is None or count == 1:
            return [work(0, n)]
        return list(self._pool.map(work, edges[:-1], edges[1:]))


@cache
def _blas() -> ThreadpoolController:
    """The BLAS of NumPy and SciPy; looking for it takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def threads() -> Iterator[Threads]:
    """As many threads as BLAS has, and no more than this process may run on; BLAS itself has one meanwhile."""
    blas = _blas()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min([cores, *(library["num_threads"] for library in blas.info())])
    with blas.limit(limits=1), ThreadPoolExecutor(count) as pool:
        yield Threads(pool, count)


def one_thread() -> Threads:
    """The caller's own thread, with BLAS as it is: for arrays on a device."""
    return Threads(None, 1)
