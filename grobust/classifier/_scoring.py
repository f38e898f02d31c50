"""Scores by group for scikit-learn's searches, and folds that keep every group's share."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import make_scorer
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_consistent_length, column_or_1d

from grobust.classifier._inputs import encoded_groups, seed_of
from grobust.errors import ConfigError, GroupError
from grobust.selection import cell_scores
from grobust.settings import SelectBy

__all__ = ["StratifiedCellKFold", "dealt", "make_wga_scorer", "wga_score"]


def wga_score(y_true: Any, y_pred: Any, *, groups: Any, sample_weight: Any = None) -> float:
    """Worst-group accuracy: the smallest accuracy of a cell of class and group label.

    Parameters
    ----------
    y_true, y_pred : (n) class labels
    groups : (n) group labels, as for `GroupRobustClassifier.fit`
    sample_weight : (n) weights of the rows; a cell without weight does not count

    Examples
    --------
    >>> from grobust import wga_score
    >>> wga_score([0, 0, 0, 1], [0, 1, 0, 1], groups=["sea", "sea", "land", "sea"])
    0.5
    """
    true, predicted = column_or_1d(y_true), column_or_1d(y_pred)
    check_consistent_length(true, predicted, groups, sample_weight)
    classes, labels = np.unique(true, return_inverse=True)
    attributes, values = encoded_groups(groups, true.size)
    cells, size = labels * len(values) + attributes, classes.size * len(values)
    weights = np.ones(true.size) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    counts = np.bincount(cells, weights=weights, minlength=size)
    correct = np.bincount(cells, weights=weights * (true == predicted), minlength=size)
    return float(cell_scores(correct[None, :], counts, classes.size, SelectBy.WGA)[0])


def make_wga_scorer() -> Any:
    """Scorer for ``scoring=`` of scikit-learn's searches; `groups` reach it by metadata routing.

    Needs ``sklearn.set_config(enable_metadata_routing=True)``, without which scikit-learn passes no groups to scorers.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.model_selection import GridSearchCV
    >>> from grobust import GroupRobustClassifier, make_wga_scorer
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     model = GroupRobustClassifier(by="group").set_fit_request(groups=True)
    ...     search = GridSearchCV(model, {"l2": [1e-3, 1e-1]}, scoring=make_wga_scorer())
    >>> # search.fit(X, y, groups=groups), in the same context
    """
    return make_scorer(wga_score).set_score_request(groups=True)


class StratifiedCellKFold(BaseCrossValidator):  # type: ignore[misc]
    """K folds with equal shares of every cell of class and group label, however few rows it has.

    scikit-learn's `StratifiedGroupKFold` does the opposite: it keeps the rows of a group together. Its
    `StratifiedKFold` would do on cells for labels, but warns where a cell has fewer rows than folds, as small groups
    do, and takes no groups from metadata routing. Here the rows, ordered by cell and at random inside, are dealt to
    the folds in turn: a cell's shares differ by at most one row, and so do the folds.

    Parameters
    ----------
    n_splits : folds, at least 2
    random_state : seed of the order inside a cell

    Examples
    --------
    >>> import numpy as np
    >>> from grobust import StratifiedCellKFold
    >>> y, place = np.repeat([0, 1], 4), ["a", "a", "b", "b"] * 2
    >>> [len(test) for _, test in StratifiedCellKFold(n_splits=2).split(y, y, place)]
    [4, 4]
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012 (scikit-learn reads it from the class)

    def __init__(self, n_splits: int = 5, *, random_state: Any = 0) -> None:
        self.n_splits = n_splits
        self.random_state = random_state

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Indices of the training and test rows of each fold; without `groups` cells are classes."""
        if y is None:
            raise ConfigError("StratifiedCellKFold splits by class: give labels, split(X, y, groups).")
        labels = column_or_1d(y)
        check_consistent_length(X, labels, groups)
        attributes, values = encoded_groups(groups, labels.size)
        cells = np.unique(labels, return_inverse=True)[1] * len(values) + attributes
        if not 2 <= self.n_splits <= labels.size:
            raise ConfigError(f"n_splits must lie between 2 and the {labels.size} rows, got {self.n_splits}.")
        place = dealt(cells, self.random_state)
        for fold in range(self.n_splits):
            held_out = place % self.n_splits == fold
            yield np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """The number of folds."""
        return self.n_splits


def dealt(cells: NDArray[Any], random_state: Any) -> NDArray[Any]:
    """(n) place of each row when rows are ordered by cell, and at random inside."""
    if cells.size == 0:
        raise GroupError("There are no rows to split.")
    order = np.random.default_rng(seed_of(random_state)).permutation(cells.size)
    order = order[np.argsort(cells[order], kind="stable")]
    place = np.empty(cells.size, dtype=np.int64)
    place[order] = np.arange(cells.size)
    return place
