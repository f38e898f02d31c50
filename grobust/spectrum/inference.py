"""What ρ(y) can be said to show: size-matched and permutation nulls, a bias-corrected ratio, an interval.

λ1 of a sample exceeds that of its population, the more the smaller the sample and the flatter the spectrum. Two groups
of one population therefore have ρ(y) > 1 when one is small. The nulls here have the same group sizes, so they have the
same bias; the interval is for the ratio *at equal sizes*.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import t as student

from grobust.arrays import array_namespace
from grobust.errors import ConfigError, ShapeError
from grobust.spectrum._subsets import RowSet, draw_subsets, masked_bytes
from grobust.typing import Array

__all__ = ["RatioInference", "Reading", "inference_bytes", "ratio_inference", "size_matched_factor"]

# The delete-d jackknife leaves out a fifth of the minority: one row is too few for λ1, which is not smooth where
# eigenvalues meet, and a half changes the bias. Chosen by coverage, see benchmarks/README.md.
DELETED_SHARE = 0.2
ALPHA = 0.05


class Reading(StrEnum):
    """What a ratio shows at the 5% level of the two-sided size-matched test.

    SIZES : the ratio lies where groups of these sizes from one population put it
    MORE, LESS : the minority group spreads more (less) along its first axis than group sizes explain
    UNDEFINED : no test
    """

    SIZES = "explained by group sizes"
    MORE = "minority spreads more"
    LESS = "minority spreads less"
    UNDEFINED = "undefined"


@dataclass(frozen=True, eq=False)
class RatioInference:
    """Nulls and interval of ρ(y) for one minority and majority group.

    Parameters
    ----------
    rho : λ1(minority) / λ1(majority), divided by n
    n_minority, n_majority : rows
    null : (B) ratios of same-population groups of these sizes: λ1 of n_minority rows of the majority over λ1 of all of
        it, their spread about their mean widened for what the subsets share with the majority (`size_matched_factor`)
    null_mean, null_low, null_high : its mean and 2.5–97.5% range
    p_value : share of null ratios ≥ ρ, with the +1 correction
    p_two_sided : twice the smaller of the two one-sided values, at most 1
    corrected : ρ over the null's mean: bias-corrected
    size_matched : λ1(minority) over the median λ1 of the majority's subsets; the same quantity by the median
    low, high : interval for the size-matched ratio at `level`; NaN if not asked for, or fewer than 5 minority rows
    level : of the interval
    permutation : (P) ratios with group labels permuted in the class, each group centred by its own mean
    permutation_p, permutation_p_two_sided : as above, from the permutations; NaN if not asked for
    """

    rho: float
    n_minority: int
    n_majority: int
    null: Float[np.ndarray, " b"]
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    p_two_sided: float
    corrected: float
    size_matched: float
    low: float
    high: float
    level: float
    permutation: Float[np.ndarray, " p"]
    permutation_p: float
    permutation_p_two_sided: float

    @property
    def reading(self) -> Reading:
        """What the two-sided size-matched test says at the 5% level."""
        if math.isnan(self.p_two_sided):
            return Reading.UNDEFINED
        if self.p_two_sided > ALPHA:
            return Reading.SIZES
        return Reading.MORE if self.rho > self.null_mean else Reading.LESS


def ratio_inference(
    minority: Array, majority: Array, *, null: int = 1000, interval: int = 1000, permutations: int = 0,
    level: float = 0.95, seed: int = 0,
) -> RatioInference:  # fmt: skip
    """Test and bound ρ = λ1(minority) / λ1(majority).

    Parameters
    ----------
    minority, majority : (n, d) features of the two groups, minority the smaller, at least two rows each
    null : replicates of the size-matched null; at least 1
    interval : replicates of the interval's jackknife; 0 for none
    permutations : replicates of the permutation null; 0 for none
    level : of the interval
    seed : of all draws

    Raises
    ------
    ConfigError
        If a count is negative, `null` is 0, or the level is not in (0, 1).
    ShapeError
        If a group has fewer than two rows, the minority is not the smaller, or the widths differ.

    Notes
    -----
    The interval is est ± t · √(V_min + V_maj) for the logarithm, with est = log λ1(minority) − mean log λ1(subset), t
    with n_min − 1 degrees of freedom, V_min the larger of the minority's delete-d jackknife variance (a fifth left out)
    and of the variance that the majority's subsets show at that size, and V_maj = n_min / n_maj times the latter (the
    variance of a mean over all subsets). It holds for the ratio of expected log λ1 at n_min rows, which is the ratio of
    population λ1 where both groups' covariances are alike up to a factor, or n_min is large.
    """
    n, m = int(majority.shape[0]), int(minority.shape[0])
    if null < 1 or interval < 0 or permutations < 0 or not 0 < level < 1:
        raise ConfigError(
            f"null must be at least 1, interval and permutations at least 0 and the level in (0, 1); got {null}, "
            f"{interval}, {permutations} and {level}."
        )
    if m < 2 or m >= n or majority.shape[1] != minority.shape[1]:
        raise ShapeError(
            f"The minority group has shape {tuple(minority.shape)} and the majority {tuple(majority.shape)}; expected "
            "(m, d) and (n, d) with 2 ≤ m < n."
        )
    draws = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    small, large = RowSet.of(minority).prepared(), RowSet.of(majority).prepared()
    top, base = small.whole(), large.whole()
    if top <= 0 or base <= 0:
        return _undefined(m, n, level, base=base, top=top)
    matched = np.log(np.maximum(large.largest(draw_subsets(draws[0], n, m, null)), np.finfo(np.float64).tiny))
    widened = matched.mean() + (matched - matched.mean()) * size_matched_factor(m, n)
    ratios = np.exp(widened - math.log(base))
    low, high = _interval(small, math.log(top), matched, n, replicates=interval, level=level, rng=draws[1])
    permuted = _permuted(minority, majority, permutations, draws[2]) if permutations else np.zeros(0)
    rho = top / base
    upper, two_sided = _p_values(rho, ratios)
    permutation_upper, permutation_two_sided = _p_values(rho, permuted)
    return RatioInference(
        rho=rho,
        n_minority=m,
        n_majority=n,
        null=ratios,
        null_mean=float(ratios.mean()),
        null_low=float(np.quantile(ratios, 0.025)),
        null_high=float(np.quantile(ratios, 0.975)),
        p_value=upper,
        p_two_sided=two_sided,
        corrected=rho / float(ratios.mean()),
        size_matched=top / math.exp(float(np.median(matched))),
        low=low,
        high=high,
        level=level,
        permutation=permuted,
        permutation_p=permutation_upper,
        permutation_p_two_sided=permutation_two_sided,
    )


def inference_bytes(rows: int, dim: int, *, permutations: int = 0) -> int:
    """Memory that `ratio_inference` takes on the host, the features (`rows` of both groups together) included.

    Rows as given, centred, and in float64 while replicates are masked: 4 + 4 + 8 bytes a value; permutations hold the
    rows pooled, centred and in float64 too. Masks and products of a batch of replicates come on top.
    """
    return (32 if permutations else 16) * rows * dim + masked_bytes(rows)


def size_matched_factor(m: int, n: int) -> float:
    """√((n + m) / (n − m)): how much wider a null is than the spread of λ1 over subsets of m of n rows.

    A subset drawn without replacement shares its rows with the whole: the variance of its log λ1 given the sample is
    σ²(1/m − 1/n), while an independent group of m rows differs from the sample by σ²(1/m + 1/n). Near 1 unless the
    minority is nearly as large as the majority.
    """
    return math.sqrt((n + m) / (n - m))


def _interval(
    small: RowSet, top: float, matched: NDArray[np.float64], n: int, *, replicates: int, level: float,
    rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    m = small.n
    if replicates < 2 or m < 5 or matched.size < 2:
        return math.nan, math.nan
    deleted = max(1, round(DELETED_SHARE * m))
    kept = np.log(np.maximum(small.largest(draw_subsets(rng, m, m - deleted, replicates)), np.finfo(np.float64).tiny))
    jackknife = float(kept.var(ddof=1)) * (m - deleted) / deleted
    shown = float(matched.var(ddof=1)) / (1 - m / n)
    half = float(student.ppf((1 + level) / 2, m - 1)) * math.sqrt(max(jackknife, shown) + shown * m / n)
    centre = top - float(matched.mean())
    return math.exp(centre - half), math.exp(centre + half)


def _permuted(minority: Array, majority: Array, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    parts = [RowSet.of(part).rows for part in (minority, majority)]
    pooled = RowSet(array_namespace(parts[0]).concat(parts, axis=0)).prepared()
    subsets = draw_subsets(rng, pooled.n, int(minority.shape[0]), count)
    ratios: NDArray[np.float64] = pooled.largest(subsets) / pooled.largest(subsets, complement=True)
    return ratios


def _p_values(observed: float, null: NDArray[np.float64]) -> tuple[float, float]:
    if null.size == 0:
        return math.nan, math.nan
    upper = (1 + int((null >= observed).sum())) / (null.size + 1)
    lower = (1 + int((null <= observed).sum())) / (null.size + 1)
    return upper, min(1.0, 2 * min(upper, lower))


def _undefined(m: int, n: int, level: float, *, base: float, top: float) -> RatioInference:
    nan, none = math.nan, np.zeros(0)
    rho = top / base if base > 0 else nan
    return RatioInference(
        rho, m, n, none, nan, nan, nan, nan, nan, nan, nan, nan, nan, level, none, nan, nan
    )  # fmt: skip
