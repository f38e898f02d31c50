"""A difference with its interval and p-value, and Holm's correction of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError

__all__ = ["Difference", "holm"]


@dataclass(frozen=True)
class Difference:
    """An estimated difference.

    Parameters
    ----------
    value : the estimate
    low, high : ends of its interval; NaN where there is none
    p_value : two-sided, before any correction; NaN where there is none
    """

    value: float
    low: float
    high: float
    p_value: float


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(m) p-values corrected by Holm's step-down method (Holm 1979), which bounds the chance of any false claim.

    The i-th smallest of m is multiplied by m − i + 1, then made no smaller than those before it and at most 1. NaN
    stays NaN and does not count among the m.

    Raises
    ------
    ConfigError
        If a p-value is outside 0 … 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ConfigError(f"p-values lie between 0 and 1, got {p.tolist()}.")
    order = known[np.argsort(p[known], kind="stable")]
    stepped = p[order] * np.arange(order.size, 0, -1)
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0) if order.size else stepped
    return corrected
