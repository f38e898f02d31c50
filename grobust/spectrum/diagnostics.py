"""More than λ1: what else the spectra of groups say, each quantity with its formula and source.

Functions of eigenvalues take them descending, all of them. Functions of a head take w (d) and b of the two-class score
wᵀz + b that is positive for the group's own class (`class_margin` makes them from the heads' k weights).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.spectrum.geometry import GroupGeometry
from grobust.typing import Array

__all__ = [
    "DecayFit",
    "MarginGap",
    "alignment",
    "decay_exponent",
    "effective_rank",
    "eigengap",
    "gaussian_error",
    "margin",
    "margin_gap",
    "observed_error",
    "participation_ratio",
    "rankme",
    "spread_along",
    "stable_rank",
    "top_share",
]

# Rows widened at once.
BLOCK_ROWS = 4096

Eigenvalues = Float[np.ndarray, " r"]


@dataclass(frozen=True)
class DecayFit:
    """Power law λ_i ∝ i^−exponent fitted to ranks first … last; `r2` is the coefficient of determination."""

    exponent: float
    r2: float
    first: int
    last: int


@dataclass(frozen=True)
class MarginGap:
    """κ_min − κ_maj = mean_part + spread_part; negative where the minority is nearer to errors."""

    total: float
    mean_part: float
    spread_part: float


def top_share(values: Eigenvalues) -> float:
    """λ1 / tr Σ, the share of the total variance along the first axis. Biased upward like λ1 for small n."""
    return _ratio(values[0] if values.size else 0.0, float(values.sum()))


def stable_rank(values: Eigenvalues) -> float:
    """tr Σ / λ1 (Rudelson & Vershynin 2007): the number of axes that spread like the first would need."""
    return _ratio(float(values.sum()), values[0] if values.size else 0.0)


def participation_ratio(values: Eigenvalues) -> float:
    """(tr Σ)² / Σ λ²: d for equal eigenvalues, 1 for a single one. At most n − 1."""
    return _ratio(float(values.sum()) ** 2, float(np.square(values).sum()))


def effective_rank(values: Eigenvalues) -> float:
    """exp(−Σ p log p), p = λ / tr Σ (Roy & Vetterli 2007), on the eigenvalues of the covariance."""
    return _entropy_rank(values)


def rankme(values: Eigenvalues) -> float:
    """exp(−Σ p log p), p = σ / Σ σ with σ = √λ (RankMe, Garrido et al. 2023): of the singular values."""
    return _entropy_rank(np.sqrt(np.maximum(values, 0)))


def eigengap(values: Eigenvalues) -> float:
    """λ1 / λ2: near 1, the first axis is not well defined, and alignments with it say little."""
    return _ratio(values[0], values[1]) if values.size > 1 else math.nan


def decay_exponent(values: Eigenvalues, *, first: int = 1, last: int = 30) -> DecayFit:
    """−slope of log λ_i on log i by least squares over ranks `first` … `last`, cut to the positive eigenvalues.

    A small group's tail falls faster by sampling alone: compare windows well below n only.
    """
    last = min(last, int(np.count_nonzero(values > 0)))
    if last - first < 2:
        return DecayFit(math.nan, math.nan, first, last)
    x = np.log(np.arange(first, last + 1))
    y = np.log(values[first - 1 : last])
    slope, intercept = np.polyfit(x, y, 1)
    rest = float(np.square(y - slope * x - intercept).sum())
    total = float(np.square(y - y.mean()).sum())
    return DecayFit(-float(slope), 1 - rest / total if total > 0 else math.nan, first, last)


def alignment(group: GroupGeometry, direction: Float[Array, " d"]) -> float:
    """|v₁ᵀu| / ‖u‖ of the first axis with a direction, 0 … 1; about √(2/πd) for a random one.

    Directions of interest: the difference of two class means (does the spread point at the boundary?) and the head's
    weight (does the spread change the score?).
    """
    xp = array_namespace(direction)
    length = float(xp.linalg.vector_norm(direction))
    if length == 0 or group.eigenvalues.shape[0] == 0:
        return math.nan
    return abs(float(xp.sum(group.vectors[:, 0] * direction))) / length


def spread_along(group: GroupGeometry, weight: Float[Array, " d"]) -> float:
    """s² = wᵀΣw / ‖w‖², the variance along the head; what λ1 bounds: s² ≤ λ1."""
    xp = array_namespace(weight)
    length = float(xp.sum(weight**2))
    return _ratio(float(group.spread(weight[:, None])[0]), length)


def margin(group: GroupGeometry, weight: Float[Array, " d"], bias: float) -> float:
    """κ = (wᵀμ + b) / √(wᵀΣw): the distance of the group's mean from the boundary in standard deviations.

    Positive towards the group's own class; ±∞ for a group without spread along the head.
    """
    xp = array_namespace(weight)
    distance = float(xp.sum(group.mean * weight)) + bias
    spread = math.sqrt(max(float(group.spread(weight[:, None])[0]), 0.0))
    if spread == 0:
        return math.copysign(math.inf, distance) if distance != 0 else math.nan
    return distance / spread


def gaussian_error(kappa: float) -> float:
    """Φ(−κ): the error of the group if its features were Gaussian. Compare it with `observed_error`."""
    return NormalDist().cdf(-kappa) if not math.isnan(kappa) else math.nan


def observed_error(features: Float[Array, "n d"], weight: Float[Array, " d"], bias: float) -> float:
    """Share of the group's rows (n, d) with wᵀz + b ≤ 0, in float64; `gaussian_error` foretells it by two moments."""
    xp = array_namespace(weight)
    wrong = 0
    for start in range(0, features.shape[0], BLOCK_ROWS):
        scores = xp.astype(features[start : start + BLOCK_ROWS, :], xp.float64) @ xp.astype(weight, xp.float64)
        wrong += int(xp.sum(xp.astype(scores + bias <= 0, xp.int64)))
    return _ratio(wrong, features.shape[0])


def margin_gap(minority: GroupGeometry, majority: GroupGeometry, weight: Float[Array, " d"], bias: float) -> MarginGap:
    """Split κ_min − κ_maj into what the means explain (spread fixed) and what the spread explains (means fixed).

    With κ = a / s, the mean of the two orders of exchange (Shapley's value): ½(a_min − a_maj)(1/s_min + 1/s_maj) and
    ½(a_min + a_maj)(1/s_min − 1/s_maj). Their sum is the gap exactly.
    """
    xp = array_namespace(weight)
    a = [float(xp.sum(g.mean * weight)) + bias for g in (minority, majority)]
    s = [math.sqrt(max(float(g.spread(weight[:, None])[0]), 0.0)) for g in (minority, majority)]
    if min(s) == 0:
        return MarginGap(math.nan, math.nan, math.nan)
    mean_part = (a[0] - a[1]) * (1 / s[0] + 1 / s[1]) / 2
    spread_part = (a[0] + a[1]) * (1 / s[0] - 1 / s[1]) / 2
    return MarginGap(mean_part + spread_part, mean_part, spread_part)


def _entropy_rank(values: NDArray[np.float64]) -> float:
    positive = values[values > 0]
    if positive.size == 0:
        return math.nan
    share = positive / positive.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def _ratio(above: float, below: float) -> float:
    return float(above) / float(below) if below > 0 else math.nan
