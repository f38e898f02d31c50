"""From the matrix of a group or class to its eigenvalues, trace and route."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from grobust.arrays import array_namespace
from grobust.spectrum._eigen import Eigen, largest_eigenvalues, largest_of_each
from grobust.spectrum._moments import Moments
from grobust.typing import Array

__all__ = ["Result", "Route", "result", "side_by_side", "symmetric"]

PANEL = 64


class Route(StrEnum):
    """How a spectrum was computed.

    MOMENTS : the d × d covariance, accumulated in one pass
    GRAM : the n × n Gram matrix of the centred rows, for fewer rows than features
    KRYLOV : streamed products with blocks of vectors, neither matrix formed; eigenvalues come with residual norms
    NONE : fewer than two rows
    """

    MOMENTS = "moments"
    GRAM = "gram"
    KRYLOV = "krylov"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class Result:
    """Spectrum of one cell; `square` is the sum of the squared eigenvalues."""

    eigen: Eigen
    trace: float
    square: float
    route: Route


def result(
    matrix: Array, divisor: int, route: Route, *, rank: int, complete: bool, rounded: bool = False,
    eigen: Eigen | None = None,
) -> Result:  # fmt: skip
    """Of a scatter or Gram matrix whose eigenvalues over `divisor` are wanted; overwrites nothing.

    `rounded` says that eigenvalues to 1e-7 will do; `eigen` are its eigenvalues where they are known.
    """
    if divisor < 1 or matrix.shape[0] == 0:
        return Result(Eigen(np.zeros(0), np.zeros(0), complete=False), np.nan, np.nan, Route.NONE)
    if eigen is None:
        eigen = largest_eigenvalues(matrix, min(rank, matrix.shape[0]), complete=complete, rounded=rounded)
    return _scaled(matrix, eigen, divisor, route)


def _scaled(matrix: Array, eigen: Eigen, divisor: int, route: Route) -> Result:
    """Of a scatter or Gram matrix whose eigenvalues are known."""
    if divisor < 1:
        return Result(Eigen(np.zeros(0), np.zeros(0), complete=False), np.nan, np.nan, Route.NONE)
    xp = array_namespace(matrix)
    eigen = Eigen(eigen.values / divisor, eigen.bounds / divisor, eigen.complete)
    trace = float(xp.sum(xp.linalg.diagonal(matrix))) / divisor
    # Without a matrix of squares.
    host = isinstance(matrix, np.ndarray)
    square = float(np.vdot(matrix, matrix) if host else xp.sum(matrix * matrix)) / divisor**2
    return Result(eigen, trace, square, route)


def side_by_side(cells: Sequence[Moments], *, ddof: int, rank: int, complete: bool) -> list[Result]:
    """Results of all cells on a device, their eigenvalues together."""
    for cell in cells:
        symmetric(cell.scatter)
    side = int(cells[0].scatter.shape[0])
    eigens = largest_of_each([cell.scatter for cell in cells], min(rank, side), complete=complete)
    return [
        _scaled(cell.scatter, eigen, cell.n - ddof, Route.MOMENTS) for cell, eigen in zip(cells, eigens, strict=True)
    ]


def symmetric(matrix: Array) -> None:
    """Copy the upper triangle to the lower, in place."""
    m, xp = matrix.shape[0], array_namespace(matrix)
    # The cache of a core is small; a device copies in one go.
    panel = PANEL if isinstance(matrix, np.ndarray) else max(m, 1)
    for start in range(0, m, panel):
        stop = min(m, start + panel)
        corner = xp.triu(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + xp.triu(corner, k=1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
