"""Means and second moments of groups in one streaming pass, for groups of at least d rows.

Rows wait until a group has a few thousand of them; then one float32 symmetric product of the rows minus the group's
shift is added to float64 accumulators. It is float64 for float64 features and little work; of two bfloat16 for many
rows where a CPU has matrix tiles (`_products`); of two float16 for float16 features on a GPU (`_half`). The shift is
near the group's mean, so that a large mean costs no accuracy, and what is left of the mean is taken out in float64 at
the end.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.device._cuda import cuda
from grobust.spectrum._half import HalfRoom, HalfSums, takes_halves
from grobust.spectrum._products import Product, new_product, takes_tiles
from grobust.spectrum._staging import Piece, first_rows, require_finite, working_dtype
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["MomentSums", "Moments", "merge_moments"]

# Rows of one product. float32 rounding inside a product grows with it, the cost of adding d × d float64 falls.
PRODUCT_ROWS = 4096
SHIFT_ROWS = 128
COPY_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Moments:
    """Rows, mean and scatter of one group or class.

    Parameters
    ----------
    n : rows
    mean : (d) float64
    scatter : (d, d) float64, Σ (x − mean)(x − mean)ᵀ; only the upper triangle is filled before `symmetric`
    rounded : the features are float16 or float32, so that eigenvalues to 1e-7 will do
    """

    n: int
    mean: Array
    scatter: Array
    rounded: bool = False

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
    between = xp.stack([(part.mean - mean) * part.n**0.5 for part in parts])
    scatter = between.T @ between
    for part in parts:
        scatter += part.scatter
    return Moments(n, mean, scatter, any(part.rounded for part in parts))


@dataclass(eq=False)
class _Sums:
    shift: Array
    total: Array
    products: Array
    dtype: str
    rounded: bool
    tiles: bool = False
    n: int = 0
    half: HalfSums | None = None


@dataclass(eq=False)
class MomentSums:
    """Accumulators of several groups; `add` pieces in any order, then `finish`.

    Parameters
    ----------
    dim : d
    counts : (g) rows that the groups will have
    team : threads that form products; sums are added in the order of the pieces, whoever formed them
    """

    dim: int
    counts: NDArray[np.int64]
    team: Threads
    _pending: dict[int, list[Piece]] = field(default_factory=dict)
    _sums: dict[int, _Sums] = field(default_factory=dict)
    _work: list[tuple[int, list[Piece]]] = field(default_factory=list)
    _room: dict[tuple[str, bool], list[Product]] = field(default_factory=lambda: defaultdict(list))
    _half_room: HalfRoom | None = None

    def add(self, pieces: Sequence[tuple[int, Piece]], *, keep: bool) -> None:
        """Take in the (group, rows) of a block; `keep` says that the block stays as it is until `finish`."""
        # Blocks that stay may be a file's: what came before is done with before more of it is touched.
        if len(self._work) >= self.team.count:
            self._form()
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
                    if not keep and len(self._work) >= self.team.count:
                        self._form()

    def finish(self) -> dict[int, Moments]:
        """Moments by group; the accumulators are used up."""
        for group, waiting in self._pending.items():
            if waiting:
                self._give_out(group, waiting)
        self._pending.clear()
        self._form()
        self._room.clear()
        self._half_room = None
        numbers = sorted(self._sums)
        return dict(zip(numbers, self.team.map(lambda group: _centred(self._sums.pop(group)), numbers), strict=True))

    def _give_out(self, group: int, pieces: list[Piece]) -> None:
        if group not in self._sums:
            sample = first_rows(pieces, SHIFT_ROWS)
            dtype = working_dtype(pieces[0].source, work=float(self.counts[group]) * self.dim**2)
            rounded = working_dtype(pieces[0].source) == "float32"
            xp = array_namespace(sample)
            shift = xp.mean(sample, axis=0)
            if takes_halves(pieces[0].source, dtype):
                self._half_room = self._half_room or HalfRoom(cuda(), self.dim, rows=PRODUCT_ROWS)
                on_cores = HalfSums(self._half_room, shift, sample)
                self._sums[group] = _Sums(shift, None, None, dtype, rounded, half=on_cores)
            else:
                zero = xp.zeros(self.dim, dtype=xp.float64, device=sample.device)
                products = xp.zeros((self.dim, self.dim), dtype=xp.float64, device=sample.device)
                tiles = takes_tiles(pieces[0].source, dtype, int(self.counts[group]))
                self._sums[group] = _Sums(shift, zero, products, dtype, rounded, tiles)
        half = self._sums[group].half
        for part in _parts(pieces):
            if half is not None:
                half.add(part)
                self._sums[group].n += sum(map(len, part))
                continue
            self._work.append((group, part))

    def _form(self) -> None:
        """Products and their additions, side by side; to one group they are added in the order of the work."""
        work, self._work = self._work, []
        if not work:
            return
        # Longest first: the threads then end within a short one of each other.
        work.sort(key=self._cost, reverse=True)
        done = [Event() for _ in work]
        last: dict[int, Event] = {}
        jobs = []
        for event, (group, pieces) in zip(done, work, strict=True):
            jobs.append((group, pieces, last.get(group), event))
            last[group] = event
        self.team.map(lambda job: self._take_in(*job), jobs)

    def _cost(self, item: tuple[int, list[Piece]]) -> int:
        rows = sum(map(len, item[1]))
        sums = self._sums[item[0]]
        return 6 * rows if sums.dtype == "float64" else rows if sums.tiles else 3 * rows

    def _take_in(self, group: int, pieces: list[Piece], before: Event | None, done: Event) -> None:
        """One product, added after that of the group `before` it, which another thread has begun."""
        sums = self._sums[group]
        room = self._room[sums.dtype, sums.tiles]
        # Whatever goes wrong, nobody waits for it forever.
        try:
            try:
                product = room.pop()
            except IndexError:
                product = new_product(pieces[0].source, sums.dtype, rows=PRODUCT_ROWS, tiles=sums.tiles)
            total = product.form(pieces, sums.shift)
            if before is not None:
                before.wait()
            sums.total += total
            sums.n += sum(map(len, pieces))
            product.add_to(sums.products)
            room.append(product)
        finally:
            done.set()


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
    xp = array_namespace(sums.products)
    if not bool(xp.all(xp.isfinite(xp.linalg.diagonal(sums.products)))):
        # Every number was finite, or its piece would have said so.
        require_finite(())
    rest = sums.total / sums.n
    sums.products -= (sums.n * rest)[:, None] * rest[None, :]
    return Moments(sums.n, sums.shift + rest, sums.products, sums.rounded)
