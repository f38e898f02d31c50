"""Heads that minimize a risk which is not a fixed weighting of the rows: logit offsets, largest group loss, CVaR.

    minimize over W, b:   R(ℓ_1, …, ℓ_n) + ½ λ ‖W‖²,   ℓ_i = −log softmax(W x_i + b + o_i)[y_i]

on standardized features x, with offsets o (n, k) that are known and R convex and increasing. Full-batch L-BFGS
(scipy) in scaled weights, everything in float64 but products of many float32 rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from grobust.methods._batch import Standard, log_softmax
from grobust.probe import Probe
from grobust.typing import Array

__all__ = ["Risk", "RiskFit", "minimize_risk", "not_converged", "weighted_mean"]

# Of a row in the scaling, as a share of its weight: rows that are right for now may not stay so.
LEAST_CURVATURE = 0.02
# Features up to which the whole matrix is used.
MOST_SCALED = 4096
# Keeps the scaling's second derivatives positive definite where features repeat, as a share of their mean.
RIDGE = 1e-6
# As a share of the gradient at zero: rounding of float32 products can end a line search before.
SMALL_GRADIENT = 1e-4

# Of losses (n) float64: the risk and its derivatives (n), which are not negative.
Risk = Callable[[NDArray[Any]], tuple[float, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class RiskFit:
    """A head, its penalized risk, and whether the gradient became small.

    Parameters
    ----------
    probe : on raw features
    inner : (k, d + 1) float64 on standardized features, to begin another fit from
    objective : value reached
    grad_norm : norm of the gradient there
    n_iter : iterations
    converged : whether scipy's criteria were met
    """

    probe: Probe
    inner: NDArray[Any]
    objective: float
    grad_norm: float
    n_iter: int
    converged: bool


def minimize_risk(
    data: Standard, labels: Array, n_classes: int, risk: Risk, *, l2: float, offsets: NDArray[Any] | None = None,
    start: NDArray[Any] | None = None, rtol: float = 1e-8, max_iter: int = 1000,
) -> RiskFit:  # fmt: skip
    """Minimize a risk of the rows' losses plus ½ λ ‖W‖²; the intercepts are free.

    Parameters
    ----------
    labels : (n) int64
    risk : of the losses
    l2 : λ ≥ 0
    offsets : (n, k) added to the logits; None for none
    start : (k, d + 1) weights on standardized features; None begins at zero
    rtol : ends when a step lowers the objective by less, relatively
    """
    problem = _Problem(data.x, labels, risk, l2, offsets)
    begin = np.zeros((n_classes, data.x.shape[1])) if start is None else start
    scaling = problem.scaling(begin)

    def evaluate(flat: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        value, gradient = problem.evaluate(scaling.weights(flat.reshape(begin.shape)))
        return value, scaling.gradient(gradient).ravel()

    found = minimize(
        evaluate, scaling.scaled(begin).ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": rtol, "gtol": 1e-7, "maxcor": 20},
    )  # fmt: skip
    inner = scaling.weights(found.x.reshape(begin.shape))
    norm = float(np.linalg.norm(problem.evaluate(inner)[1]))
    at_zero = float(np.linalg.norm(problem.evaluate(np.zeros_like(inner))[1]))
    return RiskFit(
        probe=data.probe(inner), inner=inner, objective=float(found.fun), grad_norm=norm, n_iter=int(found.nit),
        converged=int(found.status) == 0 or norm <= SMALL_GRADIENT * at_zero,
    )  # fmt: skip


class _Problem:
    """The objective and its gradient by weights (k, d + 1) on standardized features."""

    def __init__(
        self, x: NDArray[Any], labels: Array, risk: Risk, l2: float, offsets: NDArray[Any] | None
    ) -> None:  # fmt: skip
        self._x, self._labels, self._risk, self._l2 = x, labels, risk, l2
        self._offsets = None if offsets is None else np.ascontiguousarray(offsets.T)
        self._rows = np.arange(x.shape[0])

    def _look(self, w: NDArray[Any]) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """Risk, its derivatives (n) by the losses, and probabilities (k, n)."""
        logits = (w.astype(self._x.dtype) @ self._x.T).astype(np.float64)
        if self._offsets is not None:
            logits += self._offsets
        log_p = log_softmax(logits, axis=0)
        value, slope = self._risk(-log_p[self._labels, self._rows])
        return value, slope, np.exp(log_p)

    def evaluate(self, w: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """Objective and gradient (k, d + 1), both float64."""
        value, slope, residual = self._look(w)
        residual[self._labels, self._rows] -= 1
        residual *= slope
        gradient = (residual.astype(self._x.dtype) @ self._x).astype(np.float64)
        gradient[:, :-1] += self._l2 * w[:, :-1]
        return value + 0.5 * self._l2 * float((w[:, :-1] ** 2).sum()), gradient

    def scaling(self, w: NDArray[Any]) -> "_Scaling":
        """By the mean second derivative of a class's weights at w: the objective is about round then, and L-BFGS takes
        a tenth of the steps. Of very many features only the diagonal is used."""
        _, slope, p = self._look(w)
        curvature = slope * np.maximum((p * (1 - p)).mean(axis=0), LEAST_CURVATURE)
        if self._x.shape[1] > MOST_SCALED:
            second = (curvature.astype(self._x.dtype) @ self._x**2).astype(np.float64)
            return _Scaling(np.sqrt(second + np.maximum(self._l2, RIDGE * second.mean())))
        scaled = self._x * np.sqrt(curvature)[:, None].astype(self._x.dtype)
        second = (scaled.T @ scaled).astype(np.float64)
        diagonal = np.einsum("ii->i", second)
        diagonal += np.maximum(self._l2, RIDGE * diagonal.mean())
        return _Scaling(np.linalg.cholesky(second))


@dataclass(frozen=True, eq=False)
class _Scaling:
    """Weights (k, d + 1) times a lower factor L (d + 1, d + 1), or a diagonal one (d + 1)."""

    factor: NDArray[Any]

    def scaled(self, weights: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(weights * self.factor if self.factor.ndim == 1 else weights @ self.factor)

    def weights(self, scaled: NDArray[Any]) -> NDArray[Any]:
        if self.factor.ndim == 1:
            return np.asarray(scaled / self.factor)
        return np.asarray(solve_triangular(self.factor, scaled.T, lower=True, trans="T").T)

    def gradient(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """By scaled weights."""
        if self.factor.ndim == 1:
            return np.asarray(gradient / self.factor)
        return np.asarray(solve_triangular(self.factor, gradient.T, lower=True).T)


def not_converged(fits: Sequence[RiskFit]) -> tuple[str, ...]:
    """A note where fits did not converge."""
    lost = sum(not fit.converged for fit in fits)
    return (f"{lost} of {len(fits)} full-batch fits did not converge",) if lost else ()


def weighted_mean(weights: NDArray[Any]) -> Risk:
    """The mean of losses with weights (n), of any scale."""
    share = weights / weights.sum()
    return lambda losses: (float(share @ losses), share)
