"""Cross-validated predictions of many heads, all folds in one solve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import logsumexp

from grobust.arrays import on_cuda, to_device, to_numpy
from grobust.balancing import Balancer
from grobust.classifier import StratifiedCellKFold
from grobust.errors import DataError
from grobust.groups import Groups
from grobust.probe import FitStatus, Head, fit_probes
from grobust.settings import LBFGS
from grobust.typing import Array

__all__ = ["CrossValidated", "Problem", "cross_validate"]

# Of a block of features in float64.
READ_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Problem:
    """A head to cross-validate.

    Parameters
    ----------
    name : for the result
    balancer : of the training rows of every fold
    l2 : strength
    groups : labels to predict and the groups to balance; None for those of the data
    """

    name: str
    balancer: Balancer
    l2: float
    groups: Groups | None = None


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """Out-of-fold predictions of H heads.

    Parameters
    ----------
    names : H names
    predictions : (H, n) int64
    loss : (H, n) float64 cross-entropy of the true class
    unfinished : fits that did not converge
    """

    names: tuple[str, ...]
    predictions: Int[np.ndarray, "h n"]
    loss: Float[np.ndarray, "h n"]
    unfinished: int

    def of(self, name: str) -> Int[np.ndarray, " n"]:
        """(n) predictions of one head."""
        found: NDArray[Any] = self.predictions[self.names.index(name)]
        return found


def cross_validate(
    features: Array, groups: Groups, problems: Sequence[Problem], *, folds: int, seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> CrossValidated:  # fmt: skip
    """Predict every row with heads that were fitted without its fold.

    Folds keep the share of every group. A fold is weights of 0, so all heads are one solve, and the standardization of
    the features is that of all rows (no label is in it).

    Parameters
    ----------
    features : (n, d) NumPy or CuPy
    groups : of the n rows
    problems : H heads
    folds : at least 2
    seed : of the folds and of the subsets that balancing draws
    progress : called with the number of heads solved and of all heads

    Raises
    ------
    DataError
        If a class has a single row, so that a fold would lack it, or there are fewer rows than folds.
    """
    if len(groups) < folds:
        raise DataError(f"{len(groups)} training rows are too few for {folds} folds.")
    parts = StratifiedCellKFold(folds, random_state=seed).split(groups.labels, groups.labels, groups.attributes)
    held_out = [test for _, test in parts]
    heads = []
    for problem in problems:
        own = groups if problem.groups is None else problem.groups
        single = [name for name, n in zip(own.class_names, own.class_counts, strict=True) if n == 1]
        if single:
            raise DataError(f"'{single[0]}' has one training row: cross-validation needs two to predict it from.")
        # Heads of one problem share the array: those of equal labels are solved together.
        labels = None if problem.groups is None else _like(problem.groups.labels, features)
        heads += [_head(problem, own, labels, rows, seed) for rows in held_out]
    fits = fit_probes(
        features, _like(groups.labels, features), heads, n_classes=groups.n_classes, solver=LBFGS(rtol=1e-5),
        progress=progress,
    )  # fmt: skip
    predictions = np.zeros((len(problems), len(groups)), dtype=np.int64)
    loss = np.zeros(predictions.shape)
    step = max(64, READ_BYTES // (8 * features.shape[1]))
    for f, lo in ((f, lo) for f, own in enumerate(held_out) for lo in range(0, own.size, step)):
        rows = held_out[f][lo : lo + step]
        block = features[_like(rows, features)]
        for h, problem in enumerate(problems):
            logits = to_numpy(fits[h * folds + f].probe.logits(block))
            labels = (groups if problem.groups is None else problem.groups).labels[rows]
            predictions[h, rows] = logits.argmax(axis=1)
            loss[h, rows] = logsumexp(logits, axis=1) - logits[np.arange(rows.size), labels]
    unfinished = sum(fit.status is not FitStatus.CONVERGED for fit in fits)
    return CrossValidated(tuple(p.name for p in problems), predictions, loss, unfinished)


def _like(values: NDArray[Any], features: Array) -> Array:
    """Indices or labels on the device of the features."""
    return to_device(values, "cuda" if on_cuda(features) else "cpu")


def _head(problem: Problem, groups: Groups, labels: Array | None, held_out: NDArray[Any], seed: int) -> Head:
    inside = np.ones(len(groups), dtype=bool)
    inside[held_out] = False
    weights = np.zeros(len(groups))
    weights[inside] = problem.balancer.sample(groups.take(inside), seed=seed).expected_weights()
    n_classes = None if labels is None else groups.n_classes
    return Head(weights=weights, l2=problem.l2, name=problem.name, labels=labels, n_classes=n_classes)
