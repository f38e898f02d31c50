"""What the estimators are given, as the engine wants it: checked features, class and group ids, weights, strengths."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from grobust.balancing import make_balancer
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups
from grobust.settings import BalanceBy, BalanceMethod

__all__ = [
    "FEATURE_DTYPES", "Rows", "Strength", "WeightedRows", "balanced_rows", "checked_rows", "choice", "encoded_groups",
    "seed_of", "strengths_of",
]  # fmt: skip

# Kept as they are; anything else becomes the first. The engine widens float16 block by block.
FEATURE_DTYPES = (np.float64, np.float32, np.float16)
PENALTIES = ("l2", "l1", "elasticnet", None)


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked training rows.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64, the caller's array where it is one of these and C-contiguous
    groups : class and attribute ids
    classes : (k) the labels of the class ids
    attributes : the values of `groups` that the attribute ids stand for; one None where none were given
    weights : (n) float64 sample weights, or None
    """

    features: NDArray[Any]
    groups: Groups
    classes: NDArray[Any]
    attributes: list[Hashable]
    weights: NDArray[Any] | None

    @property
    def used(self) -> NDArray[Any]:
        """Rows with a positive weight."""
        return np.arange(len(self.groups)) if self.weights is None else np.flatnonzero(self.weights > 0)


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Weights (n) float64 in the loss, the sum of the sample weights of kept rows, and notes of the balance."""

    weights: NDArray[Any]
    total: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Strength:
    """Penalty as it was asked for: λ and λ₁ of the engine, or scikit-learn's C, with the share of l1 in it."""

    l2: float
    l1: float
    C: float | None
    l1_ratio: float

    def of(self, total: float, n_classes: int) -> tuple[float, float]:
        """(λ, λ₁) for rows whose sample weights sum to `total`; see `grobust.probe.fit_probes` for the relation."""
        if self.C is None:
            return self.l2, self.l1
        both = 1 / (float(self.C) * total)
        return (2 if n_classes == 2 else 1) * (1 - self.l1_ratio) * both, self.l1_ratio * both


def checked_rows(estimator: Any, X: Any, y: Any, groups: Any, sample_weight: Any) -> Rows:
    """Check what `fit` is given.

    Raises
    ------
    ValueError
        If scikit-learn's checks fail: shapes, dtypes, values that are not finite, labels that are no classes.
    GroupError
        If there are less than two classes, or a group is missing.
    """
    features, labels = validate_data(estimator, X, y, dtype=FEATURE_DTYPES, order="C", accept_sparse=False)
    labels = column_or_1d(labels, warn=True)
    check_classification_targets(labels)
    weights = None
    if sample_weight is not None:
        weights = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
    classes, ids = np.unique(labels, return_inverse=True)
    if classes.size < 2:
        raise GroupError(
            f"A classifier needs rows of at least 2 classes; all {ids.size} rows have one class, {classes[0]}."
        )
    attributes, values = encoded_groups(groups, ids.size)
    return Rows(features, _groups(ids, attributes, classes, values), classes, values, weights)


def encoded_groups(
    groups: Any, n_rows: int, known: list[Hashable] | None = None
) -> tuple[NDArray[Any], list[Hashable]]:
    """Ids (n) int64 of group labels, and the label of each id: those known, then new ones in order of appearance.

    None puts every row into one group.
    """
    if groups is None:
        return np.zeros(n_rows, dtype=np.int64), list(known or [None])
    given = np.asarray(groups)
    if given.shape != (n_rows,):
        raise ShapeError(f"groups have shape {given.shape}; expected one label for each of the {n_rows} rows.")
    values = given.tolist()
    missing = next((i for i, value in enumerate(values) if value is None or value != value), None)
    if missing is not None:
        raise GroupError(f"groups have no label in row {missing}: give rows of unknown group a label of their own.")
    place = {value: i for i, value in enumerate(known or [])}
    ids = [place.setdefault(value, len(place)) for value in values]
    return np.array(ids, dtype=np.int64), list(place)


def _groups(labels: NDArray[Any], attributes: NDArray[Any], classes: NDArray[Any], values: list[Hashable]) -> Groups:
    return Groups.from_arrays(
        labels, attributes, class_names=[str(c) for c in classes.tolist()], attribute_names=[str(v) for v in values]
    )


def balanced_rows(
    rows: Rows, chosen: NDArray[Any], *, balance: BalanceMethod, by: BalanceBy, ratio: float, seed: int
) -> WeightedRows:
    """Weights of a balanced sample of the chosen rows; zero elsewhere.

    A row's share of its cell is its sample weight. The kept rows of every cell have the same sum, except for
    ``balance="none"``. Without sample weights this is `BalancedSample.expected_weights`.
    """
    sample = make_balancer(balance, by=by, ratio=ratio).sample(rows.groups.take(chosen), seed=seed)
    kept = chosen[sample.indices]
    own = np.ones(kept.size) if rows.weights is None else rows.weights[kept]
    total = float(own.sum())
    if balance is not BalanceMethod.NONE:
        own = own / np.bincount(sample.cells, weights=own)[sample.cells]
    weights = np.zeros(len(rows.groups))
    weights[kept] = own
    return WeightedRows(weights, total, sample.notes)


def strengths_of(penalty: Any, *, l2: float, l1: float, C: float | None, l1_ratio: float) -> Strength:
    """The strength that a penalty's name picks from the settings.

    Raises
    ------
    ConfigError
        If the penalty is unknown, or C or l1_ratio are out of range.
    """
    if penalty not in PENALTIES:
        raise ConfigError(f"Unknown penalty {penalty!r}. Expected one of: l2, l1, elasticnet, None.")
    if C is not None and not (np.isfinite(C) and C > 0):
        raise ConfigError(f"C must be a positive number, got {C!r}.")
    if not 0 <= l1_ratio <= 1:
        raise ConfigError(f"l1_ratio must lie between 0 and 1, got {l1_ratio!r}.")
    share = {"l2": 0.0, "l1": 1.0}.get(penalty, l1_ratio)
    if penalty is None:
        return Strength(0.0, 0.0, None, 0.0)
    return Strength(0.0 if penalty == "l1" else float(l2), 0.0 if penalty == "l2" else float(l1), C, float(share))


def choice(kind: Any, value: Any, name: str) -> Any:
    """A member of a StrEnum from its value.

    Raises
    ------
    ConfigError
        If there is none; the values are listed.
    """
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"Unknown {name} {value!r}. Expected one of: {', '.join(kind)}.") from None


def seed_of(random_state: Any) -> int:
    """The seed of a subset: an int as it is, else drawn from the state."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
