"""Finished parts on their way to disk, in a thread of its own, so that the network does not wait for it."""

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from grobust.features._encode import Encoded
from grobust.features.profile import StageClock

__all__ = ["PartQueue", "RowSink"]

# Parts in memory besides the one being written.
WAITING = 2


class RowSink(Protocol):
    """Takes features, and reasons for their absence."""

    def write(self, rows: NDArray[Any], features: NDArray[Any]) -> None:
        """See `PartsWriter.write`."""

    def skip(self, row: int, reason: str) -> None:
        """See `PartsWriter.skip`."""


class PartQueue:
    """A context manager; at its end all that was handed over is written, or an error says why not.

    One thread writes, in the order given, so a part is durable or absent as it would be without the thread. What goes
    wrong there is raised in the caller's thread, at the next call or at the end, and nothing is written after it. When
    the block is left by an error or Ctrl-C, what was handed over before is still written.

    Parameters
    ----------
    sinks : one for each output of the network
    done : for each sink, (n) whether a row is there already and is not to be written again; None if none is
    """

    def __init__(self, sinks: Sequence[RowSink], done: Sequence[NDArray[Any] | None], clock: StageClock) -> None:
        self._outputs = list(zip(sinks, done, strict=True))
        self._clock = clock
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="grobust-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._clock.stage("last parts"):
            self._waiting.put(None)
            self._thread.join()
        if error is None:
            self._raise()

    def put(self, batches: list[Encoded]) -> None:
        """Hand over the batches of a part."""
        self._hand_over(partial(self._write, batches))

    def skip(self, row: int, reason: str) -> None:
        """Hand over the reason why a row has no features."""
        self._hand_over(partial(self._skip, row, reason))

    def _hand_over(self, task: Callable[[], None]) -> None:
        self._raise()
        with self._clock.stage("wait for writer"):
            self._waiting.put(task)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        failed = False
        while (task := self._waiting.get()) is not None:
            if failed:
                continue
            try:
                task()
            except BaseException as error:
                self._error, failed = error, True

    def _write(self, batches: list[Encoded]) -> None:
        rows = np.concatenate([batch.rows for batch in batches])
        for i, (sink, done) in enumerate(self._outputs):
            features = np.concatenate([batch.features(i) for batch in batches])
            with self._clock.stage("write"):
                if done is None or not done[rows].any():
                    sink.write(rows, features)
                elif not done[rows].all():
                    left = ~done[rows]
                    sink.write(rows[left], features[left])

    def _skip(self, row: int, reason: str) -> None:
        for sink, done in self._outputs:
            if done is None or not done[row]:
                sink.skip(row, reason)
