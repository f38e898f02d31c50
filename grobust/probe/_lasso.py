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
JOIN_SHARE, JOIN_LEAST = 0.25, 32
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
    rows: Rows, l1: NDArray[Any], l2: NDArray[Any], starts: list[NDArray[Any] | None], columns: int, settings: LBFGS
) -> list[LassoFit]:
    """Heads of one weighting with strengths l1 > 0 and l2 (K), in order; strongest l1 first inside.

    Parameters
    ----------
    l2 : effective strengths on the columns used
    starts : initial weights (c, d + 1) of each head, or None
    columns : c, one for two classes
    """
    weights = np.zeros((columns, rows.n_features + 1))
    at_zero = _Head(rows, weights, 0.0, 0.0).look()
    norm_at_zero = float(np.linalg.norm(at_zero.gradient))
    fits: dict[int, LassoFit] = {}
    for i in np.argsort(-l1, kind="stable").tolist():
        start = starts[i]
        head = _Head(rows, (weights if start is None else start).copy(), float(l1[i]), float(l2[i]))
        fits[i] = head.solve(settings, norm_at_zero)
        weights = fits[i].weights
    return [fits[i] for i in range(l1.size)]


class _View(NamedTuple):
    """A head where it is: objective, duality gap, and the loss's gradient (c, d)."""

    objective: float
    gap: float
    gradient: NDArray[Any]


class _Head:
    """One head's weights w (c, d + 1), logits z (c, n) and probabilities p (c, n), kept up to date."""

    def __init__(self, rows: Rows, w: NDArray[Any], l1: float, l2: float) -> None:
        self.rows, self.w, self.l1, self.l2 = rows, w, l1, l2
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
            moved = any(self._step(columns, view) for columns in self._turns())
            steps += moved
            view = self.look()
        norm = float(np.linalg.norm(self._smallest_subgradient(view.gradient)))
        converged = view.gap <= settings.rtol * view.objective
        return LassoFit(self.w, view.objective, view.gap, norm, at_zero, steps, converged)

    def look(self) -> _View:
        """Balance the intercepts, as the dual point needs, and look at all features."""
        self._balance()
        gradient = self.rows.gradient(self._residual())
        objective = self.loss + self._penalty(self.w[:, :-1])
        return _View(objective, max(objective - self._dual(gradient), 0.0), gradient)

    def _residual(self) -> NDArray[Any]:
        residual: NDArray[Any] = self.p * self.rows.weights
        _numba.subtract_targets(residual, self.rows.labels, self.rows.weights)
        return residual

    def _penalty(self, inner: NDArray[Any]) -> float:
        return float(self.l1 * np.abs(inner).sum() + 0.5 * self.l2 * (inner**2).sum())

    def _smallest_subgradient(self, gradient: NDArray[Any]) -> NDArray[Any]:
        w = self.w[:, :-1]
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

    def _step(self, columns: range, view: _View) -> bool:
        """A Newton step of some columns' weights; whether the objective fell."""
        rows, l1, l2 = self.rows, self.l1, self.l2
        places = [self._working_set(c, view.gradient[c]) for c in columns]
        features = np.unique(np.concatenate(places))
        x = rows.columns(features)
        within = [np.searchsorted(features, place) for place in places]
        hessian = self._hessian(x, within, columns)
        residual = self._residual()[columns.start : columns.stop]
        slopes = np.zeros((len(columns), features.size))
        _numba.dots(x, residual, slopes)
        at = np.concatenate(
            [np.append(self.w[c, place], self.w[c, -1]) for c, place in zip(columns, places, strict=True)]
        )
        gradient = np.concatenate([np.append(s[i], r.sum()) for s, i, r in zip(slopes, within, residual, strict=True)])
        penalized = np.concatenate([np.append(np.ones(i.size, bool), False) for i in within])
        delta = np.empty_like(at)
        _numba.minimize(hessian, gradient, at, penalized, l1, l2, RIDGE * np.finfo(x.dtype).eps, delta)
        dz = np.zeros_like(self.z)
        moves = np.zeros((len(columns), features.size))
        ends = np.cumsum([i.size + 1 for i in within]) - 1
        for k, (i, end) in enumerate(zip(within, ends.tolist(), strict=True)):
            moves[k, i] = delta[end - i.size : end]
            dz[columns[k]] = delta[end]
        _numba.add_columns(x, moves, dz[columns.start : columns.stop])
        before = self.loss + self._penalty_of(at, penalized)
        step = 1.0
        for _ in range(HALVINGS):
            z = self.z + step * dz
            loss = _numba.probabilities(z, rows.labels, rows.weights, self.p)
            moved = at + step * delta
            if loss + self._penalty_of(moved, penalized) < before:
                self.z, self.loss = z, loss
                for c, place, end in zip(columns, places, ends.tolist(), strict=True):
                    self.w[c, place], self.w[c, -1] = moved[end - place.size : end], moved[end]
                return True
            step /= 2
        self.loss = _numba.probabilities(self.z, rows.labels, rows.weights, self.p)
        return False

    def _penalty_of(self, at: NDArray[Any], penalized: NDArray[Any]) -> float:
        return self._penalty(at[penalized])

    def _working_set(self, column: int, gradient: NDArray[Any]) -> NDArray[Any]:
        """Ascending features in use, and those that break the optimality conditions most."""
        used = self.w[column, :-1] != 0
        room = max(JOIN_LEAST, int(JOIN_SHARE * used.sum()))
        beyond = np.where(used, 0.0, np.abs(gradient) - self.l1)
        joining = np.flatnonzero(beyond > 0)
        if joining.size > room:
            joining = joining[np.argpartition(-beyond[joining], room)[:room]]
        return np.sort(np.concatenate([np.flatnonzero(used), joining]))

    def _hessian(self, x: NDArray[Any], within: list[NDArray[Any]], columns: range) -> NDArray[Any]:
        """(q, q) float64 second derivatives of the loss by the columns' weights and intercepts, column after column."""
        weights, binary = self.rows.weights, self.w.shape[0] == 1
        rows = [np.concatenate([x[i], np.ones((1, x.shape[1]), x.dtype)]) for i in within]
        ends = np.cumsum([0, *(part.shape[0] for part in rows)])
        out = np.empty((ends[-1], ends[-1]))
        for a in range(len(rows)):
            p = self.p[columns[a]]
            root = np.sqrt(weights * p * (1 - p)).astype(x.dtype)
            scaled = rows[a] * root
            own = slice(ends[a], ends[a + 1])
            out[own, own] = scaled @ scaled.T
            for b in range(a) if not binary else ():
                other = slice(ends[b], ends[b + 1])
                cross = (rows[a] * (-weights * p * self.p[columns[b]]).astype(x.dtype)) @ rows[b].T
                out[own, other] = cross
                out[other, own] = cross.T
        return out
