"""Rows and factorizations over threads of our own, with BLAS on one thread inside each.

BLAS's threads would wait for each other at every small product, and those of NumPy's and SciPy's own copies would take
turns in spinning; one level of threads, over large pieces of work, does neither.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import pairwise
from typing import TypeVar

# Loaded before `_blas` looks for it: SciPy has a BLAS of its own.
import scipy.linalg.blas  # noqa: F401
from threadpoolctl import ThreadpoolController

__all__ = ["Threads", "one_thread", "threads"]

S = TypeVar("S")
T = TypeVar("T")


class Threads:
    """The caller's thread and some helpers. Results come in the order of the work, so sums do not depend on luck.

    The caller takes part, and each helper has a queue of its own: one queue wakes a single helper when several pieces
    of work arrive at once (CPython's SimpleQueue), which then does them one after another.
    """

    def __init__(self, helpers: Sequence[ThreadPoolExecutor]) -> None:
        self.count, self._helpers = 1 + len(helpers), helpers

    def map(self, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """``[work(item) for item in items]``, side by side."""
        return list(self.each(work, items))

    def each(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        """The same, one result at a time as soon as it and those before it are there."""
        # A single item stays here, with BLAS at one thread too: on a busy machine its threads wait for each other
        # longer than they save.
        if not self._helpers or len(items) == 1:
            return map(work, items)
        done: list[Future[T]] = [Future() for _ in items]
        places = iter(range(len(items)))

        def take(place: int) -> None:
            try:
                done[place].set_result(work(items[place]))
            except BaseException as error:
                done[place].set_exception(error)
                # Nobody begins another piece; those before this one are begun, and it is the next to be looked at.
                for _ in places:
                    pass

        def help_out() -> None:
            for place in places:
                take(place)

        for helper in self._helpers[: len(items) - 1]:
            helper.submit(help_out)
        return self._results(done, places, take)

    @staticmethod
    def _results(done: "list[Future[T]]", places: Iterator[int], take: Callable[[int], None]) -> Iterator[T]:
        """Results in order; while the next is not there, another piece of the work is done here."""
        try:
            for result in done:
                while not result.done() and (place := next(places, None)) is not None:
                    take(place)
                yield result.result()
        finally:
            # After an error nobody begins another piece.
            for _ in places:
                pass

    def ranges(self, work: Callable[[int, int], T], n: int, block_rows: int) -> list[T]:
        """Call ``work(start, stop)`` on stretches of whole blocks that together are the rows 0 … n."""
        blocks = -(-n // block_rows)
        count = min(self.count, blocks)
        edges = [min(n, block_rows * (blocks * i // count)) for i in range(count + 1)]
        return self.map(lambda edge: work(*edge), list(pairwise(edges)))


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
    with blas.limit(limits=1), ExitStack() as stack:
        yield Threads([stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count - 1)])


def one_thread() -> Threads:
    """The caller's own thread, with BLAS as it is: for arrays on a device."""
    return Threads([])
