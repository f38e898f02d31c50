"""n × n Gram matrices of centred rows, for groups and classes of fewer rows than features.

The Gram matrix of the rows over n has the non-zero eigenvalues of the covariance. Rows are centred by their group's
mean before they are multiplied. Products over stretches of columns are float32 (float64 for float64 features and for
little work); their sum is float64. Where few eigenvalues are wanted, they are Rayleigh quotients of float32 vectors
with the rows themselves in float64, so that the rounding of the matrix does not reach them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.spectrum._moments import Moments
from grobust.spectrum._staging import Piece, first_rows, require_finite, row_chunks, stage, working_dtype
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["CentredRows", "class_gram", "gram", "precision_of", "scatter_of_rows", "single_pays"]

# Enough to come near the mean, which is then taken out exactly.
SHIFT_ROWS = 32
# Columns of one product: float32 rounding inside a product grows with it.
PRODUCT_COLUMNS = 4096
# Rounding of a Gram matrix's entries is not averaged over rows as that of a covariance is: float64 up to more work.
PRECISE_WORK = 1 << 33
# Below this many multiplications threads cost more than they save.
SMALL_PRODUCT = 1 << 24
PANEL = 128
# Of rows in float64, a stretch of columns at a time, while they are multiplied with vectors.
TIMES_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class CentredRows:
    """Rows of the groups of one class, each centred by its group's mean, group after group.

    Parameters
    ----------
    rows : (n, d) float32 or float64
    edges : g + 1 row numbers at which groups begin and end
    means : (g, d) float64
    """

    rows: Array
    edges: tuple[int, ...]
    means: Array

    @classmethod
    def of(cls, groups: Sequence[Sequence[Piece]], *, single: bool = False) -> "CentredRows":
        """Gather and centre the rows of each group; every group has rows. `single` keeps them in float32.

        Raises
        ------
        ShapeError
            If a feature is not finite; the row is named.
        """
        sizes = [sum(map(len, pieces)) for pieces in groups]
        edges = (0, *np.cumsum(sizes).tolist())
        first = groups[0][0].source
        xp = array_namespace(first)
        dtype = working_dtype(first) if single else precision_of(first, edges[-1])
        out = None
        if isinstance(first, np.ndarray):
            out = np.empty((edges[-1], first.shape[1]), dtype)
        parts, means = [], []
        for i, pieces in enumerate(groups):
            shift = xp.mean(first_rows(pieces, SHIFT_ROWS), axis=0)
            rows = stage(pieces, shift, dtype=dtype, out=None if out is None else out[edges[i] : edges[i + 1]])
            with np.errstate(invalid="ignore"):
                rest = (xp.ones((1, sizes[i]), dtype=rows.dtype, device=rows.device) @ rows)[0, :] / sizes[i]
            if not bool(xp.all(xp.isfinite(rest))):
                require_finite(pieces)
            rows -= rest[None, :]
            parts.append(rows)
            means.append(shift + xp.astype(rest, xp.float64))
        return cls(out if out is not None else xp.concat(parts, axis=0), edges, xp.stack(means))

    @property
    def n(self) -> int:
        """Rows of all groups."""
        return self.edges[-1]

    def of_group(self, i: int) -> Array:
        """(n_i, d) rows of the i-th group, a view."""
        return self.rows[self.edges[i] : self.edges[i + 1], :]

    @property
    def offsets(self) -> Array:
        """(g, d) float64 means of the groups about the mean of all rows."""
        xp = array_namespace(self.means)
        weights = xp.asarray(np.diff(self.edges) / self.n, device=self.means.device)
        return self.means - weights[None, :] @ self.means

    @property
    def group_of_row(self) -> NDArray[np.int64]:
        """(n) which group each row belongs to."""
        sizes = np.diff(self.edges)
        return np.repeat(np.arange(sizes.size), sizes)

    def precise(self) -> "CentredRows":
        """The same rows in float64."""
        xp = array_namespace(self.rows)
        return CentredRows(xp.astype(self.rows, xp.float64), self.edges, self.means)

    def times(self, vectors: NDArray[np.float64], team: Threads, *, group: int | None) -> NDArray[np.float64]:
        """(m, c) Gram matrix in float64, of one group's rows or (None) of all about their common mean, times vectors.

        On the host; the matrix is not formed.
        """
        rows = self.rows if group is None else self.of_group(group)
        offsets, of_row = self.offsets, self.group_of_row
        # The groups' offsets are added to sums of vectors and to results, instead of to the rows.
        starts = np.array(self.edges[:-1])
        summed = np.add.reduceat(vectors, starts, axis=0) if group is None else None
        step = max(64, TIMES_BYTES // (8 * rows.shape[0]))

        def stretch(start: int, stop: int) -> NDArray[np.float64]:
            total = np.zeros(vectors.shape)
            for first in range(start, stop, step):
                chunk = slice(first, min(first + step, stop))
                part = rows[:, chunk].astype(np.float64)
                seen = part.T @ vectors
                if summed is None:
                    total += part @ seen
                    continue
                seen += offsets[:, chunk].T @ summed
                total += part @ seen
                total += (offsets[:, chunk] @ seen)[of_row]
            return total

        parts = team.ranges(stretch, rows.shape[1], 64)
        return np.asarray(sum(parts[1:], parts[0]))


def precision_of(rows: Array, n: int) -> str:
    """Working dtype of the Gram matrix of n rows (., d)."""
    return working_dtype(rows, work=float(n) ** 2 * rows.shape[1], limit=PRECISE_WORK)


def single_pays(rows: Array, n: int) -> bool:
    """Whether rows and Gram matrix of n rows (., d) are worth making in float32, if few eigenvalues are wanted."""
    return isinstance(rows, np.ndarray) and working_dtype(rows, work=float(n) ** 2 * rows.shape[1]) == "float32"


def gram(rows: Array, team: Threads) -> Array:
    """(n, n) float64 Gram matrix of rows (n, d)."""
    n, d = rows.shape
    chunks = row_chunks(d, PRODUCT_COLUMNS)
    xp = array_namespace(rows)

    def product(chunk: tuple[int, int]) -> Array:
        part = rows[:, chunk[0] : chunk[1]]
        return part @ part.T

    if len(chunks) == 1 and n * n * d < SMALL_PRODUCT:
        return xp.astype(product((0, d)), xp.float64)
    if len(chunks) < team.count:
        chunks = row_chunks(d, -(-d // team.count))
    total = xp.zeros((n, n), dtype=xp.float64, device=rows.device)
    for start in range(0, len(chunks), team.count):
        made = team.map(product, chunks[start : start + team.count])

        def add(panel: tuple[int, int], made: list[Array] = made) -> None:
            for part in made:
                total[panel[0] : panel[1], :] += part[panel[0] : panel[1], :]

        team.map(add, row_chunks(n, PANEL))
    return total


def class_gram(rows: CentredRows, own: Array) -> Array:
    """Gram matrix of the rows centred by the class mean, from that of the rows centred by their groups' means.

    With c the rows centred by group and δ the groups' means about the class mean: (c_i + δ_i)ᵀ(c_j + δ_j). Overwrites
    `own` (n, n) float64.
    """
    xp = array_namespace(own)
    offsets = rows.offsets
    group = xp.asarray(rows.group_of_row, device=own.device)
    crossed = xp.astype(rows.rows @ xp.astype(offsets.T, rows.rows.dtype), xp.float64)
    between = offsets @ offsets.T
    spread = xp.take(crossed + xp.take(between, group, axis=0) / 2, group, axis=1)
    own += spread
    own += spread.T
    return own


def scatter_of_rows(rows: Array, mean: Array) -> Moments:
    """Moments of a group whose centred rows (n, d) are at hand."""
    xp = array_namespace(rows)
    rounded = str(rows.dtype).endswith("float32")
    return Moments(int(rows.shape[0]), mean, xp.astype(rows.T @ rows, xp.float64), rounded)
