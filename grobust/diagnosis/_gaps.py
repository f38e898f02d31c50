"""Accuracy gaps between the groups of a class, with intervals and tests."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, fisher_exact

from grobust.comparison import Difference, holm
from grobust.groups import Groups
from grobust.metrics import GroupMetrics, wilson_interval

__all__ = ["ClassGap", "class_gaps", "newcombe_interval"]


@dataclass(frozen=True)
class ClassGap:
    """The best and the worst group of one class.

    Parameters
    ----------
    class_name : y
    best, worst : names of the groups; None where the class has fewer than two groups with rows
    n_best, n_worst : their rows
    gap : accuracy of the best less that of the worst, Newcombe's interval, and the p-value of equal accuracies in all
        groups of the class (Fisher's exact test for two groups, Pearson's χ² for more)
    p_corrected : after Holm's correction over the classes
    """

    class_name: str
    best: str | None
    worst: str | None
    n_best: int
    n_worst: int
    gap: Difference
    p_corrected: float


def class_gaps(metrics: GroupMetrics, groups: Groups, *, level: float = 0.95) -> tuple[ClassGap, ...]:
    """The gap of every class from correct predictions per group.

    With more than two groups in a class the interval is that of the two that were found best and worst; the test is of
    all, and needs no correction for having picked them.
    """
    found = [_gap(metrics, groups, label, level) for label in range(groups.n_classes)]
    corrected = holm([gap.gap.p_value for gap in found])
    return tuple(
        ClassGap(g.class_name, g.best, g.worst, g.n_best, g.n_worst, g.gap, float(p))
        for g, p in zip(found, corrected, strict=True)
    )


def newcombe_interval(correct: tuple[int, int], n: tuple[int, int], *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a difference of two independent proportions, from their Wilson intervals (Newcombe 1998, method 10).

    Parameters
    ----------
    correct, n : of the first and the second proportion; n at least 1
    """
    p = np.array(correct) / np.array(n)
    low, high = wilson_interval(np.array(correct), np.array(n), confidence=level)
    value = float(p[0] - p[1])
    down = math.hypot(float(p[0] - low[0]), float(high[1] - p[1]))
    up = math.hypot(float(high[0] - p[0]), float(p[1] - low[1]))
    return max(-1.0, value - down), min(1.0, value + up)


def _gap(metrics: GroupMetrics, groups: Groups, label: int, level: float) -> ClassGap:
    ids = np.array([g for g in groups.groups_of_class(label) if metrics.counts[g] > 0])
    name = groups.class_names[label]
    if ids.size < 2:
        return ClassGap(name, None, None, 0, 0, Difference(math.nan, math.nan, math.nan, math.nan), math.nan)
    accuracy = metrics.accuracy[ids]
    best, worst = int(ids[np.argmax(accuracy)]), int(ids[np.argmin(accuracy)])
    if best == worst:
        best, worst = int(ids[0]), int(ids[1])
    pair = (best, worst)
    correct = tuple(int(metrics.correct[g]) for g in pair)
    n = tuple(int(metrics.counts[g]) for g in pair)
    low, high = newcombe_interval((correct[0], correct[1]), (n[0], n[1]), level=level)
    gap = Difference(correct[0] / n[0] - correct[1] / n[1], low, high, _p_value(metrics, ids))
    return ClassGap(name, metrics.names[best], metrics.names[worst], n[0], n[1], gap, math.nan)


def _p_value(metrics: GroupMetrics, ids: NDArray[np.int64]) -> float:
    table = np.stack([metrics.correct[ids], metrics.counts[ids] - metrics.correct[ids]], axis=1)
    if (table.sum(axis=0) == 0).any():
        return 1.0
    if ids.size == 2:
        return float(fisher_exact(table).pvalue)
    return float(chi2_contingency(table, correction=False).pvalue)
