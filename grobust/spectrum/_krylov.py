"""Largest eigenvalues without a covariance or a Gram matrix: block Krylov over streamed passes.

For many rows *and* many features. One pass finds means and traces; every further pass multiplies the covariances of
all groups and classes with a block of vectors each, rows minus their mean; products are float32 and sums float64. The
Ritz pairs of the blocks so far are exact in the span of the blocks, and the products give their residual norms
‖Cv − λv‖ without another pass: an eigenvalue lies within that distance of each Ritz value, which is itself a lower
bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.groups import Groups
from grobust.spectrum._eigen import Eigen
from grobust.spectrum._staging import Block, Piece, pieces_of, require_finite, stage, working_dtype
from grobust.typing import Array

__all__ = ["KrylovCell", "krylov_spectra"]

# Vectors beyond k: they separate the k-th eigenvalue from what follows.
EXTRA_VECTORS = 10
MAX_PASSES = 12
STAGE_ROWS = 2048


@dataclass(eq=False)
class KrylovCell:
    """A group or a class on its way.

    Parameters
    ----------
    members : group ids whose rows belong to it
    n : rows
    """

    members: tuple[int, ...]
    n: int
    mean: Array = None
    square: float = 0.0
    basis: Array = None
    products: Array = None
    block: Array = None
    sum: Array = None
    result: Eigen | None = None

    @property
    def trace(self) -> float:
        """Sum of the squared distances from the mean, over n."""
        return self.square / self.n


def krylov_spectra(
    blocks: Iterable[Block], cells: list[KrylovCell], *, groups: Groups, dim: int, rank: int, tolerance: float
) -> int:
    """Fill `result` of every cell: eigenvalues of the covariance divided by n, with residual norms as bounds.

    Stops when the largest residual is at most `tolerance` times λ1, for all cells, or after 12 products.

    Returns
    -------
    Passes over the blocks.
    """
    active = [cell for cell in cells if cell.n >= 2]
    by_group = {g: [cell for cell in active if g in cell.members] for g in range(groups.n_groups)}
    _means(blocks, by_group, groups=groups, dim=dim)
    passes = 1
    rng = np.random.default_rng(0)
    for cell in active:
        xp = array_namespace(cell.mean)
        width = min(rank + EXTRA_VECTORS, dim, cell.n - 1)
        cell.block = _orthonormal(xp.asarray(rng.standard_normal((dim, width)), device=cell.mean.device))
    while active and passes <= MAX_PASSES:
        _multiply(blocks, by_group, groups=groups, dim=dim)
        passes += 1
        for cell in active:
            _ritz(cell, rank=rank)
        active = [cell for cell in active if not _done(cell, tolerance, dim)]
        by_group = {g: [cell for cell in own if cell in active] for g, own in by_group.items()}
    for cell in cells:
        cell.basis = cell.products = cell.block = None
    return passes


def _done(cell: KrylovCell, tolerance: float, dim: int) -> bool:
    found = cell.result
    assert found is not None
    # The random start may lie outside the rows' span, so that a block more than n − 1 vectors can be needed.
    exhausted = cell.block.shape[1] == 0 or cell.basis.shape[1] >= dim
    return exhausted or bool(found.bounds.max(initial=0.0) <= tolerance * found.values[0])


def _means(blocks: Iterable[Block], by_group: dict[int, list[KrylovCell]], *, groups: Groups, dim: int) -> None:
    """Means and sums of squares about them, merged over blocks (Chan, Golub & LeVeque 1983)."""
    seen: dict[int, tuple[int, Array, float]] = {}
    for features, positions in blocks:
        for group, piece in pieces_of(features, positions, groups=groups, dim=dim):
            for part in piece.split(STAGE_ROWS):
                xp = array_namespace(part.source)
                zero = xp.zeros(dim, dtype=xp.float64, device=part.source.device)
                rows = stage([part], zero, dtype="float64")
                mean = xp.mean(rows, axis=0)
                if not bool(xp.all(xp.isfinite(mean))):
                    require_finite([part])
                square = float(xp.sum((rows - mean[None, :]) ** 2))
                n, old, total = seen.get(group, (0, mean, 0.0))
                share = len(part) / (n + len(part))
                gap = mean - old
                total += square + n * share * float(xp.sum(gap**2))
                seen[group] = (n + len(part), old + share * gap, total)
    for cell in {id(cell): cell for own in by_group.values() for cell in own}.values():
        parts = [seen[g] for g in cell.members if g in seen]
        cell.mean = sum(mean * (n / cell.n) for n, mean, _ in parts)
        xp = array_namespace(cell.mean)
        cell.square = sum(s + n * float(xp.sum((mean - cell.mean) ** 2)) for n, mean, s in parts)


def _multiply(blocks: Iterable[Block], by_group: dict[int, list[KrylovCell]], *, groups: Groups, dim: int) -> None:
    """`sum` of every cell becomes C times its block."""
    for features, positions in blocks:
        for group, piece in pieces_of(features, positions, groups=groups, dim=dim):
            for cell in by_group[group]:
                _multiply_rows(cell, piece)
    for cell in {id(cell): cell for own in by_group.values() for cell in own}.values():
        cell.sum = cell.sum / cell.n


def _multiply_rows(cell: KrylovCell, piece: Piece) -> None:
    dtype = working_dtype(piece.source)
    xp = array_namespace(piece.source)
    if cell.sum is None:
        cell.sum = xp.zeros_like(cell.block)
    vectors = xp.astype(cell.block, getattr(xp, dtype))
    for part in piece.split(STAGE_ROWS):
        rows = stage([part], cell.mean, dtype=dtype)
        cell.sum += xp.astype(rows.T @ (rows @ vectors), xp.float64)


def _ritz(cell: KrylovCell, *, rank: int) -> None:
    """Ritz pairs of all blocks so far, and the next block."""
    xp = array_namespace(cell.sum)
    cell.basis = cell.block if cell.basis is None else xp.concat([cell.basis, cell.block], axis=1)
    cell.products = cell.sum if cell.products is None else xp.concat([cell.products, cell.sum], axis=1)
    small = cell.basis.T @ cell.products
    values, vectors = xp.linalg.eigh((small + small.T) / 2)
    values, vectors = xp.flip(values), xp.flip(vectors, axis=1)
    kept = min(rank, values.shape[0])
    pairs = vectors[:, :kept]
    residual = cell.products @ pairs - (cell.basis @ pairs) * values[None, :kept]
    bounds = to_numpy(xp.linalg.vector_norm(residual, axis=0))
    found: NDArray[np.float64] = np.maximum(to_numpy(values[:kept]), 0)
    cell.result = Eigen(found, bounds, complete=False)
    cell.block = _orthonormal(cell.sum, against=cell.basis)
    cell.sum = None


def _orthonormal(block: Array, against: Array = None) -> Array:
    """Orthonormal columns of the block's span outside that of `against`, those of rounding size left out."""
    xp = array_namespace(block)
    scale = float(xp.max(xp.linalg.vector_norm(block, axis=0)))
    if against is not None:
        for _ in range(2):
            block = block - against @ (against.T @ block)
    q, r = xp.linalg.qr(block)
    large = to_numpy(xp.abs(xp.linalg.diagonal(r))) > 1e-10 * scale
    q = q if large.all() else xp.take(q, xp.asarray(np.flatnonzero(large), device=q.device), axis=1)
    return q if against is None else q - against @ (against.T @ q)
