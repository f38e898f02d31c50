"""Configs: everything one experiment needs, frozen, each default written once.

A config belongs to one experiment (paths, names, seeds, settings) and is never passed below `grobust.experiments`.
The command line shows these defaults.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from grobust.balancing import DEFAULT_RATIO
from grobust.errors import ConfigError
from grobust.settings import BalanceBy, BalanceMethod, SelectBy, WeightNormalization

__all__ = ["ExtractConfig", "ProbeConfig", "SpectrumConfig", "plain"]


@dataclass(frozen=True)
class ExtractConfig:
    """Run a backbone over a data set and store its features.

    Parameters
    ----------
    dataset : name in the catalog, such as ``tweets`` or ``digits:celeba``
    backbone : spec string, ``source:name[@weights]``
    out : feature store to write
    data_dir : folder of data sets that live on disk
    columns : column names of `metadata_csv`, ``label=y`` and the like
    pool : which vector is the feature; None for the backbone's own
    image_size, max_tokens : input size; None for the backbone's own
    limit : keep this many rows, with the group shares of each split; None for all
    seed : of the draw that `limit` makes
    device : ``cpu`` or ``cuda``
    batch_size, precision, dtype, workers, on_error : see `grobust.features.extract.ExtractSettings`
    resume : continue from the parts of an interrupted run
    overwrite : replace a finished store
    """

    dataset: str
    backbone: str
    out: Path
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    pool: str | None = None
    image_size: int | None = None
    max_tokens: int | None = None
    limit: int | None = None
    seed: int = 1
    device: str = "cpu"
    batch_size: int = 64
    precision: str = "float32"
    dtype: str = "float32"
    workers: int = 0
    on_error: str = "stop"
    resume: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class ProbeConfig:
    """Fit last-layer probes on a feature store.

    Parameters
    ----------
    store : feature store
    balance : methods to fit, each with every seed
    by : what is balanced, classes or groups
    ratio : of the mixture
    normalize : loss normalization of upweighting; recorded (at the optimum both give the same head)
    seeds : one head per method and seed
    l2 : strengths to choose from on the validation split, per-sample loss
    select : score that chooses
    rtol, max_iter : accuracy of the solver, see `grobust.settings.LBFGS`
    device : ``cpu`` or ``cuda``
    records : file that the runs are appended to; None for none
    """

    store: Path
    balance: tuple[BalanceMethod, ...] = (BalanceMethod.NONE,)
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = DEFAULT_RATIO
    normalize: WeightNormalization = WeightNormalization.BATCH
    seeds: tuple[int, ...] = (1, 2, 3)
    l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    select: SelectBy = SelectBy.WORST_CLASS
    rtol: float = 1e-6
    max_iter: int = 1000
    device: str = "cpu"
    records: Path | None = None

    def __post_init__(self) -> None:
        _distinct("balance", self.balance)
        _distinct("seeds", self.seeds)
        _distinct("l2", self.l2)
        for strength in self.l2:
            if not (math.isfinite(strength) and strength > 0):
                raise ConfigError(f"l2 strengths must be positive numbers, got {strength!r}.")
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds must not be negative, got {min(self.seeds)}.")


@dataclass(frozen=True)
class SpectrumConfig:
    """Covariance spectra of the groups and classes of a feature store.

    Parameters
    ----------
    store : feature store
    split : ``train``, ``val`` or ``test``
    top : eigenvalues kept per group
    ddof : 0 divides a covariance by n (the paper), 1 by n − 1
    balance, by, ratio, seed : spectra of the rows that this method keeps (the paper's are of the rows trained on)
    device : ``cpu`` or ``cuda``
    records : file that the run is appended to; None for none
    """

    store: Path
    split: str = "train"
    top: int = 10
    ddof: int = 0
    balance: BalanceMethod = BalanceMethod.NONE
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = DEFAULT_RATIO
    seed: int = 1
    device: str = "cpu"
    records: Path | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top must be at least 1, got {self.top}.")
        if self.ddof not in (0, 1):
            raise ConfigError(f"ddof must be 0 (divide by n) or 1 (divide by n - 1), got {self.ddof}.")
        if self.split not in ("train", "val", "test"):
            raise ConfigError(f"split must be train, val or test, got {self.split!r}.")


def _distinct(name: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"{name} is empty; give at least one value.")
    if len(set(values)) != len(values):
        raise ConfigError(f"{name} repeats a value: {', '.join(str(v) for v in values)}.")


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON-able dict: paths and choices as strings, tuples as lists."""
    return {key: _plain_value(value) for key, value in asdict(config).items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path | Enum):
        return str(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return value
