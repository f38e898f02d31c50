"""Comparison by bootstrap over rows: what other rows of the same groups would have said about the same heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from grobust.comparison._tests import Difference
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.selection import cell_scores
from grobust.settings import SelectBy

__all__ = ["RowBootstrap", "bootstrap_rows"]


@dataclass(frozen=True, eq=False)
class RowBootstrap:
    """A metric of H heads on the rows, and on B resamples of them that all heads share.

    Parameters
    ----------
    observed : (H) float64
    replicates : (B, H) float64
    """

    observed: Float[np.ndarray, " h"]
    replicates: Float[np.ndarray, "b h"]

    def value(self, heads: Sequence[int], *, level: float = 0.95) -> Difference:
        """Mean metric of some heads with its basic bootstrap interval, within 0 … 1; no p-value."""
        found = self._basic(self.observed[list(heads)].mean(), self.replicates[:, list(heads)].mean(axis=1), level)
        return Difference(found.value, max(found.low, 0.0), min(found.high, 1.0), float("nan"))

    def difference(self, first: Sequence[int], second: Sequence[int], *, level: float = 0.95) -> Difference:
        """Mean metric of some heads less that of others, paired on the rows.

        The interval is the basic bootstrap's, 2 d − (quantiles of the replicates): the smallest of several noisy
        accuracies is biased downward, in a resample as in the sample, and this takes the bias off where the percentile
        interval would double it. The p-value inverts it.
        """
        values = [self.observed[list(h)].mean() for h in (first, second)]
        drawn = [self.replicates[:, list(h)].mean(axis=1) for h in (first, second)]
        return self._basic(values[0] - values[1], drawn[0] - drawn[1], level)

    def _basic(self, value: float, drawn: NDArray[np.float64], level: float) -> Difference:
        tails = np.quantile(drawn, [(1 + level) / 2, (1 - level) / 2])
        shifted = drawn - value
        above, below = (1 + int((shifted >= value).sum())), (1 + int((shifted <= value).sum()))
        p_value = min(1.0, 2 * min(above, below) / (drawn.size + 1))
        return Difference(float(value), float(2 * value - tails[0]), float(2 * value - tails[1]), p_value)


def bootstrap_rows(
    correct: Bool[np.ndarray, "h n"], groups: Groups, *, metric: SelectBy, replicates: int = 2000, seed: int = 0
) -> RowBootstrap:
    """Resample the rows of every group, all heads alike, and compute the metric of every head on each resample.

    Group sizes stay as they are, as in a Wilson interval. Rows on which the same heads are right are exchangeable, so a
    resample is a multinomial draw of those patterns: exact, and independent of n in time.

    Parameters
    ----------
    correct : (H, n) which rows each head predicts correctly
    groups : of the n rows
    metric : one that needs no proxy
    replicates : B
    seed : of the draws

    Raises
    ------
    ShapeError
        If `correct` and `groups` do not fit, or there are no rows.
    ConfigError
        If the metric needs a bias proxy, or there are no replicates.
    """
    if correct.ndim != 2 or correct.shape[1] != len(groups) or 0 in correct.shape:
        raise ShapeError(f"correct has shape {correct.shape}; expected (heads, {len(groups)} rows), one at least.")
    if metric.needs_proxy or replicates < 1:
        raise ConfigError(f"expected a metric without proxy and a replicate at least; got {metric} and {replicates}.")
    rng = np.random.default_rng(seed)
    h = correct.shape[0]
    hits = np.zeros((groups.n_groups, replicates, h), dtype=np.int64)
    seen = np.zeros((groups.n_groups, h), dtype=np.int64)
    for g in np.flatnonzero(groups.counts).tolist():
        patterns, counts = _patterns(correct[:, groups.ids == g])
        seen[g] = counts @ patterns
        hits[g] = rng.multinomial(counts.sum(), counts / counts.sum(), size=replicates) @ patterns
    n_classes, sizes = groups.n_classes, groups.counts
    return RowBootstrap(
        observed=cell_scores(seen.T, sizes, n_classes, metric),
        replicates=cell_scores(np.moveaxis(hits, 0, -1), sizes, n_classes, metric),
    )


def _patterns(correct: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(u, H) distinct columns of (H, n) and how many rows have each."""
    packed = np.packbits(correct, axis=0)
    _, first, counts = np.unique(packed, axis=1, return_index=True, return_counts=True)
    return correct[:, first].T.astype(np.int64), counts
