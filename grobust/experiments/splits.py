"""What experiments on a store's splits have in common: opening and checking them, balancing, choosing, recording."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import DeviceName
from grobust.balancing import BalancedSample, make_balancer
from grobust.data.schemes import overlapping_cells
from grobust.errors import ConfigError, DataError
from grobust.experiments.config import ProbeConfig, TrajectoryConfig, plain
from grobust.experiments.environment import library_versions
from grobust.experiments.placement import place
from grobust.experiments.records import LabelLedger, Record, append_records
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.metrics import GroupMetrics, pooled_metrics
from grobust.selection import BiasProxy, ValidationArrays
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

__all__ = [
    "Cell",
    "Part",
    "Parts",
    "balanced",
    "ledger_of",
    "needs_proxy",
    "notes_of",
    "open_parts",
    "recorded",
    "reported",
    "require_disjoint",
    "scores_of",
    "validation_arrays",
]


@dataclass(frozen=True, eq=False)
class Part:
    """One split: features (m, d) where `place` has put them, and groups on the host."""

    features: Any
    groups: Groups


@dataclass(frozen=True, eq=False)
class Parts:
    """The three splits of a store, which must stay open meanwhile, and what was asked of the device."""

    train: Part
    val: Part
    test: Part
    note: str = ""


@dataclass(frozen=True, eq=False)
class Cell:
    """A method, a seed and the balanced sample they give."""

    method: BalanceMethod
    seed: int
    sample: BalancedSample

    @property
    def name(self) -> str:
        """Of the head in messages and files."""
        return f"{self.method}/seed{self.seed}"


def open_parts(
    store: FeatureStore, device: DeviceName, *, work_bytes: int = 0, resident: tuple[str, ...] = ()
) -> Parts:  # fmt: skip
    """Training, validation and test split, placed as `place` decides.

    Raises
    ------
    DataError
        If there are no training rows, no test rows, or fewer than two classes.
    DeviceError
        If one of `resident` does not fit on the device.
    """
    groups = {split: store.groups.take(store.rows(split)) for split in Split}
    train = groups[Split.TRAIN]
    if len(train) == 0:
        raise DataError(f"{store.path} has no training rows; a probe needs some.")
    if len(groups[Split.TEST]) == 0:
        raise DataError(f"{store.path} has no test rows; there is nothing to report on.")
    if train.n_classes < 2:
        names = ", ".join(train.class_names)
        raise DataError(f"{store.path} has one class ({names}); a probe needs at least two.")
    order = (Split.TRAIN, Split.VAL, Split.TEST)
    views = {split.name.lower(): store.view(split) for split in order}
    placed = place(views, device, work_bytes=work_bytes, resident=resident)
    train_part, val, test = (Part(placed.features[split.name.lower()], groups[split]) for split in order)
    return Parts(train_part, val, test, placed.note)


def require_disjoint(dataset: str, groups: Groups, what: str) -> None:
    """Refuse a data set that is reported on overlapping groups, where `what` is of disjoint ones.

    Raises
    ------
    ConfigError
        If the data set of this name has overlapping groups.
    """
    if overlapping_cells(dataset, groups.class_names, groups.attribute_names) is not None:
        raise ConfigError(
            f"{what} are of disjoint groups; {dataset} is reported on overlapping ones.\n"
            "Use grobust probe or predict, or extract the data set with its disjoint groups (civilcomments)."
        )


def balanced(config: ProbeConfig | TrajectoryConfig, train: Groups) -> tuple[Cell, ...]:
    """A balanced sample for every method and seed, in this order."""
    balancers = {
        m: make_balancer(m, by=config.by, ratio=config.ratio, normalize=config.normalize, sampler=config.sampler)
        for m in config.balance
    }
    return tuple(
        Cell(method, seed, balancers[method].sample(train, seed=seed))
        for method in config.balance
        for seed in config.seeds
    )


def reported(metrics: Sequence[GroupMetrics], provenance: Provenance, groups: Groups) -> tuple[GroupMetrics, ...]:
    """The metrics on the groups that the data set is reported on: its disjoint cells, or its overlapping groups."""
    found = overlapping_cells(provenance.dataset, groups.class_names, groups.attribute_names)
    return tuple(metrics) if found is None else tuple(pooled_metrics(each, *found) for each in metrics)


def needs_proxy(config: ProbeConfig | TrajectoryConfig, val: Part) -> bool:
    """Whether the run needs a bias proxy: its score does, or its records carry every score."""
    return len(val.groups) > 0 and (config.select.needs_proxy or config.records is not None)


def validation_arrays(store: FeatureStore, val: Part, proxy: BiasProxy | None) -> ValidationArrays:
    """The store's validation rows, with what a proxy says about them."""
    reading = None if proxy is None else proxy.read(val.features, val.groups)
    groups = store.groups
    found = overlapping_cells(store.provenance.dataset, groups.class_names, groups.attribute_names)
    return ValidationArrays(groups, store.split, reading, unions=None if found is None else found[1])


def notes_of(select: SelectBy, validation: ValidationArrays) -> tuple[str, ...]:
    """What a reader must know of the validation rows; of the proxy only if it was asked."""
    return validation.notes if select.needs_proxy else validation.absent


def scores_of(
    select: SelectBy, validation: ValidationArrays, correct: NDArray[Any]
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """The score that chooses, NaN without validation rows, and every score that can be computed, by name."""
    if len(validation) == 0:
        return np.full(correct.shape[:-1], np.nan), {}
    everything = {str(name): found for name, found in validation.all_scores(correct).items()}
    return validation.scores(select, correct), everything


def ledger_of(config: ProbeConfig | TrajectoryConfig, *, selects: bool) -> LabelLedger:
    """Which labels of which split the run uses."""
    return LabelLedger.of(
        group_training=config.by is BalanceBy.GROUP and set(config.balance) != {BalanceMethod.NONE},
        group_selection=config.select.needs_groups,
        selects=selects,
    )


class _Run(Protocol):
    @property
    def seed(self) -> int: ...

    def as_dict(self) -> dict[str, Any]: ...


class _Report(Protocol):
    @property
    def config(self) -> ProbeConfig | TrajectoryConfig: ...
    @property
    def provenance(self) -> Provenance: ...
    @property
    def ledger(self) -> LabelLedger: ...
    @property
    def device(self) -> str: ...
    @property
    def proxy(self) -> dict[str, Any] | None: ...
    @property
    def runs(self) -> Sequence[_Run]: ...


def recorded(command: str, report: _Report) -> list[Record]:
    """A record per method and seed of a report, appended to the config's file where it names one."""
    records = [
        Record(
            command=command, config=plain(report.config), provenance=asdict(report.provenance),
            versions=library_versions(), device=report.device, seed=run.seed, label_ledger=asdict(report.ledger),
            results={**run.as_dict(), "proxy": report.proxy},
        )
        for run in report.runs
    ]  # fmt: skip
    if report.config.records is not None:
        append_records(report.config.records, records)
    return records
