"""Groups: labels, spurious attributes, group ids, counts and names.

A *group* is a cell (label y, attribute a). Its id is ``y * n_attributes + a``; this module is the only place that says
so (the literature has both orders). Groups without rows are kept and named. Everything here is a few small integers a
row and lives on the host as NumPy arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from grobust.errors import GroupError, ShapeError

__all__ = ["GroupScheme", "Groups", "Split"]

IntArray = NDArray[Any]


class Split(IntEnum):
    """Train, validation and test, with the numbers that the benchmarks' metadata files use."""

    TRAIN = 0
    VAL = 1
    TEST = 2


@dataclass(frozen=True, eq=False)
class Groups:
    """Labels and spurious attributes of n rows, and the scheme that names them.

    Build one with `Groups.from_arrays`, which checks; the plain constructor trusts its arguments.

    Parameters
    ----------
    labels : (n) int64 in 0 … k−1
    attributes : (n) int64 in 0 … A−1
    class_names : k names
    attribute_names : A names
    """

    labels: Int[np.ndarray, " n"]
    attributes: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    @classmethod
    def from_arrays(
        cls,
        labels: Any,
        attributes: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        attribute_names: Sequence[str] | None = None,
    ) -> "Groups":
        """Check labels and attributes and build `Groups`.

        Parameters
        ----------
        labels : (n) integers, 0 … k−1
        attributes : (n) integers, 0 … A−1; None means one attribute value for every row (groups are then classes)
        class_names, attribute_names : names in id order; by default ``y0, y1, …`` and ``a0, a1, …`` up to the largest
            id seen

        Raises
        ------
        ShapeError
            If the arrays are not one-dimensional or differ in length.
        GroupError
            If an id is negative, not an integer, or has no name.
        """
        y = _ids(labels, "labels")
        a = np.zeros_like(y) if attributes is None else _ids(attributes, "attributes")
        if y.shape != a.shape:
            raise ShapeError(f"labels have {y.size} rows and attributes {a.size}; expected equally many.")
        if attributes is None and attribute_names is None:
            attribute_names = ("any",)
        return cls(y, a, _names(y, class_names, "y", "label"), _names(a, attribute_names, "a", "attribute"))

    def __len__(self) -> int:
        return int(self.labels.size)

    @property
    def n_classes(self) -> int:
        """k, classes without rows included."""
        return len(self.class_names)

    @property
    def n_attributes(self) -> int:
        """A, attribute values without rows included."""
        return len(self.attribute_names)

    @property
    def n_groups(self) -> int:
        """g = k · A, groups without rows included."""
        return self.n_classes * self.n_attributes

    @cached_property
    def ids(self) -> Int[np.ndarray, " n"]:
        """(n) int64 group ids, ``label * n_attributes + attribute``."""
        ids: IntArray = self.labels * self.n_attributes + self.attributes
        return ids

    @cached_property
    def counts(self) -> Int[np.ndarray, " g"]:
        """(g) int64 rows per group; 0 for a group without rows."""
        return np.bincount(self.ids, minlength=self.n_groups)

    @cached_property
    def class_counts(self) -> Int[np.ndarray, " k"]:
        """(k) int64 rows per class."""
        counts: IntArray = self.counts.reshape(self.n_classes, self.n_attributes).sum(axis=1)
        return counts

    @property
    def names(self) -> tuple[str, ...]:
        """g names, ``class / attribute``, in id order."""
        if self.n_attributes == 1:
            return self.class_names
        return tuple(f"{y} / {a}" for y in self.class_names for a in self.attribute_names)

    def groups_of_class(self, label: int) -> range:
        """Ids of the groups of one class."""
        return range(label * self.n_attributes, (label + 1) * self.n_attributes)

    def minority_group(self, label: int) -> int | None:
        """Id of the class's smallest non-empty group; None for a tie at either end or a single non-empty group."""
        ends = self._extremes(label)
        return None if ends is None else ends[0]

    def majority_group(self, label: int) -> int | None:
        """Id of the class's largest group; None where `minority_group` is None."""
        ends = self._extremes(label)
        return None if ends is None else ends[1]

    def _extremes(self, label: int) -> tuple[int, int] | None:
        ids = [g for g in self.groups_of_class(label) if self.counts[g] > 0]
        sizes = sorted(int(self.counts[g]) for g in ids)
        if len(ids) < 2 or sizes[0] == sizes[1] or sizes[-1] == sizes[-2]:
            return None
        return min(ids, key=lambda g: int(self.counts[g])), max(ids, key=lambda g: int(self.counts[g]))

    def take(self, rows: Any) -> "Groups":
        """The same scheme on other rows (indices, a slice or a boolean mask): names and empty groups are kept."""
        return Groups(self.labels[rows], self.attributes[rows], self.class_names, self.attribute_names)

    def scheme(self) -> "GroupScheme":
        """The disjoint groups as a `GroupScheme`."""
        return GroupScheme(self.names, self.ids[:, None] == np.arange(self.n_groups)[None, :])


@dataclass(frozen=True, eq=False)
class GroupScheme:
    """Named groups that may overlap, for metrics only (WILDS' identity groups, say).

    Parameters
    ----------
    names : g names
    membership : (n, g) bool; a row may belong to several groups or to none
    """

    names: tuple[str, ...]
    membership: Bool[np.ndarray, "n g"]

    def __post_init__(self) -> None:
        if self.membership.ndim != 2 or self.membership.shape[1] != len(self.names):
            raise ShapeError(f"membership has shape {self.membership.shape}; expected (n, {len(self.names)}).")

    def __len__(self) -> int:
        return int(self.membership.shape[0])

    @property
    def n_groups(self) -> int:
        """g, empty groups included."""
        return len(self.names)

    @property
    def counts(self) -> Int[np.ndarray, " g"]:
        """(g) rows per group; a row counts once in each of its groups."""
        counts: IntArray = self.membership.sum(axis=0)
        return counts


def _ids(values: Any, what: str) -> IntArray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"{what} have shape {array.shape}; expected one dimension.")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "biu":
        raise GroupError(f"{what} have dtype {array.dtype}; expected integers 0, 1, 2, … (encode names first).")
    array = array.astype(np.int64)
    if array.min() < 0:
        row = int(np.argmin(array))
        raise GroupError(f"{what} are negative: row {row} has {array[row]}; expected 0, 1, 2, …")
    return array


def _names(ids: IntArray, names: Sequence[str] | None, prefix: str, what: str) -> tuple[str, ...]:
    largest = int(ids.max()) if ids.size else -1
    if names is None:
        return tuple(f"{prefix}{i}" for i in range(largest + 1))
    if largest >= len(names):
        row = int(np.argmax(ids))
        raise GroupError(
            f"{what} {largest} (row {row}) has no name: {len(names)} names were given ({', '.join(names)})."
        )
    if len(set(names)) != len(names):
        raise GroupError(f"{what} names repeat: {', '.join(names)}.")
    return tuple(names)
