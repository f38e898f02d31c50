"""Features on the host that a GPU takes slab by slab: while one is worked on, the next is on its way.

Passes go over the rows from the first block to the last, and again: so the block after the one that is asked for is
known, and after the last comes the first. A thread copies it into pinned memory and starts its transfer.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grobust.device._cuda import cuda
from grobust.errors import ShapeError
from grobust.typing import Array

__all__ = ["DeviceStream", "Slab", "free_bytes", "on_device"]

# Fewer rows than this are not a block of a pass, and go by themselves.
SMALLEST_BLOCK = 1024
# Of a block of rows, where nothing else decides: large enough for the bus, small enough for pinned memory.
BLOCK_BYTES = 64 << 20


@runtime_checkable
class Slab(Protocol):
    """Room for a block on the device, and for its copy in pinned memory."""

    def fill(self, rows: NDArray[Any]) -> None:
        """Copy rows and start their transfer, once what used the slab is done. Called by the stream's thread."""

    def ready(self, rows: int) -> Array:
        """The first rows on the device, for work that is started from now on."""

    def release(self) -> None:
        """All work on the rows has been started."""


class DeviceStream:
    """Rows (n, d) on the host, as an array that gives blocks on the GPU.

    Give it in place of features that do not fit into the GPU's memory: ``fit_probes(DeviceStream(mapped), …)``. Each
    pass over the rows moves them once; two blocks stay, so what fits into two is moved once in all.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64: a NumPy array, a memory map, or a reader with shape, dtype and slices
    slab : makes room for (rows, d, dtype); by default on the current CUDA device, in pinned memory too
    send : copies rows to the device; by default CuPy's
    smallest : blocks of fewer rows are not read ahead

    Raises
    ------
    ShapeError
        If features are not two-dimensional.
    """

    def __init__(
        self, features: Any, *, slab: Callable[[int, int, Any], Slab] | None = None,
        send: Callable[[NDArray[Any]], Array] | None = None, smallest: int = SMALLEST_BLOCK,
    ) -> None:  # fmt: skip
        if len(features.shape) != 2:
            raise ShapeError(f"A stream takes features (n, d), got {features.shape}.")
        self.shape: tuple[int, int] = (int(features.shape[0]), int(features.shape[1]))
        self.dtype = np.dtype(features.dtype)
        self.ndim = 2
        self._features, self._smallest = features, smallest
        self._slab, self._send = slab or cuda().slab, send or cuda().upload
        self._slabs: list[Slab] = []
        self._holds: list[tuple[int, int] | None] = [None, None]
        self._filling: list[Future[None] | None] = [None, None]
        self._capacity, self._size, self._current = 0, 0, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grobust-stream")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        """Rows on the device: a slice of rows (``[a:b]``, ``[a:b, :]``, any step), or rows by number."""
        rows = key[0] if isinstance(key, tuple) else key
        if not isinstance(rows, slice):
            return self._send(np.ascontiguousarray(self._features[np.asarray(rows)]))
        start, stop, step = rows.indices(self.shape[0])
        if step != 1 or stop - start < self._smallest:
            return self._send(np.ascontiguousarray(self._features[start:stop:step, :]))
        return self._block(start, stop)

    def _block(self, start: int, stop: int) -> Array:
        if start == 0:
            self._size = stop
        self._grow(stop - start)
        if (start, stop) in self._holds:
            place = self._holds.index((start, stop))
        else:
            place = 1 - self._current
            self._fill(place, start, stop)
        if place != self._current:
            self._slabs[self._current].release()
            self._current = place
        self._finish(place)
        block = self._slabs[place].ready(stop - start)
        following = self._following(stop)
        if following not in self._holds:
            self._fill(1 - place, *following)
        return block

    def _following(self, stop: int) -> tuple[int, int]:
        """The block after the one that ends at `stop`: the first follows the last."""
        n = self.shape[0]
        start = stop if stop < n else 0
        return start, min(start + max(self._size, self._smallest), n)

    def _fill(self, place: int, start: int, stop: int) -> None:
        self._finish(place)

        def work() -> None:
            self._slabs[place].fill(self._features[start:stop, :])

        self._holds[place] = (start, stop)
        self._filling[place] = self._thread.submit(work)

    def _finish(self, place: int) -> None:
        """Wait for what a slab is being filled with; raises what reading it raised."""
        filling, self._filling[place] = self._filling[place], None
        if filling is None:
            return
        try:
            filling.result()
        except BaseException:
            self._holds[place] = None
            raise

    def _grow(self, rows: int) -> None:
        """Room for larger blocks than so far."""
        if rows <= self._capacity:
            return
        for place in (0, 1):
            self._finish(place)
        self._slabs = []
        self._slabs = [self._slab(rows, self.shape[1], self.dtype) for _ in range(2)]
        self._holds, self._capacity = [None, None], rows

    def stretches(self) -> Iterator[tuple[int, int]]:
        """First row and row after the last of blocks that are worth a transfer each, in order."""
        n, d = self.shape
        rows = max(self._smallest, BLOCK_BYTES // max(d * self.dtype.itemsize, 1))
        return ((start, min(start + rows, n)) for start in range(0, n, rows))


def on_device(features: Any) -> Array:
    """All rows (n, d) on the current CUDA device in their own dtype, sent through pinned memory block by block."""
    stream = DeviceStream(features)
    out = cuda().xp.empty(stream.shape, dtype=stream.dtype)
    for start, stop in stream.stretches():
        out[start:stop] = stream[start:stop]
    return out


def free_bytes() -> int:
    """Memory that an array on the current CUDA device may take now."""
    return cuda().free_bytes()
