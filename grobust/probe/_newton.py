"""Newton steps that finish small heads in float64, to where rounding of the gradient stops them.

A line search compares losses, so it leaves weights about the square root of their rounding away from the optimum.
Newton steps from there need the gradient only.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.probe._design import Design
from grobust.probe._solver import Solution
from grobust.typing import Array

__all__ = ["finish"]

STEPS = 6
# Rows of a block.
BLOCK = 2048


def finish(
    design: Design, labels: NDArray[Any], weights: NDArray[Any], l2: float, solution: Solution, head: int, rtol: float
) -> None:
    """Improve one head of a solution in place, as long as each step halves its gradient norm at least.

    Parameters
    ----------
    design : NumPy features with float64 products
    labels : (n)
    weights : (n), summing to 1
    l2 : effective strength on the columns used, above 0
    rtol : relative gap at which a head counts as converged
    """
    w = solution.weights[head]
    objective, gradient, hessian = _second_order(design, labels, weights, l2, w)
    for _ in range(STEPS):
        try:
            step = np.linalg.solve(hessian, gradient.ravel()).reshape(w.shape)
        except np.linalg.LinAlgError:
            break
        found = _second_order(design, labels, weights, l2, w - step)
        if not np.linalg.norm(found[1]) < 0.5 * np.linalg.norm(gradient):
            break
        w = w - step
        objective, gradient, hessian = found
        solution.n_iter[head] += 1
        norm = float(np.linalg.norm(gradient))
        solution.objective[head], solution.grad_norm[head] = objective, norm
        # The decrement is at most the gap.
        solution.gap[head] = solution.decrement[head] = norm**2 / (2 * l2)
    solution.weights[head, ...] = w
    solution.converged[head] |= solution.gap[head] <= rtol * solution.objective[head]


def _second_order(
    design: Design, labels: NDArray[Any], weights: NDArray[Any], l2: float, w: Array
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Objective, gradient (c, d + 1) and Hessian (c (d + 1), c (d + 1)) at weights w on standardized features."""
    c, width = w.shape
    loss, gradient, hessian = 0.0, np.zeros((c, width)), np.zeros((c, width, c, width))
    for lo in range(0, labels.size, BLOCK):
        rows = np.arange(lo, min(lo + BLOCK, labels.size))
        x = np.concatenate([design.standardized(rows), np.ones((rows.size, 1))], axis=1)
        z = x @ w.T
        full = z if c > 1 else np.concatenate([np.zeros_like(z), z], axis=1)
        largest = full.max(axis=1, keepdims=True)
        log_p = full - largest - np.log(np.exp(full - largest).sum(axis=1, keepdims=True))
        loss -= float(weights[rows] @ log_p[np.arange(rows.size), labels[rows]])
        target = labels[rows][:, None] == np.arange(full.shape[1])
        p = np.exp(log_p)[:, -c:]
        gradient += ((p - target[:, -c:]) * weights[rows][:, None]).T @ x
        for i in range(c):
            for j in range(i, c):
                curvature = weights[rows] * p[:, i] * ((i == j) - p[:, j])
                hessian[i, :, j, :] += (x * curvature[:, None]).T @ x
    for i in range(c):
        for j in range(i):
            hessian[i, :, j, :] = hessian[j, :, i, :].T
    inner = w[:, :-1]
    gradient[:, :-1] += l2 * inner
    hessian = hessian.reshape(c * width, c * width)
    diagonal = np.arange(c * width).reshape(c, width)
    hessian[diagonal[:, :-1], diagonal[:, :-1]] += l2
    if c > 1:
        # Shifting all intercepts alike changes nothing: fix their mean.
        hessian[np.ix_(diagonal[:, -1], diagonal[:, -1])] += 1.0
    return loss + 0.5 * l2 * float((inner**2).sum()), gradient, hessian
