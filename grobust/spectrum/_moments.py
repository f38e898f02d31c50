"""Means and second moments of groups in one streaming pass, for groups of at least d rows.

Rows wait until a group has a few thousand of them; then a thread forms one float32 symmetric product (float64 for
float64 features, two of float16 for float16 features on a GPU, see `_half`) of the rows minus the group's shift. It is
added to float64 accumulators while the threads form the next. The shift is near the group's mean, so that a large mean
costs no accuracy, and what is left of the mean is taken out in float64 at the end.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.device._cuda import cuda
from grobust.spectrum._half import HalfRoom, HalfSums, takes_halves
from grobust.spectrum._staging import Piece, first_rows, require_finite, row_chunks, stage, working_dtype
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["MomentSums", "Moments", "merge_moments"]

# Rows of one product. float32 rounding inside a product grows with it, the cost of adding d × d float64 falls.
PRODUCT_ROWS = 4096
SHIFT_ROWS = 512
COPY_ROWS = 1024
# Of products under way, where those take more than the accumulators do.
PRODUCT_BYTES = 256 << 20
PANEL = 128


@dataclass(frozen=True, eq=False)
class Moments:
    """Rows, mean and scatter of one group or class.

    Parameters
    ----------
    n : rows
    mean : (d) float64
    scatter : (d, d) float64, Σ (x − mean)(x − mean)ᵀ; only the upper triangle is filled before `symmetric`
    """

    n: int
    mean: Array
    scatter: Array

    def covariance(self, *, ddof: int = 0) -> Array:
        """(d, d) float64, a new array, both triangles."""
        xp = array_namespace(self.scatter)
        upper = xp.triu(self.scatter) / (self.n - ddof)
        return upper + xp.triu(upper, k=1).T


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Moments of all rows together (Chan, Golub & LeVeque 1983): means apart add their spread to the scatter."""
    n = sum(part.n for part in parts)
    mean = sum(part.mean * (part.n / n) for part in parts)
    xp = array_namespace(parts[0].mean)
    scatter = xp.zeros_like(parts[0].scatter)
    for part in parts:
        offset = part.mean - mean
        scatter += part.scatter
        scatter += (part.n * offset)[:, None] * offset[None, :]
    return Moments(n, mean, scatter)


@dataclass(eq=False)
class _Sums:
    shift: Array
    total: Array
    products: Array
    dtype: str
    n: int = 0
    half: HalfSums | None = None


@dataclass(eq=False)
class MomentSums:
    """Accumulators of several groups; `add` pieces in any order, then `finish`.

    Parameters
    ----------
    dim : d
    counts : (g) rows that the groups will have
    team : threads that form products; the caller's adds them in the order of the pieces, whoever formed them
    """

    dim: int
    counts: NDArray[np.int64]
    team: Threads
    _pending: dict[int, list[Piece]] = field(default_factory=dict)
    _sums: dict[int, _Sums] = field(default_factory=dict)
    _begun: "deque[tuple[int, list[Piece], Future[tuple[Array, Array]]]]" = field(default_factory=deque)
    _outs: list[Array] = field(default_factory=list)
    _next: int = 0
    _own: threading.local = field(default_factory=threading.local)
    _room: HalfRoom | None = None

    def add(self, pieces: Sequence[tuple[int, Piece]], *, keep: bool) -> None:
        """Take in the (group, rows) of a block; `keep` says that the block stays as it is until `finish`."""
        if not keep:
            parts = [(group, part) for group, piece in pieces for part in piece.split(COPY_ROWS)]
            copies = self.team.map(lambda part: part[1].copied(), parts)
            pieces = [(group, copy) for (group, _), copy in zip(parts, copies, strict=True)]
        for group, piece in pieces:
            for part in piece.split(PRODUCT_ROWS):
                waiting = self._pending.setdefault(group, [])
                waiting.append(part)
                if sum(map(len, waiting)) >= PRODUCT_ROWS:
                    self._give_out(group, self._pending.pop(group))

    def finish(self) -> dict[int, Moments]:
        """Moments by group; the accumulators are used up."""
        for group, waiting in self._pending.items():
            if waiting:
                self._give_out(group, waiting)
        self._pending.clear()
        while self._begun:
            self._take_in()
        self._outs.clear()
        self._own, self._room = threading.local(), None
        return {group: _centred(self._sums.pop(group)) for group in sorted(self._sums)}

    def _give_out(self, group: int, pieces: list[Piece]) -> None:
        if group not in self._sums:
            sample = first_rows(pieces, SHIFT_ROWS)
            dtype = working_dtype(pieces[0].source, work=float(self.counts[group]) * self.dim**2)
            xp = array_namespace(sample)
            shift = xp.mean(sample, axis=0)
            if takes_halves(pieces[0].source, dtype):
                self._room = self._room or HalfRoom(cuda(), self.dim, rows=PRODUCT_ROWS)
                on_cores = HalfSums(self._room, shift, sample)
                self._sums[group] = _Sums(shift, None, None, dtype, half=on_cores)
            else:
                zero = xp.zeros(self.dim, dtype=xp.float64, device=sample.device)
                products = xp.zeros((self.dim, self.dim), dtype=xp.float64, device=sample.device)
                self._sums[group] = _Sums(shift, zero, products, dtype)
        half = self._sums[group].half
        for part in _parts(pieces):
            if half is not None:
                half.add(part)
                self._sums[group].n += sum(map(len, part))
                continue
            self._begin(group, part)

    def _begin(self, group: int, pieces: list[Piece]) -> None:
        """Have a product formed, once there is room for it."""
        sums, most = self._sums[group], self._most_begun()
        while len(self._begun) >= most:
            self._take_in()
        if len(self._outs) < most:
            on_host = isinstance(sums.shift, np.ndarray)
            self._outs.append(np.empty((self.dim, self.dim), sums.dtype) if on_host else None)
        out, self._next = self._outs[self._next], (self._next + 1) % most
        self._begun.append((group, pieces, self.team.start(self._product, (group, pieces, out))))

    def _most_begun(self) -> int:
        """One product more than there are threads, so that none waits for the additions, and what memory allows."""
        if self.team.count == 1:
            return 1
        accumulators = 8 * self.dim**2 * int(np.count_nonzero(self.counts >= self.dim))
        room = max(PRODUCT_BYTES, accumulators) // (4 * self.dim**2)
        return min(self.team.count + 1, max(2, room))

    def _take_in(self) -> None:
        """Add the oldest product."""
        group, pieces, formed = self._begun.popleft()
        total, product = self.team.result(formed)
        sums, xp = self._sums[group], array_namespace(total)
        if not bool(xp.all(xp.isfinite(total))):
            require_finite(pieces)
        sums.total += xp.astype(total, xp.float64)
        sums.n += sum(map(len, pieces))
        # A device adds in one launch; the host only the upper triangle, panel by panel.
        panel = PANEL if isinstance(total, np.ndarray) else self.dim
        for start, stop in row_chunks(self.dim, panel):
            sums.products[start:stop, start:] += product[start:stop, start:]

    def _product(self, work: tuple[int, list[Piece], Array]) -> tuple[Array, Array]:
        """Sum and products of the rows less the shift; in `out` where it has their precision."""
        group, pieces, out = work
        sums = self._sums[group]
        staged = stage(pieces, sums.shift, dtype=sums.dtype, out=self._staging(sums))
        xp = array_namespace(staged)
        ones = xp.ones((1, staged.shape[0]), dtype=staged.dtype, device=staged.device)
        with np.errstate(invalid="ignore", over="ignore"):
            total = (ones @ staged)[0, :]
            if out is None or out.dtype != staged.dtype:
                return total, staged.T @ staged
            return total, np.matmul(staged.T, staged, out=out)

    def _staging(self, sums: _Sums) -> Array:
        """Room for the rows of one product, of this thread's own; None on a device."""
        if not isinstance(sums.shift, np.ndarray):
            return None
        room = getattr(self._own, sums.dtype, None)
        if room is None:
            room = np.empty((PRODUCT_ROWS, self.dim), sums.dtype)
            setattr(self._own, sums.dtype, room)
        return room


def _parts(pieces: list[Piece]) -> list[list[Piece]]:
    """Cut a list of pieces so that none of the lists has more than PRODUCT_ROWS rows."""
    parts: list[list[Piece]] = [[]]
    room = PRODUCT_ROWS
    for piece in pieces:
        while len(piece) > room:
            head, rest = piece.rows[:room], slice(room, None)
            parts[-1].append(Piece(piece.source, head, piece.positions[:room]))
            piece = Piece(piece.source, piece.rows[rest], piece.positions[rest])
            parts.append([])
            room = PRODUCT_ROWS
        parts[-1].append(piece)
        room -= len(piece)
    return [part for part in parts if part]


def _centred(sums: _Sums) -> Moments:
    """Take the rest of the mean out of the products, in place."""
    if sums.half is not None:
        sums.total, sums.products = sums.half.finish()
    rest = sums.total / sums.n
    sums.products -= (sums.n * rest)[:, None] * rest[None, :]
    return Moments(sums.n, sums.shift + rest, sums.products)
