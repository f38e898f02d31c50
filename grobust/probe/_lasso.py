"""l1 and elastic-net heads: Newton steps with coordinate descent on a working set of features, along a path.

Features outside the working set are looked at once per round, by one product of all rows with the residuals, which also
gives the duality gap. Inside, a class's Hessian on the working set is one small Gram matrix, and the descent touches
nothing else. With features on a GPU the products of all rows are there, and the descent is here. The strengths of a
head are solved from the strongest on, each from the solution before (Friedman, Hastie and Tibshirani 2010,
"Regularization paths for generalized linear models via coordinate descent"; Massias, Gramfort and Salmon 2018, "Celer",
for working sets by dual gaps).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, xlogy

from grobust.arrays import array_namespace, to_numpy
from grobust.probe import _numba
from grobust.settings import LBFGS
from grobust.typing import Array

__all__ = ["LassoFit", "Rows", "solve_lasso"]

# Newton steps per round, sweeps per step, and the smallest working set.
NEWTON_STEPS, SWEEPS, SMALLEST_SET = 8, 200, 64
# A line search halves the step so often before it gives up.
HALVINGS = 30


@dataclass(frozen=True, eq=False)
class Rows:
    """Standardized rows of a weighting in blocks, and their labels and weights.

    Parameters
    ----------
    blocks : gives (b, d) floating blocks that together are the n rows, on any device; one block when they fit in memory
    labels : (n) int64
    weights : (n) float64, summing to 1
    n_features : d
    """

    blocks: Any
    labels: NDArray[Any]
    weights: NDArray[Any]
    n_features: int

    def gradient(self, residual: NDArray[Any]) -> NDArray[Any]:
        """(c, d) float64 products of residuals (c, n) with the features."""
        total = np.zeros((residual.shape[0], self.n_features))
        for start, block in self._placed():
            part = residual[:, start : start + block.shape[0]]
            total += to_numpy(array_namespace(block).asarray(part, dtype=block.dtype) @ block)
        return total

    def columns(self, features: NDArray[Any]) -> NDArray[Any]:
        """(n, p) columns of some features, on the host."""
        return np.concatenate([_columns(block, features) for _, block in self._placed()])

    def _placed(self) -> Iterator[tuple[int, Array]]:
        start = 0
        for block in self.blocks():
            yield start, block
            start += block.shape[0]


def _columns(block: Array, features: NDArray[Any]) -> NDArray[Any]:
    if isinstance(block, np.ndarray):
        return np.asarray(block[:, features])
    xp = array_namespace(block)
    return to_numpy(xp.take(block, xp.asarray(features), axis=1))


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
    zero = _Head(rows, np.zeros((columns, rows.n_features + 1)), 0.0, 0.0)
    zero.fit_intercept()
    at_zero = float(np.linalg.norm(zero.residual_gradient()))
    fits: dict[int, LassoFit] = {}
    weights = zero.w
    for i in np.argsort(-l1, kind="stable").tolist():
        start = starts[i]
        head = _Head(rows, (weights if start is None else start).copy(), float(l1[i]), float(l2[i]))
        fits[i] = head.solve(settings, at_zero)
        weights = fits[i].weights
    return [fits[i] for i in range(l1.size)]


class _Head:
    """One head's weights, and logits (c, n) kept up to date."""

    def __init__(self, rows: Rows, w: NDArray[Any], l1: float, l2: float) -> None:
        self.rows, self.w, self.l1, self.l2 = rows, w, l1, l2
        used = np.flatnonzero(np.abs(w[:, :-1]).sum(axis=0))
        self.z = np.broadcast_to(w[:, -1:], (w.shape[0], rows.labels.size)).copy()
        if used.size:
            self.z += w[:, used] @ rows.columns(used).T
        self.target = (
            rows.labels[None, :].astype(np.float64)
            if w.shape[0] == 1
            else (rows.labels[None, :] == np.arange(w.shape[0])[:, None]).astype(np.float64)
        )

    def solve(self, settings: LBFGS, at_zero: float) -> LassoFit:
        steps = 0
        while True:
            self.fit_intercept()
            gradient = self.residual_gradient()
            objective = self.loss(self.z) + self.penalty(self.w)
            gap = max(objective - self.dual(gradient), 0.0)
            converged = gap <= settings.rtol * objective
            if converged or steps >= settings.max_iter:
                break
            before = steps
            steps += self._improve(gradient, objective, settings)
            if steps == before:
                break
        norm = float(np.linalg.norm(self.smallest_subgradient(gradient)))
        return LassoFit(self.w, objective, gap, norm, at_zero, steps, converged)

    def probabilities(self, z: NDArray[Any]) -> NDArray[Any]:
        if z.shape[0] == 1:
            return np.asarray(np.exp(-np.logaddexp(0, -z)))
        p = np.exp(z - z.max(axis=0))
        return np.asarray(p / p.sum(axis=0))

    def loss(self, z: NDArray[Any]) -> float:
        if z.shape[0] == 1:
            each = np.logaddexp(0, z[0]) - self.target[0] * z[0]
        else:
            each = logsumexp(z, axis=0) - z[self.rows.labels, np.arange(z.shape[1])]
        return float(self.rows.weights @ each)

    def penalty(self, w: NDArray[Any]) -> float:
        inner = w[:, :-1]
        return float(self.l1 * np.abs(inner).sum() + 0.5 * self.l2 * (inner**2).sum())

    def residual(self) -> NDArray[Any]:
        return np.asarray(self.rows.weights * (self.probabilities(self.z) - self.target))

    def residual_gradient(self) -> NDArray[Any]:
        """(c, d) gradient of the loss by the weights."""
        return self.rows.gradient(self.residual())

    def smallest_subgradient(self, gradient: NDArray[Any]) -> NDArray[Any]:
        w = self.w[:, :-1]
        smooth = gradient + self.l2 * w
        zero = np.sign(smooth) * np.maximum(np.abs(smooth) - self.l1, 0)
        return np.where(w == 0, zero, smooth + self.l1 * np.sign(w))

    def fit_intercept(self) -> None:
        """Newton steps on the intercepts until the residuals of each column sum to nothing, as the dual point needs."""
        for _ in range(50):
            p = self.probabilities(self.z)
            slope = (self.rows.weights * (p - self.target)).sum(axis=1)
            if np.abs(slope).max() <= 1e-13:
                return
            if p.shape[0] == 1:
                step = -slope / max(float((self.rows.weights * p * (1 - p)).sum()), 1e-300)
            else:
                hessian = np.diag((p * self.rows.weights).sum(axis=1)) - (p * self.rows.weights) @ p.T
                step = -np.linalg.lstsq(hessian, slope, rcond=1e-12)[0]
            step = np.clip(step, -2, 2)
            self.w[:, -1] += step
            self.z += step[:, None]

    def dual(self, gradient: NDArray[Any]) -> float:
        """Dual objective at the residuals, scaled until they are feasible."""
        largest = float(np.abs(gradient).max())
        candidates = [min(1.0, self.l1 / largest) if largest > 0 else 1.0]
        if self.l2 > 0:
            candidates.append(1.0)
        return max(self._dual_at(scale, gradient) for scale in candidates)

    def _dual_at(self, scale: float, gradient: NDArray[Any]) -> float:
        q = self.target + scale * (self.probabilities(self.z) - self.target)
        entropy = -xlogy(q, q).sum(axis=0)
        if q.shape[0] == 1:
            entropy = entropy - xlogy(1 - q[0], 1 - q[0])
        value = float(self.rows.weights @ entropy)
        beyond = np.maximum(np.abs(scale * gradient) - self.l1, 0)
        return value - float((beyond**2).sum()) / (2 * self.l2) if self.l2 > 0 else value

    def _improve(self, gradient: NDArray[Any], objective: float, settings: LBFGS) -> int:
        """Newton steps on a working set; how many made progress."""
        used = np.abs(self.w[:, :-1]).sum(axis=0) > 0
        violation = np.abs(self.smallest_subgradient(gradient)).max(axis=0)
        size = min(max(SMALLEST_SET, 2 * int(used.sum())), violation.size)
        best = np.argpartition(-(violation + np.where(used, np.inf, 0)), size - 1)[:size]
        chosen = np.sort(best[(violation[best] > 0) | used[best]])
        x = self.rows.columns(chosen)
        steps = 0
        goal = 0.1 * settings.rtol * objective
        for _ in range(NEWTON_STEPS):
            decrease = sum(self._newton(c, chosen, x, goal) for c in range(self.w.shape[0]))
            if decrease <= 0:
                break
            steps += 1
            if decrease <= goal:
                break
        return steps

    def _newton(self, column: int, chosen: NDArray[Any], x: NDArray[Any], goal: float) -> float:
        """One Newton step of a class's weights on the working set; the decrease of the objective."""
        p = self.probabilities(self.z)[column]
        weights = self.rows.weights
        residual = weights * (p - self.target[column])
        curvature = weights * p * (1 - p)
        scaled = x * np.sqrt(curvature).astype(x.dtype)[:, None]
        hessian = np.empty((chosen.size + 1, chosen.size + 1))
        hessian[:-1, :-1] = scaled.T @ scaled
        hessian[:-1, -1] = hessian[-1, :-1] = curvature.astype(x.dtype) @ x
        hessian[-1, -1] = curvature.sum()
        at = np.append(self.w[column, chosen], self.w[column, -1])
        gradient = np.append(residual.astype(x.dtype) @ x, residual.sum())
        delta = np.zeros(at.size)
        _numba.coordinate_descent(hessian, gradient, at, self.l1, self.l2, delta, SWEEPS, 0.01 * goal)
        dz = x @ delta[:-1].astype(x.dtype) + delta[-1]
        before = self.loss(self.z) + self._penalty_of(at)
        z = self.z.copy()
        step = 1.0
        for _ in range(HALVINGS):
            z[column] = self.z[column] + step * dz
            after = self.loss(z) + self._penalty_of(at + step * delta)
            if after < before:
                self.z = z
                self.w[column, chosen] = at[:-1] + step * delta[:-1]
                self.w[column, -1] = at[-1] + step * delta[-1]
                return before - after
            step /= 2
        return 0.0

    def _penalty_of(self, at: NDArray[Any]) -> float:
        return float(self.l1 * np.abs(at[:-1]).sum() + 0.5 * self.l2 * (at[:-1] ** 2).sum())
