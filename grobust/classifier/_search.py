"""`GroupRobustClassifierCV`: balance and strength chosen on validation groups, the whole grid in one solve."""

import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from grobust.arrays import resolve_device
from grobust.classifier._estimator import GroupRobustClassifier, adopt, needs_groups
from grobust.classifier._grid import DRAWN, Candidate, Fold, HeldOut, Problem, evaluate
from grobust.classifier._inputs import FEATURE_DTYPES, Rows, checked_rows, choice, encoded_groups, strengths_of
from grobust.classifier._linear import LinearHead
from grobust.classifier._scoring import dealt
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups
from grobust.metrics import metrics_of_counts
from grobust.probe import FitStatus, ProbeFit
from grobust.selection import cell_scores
from grobust.settings import BalanceBy, BalanceMethod, SelectBy
from grobust.typing import PathLike

__all__ = ["GroupRobustClassifierCV"]

BALANCES = ("none", "subsetting", "upsampling", "mixture")
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class GroupRobustClassifierCV(LinearHead):
    """`GroupRobustClassifier` that chooses its balance and strength on validation rows.

    The heads of all candidates and folds are solved in one call of `grobust.fit_probes`: a fold is weights of 0, and X
    is not copied. The chosen candidate is then fitted to all rows, starting from its head on the first fold.

    Parameters
    ----------
    balance : methods to choose from; see `GroupRobustClassifier`
    by, ratio, penalty, l1_ratio, standardize, tol, max_iter, device : of every candidate
    l2, l1 : strengths to choose from; for the elastic net all pairs
    Cs : scikit-learn's inverse strengths, instead of `l2` and `l1`
    seeds : of the subsets to choose from, for subsetting and mixture
    select : score that is made largest: "worst_class", "wga", "average", "average_group" or "class_difference" of
        `grobust.selection`, on the held-out rows of all folds taken together, weighted by `sample_weight`. On a tie the
        first in the order of balance, seed and strength. "wga" and "average_group" need groups
    cv : folds, as a number (`StratifiedCellKFold`); a fraction of every cell to hold out once; or a splitter or splits
        of scikit-learn, which is given y and groups. Ignored with explicit validation rows
    random_state : seed of the folds

    Attributes
    ----------
    best_params_ : settings of the chosen candidate
    best_score_ : its score
    best_estimator_ : the chosen `GroupRobustClassifier`, fitted
    cv_results_ : dict of arrays over candidates: balance, seed, l2, l1 (of the first fold), C, score, n (held-out rows)
        and converged (heads of how many folds)
    validation_metrics_ : `GroupMetrics` of the chosen candidate on the held-out rows, unweighted, with n and intervals.
        It was chosen there, so it is optimistic: report on rows that chose nothing
    coef_, intercept_, classes_, n_iter_, fit_, notes_, n_features_in_, feature_names_in_ : of the chosen classifier

    Notes
    -----
    With ``standardize=True``, mean and standard deviation are those of all rows of X, held-out ones included, the same
    for every fold and for the final fit. No label of a held-out row is used in this, but its features are; to keep
    them out, give validation rows explicitly, or put a scaler into a pipeline and search over that.

    Examples
    --------
    >>> import numpy as np
    >>> from grobust import GroupRobustClassifierCV
    >>> rng = np.random.default_rng(0)
    >>> y, place = rng.integers(2, size=300), rng.integers(2, size=300)
    >>> X = np.stack([y + rng.normal(size=300), place + rng.normal(size=300)], axis=1)
    >>> model = GroupRobustClassifierCV(by="group", select="wga", cv=0.3).fit(X, y, groups=place)
    >>> len(model.cv_results_["score"]), model.best_score_ > 0.5
    (24, True)
    """

    def __init__(
        self,
        *,
        balance: tuple[str, ...] = BALANCES,
        by: str = "class",
        ratio: float = 2.0,
        penalty: str | None = "l2",
        l2: tuple[float, ...] = STRENGTHS,
        l1: tuple[float, ...] = STRENGTHS,
        Cs: tuple[float, ...] | None = None,
        l1_ratio: float = 0.5,
        seeds: tuple[int, ...] = (0,),
        select: str = "worst_class",
        cv: Any = 5,
        standardize: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.balance = balance
        self.by = by
        self.ratio = ratio
        self.penalty = penalty
        self.l2 = l2
        self.l1 = l1
        self.Cs = Cs
        self.l1_ratio = l1_ratio
        self.seeds = seeds
        self.select = select
        self.cv = cv
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, validation: Any = None) -> Self:
        """Choose on held-out rows, then fit the choice to all rows of X.

        Parameters
        ----------
        X, y, sample_weight, groups : as for `GroupRobustClassifier.fit`
        validation : (X, y) or (X, y, groups) to choose on, instead of `cv`. Training rows are then those of X alone,
            and the chosen head of the grid is the result

        Raises
        ------
        GroupError
            If groups are needed and missing, or a fold has a class without training rows.
        ConfigError
            If a setting is unknown or out of range, or the grid is empty.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If heads of the grid, or the final one, have not converged.
        """
        by, select = choice(BalanceBy, self.by, "by"), choice(SelectBy, self.select, "select")
        if select.needs_proxy:
            free = ", ".join(s for s in SelectBy if not s.needs_proxy)
            raise ConfigError(
                f"select='{select}' needs a bias proxy, which this search does not fit. Use one of: {free}."
            )
        candidates, device = self._candidates(), resolve_device(self.device)
        rows = checked_rows(self, X, y, groups, sample_weight)
        for candidate in candidates:
            needs_groups(candidate.balance, by, groups)
        if validation is None:
            folds = self._folds(rows, groups, select)
        else:
            folds = [self._given(rows, groups, validation, select)]
        problem = Problem(rows, by=by, ratio=self.ratio, standardize=self.standardize, tol=self.tol,
                          max_iter=self.max_iter, device=device)  # fmt: skip
        places = {head: i for i, head in enumerate(dict.fromkeys(c.head for c in candidates))}
        fits = problem.grid([next(c for c in candidates if c.head == head) for head in places], folds)
        of_candidate = np.array([places[c.head] for c in candidates])
        best = self._choose(candidates, of_candidate, fits, evaluate(fits, folds, device), select)
        balance, seed = candidates[best].weighting
        weighted = problem.weighted(balance, seed, rows.used)
        fit = fits[0][of_candidate[best]]
        if validation is None:
            fit = problem.one(weighted, candidates[best].strength, fit.probe)
        return self._take(candidates[best], fit, rows, weighted.notes)

    def save(self, path: PathLike) -> None:
        """Write the chosen classifier, `best_estimator_`; `GroupRobustClassifier.load` reads it."""
        check_is_fitted(self)
        self.best_estimator_.save(path)

    def _candidates(self) -> list[Candidate]:
        ratio = self.l1_ratio
        if self.penalty is None:
            grid: list[tuple[float, float, float | None]] = [(0.0, 0.0, None)]
        elif self.Cs is not None:
            grid = [(0.0, 0.0, C) for C in self.Cs]
        elif self.penalty == "elasticnet":
            grid = [(l2, l1, None) for l2 in self.l2 for l1 in self.l1]
        else:
            grid = [(s, s, None) for s in (self.l1 if self.penalty == "l1" else self.l2)]
        strengths = [strengths_of(self.penalty, l2=l2, l1=l1, C=C, l1_ratio=ratio) for l2, l1, C in grid]
        balances = [choice(BalanceMethod, name, "balance") for name in self.balance]
        found = [
            Candidate(balance, int(seed), strength)
            for balance in balances
            for seed in (self.seeds if balance in DRAWN else self.seeds[:1])
            for strength in strengths
        ]
        if not found:
            raise ConfigError("There is nothing to choose from: balance, seeds and strengths need an entry each.")
        return found

    def _folds(self, rows: Rows, groups: Any, select: SelectBy) -> list[Fold]:
        if select.needs_groups and groups is None:
            raise GroupError(f"select='{select}' looks at groups, and none were given: fit(X, y, groups=...).")
        weights = np.ones(len(rows.groups)) if rows.weights is None else rows.weights
        folds: list[Fold] = []
        for train, held_out in self._splits(rows, groups):
            train, held_out = train[weights[train] > 0], held_out[weights[held_out] > 0]
            lost = np.flatnonzero(np.bincount(rows.groups.labels[train], minlength=rows.classes.size) == 0)
            if lost.size or held_out.size == 0:
                what = f"training row of class {rows.classes[lost[0]]}" if lost.size else "held-out row"
                raise GroupError(
                    f"Fold {len(folds)} has no {what}. A class needs two rows at least, one to train on and one to "
                    "hold out; give other folds (cv=...) or validation rows (validation=...)."
                )
            folds.append(Fold(train, rows.features, held_out, rows.groups.take(held_out), weights[held_out]))
        return folds

    def _splits(self, rows: Rows, groups: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Training and held-out rows of each fold."""
        cv, n = self.cv, len(rows.groups)
        if isinstance(cv, Integral | Real):
            # Rows of weight 0 take no place in the deal: they are no rows.
            place = dealt(rows.groups.ids[rows.used], self.random_state)
            if isinstance(cv, Integral):
                if not 2 <= int(cv) <= place.size:
                    raise ConfigError(f"cv={cv} folds of n_samples={place.size} rows; expected 2 to n_samples.")
                held = [place % int(cv) == i for i in range(int(cv))]
            elif 0 < float(cv) < 1:
                held = [np.floor((place + 1) * float(cv)) > np.floor(place * float(cv))]
            else:
                raise ConfigError(f"cv={cv!r} as the share of rows held out must lie between 0 and 1.")
            yield from ((rows.used[~mask], rows.used[mask]) for mask in held)
            return
        splitter = check_cv(cv, rows.groups.labels, classifier=True)
        attributes = None if groups is None else rows.groups.attributes
        for train, held_out in splitter.split(rows.features, rows.groups.labels, attributes):
            yield np.arange(n)[train], np.arange(n)[held_out]

    def _given(self, rows: Rows, groups: Any, validation: Any, select: SelectBy) -> Fold:
        """The fold of explicit validation rows."""
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise ConfigError("validation must be (X, y) or (X, y, groups).")
        own = None if len(validation) == 2 else validation[2]
        if select.needs_groups and own is None:
            raise GroupError(f"select='{select}' looks at groups: give validation=(X, y, groups).")
        features = validate_data(self, validation[0], reset=False, dtype=FEATURE_DTYPES)
        labels = column_or_1d(validation[1])
        if labels.size != features.shape[0]:
            raise ShapeError(f"validation has {features.shape[0]} rows of features and {labels.size} labels.")
        unknown = np.setdiff1d(labels, rows.classes)
        if unknown.size:
            raise GroupError(f"validation has class {unknown[0]}, which no training row has.")
        attributes, values = encoded_groups(own, labels.size, rows.attributes if groups is not None else None)
        of_rows = Groups.from_arrays(
            np.searchsorted(rows.classes, labels), attributes, class_names=rows.groups.class_names,
            attribute_names=[str(value) for value in values],
        )  # fmt: skip
        return Fold(rows.used, features, np.arange(labels.size), of_rows, np.ones(labels.size))

    def _choose(
        self, candidates: list[Candidate], of_candidate: NDArray[Any], fits: list[list[ProbeFit]], held_out: HeldOut,
        select: SelectBy,
    ) -> int:  # fmt: skip
        """Fill in the results of the search; the best candidate."""
        n_classes = held_out.groups.n_classes
        scores = cell_scores(held_out.correct, held_out.counts, n_classes, select)[of_candidate]
        best = int(np.argmax(scores))
        firsts = [fits[0][i] for i in of_candidate.tolist()]
        done = np.array([[fit.status is FitStatus.CONVERGED for fit in found] for found in fits]).sum(axis=0)
        self.cv_results_ = {
            "balance": np.array([candidate.balance.value for candidate in candidates]),
            "seed": np.array([candidate.seed for candidate in candidates]),
            "l2": np.array([fit.l2 for fit in firsts]),
            "l1": np.array([fit.l1 for fit in firsts]),
            "C": np.array([np.nan if c.strength.C is None else c.strength.C for c in candidates]),
            "score": scores,
            "n": np.full(len(candidates), len(held_out.groups)),
            "converged": done[of_candidate],
        }
        self.best_index_, self.best_score_ = best, float(scores[best])
        self.validation_metrics_ = metrics_of_counts(held_out.hits[of_candidate[best]], held_out.groups)
        missed = int((len(fits) - done).sum())
        if missed:
            message = f"{missed} of {done.size * len(fits)} heads of the grid have not converged: see cv_results_."
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return best

    def _take(self, candidate: Candidate, fit: ProbeFit, rows: Rows, notes: tuple[str, ...]) -> Self:
        strength = candidate.strength
        self.best_params_: dict[str, Any] = {"balance": candidate.balance.value, "random_state": candidate.seed}
        if strength.C is not None:
            self.best_params_["C"] = strength.C
        else:
            self.best_params_ |= {key: getattr(strength, key) for key in _USED.get(self.penalty, ())}
        best = GroupRobustClassifier(
            by=self.by, ratio=self.ratio, penalty=self.penalty, l1_ratio=self.l1_ratio, standardize=self.standardize,
            tol=self.tol, max_iter=self.max_iter, device=self.device, **self.best_params_,
        )  # fmt: skip
        self.best_estimator_ = adopt(best, fit, rows.classes, notes, of=self)
        for name in ("coef_", "intercept_", "classes_", "fit_", "n_iter_", "notes_"):
            setattr(self, name, getattr(best, name))
        return self


_USED: dict[str | None, tuple[str, ...]] = {"l2": ("l2",), "l1": ("l1",), "elasticnet": ("l2", "l1")}
