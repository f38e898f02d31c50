"""Second moments of groups in one streaming pass, by the cheaper of two routes.

A group of at least d rows accumulates its d × d moments; a smaller one keeps its rows, whose n × n Gram matrix has the
same non-zero eigenvalues. Rows are shifted by a common vector near their mean before anything is squared, and all
accumulators are float64, so a large mean costs no accuracy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.typing import Array

__all__ = ["Cell", "accumulate", "merge"]

Block = tuple[Array, Array]


@dataclass(eq=False)
class Cell:
    """Sums over the rows of one group, after the shift.

    Parameters
    ----------
    n : rows the group has in all
    dim : d
    total : (d) float64 sum of the rows
    products : (d, d) float64 sum of outer products, or None on the Gram route
    rows : pieces (b, d) float64 of the rows, on the Gram route
    seen : rows taken in so far
    """

    n: int
    dim: int
    total: Array = None
    products: Array = None
    rows: list[Array] = field(default_factory=list)
    seen: int = 0

    @property
    def gram(self) -> bool:
        """Whether the n × n Gram matrix is the cheaper route."""
        return self.n < self.dim

    def add(self, rows: Array) -> None:
        """Take in rows (b, d), float64 and shifted."""
        xp = array_namespace(rows)
        total = xp.sum(rows, axis=0)
        self.total = total if self.total is None else self.total + total
        self.seen += int(rows.shape[0])
        if self.gram:
            self.rows.append(rows)
        elif self.products is None:
            self.products = rows.T @ rows
        else:
            self.products += rows.T @ rows

    def eigenvalues(self, *, ddof: int) -> Array:
        """(min(n, d)) float64 eigenvalues of the covariance, descending, rounding below zero cut off."""
        xp = array_namespace(self.total)
        mean = self.total / self.n
        if self.gram:
            centred = xp.concat(self.rows, axis=0) - mean
            matrix = centred @ centred.T
        else:
            matrix = self.products - self.n * (mean[:, None] * mean[None, :])
        values = xp.linalg.eigvalsh(matrix / (self.n - ddof))
        return xp.maximum(xp.flip(values), xp.zeros_like(values))


def accumulate(blocks: Iterable[Block], *, groups: Groups, dim: int) -> list[Cell]:
    """One pass over blocks of (features (b, d), positions (b) of their rows in `groups`), in any order.

    Raises
    ------
    ShapeError
        If a feature is not finite (the row is named), a block has another width, or rows are missing at the end.
    """
    cells = [Cell(int(n), dim) for n in groups.counts]
    shift = None
    for features, positions in blocks:
        xp = array_namespace(features)
        if features.ndim != 2 or features.shape[1] != dim:
            raise ShapeError(f"A block of features has shape {features.shape}; expected (b, {dim}).")
        block = xp.astype(features, xp.float64)
        numbers = to_numpy(positions)
        finite = to_numpy(xp.all(xp.isfinite(block), axis=1))
        if not finite.all():
            raise ShapeError(f"Row {int(numbers[np.argmin(finite)])} of the features is not finite.")
        if shift is None:
            shift = xp.mean(block, axis=0)
        block = block - shift
        ids = groups.ids[numbers]
        for group in np.unique(ids).tolist():
            rows = np.flatnonzero(ids == group)
            cells[group].add(block if rows.size == len(ids) else block[xp.asarray(rows)])
    short = [g for g, cell in enumerate(cells) if cell.seen != cell.n]
    if short:
        name = groups.names[short[0]]
        raise ShapeError(f"Group '{name}' has {cells[short[0]].n} rows, the blocks held {cells[short[0]].seen}.")
    return cells


def merge(cells: Sequence[Cell]) -> Cell:
    """The cell of all rows of several cells; the common shift makes moments plain sums."""
    merged = Cell(sum(cell.n for cell in cells), cells[0].dim)
    for cell in cells:
        if cell.n == 0:
            continue
        if merged.gram or cell.gram:
            for rows in cell.rows:
                merged.add(rows)
            continue
        merged.total = cell.total if merged.total is None else merged.total + cell.total
        merged.products = cell.products + 0 if merged.products is None else merged.products + cell.products
        merged.seen += cell.n
    return merged
