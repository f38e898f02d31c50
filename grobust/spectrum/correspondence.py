"""Whether spectral norm ratios and accuracy gaps go together: the paper's table, with a rank correlation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata, spearmanr

__all__ = ["Correspondence", "RatioAndGap", "correspondence"]

PERMUTATIONS = 9999


@dataclass(frozen=True)
class RatioAndGap:
    """One class of one run.

    Parameters
    ----------
    run : what the classes of one network have in common, such as ``waterbirds, seed 1``
    class_name : y
    rho : ρ(y)
    gap : accuracy of the class's majority group minus that of its minority group, on test data
    n_minority : test rows of the minority group, whose accuracy is the less certain one
    """

    run: str
    class_name: str
    rho: float
    gap: float
    n_minority: int


@dataclass(frozen=True)
class Correspondence:
    """The pairs and how they go together.

    Parameters
    ----------
    pairs : classes with a ratio and a gap
    spearman : rank correlation of ρ(y) and gap(y) over all pairs; NaN with fewer than three
    low, high : 95% interval by Fisher's transformation with Bonett & Wright's variance (1 + r²/2) / (n − 3)
        (2000); pairs of one run are not independent, so it is at best this narrow. NaN with fewer than four
    p_value : two-sided, by permutation of the gaps, with the +1 correction
    agreeing, runs : the paper's Table 5: runs in which the class with the largest ρ also has the largest gap, and all
        runs with at least two classes
    """

    pairs: tuple[RatioAndGap, ...]
    spearman: float
    low: float
    high: float
    p_value: float
    agreeing: int
    runs: int


def correspondence(pairs: Sequence[RatioAndGap], *, seed: int = 0) -> Correspondence:
    """Correlate ρ(y) with gap(y); pairs with an undefined value are left out."""
    kept = tuple(p for p in pairs if math.isfinite(p.rho) and math.isfinite(p.gap))
    agreeing, runs = 0, 0
    for run in dict.fromkeys(p.run for p in kept):
        own = [p for p in kept if p.run == run]
        if len(own) > 1:
            runs += 1
            agreeing += max(own, key=lambda p: p.rho) is max(own, key=lambda p: p.gap)
    rho, gap = np.array([p.rho for p in kept]), np.array([p.gap for p in kept])
    n = len(kept)
    if n < 3 or np.ptp(rho) == 0 or np.ptp(gap) == 0:
        return Correspondence(kept, math.nan, math.nan, math.nan, math.nan, agreeing, runs)
    value = float(spearmanr(rho, gap).statistic)
    rng = np.random.default_rng(seed)
    ranks = [rankdata(v) for v in (rho, gap)]
    shuffled = rng.permuted(np.tile(ranks[1], (PERMUTATIONS, 1)), axis=1)
    centred = ranks[0] - ranks[0].mean()
    scale = np.linalg.norm(centred) * np.linalg.norm(ranks[1] - ranks[1].mean())
    null = np.abs(shuffled @ centred) / scale
    observed = abs(float(ranks[1] @ centred)) / scale
    p_value = (1 + int((null >= observed - 1e-12).sum())) / (PERMUTATIONS + 1)
    low, high = _interval(value, n)
    return Correspondence(kept, value, low, high, p_value, agreeing, runs)


def _interval(r: float, n: int) -> tuple[float, float]:
    if n < 4 or abs(r) >= 1:
        return math.nan, math.nan
    half = NormalDist().inv_cdf(0.975) * math.sqrt((1 + r**2 / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
