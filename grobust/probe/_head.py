"""What is fitted and what comes back: heads, probes, and fits with their certificates."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.typing import Array

__all__ = ["FitStatus", "Head", "Probe", "ProbeFit"]


class FitStatus(StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    STALLED = "stalled"


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
class Head:
    """One problem: weights of the rows and the strengths of its penalties.

    Parameters
    ----------
    weights : (n) non-negative, any scale (`BalancedSample.expected_weights`; zeros for a subset or the other folds);
        None weighs all rows alike. Give heads the same array object where their weights are the same
    l2 : λ ≥ 0 of ½ λ ‖W‖²
    l1 : λ₁ ≥ 0 of λ₁ Σ |W|; with both, the elastic net
    penalize_intercept : whether the intercept on standardized features counts among the weights W of the penalty, as
        in liblinear; for l1 > 0 only
    name : for messages
    start : head to begin from, on raw features; None begins at zero
    labels, n_classes : of this head alone, if it differs from the others in its classes
    """

    weights: NDArray[Any] | None = None
    l2: float = 1e-4
    l1: float = 0.0
    name: str = ""
    start: Probe | None = None
    labels: NDArray[Any] | None = None
    n_classes: int | None = None
    penalize_intercept: bool = False


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted head and its certificate, in float64.

    Parameters
    ----------
    probe : the head
    name, l2, l1 : of the `Head`
    status, message : how the fit ended, and what to try if it did not converge
    n_iter : iterations
    objective : value of the objective
    gap : bound on how far the objective is above its minimum: the duality gap for l1 > 0, else ‖gradient‖² / (2 λ),
        which is one too (up to the unpenalized intercept); infinite for λ = 0
    decrement : quasi-Newton estimate of the same, ½ gᵀ H⁻¹ g; the gap for l1 > 0
    grad_norm : norm of the gradient by weights of standardized features and intercepts; for l1 > 0 of the smallest
        subgradient
    relative_gradient : the same over its value at zero weights
    """

    probe: Probe
    name: str
    l2: float
    l1: float
    status: FitStatus
    message: str
    n_iter: int
    objective: float
    gap: float
    decrement: float
    grad_norm: float
    relative_gradient: float
