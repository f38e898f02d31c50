"""Compiled loops of the l1 heads, on float64 sums; features are a row of `columns` each.

They release the interpreter lock, so that several weightings are solved side by side.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "add_columns",
    "add_targets",
    "coordinate_descent",
    "dots",
    "minimize",
    "probabilities",
    "subtract_targets",
    "weighted_rows",
]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}

# Sweeps of coordinate descent before the first linear system, and between two of them.
SWEEPS, SWEEPS_BETWEEN = 30, 4
# A sweep that gains less than this share of the first ends the descent.
FLAT = 1e-3
SYSTEMS = 6
SLACK = 1e-9


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def coordinate_descent(
    hessian: Any, slope: Any, at: Any, penalized: Any, l1: float, l2: float, delta: Any, sweeps: int, flat: float
) -> None:
    """Lower gᵀδ + ½ δᵀ H δ + Σ_penalized (½ λ₂ (w + δ)² + λ₁ |w + δ|), one coordinate after another.

    Every tenth sweep is over all coordinates, the others over those that are not zero.

    Parameters
    ----------
    hessian : (q, q) floating; at : (q) float64, w; penalized : (q) bool
    slope : (q) float64 g + H δ, and delta : (q) float64, in and out
    sweeps : most sweeps; flat : share of the first sweep's gain below which the descent ends
    """
    size = slope.size
    first = 0.0
    for sweep in range(sweeps):
        gain = 0.0
        for j in range(size):
            w = at[j] + delta[j]
            if penalized[j]:
                if sweep % 10 != 0 and w == 0:
                    continue
                curvature = hessian[j, j] + l2 + 1e-300
                target = w - (slope[j] + l2 * w) / curvature
                target = np.sign(target) * max(abs(target) - l1 / curvature, 0.0)
            else:
                curvature = hessian[j, j] + 1e-300
                target = w - slope[j] / curvature
            change = target - w
            if change != 0:
                # w + (−w) is zero, w + δ + change need not be.
                delta[j] = -at[j] if target == 0 else delta[j] + change
                for i in range(size):
                    slope[i] += change * hessian[j, i]
                gain += 0.5 * curvature * change * change
        if sweep == 0:
            first = gain
        if gain <= flat * first:
            return


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def minimize(
    hessian: Any, gradient: Any, at: Any, penalized: Any, l1: float, l2: float, ridge: float, delta: Any
) -> None:  # fmt: skip
    """Step δ (q) that minimizes gᵀδ + ½ δᵀ H δ + Σ_penalized (½ λ₂ (w + δ)² + λ₁ |w + δ|), nearly.

    Coordinate descent finds the signs. With these held, the minimum is a linear system; where its solution keeps them
    and no weight at zero wants to leave, it is the minimum. Else weights that changed sign stay at zero and descent
    goes on.

    Parameters
    ----------
    hessian : (q, q) floating, positive semi-definite to rounding; factors have its dtype, all else is
        float64, as slopes nearly cancel the penalty
    gradient, at : (q) float64 g and w; penalized : (q) bool
    ridge : keeps systems solvable where features repeat, as a share of the mean diagonal
    delta : (q) float64, out
    """
    size = gradient.size
    delta[:] = 0
    slope = gradient.copy()
    sweeps = SWEEPS
    for _ in range(SYSTEMS):
        coordinate_descent(hessian, slope, at, penalized, l1, l2, delta, sweeps, FLAT)
        sweeps = SWEEPS_BETWEEN
        active = np.flatnonzero((at + delta != 0) | ~penalized)
        step = _system(hessian, slope, at, delta, active, penalized, l1, l2, ridge)
        if step.size == 0:
            continue
        crossed = _crossing(at, delta, step, active, penalized)
        if crossed:
            _shorten(hessian, slope, at, delta, step, active, penalized, l1, l2)
        for k in range(active.size):
            j = active[k]
            if step[k] != 0:
                delta[j] = -at[j] if at[j] + delta[j] + step[k] == 0 else delta[j] + step[k]
                for i in range(size):
                    slope[i] += step[k] * hessian[j, i]
        if crossed:
            continue
        leaving = False
        for j in range(size):
            if penalized[j] and at[j] + delta[j] == 0 and abs(slope[j]) > l1 * (1 + SLACK):
                leaving = True
        if not leaving:
            return


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _system(
    hessian: Any, slope: Any, at: Any, delta: Any, active: Any, penalized: Any, l1: float, l2: float, ridge: float
) -> Any:  # fmt: skip
    """Step of the active weights to the model's minimum with their signs held; empty where there is none."""
    size = active.size
    matrix = np.empty((size, size), dtype=hessian.dtype)
    right = np.empty(size)
    trace = 0.0
    for a in range(size):
        j = active[a]
        for b in range(size):
            matrix[a, b] = hessian[j, active[b]]
        w = at[j] + delta[j]
        right[a] = -slope[j]
        if penalized[j]:
            matrix[a, a] += l2
            right[a] -= l2 * w + l1 * np.sign(w)
        trace += matrix[a, a]
    for a in range(size):
        matrix[a, a] += ridge * trace / size
    try:
        factor = np.linalg.cholesky(matrix)
    except Exception:
        # Rounding of the second derivatives can exceed the ridge.
        return np.empty(0)
    for a in range(size):
        total = right[a]
        for b in range(a):
            total -= factor[a, b] * right[b]
        right[a] = total / factor[a, a]
    for a in range(size - 1, -1, -1):
        right[a] /= factor[a, a]
        for b in range(a):
            right[b] -= factor[a, b] * right[a]
    return right


@njit(nogil=True, cache=True, error_model="numpy")
def _crossing(at: Any, delta: Any, step: Any, active: Any, penalized: Any) -> bool:
    """Whether a weight would change its sign."""
    for k in range(active.size):
        w = at[active[k]] + delta[active[k]]
        if penalized[active[k]] and w * (w + step[k]) < 0:
            return True
    return False


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _shorten(
    hessian: Any, slope: Any, at: Any, delta: Any, step: Any, active: Any, penalized: Any, l1: float, l2: float
) -> None:  # fmt: skip
    """Leave weights that would change sign at zero, if the model falls so; else go up to the first of them."""
    size = active.size
    cut = np.empty(size)
    first, change = 1.0, 0.0
    for k in range(size):
        j = active[k]
        w = at[j] + delta[j]
        cut[k] = step[k]
        if penalized[j]:
            if w * (w + step[k]) < 0:
                cut[k] = -w
                first = min(first, -w / step[k])
            after = w + cut[k]
            change += 0.5 * l2 * (after * after - w * w) + l1 * (abs(after) - abs(w))
        change += slope[j] * cut[k]
    for a in range(size):
        row = 0.0
        for b in range(size):
            row += hessian[active[a], active[b]] * cut[b]
        change += 0.5 * cut[a] * row
    for k in range(size):
        j = active[k]
        w = at[j] + delta[j]
        if change < 0:
            step[k] = cut[k]
        elif penalized[j] and w * (w + step[k]) < 0 and -w / step[k] <= first:
            step[k] = -w
        else:
            step[k] *= first


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def dots(columns: Any, residual: Any, out: Any) -> None:
    """Add columns (p, n) times residuals (c, n) float64 to out (c, p), in float64."""
    for j in range(columns.shape[0]):
        for c in range(residual.shape[0]):
            total = 0.0
            for i in range(columns.shape[1]):
                total += np.float64(columns[j, i]) * residual[c, i]
            out[c, j] += total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def weighted_rows(block: Any, residual: Any, out: Any) -> None:
    """Add residuals (c, b) float64 times a block (b, d) to out (c, d), in float64."""
    for i in range(block.shape[0]):
        for c in range(residual.shape[0]):
            r = residual[c, i]
            for j in range(block.shape[1]):
                out[c, j] += r * np.float64(block[i, j])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def add_columns(columns: Any, weights: Any, out: Any) -> None:
    """Add weights (c, p) times columns (p, n) to out (c, n) float64, in float64."""
    for j in range(columns.shape[0]):
        for c in range(weights.shape[0]):
            w = weights[c, j]
            if w != 0:
                for i in range(columns.shape[1]):
                    out[c, i] += w * np.float64(columns[j, i])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def probabilities(z: Any, labels: Any, weights: Any, out: Any) -> float:
    """Probabilities (c, n) float64 of logits z (c, n), of class 1 where c = 1; the weighted mean cross-entropy."""
    columns, rows = z.shape
    loss = 0.0
    if columns == 1:
        for i in range(rows):
            small = np.exp(-abs(z[0, i]))
            inverse = 1 / (1 + small)
            out[0, i] = inverse if z[0, i] >= 0 else small * inverse
            loss += weights[i] * (np.log1p(small) + max(z[0, i], 0.0) - labels[i] * z[0, i])
        return loss
    for i in range(rows):
        largest = z[0, i]
        for c in range(1, columns):
            largest = max(largest, z[c, i])
        total = 0.0
        for c in range(columns):
            out[c, i] = np.exp(z[c, i] - largest)
            total += out[c, i]
        for c in range(columns):
            out[c, i] /= total
        loss += weights[i] * (np.log(total) + largest - z[labels[i], i])
    return loss


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_targets(residual: Any, labels: Any, weights: Any) -> None:
    """residual (c, n) −= weight at each row's class; with one column at class 1."""
    for i in range(labels.size):
        if residual.shape[0] > 1:
            residual[labels[i], i] -= weights[i]
        elif labels[i] == 1:
            residual[0, i] -= weights[i]


@njit(nogil=True, cache=True, error_model="numpy")
def add_targets(q: Any, labels: Any, share: float) -> None:
    """q (c, n) += share at each row's class; with one column at class 1."""
    for i in range(labels.size):
        if q.shape[0] > 1:
            q[labels[i], i] += share
        elif labels[i] == 1:
            q[0, i] += share
