"""Frozen settings and choices of single algorithms; each checks itself and holds its own defaults."""

import math
from dataclasses import dataclass
from enum import StrEnum

from grobust.errors import ConfigError

__all__ = ["LBFGS", "BalanceBy", "BalanceMethod", "SelectBy", "WeightNormalization"]


class BalanceMethod(StrEnum):
    """How the rows of a training split are kept, drawn and weighted (LaBonte et al. 2024, section 3)."""

    NONE = "none"
    SUBSETTING = "subsetting"
    UPSAMPLING = "upsampling"
    UPWEIGHTING = "upweighting"
    MIXTURE = "mixture"


class BalanceBy(StrEnum):
    """Which cells are made equal: classes, or groups (class and attribute)."""

    CLASS = "class"
    GROUP = "group"


class WeightNormalization(StrEnum):
    """What a minibatch's weighted loss is divided by: the sum of its weights, or its size."""

    BATCH = "batch"
    NONE = "none"


class SelectBy(StrEnum):
    """Score on the validation split by which the L2 strength is chosen."""

    WORST_CLASS = "worst_class"
    WGA = "wga"
    AVERAGE = "average"


@dataclass(frozen=True)
class LBFGS:
    """Settings of the batched L-BFGS solver.

    Parameters
    ----------
    rtol : a head has converged when its objective is at most `rtol`, relatively, above its minimum: by the bound
        ‖gradient‖² / (2 λ), or by ten times the quasi-Newton decrement ½ gᵀ H⁻¹ g
    gtol : and when its gradient norm is at most `gtol` times the norm at zero weights
    max_iter : most iterations of any head
    memory : number of curvature pairs kept
    """

    rtol: float = 1e-6
    gtol: float = 1e-3
    max_iter: int = 1000
    memory: int = 10

    def __post_init__(self) -> None:
        for name in ("gtol", "rtol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        if self.max_iter < 1 or self.memory < 1:
            raise ConfigError(f"max_iter and memory must be at least 1, got {self.max_iter} and {self.memory}.")
