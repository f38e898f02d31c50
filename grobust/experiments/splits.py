"""What experiments on a store's splits have in common: opening and checking them, balancing, choosing, recording."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import DeviceName, to_device
from grobust.balancing import BalancedSample, make_balancer
from grobust.data.schemes import overlapping_cells
from grobust.errors import DataError
from grobust.experiments.config import ProbeConfig, TrajectoryConfig, plain
from grobust.experiments.environment import library_versions
from grobust.experiments.records import LabelLedger, Record
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.metrics import GroupMetrics, pooled_metrics
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

__all__ = ["Cell", "Part", "Parts", "balanced", "best", "ledger_of", "open_parts", "record_of", "reported", "score_of"]


@dataclass(frozen=True, eq=False)
class Part:
    """One split: features (m, d) read when they are sliced, or a copy on the device, and groups on the host."""

    features: Any
    groups: Groups


@dataclass(frozen=True, eq=False)
class Parts:
    """The three splits of a store, which must stay open meanwhile."""

    train: Part
    val: Part
    test: Part


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


def open_parts(store: FeatureStore, device: DeviceName) -> Parts:
    """Training, validation and test split.

    Raises
    ------
    DataError
        If there are no training rows, no test rows, or fewer than two classes.
    """
    train, val, test = (_part(store, split, device) for split in (Split.TRAIN, Split.VAL, Split.TEST))
    if len(train.groups) == 0:
        raise DataError(f"{store.path} has no training rows; a probe needs some.")
    if len(test.groups) == 0:
        raise DataError(f"{store.path} has no test rows; there is nothing to report on.")
    if train.groups.n_classes < 2:
        names = ", ".join(train.groups.class_names)
        raise DataError(f"{store.path} has one class ({names}); a probe needs at least two.")
    return Parts(train, val, test)


def _part(store: FeatureStore, split: Split, device: DeviceName) -> Part:
    if device == "cpu":
        return Part(store.view(split), store.groups.take(store.rows(split)))
    features, groups = store.load(split)
    return Part(to_device(features, device), groups)


def balanced(config: ProbeConfig | TrajectoryConfig, train: Groups) -> tuple[Cell, ...]:
    """A balanced sample for every method and seed, in this order."""
    balancers = {
        m: make_balancer(m, by=config.by, ratio=config.ratio, normalize=config.normalize) for m in config.balance
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


def score_of(select: SelectBy, metrics: GroupMetrics) -> float:
    """The estimate of a score's name."""
    return float(getattr(metrics, select.value).value)


def best(scores: NDArray[Any]) -> int:
    """Index of the largest score; on a tie the first, and NaN is never it unless all are."""
    return int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))


def ledger_of(config: ProbeConfig | TrajectoryConfig, *, selects: bool) -> LabelLedger:
    """Which labels of which split the run uses."""
    return LabelLedger.of(
        group_training=config.by is BalanceBy.GROUP and set(config.balance) != {BalanceMethod.NONE},
        group_selection=config.select.needs_groups,
        selects=selects,
    )


def record_of(
    command: str,
    config: ProbeConfig | TrajectoryConfig,
    *,
    provenance: Provenance,
    ledger: LabelLedger,
    device: str,
    seed: int,
    results: dict[str, Any],
) -> Record:
    """One method and seed as a record."""
    return Record(
        command=command, config=plain(config), provenance=asdict(provenance), versions=library_versions(),
        device=device, seed=seed, label_ledger=asdict(ledger), results=results,
    )  # fmt: skip
