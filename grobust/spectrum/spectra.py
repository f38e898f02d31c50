"""`Spectra`: eigenvalues of the feature covariance of each group or class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grobust.arrays import to_numpy
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum._moments import Cell, accumulate, merge
from grobust.typing import Array

__all__ = ["Spectra", "class_spectra", "group_spectra", "stream_spectra"]

BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Spectra:
    """Covariance spectra of g groups or classes, in the squared unit of the features.

    Parameters
    ----------
    names : g names
    counts : (g) rows
    eigenvalues : (g, rank) float64, descending; NaN beyond min(n − 1, d), as centring takes a dimension, and for
        groups of fewer than two rows
    trace : (g) total variance, the sum of all eigenvalues
    effective_rank : (g) exp of the entropy of eigenvalues over their sum (Roy & Vetterli 2007), of all of them
    participation_ratio : (g) (Σ λ)² / Σ λ²
    ddof : the covariance is divided by n − ddof; 0 is the paper's
    notes : groups without a spectrum
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, " g"]
    eigenvalues: Float[np.ndarray, "g rank"]
    trace: Float[np.ndarray, " g"]
    effective_rank: Float[np.ndarray, " g"]
    participation_ratio: Float[np.ndarray, " g"]
    ddof: int
    notes: tuple[str, ...]


def group_spectra(features: Array, groups: Groups, *, rank: int = 10, ddof: int = 0) -> Spectra:
    """Spectra of the groups of features in memory.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64, NumPy or CuPy; accumulated in float64
    groups : of the n rows
    rank : eigenvalues kept, largest first
    ddof : 0 divides by n (the paper), 1 by n − 1

    Raises
    ------
    ShapeError
        If `features` and `groups` differ in n, or a feature is not finite.
    """
    return stream_spectra(_blocks(features, groups), groups=groups, dim=features.shape[1], rank=rank, ddof=ddof)[0]


def class_spectra(features: Array, groups: Groups, *, rank: int = 10, ddof: int = 0) -> Spectra:
    """Spectra of the classes, each centred by the class mean; arguments as `group_spectra`."""
    return stream_spectra(_blocks(features, groups), groups=groups, dim=features.shape[1], rank=rank, ddof=ddof)[1]


def stream_spectra(
    blocks: Iterable[tuple[Array, Array]], *, groups: Groups, dim: int, rank: int = 10, ddof: int = 0
) -> tuple[Spectra, Spectra]:
    """Spectra of groups and of classes from one pass over blocks of rows.

    Memory: one d × d float64 matrix per group of at least d rows, the rows themselves of smaller groups, and a block.

    Parameters
    ----------
    blocks : (features (b, d), positions (b) of the rows in `groups`), in any order
    groups, dim, rank, ddof : see `group_spectra`
    """
    if rank < 1 or ddof not in (0, 1):
        raise ConfigError(f"rank must be at least 1 and ddof 0 or 1, got {rank} and {ddof}.")
    cells = accumulate(blocks, groups=groups, dim=dim)
    classes = [merge([cells[g] for g in groups.groups_of_class(y)]) for y in range(groups.n_classes)]
    return (
        _spectra(groups.names, cells, rank=rank, ddof=ddof),
        _spectra(groups.class_names, classes, rank=rank, ddof=ddof),
    )


def _blocks(features: Array, groups: Groups) -> Iterable[tuple[Array, Array]]:
    if features.ndim != 2 or features.shape[0] != len(groups):
        raise ShapeError(f"features have shape {features.shape} and the groups {len(groups)} rows.")
    for start in range(0, len(groups), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS]
        yield block, np.arange(start, start + block.shape[0])


def _spectra(names: Sequence[str], cells: Sequence[Cell], *, rank: int, ddof: int) -> Spectra:
    eigenvalues = np.full((len(cells), rank), np.nan)
    trace, effective, participation = (np.full(len(cells), np.nan) for _ in range(3))
    notes = []
    for i, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if cell.n < 2:
            notes.append(f"'{name}' has {cell.n} row(s): a covariance needs two, its spectrum is undefined")
            continue
        values = to_numpy(cell.eigenvalues(ddof=ddof))
        kept = min(rank, cell.n - 1, cell.dim)
        eigenvalues[i, :kept] = values[:kept]
        trace[i] = values.sum()
        if trace[i] > 0:
            share = values[values > 0] / trace[i]
            effective[i] = np.exp(-np.sum(share * np.log(share)))
            participation[i] = 1 / np.sum(share**2)
    return Spectra(
        names=tuple(names),
        counts=np.array([cell.n for cell in cells], dtype=np.int64),
        eigenvalues=eigenvalues,
        trace=trace,
        effective_rank=effective,
        participation_ratio=participation,
        ddof=ddof,
        notes=tuple(notes),
    )
