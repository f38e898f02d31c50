"""`run_spectrum`: covariance spectra per group and class of a store, and the norm ratio of every class."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import resolve_device, to_device
from grobust.balancing import make_balancer
from grobust.errors import DataError
from grobust.experiments.config import SpectrumConfig, plain
from grobust.experiments.environment import library_versions
from grobust.experiments.records import LabelLedger, Record, append_records
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.settings import BalanceBy, BalanceMethod
from grobust.spectrum import SMALL_GROUP_NOTE, NormRatio, Spectra, norm_ratios, stream_spectra

__all__ = ["SpectrumReport", "run_spectrum"]


@dataclass(frozen=True, eq=False)
class SpectrumReport:
    """Spectra of the groups and classes of the rows used, and ρ(y) per class.

    Parameters
    ----------
    groups : of the rows used
    by_group, by_class : spectra
    ratios : one per class, undefined ones with their reason
    notes : what must stand beside ρ
    """

    config: SpectrumConfig
    provenance: Provenance
    groups: Groups
    by_group: Spectra
    by_class: Spectra
    ratios: tuple[NormRatio, ...]
    notes: tuple[str, ...]
    device: str

    @property
    def minority_groups(self) -> tuple[int, ...]:
        """Ids of the minority groups of the classes that have one."""
        found = (self.groups.minority_group(y) for y in range(self.groups.n_classes))
        return tuple(g for g in found if g is not None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; NaN becomes None."""
        minority = [self.groups.names[g] for g in self.minority_groups]
        return {
            "store": str(self.config.store),
            "dataset": self.provenance.dataset,
            "backbone": self.provenance.backbone,
            "split": self.config.split,
            "balance": str(self.config.balance),
            "ddof": self.config.ddof,
            "groups": [row | {"minority": row["name"] in minority} for row in _rows(self.by_group)],
            "classes": _rows(self.by_class),
            "norm_ratios": [_finite(asdict(ratio)) for ratio in self.ratios],
            "notes": list(self.notes),
        }


def run_spectrum(config: SpectrumConfig) -> SpectrumReport:
    """Compute spectra in one streaming pass over the rows of a split, or over those that a balancing method keeps.

    Raises
    ------
    DataError
        If the split has no rows, or balancing is asked for on a split that is not trained on.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        rows = _rows_used(config, store)
        groups = store.groups.take(rows)
        by_group, by_class = stream_spectra(
            _blocks(store, rows, device), groups=groups, dim=store.dim, rank=config.top, ddof=config.ddof
        )
        provenance = store.provenance
    notes = [*by_group.notes, SMALL_GROUP_NOTE]
    report = SpectrumReport(
        config=config,
        provenance=provenance,
        groups=groups,
        by_group=by_group,
        by_class=by_class,
        ratios=norm_ratios(by_group, groups),
        notes=tuple(dict.fromkeys(notes)),
        device=device,
    )
    if config.records is not None:
        append_records(config.records, [_record(report)])
    return report


def _rows_used(config: SpectrumConfig, store: FeatureStore) -> NDArray[Any]:
    rows = store.rows(Split[config.split.upper()])
    if rows.size == 0:
        raise DataError(f"{config.store} has no rows in split '{config.split}'.")
    if config.balance is BalanceMethod.NONE:
        return rows
    if config.split != "train":
        raise DataError(f"Balancing keeps rows of the training split; it cannot be applied to '{config.split}'.")
    balancer = make_balancer(config.balance, by=config.by, ratio=config.ratio)
    kept: NDArray[Any] = rows[balancer.sample(store.groups.take(rows), seed=config.seed).indices]
    return kept


def _blocks(store: FeatureStore, rows: NDArray[Any], device: Any) -> Iterator[tuple[Any, NDArray[Any]]]:
    """Blocks of features with the positions of their rows in `rows`."""
    position = np.full(store.n, -1)
    position[rows] = np.arange(rows.size)
    for numbers, features in store.blocks():
        used = position[numbers] >= 0
        if used.any():
            yield to_device(features if used.all() else features[used], device), position[numbers[used]]


def _record(report: SpectrumReport) -> Record:
    config = report.config
    uses_groups = config.by is BalanceBy.GROUP and config.balance is not BalanceMethod.NONE
    ledger = LabelLedger.of(group_training=uses_groups, group_selection=False, selects=False)
    return Record(
        command="spectrum",
        config=plain(config),
        provenance=asdict(report.provenance),
        versions=library_versions(),
        device=report.device,
        seed=None if config.balance is BalanceMethod.NONE else config.seed,
        label_ledger=asdict(ledger),
        results=report.as_dict(),
    )


def _rows(spectra: Spectra) -> list[dict[str, Any]]:
    rows = zip(spectra.names, spectra.counts, spectra.eigenvalues, spectra.trace, spectra.effective_rank, strict=True)
    return [
        _finite(
            {
                "name": name,
                "n": int(n),
                "eigenvalues": [float(v) for v in values],
                "trace": float(trace),
                "effective_rank": float(rank),
            }
        )
        for name, n, values, trace, rank in rows
    ]


def _finite(value: Any) -> Any:
    """The same value with None for every float that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
