"""Comparison over seeds: the randomness of training, on one and the same set of rows."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from grobust.comparison._tests import Difference
from grobust.errors import ConfigError, ShapeError

__all__ = ["Paired", "mean_interval", "paired_over_seeds", "seeds_needed", "sign_flip_p"]

# All 2ⁿ sign patterns are tried up to so many seeds; beyond, this many drawn ones.
EXACT_SEEDS = 16
DRAWN_FLIPS = 1 << EXACT_SEEDS


@dataclass(frozen=True)
class Paired:
    """Two methods over the same seeds.

    Parameters
    ----------
    n : seeds
    difference : mean of first − second, its t interval, and the p-value of the sign-flip test
    sd : of the differences, divided by n
    varies : whether the difference depends on the seed at all
    """

    n: int
    difference: Difference
    sd: float
    varies: bool


def paired_over_seeds(first: NDArray[np.float64], second: NDArray[np.float64], *, level: float = 0.95) -> Paired:
    """Compare values (s) of two methods, one per seed, in the same order of seeds.

    The interval is Student's, for normal differences; the p-value is `sign_flip_p`, which assumes only that under the
    null a difference is as likely as its negative. Both are about new seeds on the same rows.

    Raises
    ------
    ShapeError
        If they are not equally many, at least one.
    """
    a, b = (np.asarray(v, dtype=np.float64) for v in (first, second))
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ShapeError(f"values have shapes {a.shape} and {b.shape}; expected as many seeds in both, one at least.")
    found = a - b
    low, high = mean_interval(found, level=level)
    p_value = sign_flip_p(found) if a.size > 1 else math.nan
    return Paired(a.size, Difference(float(found.mean()), low, high, p_value), float(found.std()), bool(np.ptp(found)))


def mean_interval(values: NDArray[np.float64], *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of values (s); NaN for a single one."""
    n = values.size
    if n < 2:
        return math.nan, math.nan
    half = float(student.ppf((1 + level) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def sign_flip_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of the paired sign-flip (permutation) test of zero mean: exact up to 16 differences.

    The share of the 2ⁿ sign patterns whose mean is as far from zero as the one observed, which is one of them. No
    p-value below 2 / 2ⁿ is possible.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n <= EXACT_SEEDS:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        signs = 1.0 - 2.0 * bits
        counted_observed = 0
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(DRAWN_FLIPS, n))
        counted_observed = 1
    sums = np.abs(signs @ values)
    # Equal sums of the same numbers in other orders may differ by rounding.
    reached = int((sums >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).sum())
    return (reached + counted_observed) / (len(signs) + counted_observed)


def seeds_needed(n_comparisons: int, *, alpha: float = 0.05) -> int:
    """The fewest seeds with which the sign-flip test can reach `alpha` after Holm's correction of so many comparisons.

    The smallest n with n_comparisons · 2 / 2ⁿ ≤ alpha: 6 for one comparison at 5%, 9 for ten.
    """
    if n_comparisons < 1 or not 0 < alpha < 1:
        raise ConfigError(f"expected at least one comparison and alpha in (0, 1); got {n_comparisons} and {alpha}.")
    return max(2, math.ceil(1 + math.log2(n_comparisons / alpha) - 1e-12))
