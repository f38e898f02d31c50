"""Strength of a spurious correlation: mutual information and Cramér's V of label and attribute, with intervals.

Counts in, numbers out; every sum is float64.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from grobust.errors import ShapeError

__all__ = ["Association", "association", "cramers_v", "mutual_information"]

REPLICATES = 2000
CONFIDENCE = 0.95
SEED = 20240719
# Cells times replicates that are drawn at a time.
LARGEST_DRAW = 4_000_000


@dataclass(frozen=True)
class Association:
    """Label and attribute of n rows, as far as they go together.

    Parameters
    ----------
    n : rows
    mutual_information : in bits; 0 if independent, at most the entropy of the label
    mutual_information_low, mutual_information_high : 95% interval
    explained : mutual information over the entropy of the label: share of the label's uncertainty that the attribute
        removes
    cramers_v : 0 if independent, 1 if one decides the other
    cramers_v_low, cramers_v_high : 95% interval
    p_value : of Pearson's chi-squared test of independence

    All but n are None where fewer than two classes or two attribute values have rows.
    """

    n: int
    mutual_information: float | None
    mutual_information_low: float | None
    mutual_information_high: float | None
    explained: float | None
    cramers_v: float | None
    cramers_v_low: float | None
    cramers_v_high: float | None
    p_value: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def association(counts: Any, *, seed: int = SEED, replicates: int = REPLICATES) -> Association:
    """Both measures of a table of counts.

    Parameters
    ----------
    counts : (k, A) rows of every label (row) and attribute (column); empty rows and columns are left out
    seed : of the intervals
    replicates : tables drawn from the multinomial distribution of the counts

    Notes
    -----
    The intervals are percentiles of a multinomial bootstrap. Both measures are biased upward near independence and so
    are their replicates; where the chi-squared test does not reject independence at 5% the lower end is therefore 0.
    """
    table = _table(counts)
    n = int(table.sum())
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return Association(n, None, None, None, None, None, None, None, None)
    value, v = float(mutual_information(table)), float(cramers_v(table))
    statistic = v**2 * n * (min(table.shape) - 1)
    p_value = float(chdtrc((table.shape[0] - 1) * (table.shape[1] - 1), statistic))
    drawn = _replicates(table, np.random.default_rng(seed), replicates)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=1)
    if p_value > 1 - CONFIDENCE:
        low = np.zeros(2)
    labels = table.sum(axis=1) / n
    entropy = float(-(labels * np.log2(labels)).sum())
    return Association(
        n=n,
        mutual_information=value,
        mutual_information_low=float(min(low[0], value)),
        mutual_information_high=float(max(high[0], value)),
        explained=value / entropy,
        cramers_v=v,
        cramers_v_low=float(min(low[1], v)),
        cramers_v_high=float(max(high[1], v)),
        p_value=p_value,
    )


def mutual_information(counts: NDArray[Any]) -> NDArray[Any]:
    """Σ p(y, a) log₂ (p(y, a) / (p(y) p(a))) in bits, of tables (…, k, A) of counts; float64."""
    joint = counts / counts.sum(axis=(-2, -1), keepdims=True)
    rows, columns = joint.sum(axis=-1, keepdims=True), joint.sum(axis=-2, keepdims=True)
    # 0 log 0 = 0; where a cell has rows, so have its row and column.
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log2(joint / (rows * columns)), 0.0)
    found: NDArray[Any] = np.maximum(terms.sum(axis=(-2, -1)), 0.0)
    return found


def cramers_v(counts: NDArray[Any]) -> NDArray[Any]:
    """√(χ² / (n (min(k, A) − 1))) of tables (…, k, A) of counts, k and A counting rows and columns that are not empty
    (Cramér 1946); 0 where only one is left; float64."""
    n = counts.sum(axis=(-2, -1), keepdims=True)
    rows, columns = counts.sum(axis=-1, keepdims=True), counts.sum(axis=-2, keepdims=True)
    expected = rows * columns / n
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(expected > 0, (counts - expected) ** 2 / expected, 0.0)
    smaller = np.minimum((rows > 0).sum(axis=(-2, -1)), (columns > 0).sum(axis=(-2, -1))) - 1
    phi2 = terms.sum(axis=(-2, -1)) / n[..., 0, 0]
    found: NDArray[Any] = np.sqrt(np.minimum(phi2 / np.maximum(smaller, 1), 1.0))
    return found


def _replicates(table: NDArray[Any], rng: np.random.Generator, replicates: int) -> NDArray[Any]:
    """(2, replicates) mutual information and Cramér's V of drawn tables."""
    n = int(table.sum())
    shares = (table / n).ravel()
    step = max(1, LARGEST_DRAW // shares.size)
    found = []
    for start in range(0, replicates, step):
        drawn = rng.multinomial(n, shares, size=min(step, replicates - start)).reshape(-1, *table.shape)
        found.append(np.stack([mutual_information(drawn), cramers_v(drawn)]))
    return np.concatenate(found, axis=1)


def _table(counts: Any) -> NDArray[Any]:
    table = np.asarray(counts)
    if table.ndim != 2 or table.dtype.kind not in "iu" or (table < 0).any() or not math.isfinite(float(table.sum())):
        raise ShapeError(f"counts have shape {table.shape} and dtype {table.dtype}; expected (k, A) counts.")
    return table.astype(np.int64)
