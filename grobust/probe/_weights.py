"""Weights of K heads without an n × K array: one byte per row and distinct weighting, and a table of its values.

Balancing gives a row a weight by its cell and by whether it is kept, so a weighting has few distinct values, and heads
that differ in strength share it. A weighting with more than 256 values is kept as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import GroupError, ShapeError
from grobust.probe import _numba

__all__ = ["WeightTable", "weight_table"]


@dataclass(frozen=True, eq=False)
class WeightTable:
    """Weights of the rows under U weightings, each summing to 1, and the weighting of each of K heads.

    Parameters
    ----------
    codes : (c, n) uint8, of the coded weightings, which come first
    values : (c, 256) float64
    dense : (U − c, n) float64, the others
    weighting : (K) int64
    support : (U) int64, rows with a positive weight
    """

    codes: NDArray[Any]
    values: NDArray[Any]
    dense: NDArray[Any]
    weighting: NDArray[Any]
    support: NDArray[Any]

    def rows(self, start: int, stop: int, step: int = 1) -> NDArray[Any]:
        """(U, b) float64 weights of every step-th row."""
        chosen = slice(start, stop, step)
        coded = np.take_along_axis(self.values, self.codes[:, chosen].astype(np.int64), axis=1)
        return np.concatenate([coded, self.dense[:, chosen]])

    def of_head(self, head: int) -> NDArray[Any]:
        """(n) float64 weights of one head."""
        weighting, coded = int(self.weighting[head]), self.values.shape[0]
        if weighting < coded:
            return np.asarray(self.values[weighting][self.codes[weighting]])
        return np.asarray(self.dense[weighting - coded])

    def restrict(self, rows: NDArray[Any]) -> "WeightTable":
        """The table of some rows, which must hold all the weight."""
        return WeightTable(self.codes[:, rows], self.values, self.dense[:, rows], self.weighting, self.support)

    def take(self, heads: NDArray[Any]) -> "WeightTable":
        """The table of some heads."""
        return WeightTable(self.codes, self.values, self.dense, self.weighting[heads], self.support)


def weight_table(
    weights: Sequence[NDArray[Any] | None], names: Sequence[str], labels: NDArray[Any], n_classes: int
) -> WeightTable:
    """Encode weights; the same array given for several heads is one weighting.

    Raises
    ------
    ShapeError
        If weights have another shape than labels, are negative or not finite.
    GroupError
        If a weighting gives a class no weight.
    """
    coded: list[tuple[NDArray[Any], NDArray[Any], int]] = []
    dense: list[tuple[NDArray[Any], int]] = []
    place: dict[int, tuple[bool, int]] = {}
    for head, name in zip(weights, names, strict=True):
        if id(head) in place:
            continue
        codes, values, plain = _encode(head, name, labels, n_classes)
        if plain is None:
            place[id(head)] = (True, len(coded))
            coded.append((codes, values, int((values[codes] > 0).sum())))
        else:
            place[id(head)] = (False, len(dense))
            dense.append((plain, int((plain > 0).sum())))
    n = labels.size
    return WeightTable(
        codes=np.stack([c for c, _, _ in coded]) if coded else np.zeros((0, n), dtype=np.uint8),
        values=np.stack([v for _, v, _ in coded]) if coded else np.zeros((0, _numba.CODES)),
        dense=np.stack([d for d, _ in dense]) if dense else np.zeros((0, n)),
        weighting=np.array([i if is_coded else len(coded) + i for is_coded, i in (place[id(w)] for w in weights)]),
        support=np.array([s for *_, s in coded] + [s for _, s in dense]),
    )


def _encode(
    weights: NDArray[Any] | None, name: str, labels: NDArray[Any], n_classes: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    codes, values = np.zeros(labels.size, dtype=np.uint8), np.zeros(_numba.CODES)
    if weights is None:
        values[0], known = 1.0, 1
    else:
        given = np.asarray(weights)
        if given.shape != labels.shape:
            raise ShapeError(f"{name}: weights have shape {given.shape}, expected {labels.shape}.")
        if not np.issubdtype(given.dtype, np.floating):
            given = given.astype(np.float64)
        known = _numba.encode(given, codes, values)
        seen = given if known < 0 else values[:known]
        if not (np.isfinite(seen).all() and (seen >= 0).all()):
            raise ShapeError(f"{name}: weights must be finite and not negative.")
    per_class: NDArray[Any]
    if known < 0:
        per_class = np.bincount(labels, weights=given, minlength=n_classes)
    else:
        counts = np.zeros((_numba.CODES, n_classes), dtype=np.int64)
        _numba.class_totals(codes, labels, counts)
        per_class = values @ counts
    if (per_class == 0).any():
        raise GroupError(f"{name}: class {int(np.argmin(per_class))} has no row with positive weight.")
    if known < 0:
        return codes, values, given / per_class.sum()
    return codes, values / per_class.sum(), None
