"""Scores from counts of correct predictions per cell."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from grobust.settings import SelectBy

__all__ = ["best", "cell_scores"]


def best(scores: NDArray[Any]) -> int:
    """Index of the largest score; on a tie the first, and NaN is never it unless all are."""
    return int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))


def cell_scores(
    correct: NDArray[Any], counts: NDArray[Any], n_classes: int, select: SelectBy
) -> Float[np.ndarray, "..."]:
    """Scores of candidates; cells without weight do not count.

    The definitions are those of `grobust.metrics` and `grobust.selection`, with weights for counts.

    Parameters
    ----------
    correct : (..., g) counts, or weights, of rows predicted correctly per cell, the cells of a class side by side
    counts : (g) rows, or weights, per cell
    n_classes : k, of which each has g / k cells
    select : for a score of a bias proxy the cells are its strata or pseudo-groups

    Returns
    -------
    (...) float64; NaN where no cell has rows.
    """
    correct, counts = np.asarray(correct, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if not (counts > 0).any():
        return np.full(correct.shape[:-1], np.nan)
    if select is SelectBy.AVERAGE:
        return np.asarray(correct.sum(axis=-1) / counts.sum())
    if select in (SelectBy.WORST_CLASS, SelectBy.CLASS_DIFFERENCE):
        correct = correct.reshape(*correct.shape[:-1], n_classes, -1).sum(axis=-1)
        counts = counts.reshape(n_classes, -1).sum(axis=1)
    there = counts > 0
    accuracy = correct[..., there] / counts[there]
    if select is SelectBy.CLASS_DIFFERENCE:
        pairs = np.abs(accuracy[..., :, None] - accuracy[..., None, :])
        return np.asarray(-pairs.sum(axis=(-2, -1)) / 2)
    is_mean = select in (SelectBy.AVERAGE_GROUP, SelectBy.BIAS_UNSUPERVISED)
    return np.asarray(accuracy.mean(axis=-1) if is_mean else accuracy.min(axis=-1))
