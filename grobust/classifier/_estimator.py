"""`GroupRobustClassifier`: one linear head on balanced rows."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import resolve_device
from grobust.classifier import _file
from grobust.classifier._grid import Problem
from grobust.classifier._inputs import checked_rows, choice, seed_of, strengths_of
from grobust.classifier._linear import LinearHead, coefficients, on_host, warn_if_not_converged
from grobust.errors import GroupError
from grobust.probe import ProbeFit
from grobust.settings import BalanceBy, BalanceMethod
from grobust.typing import PathLike

__all__ = ["GroupRobustClassifier", "adopt", "needs_groups"]


class GroupRobustClassifier(LinearHead):
    """Multinomial logistic regression on class- or group-balanced rows, solved to a stated optimality.

    Parameters
    ----------
    balance : "none", "subsetting", "upsampling", "upweighting" or "mixture"; see `grobust.balancing`. The head
        minimizes the expected loss, in which upsampling and upweighting are the same
    by : which cells are made equal: "class", or "group", the cells of class and group label
    ratio : of the mixture
    penalty : "l2", "l1", "elasticnet" or None
    l2, l1 : λ of ½ λ ‖W‖² and λ₁ of λ₁ Σ |W|, against a loss that is a weighted mean; the penalty picks which are used
    C, l1_ratio : scikit-learn's inverse strength, instead of `l2` and `l1`, and the share of l1 in the elastic net.
        At the same C the head is that of `sklearn.linear_model.LogisticRegression` on the kept rows (with
        ``class_weight="balanced"`` for upsampling and upweighting by class), if it does not standardize
    standardize : penalize the weights of standardized features. Mean and standard deviation are of all rows given,
        weighted by `sample_weight` but not by the balance
    tol : relative distance of the objective from its minimum at which the head has converged. With float64 features,
        l2 > 0 and at most 256 weights, Newton steps go on from there until rounding stops them
    max_iter : most iterations
    random_state : seed of the subset that subsetting and mixture keep
    device : "cpu", "cuda" or "auto"; X is a host array either way

    Attributes
    ----------
    coef_, intercept_ : (1, d) and (1) for two classes, else (k, d) and (k); float64, on raw features
    classes_ : (k) class labels
    n_iter_ : iterations
    fit_ : `grobust.ProbeFit`, the head with its status, objective and gap
    notes_ : what the balance has to say, such as groups with a single row
    n_features_in_, feature_names_in_ : as everywhere in scikit-learn

    Notes
    -----
    X stays as it is in float16, float32 and float64; float16 is widened block by block. Sparse X is an error.

    `sample_weight` counts rows: weight 2 is the row twice, and weight 0 no row. Balancing gives every cell the same
    sum of weights, in proportion to the sample weights inside. Only where a subset is drawn, a row is one row whatever
    its weight.

    Examples
    --------
    >>> import numpy as np
    >>> from grobust import GroupRobustClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.choice(["land", "water"], size=400)
    >>> place = np.where(rng.random(400) < 0.9, y, "other")
    >>> X = np.stack([(y == "land") + rng.normal(size=400), (place == "land") + 0.1 * rng.normal(size=400)], axis=1)
    >>> model = GroupRobustClassifier(balance="upsampling", by="group", l2=1e-2).fit(X, y, groups=place)
    >>> model.fit_.status.value, model.coef_.shape
    ('converged', (1, 2))
    """

    def __init__(
        self,
        *,
        balance: str = "upsampling",
        by: str = "class",
        ratio: float = 2.0,
        penalty: str | None = "l2",
        l2: float = 1e-3,
        l1: float = 1e-3,
        C: float | None = None,
        l1_ratio: float = 0.5,
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
        self.C = C
        self.l1_ratio = l1_ratio
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Fit the head.

        Parameters
        ----------
        X : (n, d) features
        y : (n) class labels of any kind
        sample_weight : (n) non-negative weights of the rows
        groups : (n) labels of any hashable kind, one per row: the spurious attribute, or the group itself. A group is
            a cell of class and label, so both say the same. Read only with ``by="group"``

        Raises
        ------
        GroupError
            If ``by="group"`` and there are no groups, or a class has no row.
        ConfigError
            If a setting is unknown or out of range.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the head has not converged; `fit_` says how far it is from the minimum.
        """
        balance, by = choice(BalanceMethod, self.balance, "balance"), choice(BalanceBy, self.by, "by")
        strength = strengths_of(self.penalty, l2=self.l2, l1=self.l1, C=self.C, l1_ratio=self.l1_ratio)
        device = resolve_device(self.device)
        rows = checked_rows(self, X, y, groups, sample_weight)
        needs_groups(balance, by, groups)
        problem = Problem(rows, by=by, ratio=self.ratio, standardize=self.standardize, tol=self.tol,
                          max_iter=self.max_iter, device=device)  # fmt: skip
        weighted = problem.weighted(balance, seed_of(self.random_state), rows.used)
        adopt(self, problem.one(weighted, strength), rows.classes, weighted.notes, of=self)
        return self

    def save(self, path: PathLike) -> None:
        """Write the fitted classifier as safetensors: weights, and settings, classes and certificate as JSON.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        DataError
            If the class labels are neither numbers nor strings, or a setting is not JSON.
        """
        _file.write(self, path)

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        DataError
            If the file is missing, damaged, or not such a file.
        """
        content = _file.read(path)
        model = cls(**_file.known_settings(content, cls._get_param_names(), path))
        model.n_features_in_ = content.coef.shape[1]
        if content.feature_names is not None:
            model.feature_names_in_ = np.array(content.feature_names, dtype=object)
        _set(model, content.fit, (content.coef, content.intercept), content.classes, content.notes)
        return model


def adopt(
    model: GroupRobustClassifier, fit: ProbeFit, classes: NDArray[Any], notes: tuple[str, ...], *, of: LinearHead
) -> GroupRobustClassifier:
    """Make `fit` the fitted state of `model`, with the features that the estimator `of` was fitted to; warn if it has
    not converged."""
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(of, name):
            setattr(model, name, getattr(of, name))
    fit = on_host(fit)
    _set(model, fit, coefficients(fit.probe), classes, notes)
    warn_if_not_converged(fit)
    return model


def _set(
    model: GroupRobustClassifier, fit: ProbeFit, head: tuple[NDArray[Any], NDArray[Any]], classes: NDArray[Any],
    notes: tuple[str, ...],
) -> None:  # fmt: skip
    model.coef_, model.intercept_ = head
    model.classes_, model.fit_, model.n_iter_, model.notes_ = classes, fit, fit.n_iter, notes


def needs_groups(balance: BalanceMethod, by: BalanceBy, groups: Any) -> None:
    """An error where groups are to be balanced and there are none."""
    if by is BalanceBy.GROUP and balance is not BalanceMethod.NONE and groups is None:
        raise GroupError(
            "by='group' balances groups, and none were given. Pass fit(X, y, groups=...), one label per row; in a "
            "pipeline or search enable metadata routing and call set_fit_request(groups=True)."
        )
