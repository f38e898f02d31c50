"""Configs of the commands that choose, compare and diagnose."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from grobust.balancing import DEFAULT_RATIO
from grobust.errors import ConfigError
from grobust.settings import PROXY_L2, SelectBy

__all__ = ["CompareConfig", "DiagnoseConfig", "Epochs", "SelectConfig"]


class Epochs(StrEnum):
    """Which epochs of a curve are candidates: the last, as in the paper, or every one that was evaluated."""

    LAST = "last"
    EACH = "each"


@dataclass(frozen=True)
class SelectConfig:
    """Choose among recorded runs by every criterion.

    Parameters
    ----------
    records : file of records
    criteria : scores to choose by
    epochs : of runs with a curve
    command : choose among runs of this command only; None takes those of every command, each by itself
    """

    records: Path
    criteria: tuple[SelectBy, ...] = tuple(SelectBy)
    epochs: Epochs = Epochs.LAST
    command: str | None = None

    def __post_init__(self) -> None:
        if not self.criteria or len(set(self.criteria)) != len(self.criteria):
            raise ConfigError("criteria must be at least one score, each named once.")


@dataclass(frozen=True)
class CompareConfig:
    """Compare methods, with intervals.

    Parameters
    ----------
    source : file of records; a feature store with `heads`
    heads : file of heads on the store's features, for the bootstrap over rows; None compares recorded runs
    metric : what is compared, on rows of `split`
    split : ``val`` or ``test``
    baseline : compare every method with this one; None compares all pairs
    command : compare recorded runs of this command only
    alpha : level of the tests; intervals have level 1 − alpha
    replicates : of the bootstrap
    seed : of the bootstrap
    """

    source: Path
    heads: Path | None = None
    metric: SelectBy = SelectBy.WGA
    split: str = "test"
    baseline: str | None = None
    command: str | None = None
    alpha: float = 0.05
    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric.needs_proxy or self.metric is SelectBy.CLASS_DIFFERENCE:
            raise ConfigError(f"metric must be wga, average, average_group or worst_class, got {self.metric}.")
        if self.split not in ("val", "test"):
            raise ConfigError(f"split must be val or test, got {self.split!r}.")
        _level(self.alpha)
        if self.replicates < 1 or self.seed < 0:
            raise ConfigError(
                f"replicates must be at least 1 and seed at least 0, got {self.replicates} and {self.seed}."
            )


@dataclass(frozen=True)
class DiagnoseConfig:
    """Look for a spurious attribute in a feature store; training and validation rows alone are read.

    Parameters
    ----------
    store : feature store
    folds : of the cross-validation on training rows
    l2 : strengths of the plain head to choose from, by average accuracy; every other head takes the chosen one
    ratio : of the mixture
    proxy_l2 : strength of the bias proxy's penalty
    alpha : level of the tests; intervals have level 1 − alpha
    replicates : of the bootstrap over rows
    permutations : of the attribute within classes, for the null of the directions
    null : replicates of the size-matched null of ρ(y)
    max_rows : most training rows used, drawn with the shares of the groups; None for all
    seed : of folds, subsets and draws
    device : ``cpu`` or ``cuda``
    records : file that the run is appended to; None for none
    """

    store: Path
    folds: int = 5
    l2: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    ratio: float = DEFAULT_RATIO
    proxy_l2: float = PROXY_L2
    alpha: float = 0.05
    replicates: int = 2000
    permutations: int = 500
    null: int = 200
    max_rows: int | None = 100_000
    seed: int = 0
    device: str = "cpu"
    records: Path | None = None

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}.")
        for value in (*self.l2, self.proxy_l2):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"l2 strengths must be positive numbers, got {value!r}.")
        if not self.l2:
            raise ConfigError("l2 is empty; give at least one strength.")
        if not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise ConfigError(f"The mixture ratio must be a number of at least 1, got {self.ratio!r}.")
        _level(self.alpha)
        for name, least in (("replicates", 1), ("permutations", 1), ("null", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows must be at least 1, got {self.max_rows}.")


def _level(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {alpha!r}.")
