"""Values made by a thread ahead of the one who takes them, never more than so many."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from typing import TypeVar

__all__ = ["read_ahead"]

Value = TypeVar("Value")
# How often a thread that waits for room looks whether anybody still takes values.
POLL_SECONDS = 0.1


def read_ahead(values: Iterable[Value], depth: int) -> Iterator[Value]:
    """Iterate over values that a thread makes, `depth` of them waiting at most.

    An error of the thread comes at its place among the values. When the caller stops early the thread ends, too.
    """
    ready: Queue[tuple[Value] | BaseException | None] = Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[Value] | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(item, timeout=POLL_SECONDS)
                return

    def make() -> None:
        try:
            for value in values:
                put((value,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again by the one who takes
            put(error)

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            del item
    finally:
        stopped.set()
        thread.join()
