"""The rows that `grobust diagnose` reads: training rows, thinned if there are many, and validation rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.balancing import make_balancer
from grobust.errors import DataError
from grobust.experiments.evidence_config import DiagnoseConfig
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.settings import BalanceMethod

__all__ = ["FEW_ROWS", "TrainingRows", "training_rows", "validation_rows"]

# An attribute value with fewer training rows cannot be decoded with any certainty, nor a group subset to.
FEW_ROWS = 10


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Training rows used: features (n, d) float32 on the host, and what is known of them.

    Parameters
    ----------
    has_attributes : whether rows have two attribute values or more
    attribute_groups : the same rows with attributes for labels; None where a value has too few rows
    notes : what a reader must know
    """

    features: NDArray[Any]
    groups: Groups
    has_attributes: bool
    attribute_groups: Groups | None
    notes: tuple[str, ...]


def training_rows(config: DiagnoseConfig, store: FeatureStore) -> TrainingRows:
    """The training rows, at most `max_rows` of them with the shares of the groups.

    Raises
    ------
    DataError
        If there are none, or fewer than two classes.
    GroupError
        If a class has none.
    """
    rows, notes = store.rows(Split.TRAIN), []
    groups = store.groups.take(rows)
    if rows.size == 0:
        raise DataError(f"{store.path} has no training rows to diagnose.")
    if groups.n_classes < 2:
        raise DataError(
            f"{store.path} has one class ({', '.join(groups.class_names)}); there is nothing to tell apart."
        )
    # Says which class has no rows.
    make_balancer(BalanceMethod.NONE).sample(groups, seed=config.seed)
    if config.max_rows is not None and rows.size > config.max_rows:
        kept = _thinned(groups, config.max_rows, config.seed)
        notes.append(f"{kept.size} of {rows.size} training rows used, with the shares of the groups; see --max-rows")
        rows, groups = rows[kept], groups.take(kept)
    sizes = np.bincount(groups.attributes, minlength=groups.n_attributes)
    has_attributes = int((sizes > 0).sum()) > 1
    of_attribute = None
    if has_attributes and int(sizes[sizes > 0].min()) >= FEW_ROWS:
        values = np.flatnonzero(sizes)
        names = tuple(groups.attribute_names[v] for v in values)
        of_attribute = Groups(np.searchsorted(values, groups.attributes), groups.labels, names, groups.class_names)
    elif has_attributes:
        few = ", ".join(n for n, size in zip(groups.attribute_names, sizes, strict=True) if 0 < size < FEW_ROWS)
        notes.append(f"the attribute is not decoded: fewer than {FEW_ROWS} training rows with {few}")
    features, _ = _read(store, rows)
    return TrainingRows(features, groups, has_attributes, of_attribute, tuple(notes))


def _read(store: FeatureStore, rows: NDArray[Any]) -> tuple[NDArray[Any], Groups]:
    return store.read(rows).astype(np.float32, copy=False), store.groups.take(rows)


def validation_rows(store: FeatureStore) -> tuple[NDArray[Any], Groups] | None:
    """Features (m, d) float32 of the validation rows, and their groups; None if there are none."""
    rows = store.rows(Split.VAL)
    return _read(store, rows) if rows.size else None


def _thinned(groups: Groups, limit: int, seed: int) -> NDArray[Any]:
    """About `limit` rows, the same share of every group, at least `FEW_ROWS` of each if it has them; ascending."""
    rng = np.random.default_rng(seed)
    kept = []
    for g in np.flatnonzero(groups.counts).tolist():
        own = np.flatnonzero(groups.ids == g)
        size = min(own.size, max(FEW_ROWS, round(limit * own.size / len(groups))))
        kept.append(rng.choice(own, size=size, replace=False))
    return np.sort(np.concatenate(kept))
