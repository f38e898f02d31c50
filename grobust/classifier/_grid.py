"""Candidates and folds of a search, their heads in one solve, and what these predict on held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import DeviceName, array_namespace, to_device, to_numpy
from grobust.classifier._inputs import Rows, Strength, WeightedRows, balanced_rows
from grobust.classifier._linear import row_blocks
from grobust.groups import Groups
from grobust.probe import Head, Probe, ProbeFit, fit_probes
from grobust.settings import LBFGS, BalanceBy, BalanceMethod

__all__ = ["DRAWN", "Candidate", "Fold", "HeldOut", "Problem", "evaluate"]

# Weights of a head up to which Newton steps to rounding cost next to nothing.
SMALL_HEAD = 256
# Methods whose subset depends on a seed.
DRAWN = (BalanceMethod.SUBSETTING, BalanceMethod.MIXTURE)


@dataclass(frozen=True)
class Candidate:
    """A balance and a strength to choose from."""

    balance: BalanceMethod
    seed: int
    strength: Strength

    @property
    def weighting(self) -> tuple[BalanceMethod, int]:
        """What decides the weights: methods that agree in expectation share them, and only subsets have a seed."""
        method = BalanceMethod.UPSAMPLING if self.balance is BalanceMethod.UPWEIGHTING else self.balance
        return method, self.seed if method in DRAWN else 0

    @property
    def head(self) -> tuple[tuple[BalanceMethod, int], Strength]:
        """What decides the head: candidates that agree in it are solved once."""
        return self.weighting, self.strength


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to train on, and rows to validate on.

    Parameters
    ----------
    train : indices of training rows with a positive weight
    features : (n', d) that the held-out rows are rows of
    held_out : (v) their indices
    groups : of the v held-out rows
    weights : (v) float64 of the held-out rows
    """

    train: NDArray[Any]
    features: NDArray[Any]
    held_out: NDArray[Any]
    groups: Groups
    weights: NDArray[Any]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Correct predictions of K heads on the held-out rows of all folds: weights (K, g), numbers of rows (K, g), and
    the weights (g) and groups of the rows."""

    correct: NDArray[Any]
    hits: NDArray[Any]
    counts: NDArray[Any]
    groups: Groups


class Problem:
    """Training rows on a device, and the settings that all heads share."""

    def __init__(
        self, rows: Rows, *, by: BalanceBy, ratio: float, standardize: bool, tol: float, max_iter: int,
        device: DeviceName,
    ) -> None:  # fmt: skip
        self.rows, self.by, self.ratio, self.standardize, self.device = rows, by, ratio, standardize, device
        self.solver = LBFGS(rtol=tol, max_iter=max_iter)
        self.features = to_device(rows.features, device)
        self.labels = to_device(rows.groups.labels, device)

    def weighted(self, balance: BalanceMethod, seed: int, chosen: NDArray[Any]) -> WeightedRows:
        """Balanced weights of the chosen rows."""
        return balanced_rows(self.rows, chosen, balance=balance, by=self.by, ratio=self.ratio, seed=seed)

    def one(self, weighted: WeightedRows, strength: Strength, start: Probe | None = None) -> ProbeFit:
        """A single head."""
        finishing = replace(self.solver, newton=SMALL_HEAD)
        return self._solve([self._head(weighted, strength, start)], finishing)[0]

    def grid(self, candidates: Sequence[Candidate], folds: Sequence[Fold]) -> list[list[ProbeFit]]:
        """The heads of every fold, in one solve."""
        heads = []
        for fold in folds:
            weighted = {key: self.weighted(*key, fold.train) for key in dict.fromkeys(c.weighting for c in candidates)}
            heads += [self._head(weighted[c.weighting], c.strength, None) for c in candidates]
        fits, k = self._solve(heads, self.solver), len(candidates)
        return [list(fits[i * k : (i + 1) * k]) for i in range(len(folds))]

    def _head(self, weighted: WeightedRows, strength: Strength, start: Probe | None) -> Head:
        l2, l1 = strength.of(weighted.total, self.rows.classes.size)
        return Head(weights=weighted.weights, l2=l2, l1=l1, start=start)

    def _solve(self, heads: list[Head], solver: LBFGS) -> tuple[ProbeFit, ...]:
        return fit_probes(
            self.features, self.labels, heads, n_classes=self.rows.classes.size, solver=solver,
            standardize=self.standardize, moment_weights=self.rows.weights,
        )  # fmt: skip


def evaluate(fits: Sequence[Sequence[ProbeFit]], folds: Sequence[Fold], device: DeviceName) -> HeldOut:
    """Count correct predictions per group, over all folds; K heads in each."""
    n_groups, k = folds[0].groups.n_groups, len(fits[0])
    correct, hits = np.zeros((k, n_groups)), np.zeros((k, n_groups), dtype=np.int64)
    counts = np.zeros(n_groups)
    for found, fold in zip(fits, folds, strict=True):
        ids = fold.groups.ids
        counts += np.bincount(ids, weights=fold.weights, minlength=n_groups)
        for rows in row_blocks(ids.size):
            right = _predicted(found, fold.features[fold.held_out[rows]], device) == fold.groups.labels[rows, None]
            for head in range(k):
                own = ids[rows][right[:, head]]
                hits[head] += np.bincount(own, minlength=n_groups)
                correct[head] += np.bincount(own, weights=fold.weights[rows][right[:, head]], minlength=n_groups)
    together = Groups(
        np.concatenate([fold.groups.labels for fold in folds]), np.concatenate([f.groups.attributes for f in folds]),
        folds[0].groups.class_names, folds[0].groups.attribute_names,
    )  # fmt: skip
    return HeldOut(correct, hits, counts, together)


def _predicted(fits: Sequence[ProbeFit], block: NDArray[Any], device: DeviceName) -> NDArray[Any]:
    """(b, K) classes predicted for a block of rows, with float64 products."""
    features = to_device(block, device)
    xp = array_namespace(features)
    weights = xp.concat([fit.probe.weight for fit in fits], axis=0)
    biases = xp.concat([fit.probe.bias for fit in fits], axis=0)
    scores = xp.astype(features, xp.float64) @ weights.T + biases
    return to_numpy(xp.argmax(xp.reshape(scores, (block.shape[0], len(fits), -1)), axis=2))
