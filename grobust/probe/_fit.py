"""`fit_probes`: checks, the solve, and what it reports."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.probe._design import Design, design
from grobust.probe._objective import columns_per_head, effective_l2
from grobust.probe._solver import Solution, solve
from grobust.settings import LBFGS
from grobust.typing import Array

__all__ = ["FitStatus", "Head", "Probe", "ProbeFit", "fit_probe", "fit_probes"]

# Work arrays of a solve, beside the features: logits, directions, residuals and trial values.
ARRAYS_PER_COLUMN = 8
DEFAULT_MAX_BYTES = 2 << 30


class FitStatus(StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    STALLED = "stalled"


@dataclass(frozen=True, eq=False)
class Head:
    """One problem: weights of the rows and an L2 strength.

    Parameters
    ----------
    weights : (n) non-negative, any scale (`BalancedSample.expected_weights`); None weighs all rows alike
    l2 : λ ≥ 0 of ½ λ ‖W‖²
    name : for messages
    """

    weights: NDArray[Any] | None = None
    l2: float = 1e-4
    name: str = ""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head on raw features; the standardization of training is folded in.

    Parameters
    ----------
    weight : (k, d) float64
    bias : (k) float64
    """

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """(n, k) float64 scores of features (n, d), on their device."""
        xp = array_namespace(features)
        return xp.astype(features, xp.float64) @ self.weight.T + self.bias

    def predict(self, features: Array) -> Array:
        """(n) int64 predicted classes of features (n, d)."""
        xp = array_namespace(features)
        return xp.argmax(self.logits(features), axis=1)


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted head and its certificate, in float64.

    Parameters
    ----------
    probe : the head
    name, l2 : of the `Head`
    status, message : how the fit ended, and what to try if it did not converge
    n_iter : iterations
    objective : value of the objective
    gap : ‖gradient‖² / (2 λ), which bounds how far the objective is above its minimum by strong convexity (up to the
        unpenalized intercept); infinite for λ = 0
    grad_norm : norm of its gradient by weights of standardized features and intercepts
    relative_gradient : the same over its value at zero weights
    """

    probe: Probe
    name: str
    l2: float
    status: FitStatus
    message: str
    n_iter: int
    objective: float
    gap: float
    grad_norm: float
    relative_gradient: float


def fit_probes(
    features: Array,
    labels: Array,
    heads: Sequence[Head],
    *,
    n_classes: int,
    solver: LBFGS | None = None,
    standardize: bool = True,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[ProbeFit, ...]:
    """Fit K weighted multinomial logistic heads on the same features.

    Each head minimizes ``Σ_i w_i · cross-entropy_i / Σ_i w_i + ½ λ ‖W‖²`` over W (k, d), on standardized features, and
    an unpenalized intercept. For two classes this is the softmax over two columns, not scikit-learn's single column:
    its C is ``2 / (λ Σ w)`` there and ``1 / (λ Σ w)`` for more classes.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64, NumPy or CuPy; products run in float64, a block of rows at a time
    labels : (n) integers 0 … k−1
    heads : K problems
    n_classes : k ≥ 2
    solver : accuracy and iterations
    standardize : subtract the mean and divide by the standard deviation of all rows, unweighted, for every head
    max_bytes : budget of the work arrays; heads are solved in as many turns as it takes

    Returns
    -------
    A `ProbeFit` per head, in order. A fit that did not converge says so in its status; nothing is raised.

    Raises
    ------
    ShapeError
        If arrays do not fit together or a feature is not finite.
    GroupError
        If labels are out of range, or a head gives a class no weight.
    """
    settings = solver or LBFGS()
    x, y = _check_data(features, labels, n_classes)
    xp = array_namespace(x)
    weights = [_check_head(head, i, to_numpy(y), n_classes) for i, head in enumerate(heads)]
    if not heads:
        return ()
    standardized = design(x, standardize=standardize)
    columns = columns_per_head(n_classes)
    per_head = ARRAYS_PER_COLUMN * columns * 8 * x.shape[0]
    turn = max(1, max_bytes // per_head)
    fits: list[ProbeFit] = []
    for start in range(0, len(heads), turn):
        chosen = heads[start : start + turn]
        stacked = xp.asarray(np.stack(weights[start : start + turn], axis=1))
        l2 = xp.asarray(np.array([effective_l2(head.l2, n_classes) for head in chosen], dtype=np.float64))
        solution = solve(standardized, y, stacked, l2, columns=columns, settings=settings)
        fits += [_result(head, solution, i, standardized, n_classes, settings) for i, head in enumerate(chosen)]
    return tuple(fits)


def fit_probe(
    features: Array,
    labels: Array,
    *,
    n_classes: int,
    weights: NDArray[Any] | None = None,
    l2: float = 1e-4,
    solver: LBFGS | None = None,
    standardize: bool = True,
) -> ProbeFit:
    """Fit a single head: `fit_probes` with K = 1."""
    head = Head(weights=weights, l2=l2)
    return fit_probes(features, labels, [head], n_classes=n_classes, solver=solver, standardize=standardize)[0]


def _check_data(features: Array, labels: Array, n_classes: int) -> tuple[Array, Array]:
    xp = array_namespace(features, labels)
    if features.ndim != 2 or labels.shape != (features.shape[0],) or 0 in features.shape:
        raise ShapeError(f"features {features.shape} and labels {labels.shape} do not fit; expected (n, d) and (n).")
    if n_classes < 2:
        raise ConfigError(f"A probe needs at least 2 classes, got n_classes={n_classes}.")
    finite = xp.all(xp.isfinite(features), axis=1)
    if not bool(xp.all(finite)):
        raise ShapeError(f"Row {int(xp.argmax(xp.astype(~finite, xp.int8)))} of the features is not finite.")
    y = xp.astype(labels, xp.int64)
    if int(xp.min(y)) < 0 or int(xp.max(y)) >= n_classes:
        raise GroupError(f"labels run from {int(xp.min(y))} to {int(xp.max(y))}; expected 0 to {n_classes - 1}.")
    return features, y


def _check_head(head: Head, index: int, labels: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Row weights of a head, normalized to sum 1."""
    name = f"Head {index}" + (f" ({head.name})" if head.name else "")
    if not (math.isfinite(head.l2) and head.l2 >= 0):
        raise ConfigError(f"{name}: l2 must be a number of at least 0, got {head.l2!r}.")
    weights = np.ones(labels.size) if head.weights is None else np.asarray(head.weights, dtype=np.float64)
    if weights.shape != labels.shape:
        raise ShapeError(f"{name}: weights have shape {weights.shape}, expected {labels.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ShapeError(f"{name}: weights must be finite and not negative.")
    per_class = np.bincount(labels, weights=weights, minlength=n_classes)
    if (per_class == 0).any():
        raise GroupError(f"{name}: class {int(np.argmin(per_class))} has no row with positive weight.")
    return np.asarray(weights / weights.sum())


def _result(head: Head, solution: Solution, index: int, data: Design, n_classes: int, settings: LBFGS) -> ProbeFit:
    xp = array_namespace(solution.weights)
    columns = solution.weights[:, index, :]
    if n_classes == 2:
        columns = xp.concat([-columns / 2, columns / 2], axis=1)
    weight = columns[:-1] / data.scale[:, None]
    bias = columns[-1] - data.mean @ weight
    iterations = int(solution.n_iter[index])
    relative = float(solution.grad_norm[index] / max(solution.grad_norm_at_zero[index], 1e-300))
    status, message = FitStatus.CONVERGED, f"gradient {relative:.1e} of its start after {iterations} iterations"
    if not solution.converged[index]:
        at_limit = iterations >= settings.max_iter
        status = FitStatus.MAX_ITER if at_limit else FitStatus.STALLED
        advice = "raise max_iter or l2" if at_limit else "the loss no longer decreases in float64: raise gtol or l2"
        message = f"not converged: gradient {relative:.1e} of its start after {iterations} iterations; {advice}"
    return ProbeFit(
        probe=Probe(weight.T, bias), name=head.name, l2=head.l2, status=status, message=message, n_iter=iterations,
        objective=float(solution.objective[index]), gap=float(solution.gap[index]),
        grad_norm=float(solution.grad_norm[index]), relative_gradient=relative,
    )  # fmt: skip
