"""Splits of rows: the paper's held-out half, shares within every group, and shares by a digest of the content.

Arrays in, row numbers or splits out; nothing here reads a file. `grobust.data.resplit` applies them to data sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups, Split

__all__ = ["HeldOutHalf", "held_out_half", "split_by_digest", "split_groups_by_digest"]

# Digests are 64 bits; their leading 53 are a float64 in [0, 1) without rounding.
_KEPT_BITS = 53


@dataclass(frozen=True, eq=False)
class HeldOutHalf:
    """Two disjoint halves of a validation split, row numbers in ascending order.

    Parameters
    ----------
    reweighting : (⌊n/2⌋) int64, for last-layer retraining
    validation : (⌈n/2⌉) int64, for selection
    """

    reweighting: Int[np.ndarray, " r"]
    validation: Int[np.ndarray, " v"]


def held_out_half(rows: Any, *, seed: int) -> HeldOutHalf:
    """The halves that LaBonte et al. draw from the validation split.

    A copy of the rows is shuffled by ``numpy.random.default_rng(seed)``; the first ⌊n/2⌋ are the reweighting half.
    The halves depend on seed and order of the rows alone, so drawing again gives the same ones.

    Parameters
    ----------
    rows : (n) distinct row numbers of the validation split, in the order of the table
    seed : of the run

    Raises
    ------
    ShapeError
        If `rows` is not a one-dimensional integer array.
    GroupError
        If a row repeats, or there are fewer than two.
    ConfigError
        If the seed is negative.
    """
    shuffled = np.array(rows, copy=True)
    if shuffled.ndim != 1 or (shuffled.size and shuffled.dtype.kind not in "iu"):
        raise ShapeError(f"rows have shape {shuffled.shape} and dtype {shuffled.dtype}; expected (n) integers.")
    if shuffled.size < 2:
        raise GroupError(f"{shuffled.size} validation row(s) cannot be halved; expected at least 2.")
    if np.unique(shuffled).size != shuffled.size:
        raise GroupError("validation rows repeat, so the halves would share rows; expected distinct row numbers.")
    _check_seed(seed)
    np.random.default_rng(seed).shuffle(shuffled)
    half = shuffled.size // 2
    reweighting, validation = (np.sort(part).astype(np.int64) for part in (shuffled[:half], shuffled[half:]))
    return HeldOutHalf(reweighting, validation)


def split_groups_by_digest(
    groups: Groups, digests: UInt[np.ndarray, " n"], shares: Sequence[float]
) -> Int[np.ndarray, " n"]:
    """Cut every group at the given shares, in the order of the rows' digests.

    Every group is divided alike, to one row, by largest remainder; where remainders are equal the earlier split gets
    the row. The result does not depend on the order of the rows.

    Parameters
    ----------
    groups : of the n rows
    digests : (n) uint64, one per row, such as a hash of its name
    shares : of train, validation and test; scaled to sum to one

    Returns
    -------
    (n) int8 `Split` values.
    """
    wanted = _shares(shares)
    _check_digests(digests, len(groups))
    split: NDArray[Any] = np.zeros(len(groups), dtype=np.int8)
    order = np.lexsort((digests, groups.ids))
    starts = np.concatenate([[0], np.cumsum(groups.counts)])
    for group in np.flatnonzero(groups.counts).tolist():
        rows = order[starts[group] : starts[group + 1]]
        sizes = _largest_remainder(wanted, rows.size)
        split[rows] = np.repeat(np.array(Split, dtype=np.int8), sizes)
    return split


def split_by_digest(digests: UInt[np.ndarray, " n"], shares: Sequence[float]) -> Int[np.ndarray, " n"]:
    """Split every row by its own digest alone.

    Rows of equal digest are never parted, and adding or removing rows moves no other row; shares hold on average.

    Parameters
    ----------
    digests : (n) uint64, one per row, such as a hash of its content
    shares : of train, validation and test; scaled to sum to one

    Returns
    -------
    (n) int8 `Split` values.
    """
    _check_digests(digests, digests.size)
    ends = np.cumsum(_shares(shares))[:-1]
    position = (digests >> np.uint64(64 - _KEPT_BITS)).astype(np.float64) / 2.0**_KEPT_BITS
    split: NDArray[Any] = np.searchsorted(ends, position, side="right").astype(np.int8)
    return split


def _largest_remainder(shares: NDArray[Any], n: int) -> NDArray[Any]:
    exact = shares * n
    whole = np.floor(exact + 1e-9).astype(np.int64)
    # A stable sort of the remainders, rounded, so that equal shares tie as they should.
    by_remainder = np.argsort(-np.round(exact - whole, 9), kind="stable")
    whole[by_remainder[: n - int(whole.sum())]] += 1
    return whole


def _shares(shares: Sequence[float]) -> NDArray[Any]:
    array = np.asarray(shares, dtype=np.float64)
    usable = array.shape == (len(Split),) and bool(np.isfinite(array).all()) and bool((array >= 0).all())
    if not usable or not math.isfinite(total := float(array.sum())) or total <= 0:
        raise ConfigError(f"shares must be three numbers for train, val and test, none negative; got {list(shares)}.")
    return array / total


def _check_digests(digests: NDArray[Any], n: int) -> None:
    if digests.shape != (n,) or digests.dtype != np.uint64:
        raise ShapeError(f"digests have shape {digests.shape} and dtype {digests.dtype}; expected ({n},) uint64.")


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}.")
