"""n × n Gram matrices of centred rows, for groups and classes of fewer rows than features.

The Gram matrix of the rows over n has the non-zero eigenvalues of the covariance. Rows are centred by their group's
mean before they are multiplied. Products over stretches of columns are float32 (float64 for float64 features and for
little work); their sum is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grobust.arrays import array_namespace
from grobust.spectrum._moments import Moments
from grobust.spectrum._staging import Piece, first_rows, require_finite, row_chunks, stage, working_dtype
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["CentredRows", "class_gram", "gram", "precision_of", "scatter_of_rows"]

# Enough to come near the mean, which is then taken out exactly.
SHIFT_ROWS = 32
# Columns of one product: float32 rounding inside a product grows with it.
PRODUCT_COLUMNS = 4096
# Rounding of a Gram matrix's entries is not averaged over rows as that of a covariance is: float64 up to more work.
PRECISE_WORK = 1 << 33
# Below this many multiplications threads cost more than they save.
SMALL_PRODUCT = 1 << 24
PANEL = 128


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
    def of(cls, groups: Sequence[Sequence[Piece]]) -> "CentredRows":
        """Gather and centre the rows of each group; every group has rows.

        Raises
        ------
        ShapeError
            If a feature is not finite; the row is named.
        """
        sizes = [sum(map(len, pieces)) for pieces in groups]
        edges = (0, *np.cumsum(sizes).tolist())
        first = groups[0][0].source
        xp = array_namespace(first)
        dtype = precision_of(first, edges[-1])
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


def precision_of(rows: Array, n: int) -> str:
    """Working dtype of the Gram matrix of n rows (., d)."""
    return working_dtype(rows, work=float(n) ** 2 * rows.shape[1], limit=PRECISE_WORK)


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
    sizes = np.diff(rows.edges)
    weights = xp.asarray(sizes / rows.n, device=own.device)
    offsets = rows.means - weights[None, :] @ rows.means
    group = xp.asarray(np.repeat(np.arange(sizes.size), sizes), device=own.device)
    crossed = xp.astype(rows.rows @ xp.astype(offsets.T, rows.rows.dtype), xp.float64)
    between = offsets @ offsets.T
    spread = xp.take(crossed + xp.take(between, group, axis=0) / 2, group, axis=1)
    own += spread
    own += spread.T
    return own


def scatter_of_rows(rows: Array, mean: Array) -> Moments:
    """Moments of a group whose centred rows (n, d) are at hand."""
    xp = array_namespace(rows)
    return Moments(int(rows.shape[0]), mean, xp.astype(rows.T @ rows, xp.float64))
