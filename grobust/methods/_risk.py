"""Heads that minimize a risk which is not a fixed weighting of the rows: logit offsets, largest group loss, CVaR.

    minimize over W, b:   R(ℓ_1, …, ℓ_n) + ½ λ ‖W‖²,   ℓ_i = −log softmax(W x_i + b + o_i)[y_i]

on standardized features x, with offsets o (n, k) that are known and R convex and increasing. Full-batch L-BFGS
(scipy), everything in float64 but products of many float32 rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from grobust.methods._batch import Standard, log_softmax
from grobust.probe import Probe
from grobust.typing import Array

__all__ = ["Risk", "RiskFit", "minimize_risk", "weighted_mean"]

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
    start: NDArray[Any] | None = None, rtol: float = 1e-9, max_iter: int = 1000,
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
    n, width = data.x.shape
    rows = np.arange(n)

    def evaluate(flat: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        w = flat.reshape(n_classes, width)
        logits = data.x @ w.T.astype(data.x.dtype)
        if offsets is not None:
            logits = logits + offsets
        log_p = log_softmax(logits.astype(np.float64))
        value, slope = risk(-log_p[rows, labels])
        residual = np.exp(log_p)
        residual[rows, labels] -= 1
        residual *= slope[:, None]
        gradient = (residual.T.astype(data.x.dtype) @ data.x).astype(np.float64)
        gradient[:, :-1] += l2 * w[:, :-1]
        return value + 0.5 * l2 * float((w[:, :-1] ** 2).sum()), gradient.ravel()

    begin = np.zeros((n_classes, width)) if start is None else start
    found = minimize(
        evaluate, begin.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": rtol, "gtol": 1e-7, "maxcor": 20},
    )  # fmt: skip
    inner = found.x.reshape(n_classes, width)
    return RiskFit(
        probe=data.probe(inner), inner=inner, objective=float(found.fun), grad_norm=float(np.linalg.norm(found.jac)),
        n_iter=int(found.nit), converged=int(found.status) == 0,
    )  # fmt: skip


def weighted_mean(weights: NDArray[Any]) -> Risk:
    """The mean of losses with weights (n), of any scale."""
    share = weights / weights.sum()
    return lambda losses: (float(share @ losses), share)
