"""Passes over features in this machine's memory, or read from a file block by block, on several threads.

Logits lie block by block: (blocks, K, c, rows of a block), so that a block's are side by side like its features.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.probe import _numba
from grobust.probe._design import Design
from grobust.probe._numba_passes import advance_rows, evaluate_rows
from grobust.probe._numba_products import FEW, multiply, multiply_back
from grobust.probe._passes import Evaluation, mean_curvature, some_heads
from grobust.probe._tile_passes import advance_tiles, evaluate_tiles, new_room, takes_tiles, tile_rows
from grobust.probe._weights import WeightTable
from grobust.threads import Threads

__all__ = ["HostPasses"]

# Features of a block, so that it stays in a core's cache from the first product to the second.
BLOCK_NUMBERS = 400_000
# Features that a thread reads at a time from what is not in memory.
READ_NUMBERS = 400_000
# A compiled pass has smaller blocks for few columns; adding up a block's products costs as much as a few rows.
SMALL_BLOCK_NUMBERS, ROWS_PER_COLUMN = 100_000, 8


class HostPasses:
    """float32 products and compiled stage; sums in float64."""

    def __init__(
        self, design: Design, labels: NDArray[Any], weights: WeightTable, columns: int, threads: Threads, block: int
    ) -> None:
        self._design, self._labels, self._threads = design, labels.astype(np.int32), threads
        self._weights = weights
        self._values = weights.values.astype(np.float32)
        self._dense = weights.dense.astype(np.float32)
        self._compiled = _for_compiled(design.features)
        heads, (n, d) = weights.weighting.size, design.features.shape
        # Few rows are shared out evenly.
        self._rows = _block_rows(heads * columns, d, min(block, -(-n // threads.count)))
        shape = (-(-n // self._rows), heads, columns, self._rows)
        self._z, self._dz = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        # Where the running heads' logits lie.
        self._slots = np.arange(heads)
        self._step = np.zeros(heads, dtype=np.float32)

    @property
    def weighting(self) -> NDArray[Any]:
        return self._weights.weighting

    def advance(self, direction: NDArray[Any]) -> Evaluation:
        small, offset = self._design.fold(direction)
        heads, columns, d = small.shape
        flat = np.ascontiguousarray(small, dtype=np.float32).reshape(heads * columns, d)
        shift = offset.astype(np.float32)
        step, self._step = self._step, np.zeros(heads, dtype=np.float32)
        own = (flat, self._z, self._dz, self._slots, step, shift)
        if takes_tiles(heads * columns, d):
            return self._swept(advance_tiles, own, heads, partial(new_room, heads * columns, d, self._rows))
        if heads * columns <= FEW:
            return self._swept(advance_rows, own, heads, lambda: self._rows)

        def stage(block: NDArray[Any], lo: int, new: NDArray[Any], residual: NDArray[Any], *rest: NDArray[Any]) -> None:
            multiply(flat, block, new)
            rows, place = block.shape[0], lo // self._rows
            _numba.advance(
                self._z[place], self._dz[place], self._slots, step, new.reshape(heads, columns, rows), shift,
                self._labels[lo : lo + rows], self._row_weights(lo, rows), self.weighting,
                residual.reshape(heads, columns, rows), *rest,
            )  # fmt: skip

        return self._over_blocks(stage, heads)

    def evaluate(self, heads: NDArray[Any], step: NDArray[Any], *, gradient: bool) -> Evaluation:
        steps, slots = step.astype(np.float32), self._slots[heads]
        columns, d = self._z.shape[2], self._design.features.shape[1]
        weighting = self.weighting[heads]
        own = (self._z, self._dz, slots, steps)
        if not gradient:
            return self._swept(evaluate_rows, own, heads.size, lambda: self._rows, weighting, gradient=False)
        if takes_tiles(heads.size * columns, d):
            room = partial(new_room, heads.size * columns, d, self._rows)
            return self._swept(evaluate_tiles, own, heads.size, room, weighting)
        if heads.size * columns <= FEW:
            return self._swept(evaluate_rows, own, heads.size, lambda: self._rows, weighting)

        def stage(block: NDArray[Any], lo: int, new: NDArray[Any], residual: NDArray[Any], *rest: NDArray[Any]) -> None:
            rows, place = block.shape[0], lo // self._rows
            _numba.evaluate(
                self._z[place], self._dz[place], slots, steps, self._labels[lo : lo + rows],
                self._row_weights(lo, rows), weighting, residual.reshape(heads.size, columns, rows), *rest,
            )  # fmt: skip

        return self._over_blocks(stage, heads.size)

    def take(self, step: NDArray[Any]) -> None:
        self._step = step.astype(np.float32)

    def keep(self, heads: NDArray[Any]) -> None:
        self._slots, self._step = self._slots[heads], self._step[heads]
        self._weights = self._weights.take(heads)

    def curvature(self, stride: int) -> NDArray[Any]:
        heads = some_heads(self._slots.size)
        slots, step = self._slots[heads][None, :], self._step[heads][None, :, None]
        blocks, rows = (part[:, None] for part in np.divmod(np.arange(0, self._labels.size, stride), self._rows))
        z = self._z[blocks, slots, :, rows] + step * self._dz[blocks, slots, :, rows]
        return mean_curvature(np.ascontiguousarray(np.moveaxis(z, 0, 2)), self._weights, heads, stride)

    def _swept(
        self, kernel: Any, own: tuple[NDArray[Any], ...], heads: int, room: Callable[[], Any],
        weighting: NDArray[Any] | None = None, *, gradient: bool = True,
    ) -> Evaluation:  # fmt: skip
        """Let a compiled pass go over all rows with `own` arguments and, for every thread, `room`."""
        (_, _, columns, block), (n, d) = self._z.shape, self._design.features.shape
        weights = self._weights
        weighting = weights.weighting if weighting is None else weighting
        table = (self._labels, weights.codes, self._values, self._dense, weighting)

        def work(start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
            sums, total = np.zeros((heads, 2 + columns)), np.zeros((heads * columns if gradient else 0, d))
            scratch = room()
            for features, centre, first, lo, hi in self._stretches(start, stop, gradient):
                kernel(features, first, lo, hi, scratch, centre, *own, *table, sums, total)
            return sums, total

        return self._reduced(self._threads.ranges(work, n, block), gradient=gradient)

    def _stretches(
        self, start: int, stop: int, needed: bool
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any], int, int, int]]:
        """Features for a compiled pass, the centre to subtract (empty for none), the number of the features' first row,
        and the rows to go over: all of them at once, or what is not in memory some blocks at a time."""
        features, none = self._design.features, np.zeros(0, dtype=np.float32)
        centre = none if self._design.shift is None else self._design.shift
        if not needed:
            yield np.zeros((0, features.shape[1]), dtype=np.float32), none, 0, start, stop
            return
        if self._compiled is not None:
            yield self._compiled, centre, 0, start, stop
            return
        # Columns are split, and sums go to float64, once for all blocks of a stretch.
        several = self._rows * max(1, READ_NUMBERS // (features.shape[1] * self._rows))
        for lo in range(start, stop, several):
            hi = min(lo + several, stop)
            rows = _for_compiled(features[lo:hi, :])
            if rows is not None:
                yield rows, centre, lo, lo, hi
            else:
                yield np.ascontiguousarray(self._design.block(lo, hi)), none, lo, lo, hi

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[NDArray[Any], int]]:
        """Rows less their centre and the number of the first of them."""
        shape = (self._rows, self._design.features.shape[1])
        room = np.empty(shape, dtype=np.float32) if self._design.shift is not None else None
        for lo in range(start, stop, self._rows):
            yield self._design.block(lo, min(lo + self._rows, stop), room), lo

    def _row_weights(self, lo: int, rows: int) -> NDArray[Any]:
        coded = self._values.shape[0]
        out = np.empty((self._weights.support.size, rows), dtype=np.float32)
        _numba.expand(self._weights.codes, self._values, lo, out[:coded])
        out[coded:] = self._dense[:, lo : lo + rows]
        return out

    def _over_blocks(self, stage: Any, heads: int) -> Evaluation:
        """The same with BLAS's products."""
        n, d = self._design.features.shape
        columns = self._z.shape[2]
        size = heads * columns

        def work(start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
            new, residual = np.empty((2, size * self._rows), dtype=np.float32)
            sums, total = np.zeros((heads, 2 + columns)), np.zeros((size, d))
            product, scratch = np.empty(total.shape, dtype=np.float32), np.empty((3, self._rows), dtype=np.float32)
            for block, lo in self._blocks(start, stop):
                logits, back = (array[: size * len(block)].reshape(size, len(block)) for array in (new, residual))
                stage(block, lo, logits, back, sums, scratch)
                multiply_back(back, block, product)
                total += product
            return sums, total

        return self._reduced(self._threads.ranges(work, n, self._rows), gradient=True)

    def _reduced(self, parts: list[tuple[NDArray[Any], NDArray[Any]]], *, gradient: bool) -> Evaluation:
        """Sums (h, 2 + c) and products (h c, d) of the threads, as an evaluation."""
        (sums, total), *others = parts
        for more_sums, more in others:
            sums += more_sums
            total += more
        if not gradient:
            return Evaluation(sums[:, 0], sums[:, 1], None)
        total = total.reshape(sums.shape[0], self._z.shape[2], -1)
        return Evaluation(sums[:, 0], sums[:, 1], self._design.unfold(total, sums[:, 2:]))


def _block_rows(columns: int, d: int, most: int) -> int:
    """Rows of a block."""
    if takes_tiles(columns, d):
        return tile_rows(columns, d, most)
    small = max(SMALL_BLOCK_NUMBERS // d, ROWS_PER_COLUMN * columns) if columns <= FEW else most
    # A block of wide rows has fewer of them.
    return max(4, min(most, BLOCK_NUMBERS // d, small))


def _for_compiled(features: Any) -> NDArray[Any] | None:
    """Features as a compiled pass takes them whole, or None if it cannot."""
    if not isinstance(features, np.ndarray) or not features.flags.c_contiguous:
        return None
    if features.dtype == np.float16:
        return features.view(np.int16)
    return features if features.dtype == np.float32 else None
