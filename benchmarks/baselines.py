"""What grobust's probes are compared with, and the answers that both sides are held against."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from grobust.probe import LBFGS, Head, fit_probes

__all__ = ["excess", "lower_bounds", "objectives", "sklearn_heads"]

PIECE = 8192


def sklearn_heads(
    features: NDArray[Any], labels: NDArray[Any], heads: Sequence[Head], *, solver: str = "lbfgs", tol: float = 1e-5,
    jobs: int = 1, max_iter: int = 5000,
) -> list[tuple[NDArray[Any], NDArray[Any]]]:  # fmt: skip
    """Weights (k, d) and intercepts (k) of scikit-learn's `LogisticRegression`, one head after another.

    Several jobs have a thread each; a single job has all of them.
    """
    classes = int(labels.max()) + 1

    def one(head: Head) -> tuple[NDArray[Any], NDArray[Any]]:
        weights = np.ones(labels.size) if head.weights is None else head.weights * labels.size
        kept = weights > 0
        l1 = head.l1 > 0
        strength = head.l1 if l1 else head.l2 / 2 if classes == 2 else head.l2
        model = LogisticRegression(
            C=1 / (strength * weights.sum()), l1_ratio=1.0 if l1 else 0.0, solver=solver, tol=tol, max_iter=max_iter
        )
        with warnings.catch_warnings(), threadpool_limits(1 if jobs > 1 else None):
            warnings.simplefilter("ignore")
            model.fit(features if kept.all() else features[kept], labels[kept], sample_weight=weights[kept])
        w, b = model.coef_, model.intercept_
        return (np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])) if classes == 2 else (w, b)

    if jobs == 1:
        return [one(head) for head in heads]
    return list(Parallel(n_jobs=jobs)(delayed(one)(head) for head in heads))


def objectives(
    features: NDArray[Any], labels: NDArray[Any], heads: Sequence[Head],
    solutions: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> NDArray[Any]:  # fmt: skip
    """(K) float64 Σ w_i · cross-entropy_i / Σ w_i + ½ λ ‖W‖² + λ₁ Σ |W| (half the l1 norm for two opposite rows)."""
    return np.array([
        _evaluate(features, labels, head, w, b)[0] for head, (w, b) in zip(heads, solutions, strict=True)
    ])  # fmt: skip


def lower_bounds(features: NDArray[Any], labels: NDArray[Any], heads: Sequence[Head]) -> NDArray[Any]:
    """(K) float64 values that no head's objective can be below.

    A float64 solution's objective less ‖∇‖² / (2 λ), with objective and gradient worked out here: the objective,
    minimized over the intercept, is λ-strongly convex. Whatever found the solution, the bound holds.
    """
    wide = features.astype(np.float64)
    fits = fit_probes(
        wide, labels, heads, n_classes=int(labels.max()) + 1, standardize=False,
        solver=LBFGS(rtol=1e-9, gtol=1e-9, max_iter=3000),
    )  # fmt: skip
    bounds = []
    for head, fit in zip(heads, fits, strict=True):
        objective, slope, on_intercept = _evaluate(features, labels, head, fit.probe.weight, fit.probe.bias)
        # The intercept's gradient is nearly 0: to first order it moves the weights' by as much.
        norm = np.sqrt((slope**2).sum()) + 10 * np.abs(on_intercept).max()
        bounds.append(objective - norm**2 / (2 * head.l2))
        assert norm**2 / (2 * head.l2) <= 1e-7 * objective, "the reference is not exact enough"
    return np.array(bounds)


def excess(found: NDArray[Any], bounds: NDArray[Any]) -> float:
    """Largest relative distance of objectives from their lower bounds."""
    return float((found / bounds - 1).max())


def _evaluate(
    features: NDArray[Any], labels: NDArray[Any], head: Head, w: NDArray[Any], b: NDArray[Any]
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    weights = np.ones(labels.size) if head.weights is None else head.weights
    weights = weights / weights.sum()
    loss, slope, on_intercept = 0.0, np.zeros(w.shape), np.zeros(b.size)
    for lo in range(0, labels.size, PIECE):
        rows, y, s = features[lo : lo + PIECE].astype(np.float64), labels[lo : lo + PIECE], weights[lo : lo + PIECE]
        logits = rows @ w.T + b
        total = logsumexp(logits, axis=1)
        loss += float(s @ (total - logits[np.arange(y.size), y]))
        residual = (np.exp(logits - total[:, None]) - np.eye(b.size)[y]) * s[:, None]
        slope += residual.T @ rows
        on_intercept += residual.sum(axis=0)
    penalty = 0.5 * head.l2 * (w**2).sum() + head.l1 * np.abs(w).sum()
    return loss + float(penalty), slope + head.l2 * w, on_intercept
