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
from grobust.experiments.crew_config import CrewConfig
from grobust.settings import PROXY_L2, SGD, BalanceBy, BalanceMethod, Penalty, SelectBy, WeightNormalization

__all__ = [
    "L1_PATH",
    "L2_PATH",
    "ExtractConfig",
    "PredictConfig",
    "ProbeConfig",
    "SpectrumConfig",
    "TrajectoryConfig",
    "plain",
]

# Half-decades, from where a head with standardized features is all but free to where it is all but constant.
L2_PATH = tuple(float(f"{10 ** (i / 2 - 6):.4g}") for i in range(13))
# Half-decades below the strength at which every weight is zero, as shares of it.
L1_PATH = tuple(float(f"{10 ** (-i / 2):.4g}") for i in range(1, 8))


@dataclass(frozen=True)
class ExtractConfig:
    """Run a backbone over a data set and store its features.

    Parameters
    ----------
    dataset : name in the catalog, such as ``tweets`` or ``digits:celeba``
    backbone : spec string, ``source:name[@weights]``
    out : feature store to write; None for a name of its own in the cache folder, see `grobust.features.cache`
    data_dir : folder of a data set, or address of one, see `grobust.data.places`
    columns : column names of `metadata_csv`, ``label=y`` and the like
    split : rule that splits anew, see `grobust.data.resplit`; None for the splits as they are
    pool : which vector is the feature; None for the backbone's own
    pools, layers, views : instead of `pool`, several in one pass: each layer (a module's name; none for the last) with
        each pooling, of each of the image's views (`grobust.models.views.View`); each into a store of its own
    image_size, max_tokens : input size; None for the backbone's own
    limit : keep this many rows, with the group shares of each split; None for all
    seed : of the draw that `limit` makes
    device : ``cpu`` or ``cuda``
    batch_size : rows per forward pass; None to find out by trying, unless an earlier run has
    precision, dtype, workers, on_error, fast_decode, compile, channels_last : see
        `grobust.features.extract.ExtractSettings`
    profile : measure where the time goes
    resume : continue from the parts of an interrupted run
    overwrite : replace a finished store
    crew : several processes or machines that do the work
    """

    dataset: str
    backbone: str
    out: Path | None = None
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    pool: str | None = None
    pools: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    image_size: int | None = None
    max_tokens: int | None = None
    limit: int | None = None
    seed: int = 1
    device: str = "cpu"
    batch_size: int | None = 64
    precision: str = "float32"
    dtype: str = "float32"
    workers: int = 0
    on_error: str = "stop"
    fast_decode: bool = False
    compile: bool = False
    channels_last: bool = True
    profile: bool = False
    resume: bool = True
    overwrite: bool = False
    crew: CrewConfig = field(default_factory=CrewConfig)

    def __post_init__(self) -> None:
        if self.pool is not None and self.pools:
            raise ConfigError("pool and pools exclude each other; give all poolings in pools.")

    @property
    def several(self) -> bool:
        """Whether there is more than one output, each with a store of its own."""
        return any(len(asked) > 1 for asked in (self.pools, self.layers, self.views))


@dataclass(frozen=True)
class ProbeConfig:
    """Fit last-layer probes on a feature store.

    Parameters
    ----------
    store : feature store
    balance : methods to fit, each with every seed
    by : what is balanced, classes or groups
    ratio : of the mixture
    sampler : False leaves out the mixture's second half: every kept row once an epoch, classes as unequal as they are
    normalize : loss normalization of upweighting; recorded (at the optimum both give the same head)
    seeds : one head per method and seed
    penalty : with ``l2`` heads differ in `l2`, with ``l1`` in `l1`, with ``elasticnet`` in both
    l2 : strengths to choose from on the validation split, per-sample loss
    l1 : strengths likewise
    l1_relative : whether `l1` are shares of the smallest strength at which every weight is zero, which differs by
        weighting; else they are strengths as they are
    select : score that chooses
    proxy_l2 : strength of the bias proxy's penalty, for scores that need one
    rtol, max_iter : accuracy of the solver, see `grobust.settings.LBFGS`
    max_bytes : budget of the solver's work arrays
    device : ``cpu`` or ``cuda``
    records : file that the runs are appended to; None for none
    save : file for the chosen heads; None for none
    figures : folder for figures; None for none
    """

    store: Path
    balance: tuple[BalanceMethod, ...] = (BalanceMethod.NONE,)
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = DEFAULT_RATIO
    sampler: bool = True
    normalize: WeightNormalization = WeightNormalization.BATCH
    seeds: tuple[int, ...] = (1, 2, 3)
    penalty: Penalty = Penalty.L2
    l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    l1: tuple[float, ...] = L1_PATH
    l1_relative: bool = True
    select: SelectBy = SelectBy.WORST_CLASS
    proxy_l2: float = PROXY_L2
    rtol: float = 1e-6
    max_iter: int = 1000
    max_bytes: int = 2 << 30
    device: str = "cpu"
    records: Path | None = None
    save: Path | None = None
    figures: Path | None = None

    def __post_init__(self) -> None:
        _methods_and_seeds(self.balance, self.seeds)
        _positive("proxy_l2", self.proxy_l2)
        for name in ("l2", "l1"):
            _distinct(name, getattr(self, name))
            for strength in getattr(self, name):
                _positive(f"{name} strengths", strength)
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {self.max_bytes}.")

    @property
    def strengths(self) -> tuple[tuple[float, float], ...]:
        """Candidates (l2, l1) of every head, l1 as given."""
        l2 = (0.0,) if self.penalty is Penalty.L1 else self.l2
        l1 = (0.0,) if self.penalty is Penalty.L2 else self.l1
        return tuple((a, b) for a in l2 for b in l1)


@dataclass(frozen=True)
class TrajectoryConfig:
    """Train last-layer heads on minibatches and follow every group's accuracy, epoch by epoch.

    Parameters
    ----------
    store, balance, by, ratio, sampler, normalize, seeds : as in `ProbeConfig`
    learning_rate, weight_decay : of every head
    sgd : optimizer, epochs, batch size, schedule, and what the heads have in common
    select : validation score that names the best epoch beside the last
    proxy_l2 : as in `ProbeConfig`
    device : ``cpu`` or ``cuda``
    records : file that the runs are appended to; None for none
    save : file for the heads of the last epoch; None for none
    figures : folder for figures; None for none
    """

    store: Path
    balance: tuple[BalanceMethod, ...] = (BalanceMethod.NONE,)
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = DEFAULT_RATIO
    sampler: bool = True
    normalize: WeightNormalization = WeightNormalization.BATCH
    seeds: tuple[int, ...] = (1, 2, 3)
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    sgd: SGD = field(default_factory=SGD)
    select: SelectBy = SelectBy.WORST_CLASS
    proxy_l2: float = PROXY_L2
    device: str = "cpu"
    records: Path | None = None
    save: Path | None = None
    figures: Path | None = None

    def __post_init__(self) -> None:
        _methods_and_seeds(self.balance, self.seeds)
        _positive("proxy_l2", self.proxy_l2)


@dataclass(frozen=True)
class PredictConfig:
    """Predict rows of a feature store with saved heads.

    Parameters
    ----------
    store : feature store
    heads : file of heads
    head : name or number of the one to use; None for all
    split : ``train``, ``val`` or ``test``
    out : ``.csv`` or ``.npz`` for the predictions; None for none
    force : predict although the features are of another kind than those that the heads were trained on
    device : ``cpu`` or ``cuda``
    """

    store: Path
    heads: Path
    head: str | None = None
    split: str = "test"
    out: Path | None = None
    force: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check_split(self.split)
        if self.out is not None and self.out.suffix not in (".csv", ".npz"):
            raise ConfigError(f"out must end in .csv or .npz, got {str(self.out)!r}.")


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
    null : replicates of the size-matched null of ρ(y); 0 for none, and then no interval either
    interval : replicates of the interval
    permutations : replicates of the permutation null; 0 for none
    diagnostics : subsets behind the null ranges of the other diagnostics; None leaves the diagnostics out
    heads : file of heads on these features, for what needs one; None for none
    head : name or number of the one to use
    memory_bytes : for matrices, and for the rows of a class while its replicates are drawn
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
    null: int = 1000
    interval: int = 1000
    permutations: int = 200
    diagnostics: int | None = 50
    heads: Path | None = None
    head: str = "0"
    memory_bytes: int = 8 << 30
    device: str = "cpu"
    records: Path | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top must be at least 1, got {self.top}.")
        if self.ddof not in (0, 1):
            raise ConfigError(f"ddof must be 0 (divide by n) or 1 (divide by n - 1), got {self.ddof}.")
        _check_split(self.split)
        for name in ("null", "interval", "permutations", "memory_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.diagnostics is not None and self.diagnostics < 0:
            raise ConfigError(f"diagnostics must not be negative, got {self.diagnostics}.")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be positive, got {value!r}; expected a finite number above 0.")


def _check_split(split: str) -> None:
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split must be train, val or test, got {split!r}.")


def _methods_and_seeds(balance: tuple[BalanceMethod, ...], seeds: tuple[int, ...]) -> None:
    _distinct("balance", balance)
    _distinct("seeds", seeds)
    if min(seeds) < 0:
        raise ConfigError(f"seeds must not be negative, got {min(seeds)}.")


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
    if isinstance(value, dict):
        return {key: _plain_value(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return value
