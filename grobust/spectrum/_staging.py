"""Rows on their way into a product: gathered, widened, shifted and checked, a cache-sized piece at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ShapeError
from grobust.features.widen import to_float32
from grobust.groups import Groups
from grobust.typing import Array

__all__ = [
    "Block", "Piece", "addresses", "check_block", "coarse_and_fine", "first_rows", "pieces_of", "require_finite",
    "row_chunks", "stage", "working_dtype",
]  # fmt: skip

Block = tuple[Array, Array]

# Rows gathered and shifted at once: they stay in the second-level cache between the two steps.
GATHER_ROWS = 256
# So few multiplications take a few hundredths of a second in float64, and are made in float64.
PRECISE_WORK = 1 << 31


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one group in one block.

    Parameters
    ----------
    source : (b, d) features as they are stored
    rows : (m) row numbers in `source`
    positions : (m) row numbers in the groups, for messages
    """

    source: Array
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.rows.size)

    def copied(self) -> "Piece":
        """The same rows in memory of their own, so that the block can go."""
        return Piece(_take(self.source, self.rows), np.arange(len(self)), self.positions)

    def split(self, rows: int) -> "Iterator[Piece]":
        """Pieces of at most `rows` rows."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield Piece(self.source, self.rows[part], self.positions[part])


def check_block(features: Array, dim: int) -> None:
    """ShapeError unless the block is (b, dim)."""
    if features.ndim != 2 or features.shape[1] != dim:
        raise ShapeError(f"A block of features has shape {tuple(features.shape)}; expected (b, {dim}).")


def pieces_of(features: Array, positions: Array, *, groups: Groups, dim: int) -> Iterator[tuple[int, Piece]]:
    """(group, its rows) for every group in a block."""
    check_block(features, dim)
    numbers = to_numpy(positions).astype(np.int64, copy=False)
    ids = groups.ids[numbers]
    # Counting sort: rows of a group in their order, without a comparison per row and group.
    order = np.argsort(ids.astype(np.int16 if groups.n_groups < 2**15 else np.int64), kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=groups.n_groups))])
    for group in np.flatnonzero(np.diff(edges)).tolist():
        rows = order[edges[group] : edges[group + 1]]
        yield group, Piece(features, rows, numbers[rows])


def working_dtype(source: Array, *, work: float = np.inf, limit: float = PRECISE_WORK) -> str:
    """Precision of products: ``float64`` for float64 features and for less `work` (multiplications) than `limit`."""
    return "float64" if str(source.dtype).endswith("float64") or work < limit else "float32"


def stage(pieces: Sequence[Piece], shift: Array, *, dtype: str, out: Array = None) -> Array:
    """Rows (m, d) of the pieces minus `shift` (d) float64, in `dtype`; into the first rows of `out` where given.

    In float32 the shift is subtracted in two parts. The first brings the rows near zero without rounding; the second,
    less than a unit in the last place of the features, takes them off the grid on which features with a large mean lie:
    squares of numbers on a grid do not round evenly, and the errors of their sums would not cancel.

    Raises
    ------
    ShapeError
        If float16 features are not finite; the row is named. Other precisions are checked by `require_finite`.
    """
    xp = array_namespace(shift)
    coarse, fine = (shift, None) if dtype == "float64" else coarse_and_fine(shift)
    if out is None and not isinstance(shift, np.ndarray):
        taken = [xp.astype(_take(piece.source, piece.rows), coarse.dtype) for piece in pieces]
        rows = (taken[0] if len(taken) == 1 else xp.concat(taken, axis=0)) - coarse[None, :]
        return rows if fine is None else rows - fine[None, :]
    if out is None:
        out = np.empty((sum(map(len, pieces)), shift.shape[0]), dtype)
    fill = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for piece in pieces:
            for part in piece.split(GATHER_ROWS):
                target = out[fill : fill + len(part)]
                _gather(part, target)
                np.subtract(target, coarse, out=target)
                if fine is not None:
                    np.subtract(target, fine, out=target)
                fill += len(part)
    return out[:fill]


def coarse_and_fine(shift: Array) -> tuple[Array, Array]:
    """A float64 shift as the sum of two float32."""
    xp = array_namespace(shift)
    coarse = xp.astype(shift, xp.float32)
    return coarse, xp.astype(shift - xp.astype(coarse, xp.float64), xp.float32)


def addresses(pieces: Iterable[Piece]) -> Iterator[tuple[NDArray[np.int64], bool, NDArray[np.floating]]]:
    """Of pieces in memory: addresses of their rows, whether these are float16 or else float32, and where they lie.

    A row's numbers lie side by side; addresses hold as long as the array lives. Blocks may differ in dtype and strides:
    rows of any other kind are copied.
    """
    for piece in pieces:
        source, rows = piece.source, piece.rows
        plain = source.dtype in (np.float16, np.float32)
        if not plain or source.strides[1] != source.itemsize:
            taken = np.take(source, rows, axis=0)
            source = np.ascontiguousarray(taken, dtype=taken.dtype if plain else np.float32)
            rows = np.arange(rows.size)
        yield source.ctypes.data + rows * source.strides[0], source.dtype == np.float16, source


def first_rows(pieces: Sequence[Piece], count: int) -> Array:
    """(b, d) float64 rows of the pieces, evenly spaced in each, about `count` in all."""
    each = max(1, count // len(pieces))
    taken = [_take(p.source, p.rows[:: -(-len(p) // each)]) for p in pieces[:count]]
    xp = array_namespace(taken[0])
    return xp.concat([xp.astype(t, xp.float64) for t in taken], axis=0)


def row_chunks(n: int, rows: int) -> list[tuple[int, int]]:
    """(start, stop) of stretches of at most `rows`."""
    return [(start, min(n, start + rows)) for start in range(0, n, rows)]


def require_finite(pieces: Iterable[Piece]) -> None:
    """ShapeError naming the first row that holds a value that is not finite, or is too large for float32 sums."""
    for piece in pieces:
        rows = _take(piece.source, piece.rows)
        xp = array_namespace(rows)
        bad = np.flatnonzero(to_numpy(~xp.all(xp.isfinite(rows), axis=1)))
        if bad.size:
            more = f" ({bad.size} such rows in this block)" if bad.size > 1 else ""
            raise ShapeError(f"Row {int(piece.positions[bad[0]])} of the features is not finite{more}.")
    raise ShapeError("Features are too large for sums of their squares; scale them down.")


def _gather(part: Piece, target: NDArray[np.floating]) -> None:
    source = part.source
    if source.dtype == target.dtype:
        np.take(source, part.rows, axis=0, out=target, mode="clip")
    elif source.dtype == np.float16:
        rows = np.take(source, part.rows, axis=0)
        # The exponent's bits are all set in infinities and NaN, which widening would turn into numbers.
        if int((rows.view(np.uint16) & 0x7FFF).max(initial=0)) >= 0x7C00:
            require_finite([part])
        target[:] = to_float32(rows)
    else:
        target[:] = np.take(source, part.rows, axis=0)


def _take(source: Array, rows: NDArray[np.int64]) -> Array:
    if isinstance(source, np.ndarray):
        return np.take(source, rows, axis=0)
    xp = array_namespace(source)
    return xp.take(source, xp.asarray(rows), axis=0)
