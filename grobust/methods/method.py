"""What a method is: frozen settings, the labels it needs, and a function of training and validation features.

A method knows arrays only. It fits a head, chooses its settings on validation rows that the head was not trained on,
and says what it chose from, what it used, and what a reader must know. Test rows cannot reach it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grobust.errors import GroupError, ShapeError
from grobust.groups import Groups
from grobust.probe import Probe

__all__ = ["About", "Features", "LabelNeeds", "Labels", "Method", "MethodFit", "Tried", "halves", "require_groups"]


class Labels(IntEnum):
    """Labels that a method reads of a set of rows; each kind includes the one before."""

    NONE = 0
    CLASS = 1
    GROUP = 2

    @property
    def kinds(self) -> tuple[str, ...]:
        """As label ledgers have it: ``class``, ``attribute``."""
        return ("class", "attribute")[: int(self)]


@dataclass(frozen=True)
class LabelNeeds:
    """Labels that a method reads, by the rows that it reads them of and for what.

    Parameters
    ----------
    train : of training rows, to train on
    reweighting : of validation rows, to train on
    selection : of validation rows, to choose settings
    """

    train: Labels = Labels.CLASS
    reweighting: Labels = Labels.NONE
    selection: Labels = Labels.NONE

    @property
    def needs_attributes(self) -> bool:
        """Whether training is impossible without attributes; selection can do without."""
        return Labels.GROUP in (self.train, self.reweighting)


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a method before running it.

    Parameters
    ----------
    title : in words
    source : who published it
    cost : what it solves or trains, in words
    random : whether seeds make a difference
    """

    title: str
    source: str
    cost: str
    random: bool = True


@dataclass(frozen=True, eq=False)
class Features:
    """Rows of one split.

    Parameters
    ----------
    values : (n, d) float32 or float64, in memory
    groups : of the n rows
    early : (n, d') the same rows' features at an early checkpoint, or before finetuning; None without
    """

    values: NDArray[Any]
    groups: Groups
    early: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.groups)
        for name, array in (("values", self.values), ("early", self.early)):
            if array is not None and (array.ndim != 2 or array.shape[0] != n or array.shape[1] == 0):
                raise ShapeError(f"{name} have shape {array.shape}; expected ({n}, d), one row per label.")

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def labels(self) -> NDArray[Any]:
        """(n) int64."""
        return self.groups.labels

    @property
    def n_classes(self) -> int:
        """k."""
        return self.groups.n_classes

    @cached_property
    def rows(self) -> NDArray[Any]:
        """(n) int64, 0 … n−1."""
        return np.arange(len(self))

    def take(self, rows: NDArray[Any]) -> "Features":
        """Some rows, by index."""
        early = None if self.early is None else self.early[rows]
        return Features(self.values[rows], self.groups.take(rows), early)

    def with_groups(self, groups: Groups) -> "Features":
        """The same rows in other groups, pseudo-groups say."""
        return Features(self.values, groups, self.early)


@dataclass(frozen=True)
class Tried:
    """Settings that could have been chosen, and their score on the rows held out for choosing."""

    settings: Mapping[str, float]
    score: float | None


@dataclass(frozen=True, eq=False)
class MethodFit:
    """What a method found.

    Parameters
    ----------
    probe : the head
    chosen : settings chosen, by name; empty where nothing was chosen
    tried : all that could be chosen, in the order tried
    held_out : (h) int64 validation rows that the head was not trained on; what a validation metric may be of
    judged : head of the same settings that `held_out` judges in its place, where `probe` was then trained on all
        validation rows; None where it is `probe`
    members : heads that `probe` is the mean of; empty for a single one
    details : numbers worth recording, by name
    notes : what a reader must know
    """

    probe: Probe
    chosen: Mapping[str, float]
    tried: tuple[Tried, ...]
    held_out: NDArray[Any]
    judged: Probe | None = None
    members: tuple[Probe, ...] = ()
    details: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Method(Protocol):
    """Frozen settings and the function of them; dataclasses all."""

    @property
    def about(self) -> About:
        """Title, source and cost."""
        ...

    @property
    def needs(self) -> LabelNeeds:
        """Labels that it reads with these settings."""
        ...

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """Fit on the rows given; the same rows and seed give the same head."""
        ...


def halves(n: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Held-out halves of n validation rows (LaBonte et al. 2024, code): ⌊n/2⌋ to train on, the others to choose on."""
    shuffled = np.random.default_rng(seed).permutation(n)
    return np.sort(shuffled[: n // 2]), np.sort(shuffled[n // 2 :])


def require_groups(what: str, groups: Groups, rows: str) -> None:
    """Refuse rows of a single attribute value: their groups are classes, and a group method would be another one.

    Raises
    ------
    GroupError
        If fewer than two attribute values occur.
    """
    seen = np.unique(groups.attributes)
    if seen.size < 2:
        names = ", ".join(groups.attribute_names[a] for a in seen.tolist()) or "none"
        raise GroupError(
            f"{what} needs group labels, and the {rows} rows have one attribute value only ({names}).\n"
            "Give attributes, or use a method that needs class labels alone (`grobust methods`)."
        )
