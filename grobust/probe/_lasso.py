"""l1 and elastic-net heads: Newton steps on the features in use, along a path of strengths.

Each step looks at all features once, by one product of the rows with the residuals; that gives the duality gap, and the
features whose slopes exceed the penalty most join those in use. On them the loss is replaced by its second-order model,
whose penalized minimum `_numba_l1.minimize` finds. The strengths of a head are solved from the strongest on, each from
the solution before. (Friedman, Hastie and Tibshirani 2010, "Regularization paths for generalized linear models via
coordinate descent"; Yuan, Ho and Lin 2012, "An improved GLMNET for l1-regularized logistic regression"; Massias,
Gramfort and Salmon 2018, "Celer", for the gap.)

Products with all features, weights and losses are float64; second derivatives have the features' dtype, as they decide
the way to the minimum and not where it is.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from grobust.probe import _numba_l1 as _numba
from grobust.probe._rows import Rows
from grobust.settings import LBFGS

__all__ = ["LassoFit", "solve_lasso"]

# Features that may join in a step: a share of those in use, and at least so many.
JOIN_SHARE, JOIN_LEAST = 0.25, 64
# Relative gap below which second derivatives of an earlier step will do.
CLOSE = 1e-4
# Weights whose second derivatives are held together; beyond it classes take turns.
MOST_TOGETHER = 4096
# Keeps linear systems solvable where features repeat, in roundings of the second derivatives.
RIDGE = 10.0
# A line search halves the step so often before it gives up.
HALVINGS = 30
# Residual sums of the intercepts, as a share of the rows' weight, that the dual point can bear.
BALANCED, BALANCING_STEPS = 1e-13, 50


@dataclass(frozen=True, eq=False)
class LassoFit:
    """Weights (c, d + 1) float64 on standardized features, the intercept last, and their certificate."""

    weights: NDArray[Any]
    objective: float
    gap: float
    grad_norm: float
    grad_norm_at_zero: float
    n_iter: int
    converged: bool


def solve_lasso(
    rows: Rows, l1: NDArray[Any], l2: NDArray[Any], starts: list[NDArray[Any] | None], columns: int, settings: LBFGS,
    *, penalize_intercept: bool = False,
) -> list[LassoFit]:  # fmt: skip
    """Heads of one weighting with strengths l1 > 0 and l2 (K), in order; strongest l1 first inside.

    Parameters
    ----------
    l2 : effective strengths on the columns used
    starts : initial weights (c, d + 1) of each head, or None
    columns : c, one for two classes
    penalize_intercept : whether the penalties are on the intercepts too
    """
    weights = np.zeros((columns, rows.n_features + 1))
    at_zero = _Head(rows, weights, 0.0, 0.0, penalized=penalize_intercept).look()
    norm_at_zero = float(np.linalg.norm(at_zero.gradient))
    fits: dict[int, LassoFit] = {}
    known = None
    for i in np.argsort(-l1, kind="stable").tolist():
        start = starts[i]
        before, known = (weights, known) if start is None else (start, None)
        head = _Head(rows, before.copy(), float(l1[i]), float(l2[i]), known, penalized=penalize_intercept)
        fits[i] = head.solve(settings, norm_at_zero)
        weights, known = fits[i].weights, head.known
    return [fits[i] for i in range(l1.size)]


class _View(NamedTuple):
    """A head where it is: objective, duality gap, and the loss's gradient (c, d), or (c, d + 1) with the intercepts'
    where they are penalized."""

    objective: float
    gap: float
    gradient: NDArray[Any]


class _Known(NamedTuple):
    """Second derivatives (q, q) by the weights of ascending keys, column · (d + 1) + feature."""

    key: NDArray[Any]
    hessian: NDArray[Any]


class _Head:
    """One head's weights w (c, d + 1), logits z (c, n) and probabilities p (c, n), kept up to date.

    `inner` are the weights that the penalty is on: all but the intercepts, or all.
    """

    def __init__(
        self, rows: Rows, w: NDArray[Any], l1: float, l2: float, known: "_Known | None" = None, *, penalized: bool
    ) -> None:
        self.rows, self.w, self.l1, self.l2 = rows, w, l1, l2
        self.penalized, self.inner = penalized, w if penalized else w[:, :-1]
        self.known, self.fresh = known, True
        c, n = w.shape[0], rows.labels.size
        self.z = np.broadcast_to(w[:, -1:], (c, n)).copy()
        used = np.flatnonzero(np.abs(w[:, :-1]).sum(axis=0))
        if used.size:
            _numba.add_columns(rows.columns(used), np.ascontiguousarray(w[:, used]), self.z)
        self.p = np.empty((c, n))
        self.loss = _numba.probabilities(self.z, rows.labels, rows.weights, self.p)

    def solve(self, settings: LBFGS, at_zero: float) -> LassoFit:
        steps, moved = 0, True
        view = self.look()
        while view.gap > settings.rtol * view.objective and moved and steps < settings.max_iter:
            # The first step follows the strength on the features in use; others join where they lead.
            reach = 0.0 if self.fresh and (self.w[:, :-1] != 0).any() else 1.0
            fell = [self._step(columns, view, reach) for columns in self._turns()]
            moved, self.fresh = any(fell) or reach == 0, False
            steps += 1
            view = self.look()
        norm = float(np.linalg.norm(self._smallest_subgradient(view.gradient)))
        converged = view.gap <= settings.rtol * view.objective
        return LassoFit(self.w, view.objective, view.gap, norm, at_zero, steps, converged)

    def look(self) -> _View:
        """Balance free intercepts, as the dual point needs, and look at all features."""
        if not self.penalized:
            self._balance()
        residual = self._residual()
        gradient = self.rows.gradient(residual)
        if self.penalized:
            gradient = np.concatenate([gradient, residual.sum(axis=1, keepdims=True)], axis=1)
        objective = self.loss + self._penalty(self.inner)
        return _View(objective, max(objective - self._dual(gradient), 0.0), gradient)

    def _residual(self) -> NDArray[Any]:
        residual: NDArray[Any] = self.p * self.rows.weights
        _numba.subtract_targets(residual, self.rows.labels, self.rows.weights)
        return residual

    def _penalty(self, inner: NDArray[Any]) -> float:
        return float(self.l1 * np.abs(inner).sum() + 0.5 * self.l2 * (inner**2).sum())

    def _smallest_subgradient(self, gradient: NDArray[Any]) -> NDArray[Any]:
        w = self.inner
        smooth = gradient + self.l2 * w
        zero = np.sign(smooth) * np.maximum(np.abs(smooth) - self.l1, 0)
        return np.where(w == 0, zero, smooth + self.l1 * np.sign(w))

    def _balance(self) -> None:
        """Newton steps on the intercepts until the residuals of each column sum to nothing."""
        weights = self.rows.weights
        for _ in range(BALANCING_STEPS):
            slope = self._residual().sum(axis=1)
            if np.abs(slope).max() <= BALANCED:
                return
            if slope.size == 1:
                step = -slope / max(float((weights * self.p * (1 - self.p)).sum()), 1e-300)
            else:
                weighted = self.p * weights
                step = -np.linalg.lstsq(np.diag(weighted.sum(axis=1)) - weighted @ self.p.T, slope, rcond=1e-12)[0]
            step = np.clip(step, -2, 2)
            self.w[:, -1] += step
            self.z += step[:, None]
            self.loss = _numba.probabilities(self.z, self.rows.labels, weights, self.p)

    def _dual(self, gradient: NDArray[Any]) -> float:
        """Dual objective at the residuals, scaled until they are feasible; with l2 > 0 also as they are."""
        largest = float(np.abs(gradient).max())
        candidates = [min(1.0, self.l1 / largest) if largest > 0 else 1.0]
        if self.l2 > 0:
            candidates.append(1.0)
        return max(self._dual_at(scale, gradient) for scale in candidates)

    def _dual_at(self, scale: float, gradient: NDArray[Any]) -> float:
        q = scale * self.p
        _numba.add_targets(q, self.rows.labels, 1 - scale)
        entropy = -xlogy(q, q).sum(axis=0)
        if q.shape[0] == 1:
            entropy = entropy - xlogy(1 - q[0], 1 - q[0])
        value = float(self.rows.weights @ entropy)
        beyond = np.maximum(np.abs(scale * gradient) - self.l1, 0)
        return value - float((beyond**2).sum()) / (2 * self.l2) if self.l2 > 0 else value

    def _turns(self) -> list[range]:
        """Columns that step together: all of them, unless they use too many weights."""
        c = self.w.shape[0]
        in_use = int((self.w[:, :-1] != 0).sum())
        together = max(1, min(c, int(c * MOST_TOGETHER / max(in_use * (1 + JOIN_SHARE), 1))))
        return [range(i, min(i + together, c)) for i in range(0, c, together)]

    def _step(self, columns: range, view: _View, reach: float) -> bool:
        """A Newton step of some columns' weights; whether the objective fell. `reach` scales how many may join."""
        rows, d = self.rows, self.rows.n_features
        sets = [self._working_set(c, view.gradient[c], reach) for c in columns]
        # Weights that move, by column and feature; feature d is the intercept.
        column = np.repeat(np.asarray(columns), [len(chosen) for chosen in sets])
        feature = np.concatenate(sets)
        features = np.unique(feature)
        x = rows.columns(features[:-1], ones=True)
        place = column - columns.start, np.searchsorted(features, feature)
        hessian = self._known_hessian(column, feature, view)
        if hessian is None:
            hessian = self._hessian(x, *place, columns)
            self.known = _Known(column * (d + 1) + feature, hessian)
        slopes, moves = np.zeros((2, len(columns), features.size))
        residual = self._residual()[columns.start : columns.stop]
        if columns.start == 0:
            # The look has seen these.
            slopes[:, :-1], slopes[:, -1] = view.gradient[: columns.stop, features[:-1]], residual.sum(axis=1)
        else:
            _numba.dots(x, residual, slopes)
        at, delta = self.w[column, feature], np.empty(feature.size)
        penalized = np.ones(feature.size, dtype=bool) if self.penalized else feature < d
        ridge = RIDGE * float(np.finfo(x.dtype).eps)
        _numba.minimize(hessian, slopes[place], at, penalized, self.l1, self.l2, ridge, delta)
        moves[place] = delta
        dz = np.zeros_like(self.z)
        _numba.add_columns(x, moves, dz[columns.start : columns.stop])
        before = self.loss + self._penalty(at[penalized])
        step = 1.0
        for _ in range(HALVINGS):
            z, moved = self.z + step * dz, at + step * delta
            loss = _numba.probabilities(z, rows.labels, rows.weights, self.p)
            if loss + self._penalty(moved[penalized]) < before:
                self.z, self.loss = z, loss
                self.w[column, feature] = moved
                return True
            step /= 2
        self.loss = _numba.probabilities(self.z, rows.labels, rows.weights, self.p)
        return False

    def _working_set(self, column: int, gradient: NDArray[Any], reach: float) -> NDArray[Any]:
        """Ascending features in use, and those that break the optimality conditions most; the intercept last."""
        used = self.w[column, :-1] != 0
        room = int(reach * max(JOIN_LEAST, JOIN_SHARE * used.sum()))
        beyond = np.where(used, 0.0, np.abs(gradient[: used.size]) - self.l1)
        joining = np.flatnonzero(beyond > 0)
        if joining.size > room:
            joining = joining[np.argpartition(-beyond[joining], room)[:room]]
        return np.concatenate([np.sort(np.concatenate([np.flatnonzero(used), joining])), [used.size]])

    def _known_hessian(self, column: NDArray[Any], feature: NDArray[Any], view: _View) -> NDArray[Any] | None:
        """The second derivatives of an earlier step where they will do: near the minimum, or just after the last one
        was reached."""
        if self.known is None or not (self.fresh or view.gap <= CLOSE * view.objective):
            return None
        key = column * (self.rows.n_features + 1) + feature
        found = np.minimum(np.searchsorted(self.known.key, key), self.known.key.size - 1)
        if not (self.known.key[found] == key).all():
            return None
        return self.known.hessian[np.ix_(found, found)]

    def _hessian(self, x: NDArray[Any], column: NDArray[Any], row: NDArray[Any], columns: range) -> NDArray[Any]:
        """(q, q) second derivatives of the loss by weights, given by column, from `columns.start`, and row of x."""
        weights, binary = self.rows.weights, self.w.shape[0] == 1
        edges = np.searchsorted(column, np.arange(len(columns) + 1))
        own = [x[row[lo:hi]] if hi - lo < x.shape[0] else x for lo, hi in itertools.pairwise(edges)]
        out = np.empty((column.size, column.size), dtype=x.dtype)
        for a, c in enumerate(columns):
            here = slice(edges[a], edges[a + 1])
            scaled = own[a] * np.sqrt(weights * self.p[c] * (1 - self.p[c])).astype(x.dtype)
            out[here, here] = scaled @ scaled.T
            for b in range(a) if not binary else ():
                there = slice(edges[b], edges[b + 1])
                cross = (own[a] * (-weights * self.p[c] * self.p[columns[b]]).astype(x.dtype)) @ own[b].T
                out[here, there] = cross
                out[there, here] = cross.T
        return out
