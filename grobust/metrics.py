"""Group metrics: accuracy per group, the worst group, and averages that each have one name.

======================== =====================================================================================
``wga``                  smallest accuracy of a group that has rows; the group is named
``average``              plain accuracy over rows
``average_train_weighted`` group accuracies weighted by the group shares of the *full training set* (the paper's
                         average on Waterbirds, whose test set is rebalanced)
``average_group``        mean of the group accuracies, every group alike
``worst_class``          smallest recall of a class
======================== =====================================================================================

Groups without rows have accuracy NaN and a note; they are never counted as 0 and never dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from grobust.arrays import to_numpy
from grobust.errors import GroupError, ShapeError
from grobust.groups import Groups, GroupScheme
from grobust.typing import Array

__all__ = ["Estimate", "GroupMetrics", "group_metrics", "metrics_of_counts", "pooled_metrics", "wilson_interval"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A proportion with its sample size and a 95% interval; all NaN when undefined."""

    value: float
    n: int
    low: float
    high: float

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-able: NaN becomes None."""
        return {"value": _json(self.value), "n": self.n, "low": _json(self.low), "high": _json(self.high)}


@dataclass(frozen=True, eq=False)
class GroupMetrics:
    """Accuracy per group and per class on one evaluation set, with what follows from them.

    Parameters
    ----------
    names : g group names
    correct, counts : (g) int64, rows predicted correctly and rows evaluated
    class_names : k class names
    class_correct, class_counts : (k) int64, likewise per class
    train_counts : (g) rows of the full training set, or None
    n_correct, n : over all rows evaluated; a row of several overlapping groups counts once
    notes : what a reader must know, such as groups without rows
    """

    names: tuple[str, ...]
    correct: Int[np.ndarray, " g"]
    counts: Int[np.ndarray, " g"]
    class_names: tuple[str, ...]
    class_correct: Int[np.ndarray, " k"]
    class_counts: Int[np.ndarray, " k"]
    train_counts: Int[np.ndarray, " g"] | None
    n_correct: int
    n: int
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> Float[np.ndarray, " g"]:
        """(g) float64 accuracy per group; NaN where a group has no rows."""
        return _ratio(self.correct, self.counts)

    @property
    def class_accuracy(self) -> Float[np.ndarray, " k"]:
        """(k) float64 recall per class; NaN where a class has no rows."""
        return _ratio(self.class_correct, self.class_counts)

    @property
    def worst_group(self) -> int | None:
        """Index of the group with the smallest accuracy (the first on a tie); None when all are empty."""
        return _argmin(self.accuracy)

    @property
    def worst_group_name(self) -> str | None:
        """Name of the worst group."""
        return None if self.worst_group is None else self.names[self.worst_group]

    @property
    def wga(self) -> Estimate:
        """Worst-group accuracy with n and the Wilson interval of that group.

        The interval is that of the group found worst; it does not account for having picked the smallest of g.
        """
        return self._one(self.correct, self.counts, self.worst_group)

    @property
    def worst_class(self) -> Estimate:
        """Smallest class recall, with n and the Wilson interval of that class."""
        return self._one(self.class_correct, self.class_counts, _argmin(self.class_accuracy))

    @property
    def worst_class_name(self) -> str | None:
        """Name of the class with the smallest recall."""
        worst = _argmin(self.class_accuracy)
        return None if worst is None else self.class_names[worst]

    @property
    def average(self) -> Estimate:
        """Plain accuracy over rows."""
        if self.n == 0:
            return _UNDEFINED
        low, high = wilson_interval(self.n_correct, self.n)
        return Estimate(self.n_correct / self.n, self.n, float(low), float(high))

    @property
    def average_train_weighted(self) -> Estimate:
        """Group accuracies weighted by the group shares of the full training set.

        Undefined (NaN) when the training counts are unknown, or when a group with training rows has no rows here:
        the notes say which.
        """
        if self.train_counts is None or self.missing_train_groups:
            return _UNDEFINED
        return self._weighted(self.train_counts / self.train_counts.sum())

    @property
    def average_group(self) -> Estimate:
        """Mean accuracy of the groups that have rows."""
        present = self.counts > 0
        if not present.any():
            return _UNDEFINED
        return self._weighted(present / present.sum())

    @property
    def missing_train_groups(self) -> tuple[str, ...]:
        """Names of groups that have training rows but none here."""
        if self.train_counts is None:
            return ()
        lost = (self.counts == 0) & (self.train_counts > 0)
        return tuple(name for name, is_lost in zip(self.names, lost, strict=True) if is_lost)

    def intervals(self) -> Float[np.ndarray, "g 2"]:
        """(g, 2) Wilson intervals of the group accuracies; NaN for empty groups."""
        return np.stack(wilson_interval(self.correct, self.counts), axis=1)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able summary; NaN becomes None."""
        low_high = self.intervals()
        rows = zip(self.names, self.accuracy, self.counts, low_high, strict=True)
        return {
            "wga": self.wga.as_dict(),
            "worst_group": self.worst_group_name,
            "average": self.average.as_dict(),
            "average_train_weighted": self.average_train_weighted.as_dict(),
            "average_group": self.average_group.as_dict(),
            "worst_class": self.worst_class.as_dict(),
            "worst_class_name": self.worst_class_name,
            "groups": [
                {"name": name, **Estimate(float(acc), int(n), float(ci[0]), float(ci[1])).as_dict()}
                for name, acc, n, ci in rows
            ],
            "notes": list(self.notes),
        }

    def _weighted(self, weights: Float[np.ndarray, " g"]) -> Estimate:
        """Weighted mean of group accuracies, with a Wilson interval at its effective sample size.

        The variance of the mean is Σ w² p̃ (1 − p̃) / t with the Agresti–Coull p̃ = (c + 2) / (t + 4); the effective
        sample size is what a plain proportion of that variance would need, so a group with few rows and a large
        weight widens the interval as it must.
        """
        used = weights > 0
        w, c, t = weights[used], self.correct[used].astype(np.float64), self.counts[used].astype(np.float64)
        # Weights sum to 1 but for rounding, which must not make an accuracy of more than 1.
        value = min(float(np.sum(w * c / t)), 1.0)
        shrunk = (c + 2) / (t + 4)
        centre = float(np.sum(w * shrunk))
        n_effective = centre * (1 - centre) / float(np.sum(w**2 * shrunk * (1 - shrunk) / t))
        low, high = wilson_interval(value * n_effective, n_effective)
        return Estimate(value, int(t.sum()), float(low), float(high))

    @staticmethod
    def _one(correct: Int[np.ndarray, " c"], counts: Int[np.ndarray, " c"], cell: int | None) -> Estimate:
        if cell is None:
            return _UNDEFINED
        low, high = wilson_interval(correct[cell], counts[cell])
        return Estimate(float(correct[cell] / counts[cell]), int(counts[cell]), float(low), float(high))


def group_metrics(
    predictions: Array,
    groups: Groups,
    *,
    scheme: GroupScheme | None = None,
    train_counts: Sequence[int] | NDArray[Any] | None = None,
) -> GroupMetrics:
    """Count correct predictions per group and per class.

    Parameters
    ----------
    predictions : (n) integer class predictions, on any device
    groups : labels and attributes of the n rows evaluated
    scheme : groups to report instead of the (label, attribute) cells; they may overlap
    train_counts : (g) rows per group of the full training set, for `average_train_weighted`; only meaningful for
        disjoint groups

    Raises
    ------
    ShapeError
        If sizes disagree.
    GroupError
        If `train_counts` is given with overlapping groups.
    """
    predicted = to_numpy(predictions)
    if predicted.shape != (len(groups),):
        raise ShapeError(f"predictions have shape {predicted.shape}; expected ({len(groups)},), one per row.")
    if predicted.dtype.kind not in "iu":
        raise ShapeError(f"predictions have dtype {predicted.dtype}; expected integer classes, not scores.")
    hit = predicted == groups.labels
    if scheme is None:
        return metrics_of_counts(
            np.bincount(groups.ids[hit], minlength=groups.n_groups), groups, train_counts=train_counts
        )
    if len(scheme) != len(groups):
        raise ShapeError(f"the group scheme has {len(scheme)} rows and the labels {len(groups)}.")
    metrics = GroupMetrics(
        names=scheme.names,
        correct=scheme.membership[hit].sum(axis=0),
        counts=scheme.counts,
        class_names=groups.class_names,
        class_correct=np.bincount(groups.labels[hit], minlength=groups.n_classes),
        class_counts=groups.class_counts,
        train_counts=_train_counts(train_counts, scheme, scheme.n_groups),
        n_correct=int(hit.sum()),
        n=len(groups),
        notes=(),
    )
    return replace(metrics, notes=_notes(metrics))


def metrics_of_counts(
    correct: NDArray[Any], groups: Groups, *, train_counts: Sequence[int] | NDArray[Any] | None = None
) -> GroupMetrics:
    """The metrics of (g) correct predictions per group, for who has counted them already.

    Raises
    ------
    ShapeError
        If there are not as many counts as groups.
    """
    if correct.shape != (groups.n_groups,):
        raise ShapeError(f"correct has shape {correct.shape}; expected ({groups.n_groups},), one per group.")
    metrics = GroupMetrics(
        names=groups.names,
        correct=correct,
        counts=groups.counts,
        class_names=groups.class_names,
        class_correct=correct.reshape(groups.n_classes, -1).sum(axis=1),
        class_counts=groups.class_counts,
        train_counts=_train_counts(train_counts, None, groups.n_groups),
        n_correct=int(correct.sum()),
        n=len(groups),
        notes=(),
    )
    return replace(metrics, notes=_notes(metrics))


def pooled_metrics(metrics: GroupMetrics, names: Sequence[str], cells: NDArray[Any]) -> GroupMetrics:
    """The same predictions on groups that are unions of the disjoint ones, and may overlap.

    Parameters
    ----------
    metrics : of g disjoint groups
    names : o names of the unions
    cells : (g, o) bool, which groups each is made of

    Raises
    ------
    ShapeError
        If the shape of `cells` is not (g, o).
    """
    if cells.shape != (len(metrics.names), len(names)):
        raise ShapeError(f"cells have shape {cells.shape}; expected ({len(metrics.names)}, {len(names)}).")
    members = cells.astype(np.int64)
    # Training shares of groups that overlap do not add up to one.
    pooled = replace(
        metrics, names=tuple(names), correct=metrics.correct @ members, counts=metrics.counts @ members,
        train_counts=None,
    )  # fmt: skip
    return replace(pooled, notes=_notes(pooled))


def wilson_interval(correct: Any, n: Any, *, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """Wilson score interval of a proportion (Wilson 1927), elementwise; NaN where n is 0.

    Parameters
    ----------
    correct, n : counts of any matching shape; fractional values are allowed (effective sample sizes)
    confidence : level of the two-sided interval

    Returns
    -------
    Lower and upper ends, float64 arrays of the common shape.
    """
    c, t = np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    t = np.where(t > 0, t, np.nan)
    p = c / t
    centre = (p + z2 / (2 * t)) / (1 + z2 / t)
    half = np.sqrt(z2) * np.sqrt(p * (1 - p) / t + z2 / (4 * t * t)) / (1 + z2 / t)
    # At p = 0 and p = 1 the ends are exactly 0 and 1; rounding must not push them outside.
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


_UNDEFINED = Estimate(math.nan, 0, math.nan, math.nan)


def _ratio(correct: Int[np.ndarray, " c"], counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    out = np.full(counts.shape, np.nan)
    np.divide(correct, counts, out=out, where=counts > 0)
    return out


def _argmin(accuracy: Float[np.ndarray, " c"]) -> int | None:
    return None if np.isnan(accuracy).all() else int(np.nanargmin(accuracy))


def _notes(metrics: GroupMetrics) -> tuple[str, ...]:
    empty = [name for name, count in zip(metrics.names, metrics.counts, strict=True) if count == 0]
    notes = [f"group '{name}' has no rows here: its accuracy is undefined" for name in empty]
    if metrics.missing_train_groups:
        lost = ", ".join(metrics.missing_train_groups)
        notes.append(f"average_train_weighted is undefined: no rows here for training group(s) {lost}")
    return tuple(notes)


def _train_counts(
    train_counts: Sequence[int] | NDArray[Any] | None, scheme: GroupScheme | None, n_groups: int
) -> Int[np.ndarray, " g"] | None:
    if train_counts is None:
        return None
    if scheme is not None and bool((scheme.membership.sum(axis=1) > 1).any()):
        raise GroupError("train_counts cannot weight overlapping groups: their shares do not add up to one.")
    array = np.asarray(train_counts, dtype=np.int64)
    if array.shape != (n_groups,):
        raise ShapeError(f"train_counts has shape {array.shape}; expected ({n_groups},), one per group.")
    return array


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
