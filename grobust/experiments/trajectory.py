"""`run_trajectories`: heads trained on minibatches, and every group's accuracy after every epoch.

The paper's over-training curves, for all methods and seeds from one call. The result is the head after the last epoch;
the epoch that validation rows would have chosen stands beside it. Test rows choose nothing.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import DeviceName, resolve_device, to_device
from grobust.balancing import BalanceSummary, balance_summary
from grobust.experiments.config import TrajectoryConfig
from grobust.experiments.records import LabelLedger
from grobust.experiments.splits import (
    Cell,
    Parts,
    balanced,
    ledger_of,
    needs_proxy,
    notes_of,
    open_parts,
    recorded,
    require_disjoint,
    scores_of,
    validation_arrays,
)
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.metrics import GroupMetrics, metrics_of_counts
from grobust.probe import TrainHead, Trajectories, train_heads
from grobust.report.curves import TrajectoryPoint, plot_trajectories
from grobust.selection import ValidationArrays, best, fit_bias_proxy
from grobust.settings import BalanceMethod, Match

__all__ = ["TrajectoryReport", "TrajectoryRun", "run_trajectories"]

# Logits of a block in evaluation, minibatches and weights on a device.
WORK_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class TrajectoryRun:
    """One method and seed over E epochs.

    Parameters
    ----------
    method, seed : of the run
    steps, rows : (E) int64 minibatches and rows drawn since the start
    loss : (E) float64 mean of the epoch's minibatch losses; not finite where training diverged
    accuracy : for ``train``, ``test`` and, if it has rows, ``val``: (E, g) float64 by group, NaN for groups without
        rows
    average : for the same splits (E) float64 accuracy over rows
    counts : for the same splits (g) rows by group
    val_scores : (E) every score of `grobust.selection` that could be computed on validation rows, by name
    last : test metrics after the last epoch, which are the result
    best_epoch : the first epoch (from 1) with the largest validation score; None without validation rows
    best : test metrics after it
    balance : rows and steps per epoch, repetition, batch shares
    notes : of the balance and of the training
    """

    method: BalanceMethod
    seed: int
    steps: NDArray[Any]
    rows: NDArray[Any]
    loss: NDArray[Any]
    accuracy: dict[str, NDArray[Any]]
    average: dict[str, NDArray[Any]]
    counts: dict[str, NDArray[Any]]
    val_scores: dict[str, NDArray[Any]]
    last: GroupMetrics
    best_epoch: int | None
    best: GroupMetrics | None
    balance: BalanceSummary
    notes: tuple[str, ...]

    def wga(self, split: str) -> NDArray[Any]:
        """(E) float64 worst-group accuracy over the groups that have rows."""
        return np.asarray(np.nanmin(self.accuracy[split], axis=1))

    @property
    def drop(self) -> float | None:
        """Test worst-group accuracy at the best epoch less that of the last; None without validation rows."""
        return None if self.best is None else self.best.wga.value - self.last.wga.value

    def as_dict(self) -> dict[str, Any]:
        """JSON-able results of the run, with the whole curve."""
        return {
            "method": str(self.method),
            "seed": self.seed,
            "group_names": list(self.last.names),
            "epochs": {
                "steps": self.steps.tolist(),
                "rows": self.rows.tolist(),
                "loss": _finite(self.loss.tolist()),
                **{
                    split: {
                        "wga": _finite(self.wga(split).tolist()),
                        "average": _finite(self.average[split].tolist()),
                        "groups": _finite(self.accuracy[split].tolist()),
                        "counts": self.counts[split].tolist(),
                        "n_classes": len(self.last.class_names),
                        **({"scores": self._scores()} if split == "val" else {}),
                    }
                    for split in self.accuracy
                },
            },
            "last": self.last.as_dict(),
            "best_epoch": self.best_epoch,
            "best": None if self.best is None else self.best.as_dict(),
            "drop": self.drop,
            "balance": asdict(self.balance),
            "notes": list(self.notes),
        }

    def _scores(self) -> dict[str, Any]:
        return {name: _finite(found.tolist()) for name, found in self.val_scores.items()}


@dataclass(frozen=True, eq=False)
class TrajectoryReport:
    """All runs of one `TrajectoryConfig`, in the order of methods and seeds; `proxy` is what a bias proxy said, if
    asked."""

    config: TrajectoryConfig
    provenance: Provenance
    ledger: LabelLedger
    runs: tuple[TrajectoryRun, ...]
    notes: tuple[str, ...]
    device: str
    proxy: dict[str, Any] | None = None
    figures: tuple[str, ...] = ()

    def of_method(self, method: BalanceMethod) -> tuple[TrajectoryRun, ...]:
        """Runs of one method, one per seed."""
        return tuple(run for run in self.runs if run.method is method)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "store": str(self.config.store),
            "dataset": self.provenance.dataset,
            "backbone": self.provenance.backbone,
            "by": str(self.config.by),
            "ratio": self.config.ratio,
            "match": str(self.config.sgd.match),
            "select": str(self.config.select),
            "label_ledger": asdict(self.ledger),
            "proxy": self.proxy,
            "runs": [run.as_dict() for run in self.runs],
            "notes": list(self.notes),
            "heads": None if self.config.save is None else str(self.config.save),
            "figures": list(self.figures),
        }


def run_trajectories(
    config: TrajectoryConfig, *, on_progress: Callable[[int, int], None] | None = None
) -> TrajectoryReport:
    """Train every method × seed side by side; evaluate training, validation and test split after every epoch.

    Parameters
    ----------
    on_progress : called after every epoch with its number and that of all epochs

    Raises
    ------
    DataError
        If there are no training or no test rows, or fewer than two classes.
    ConfigError
        If a setting is out of range.
    DeviceError
        If ``cuda`` is asked for and there is no GPU, or the training rows do not fit into its memory.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        provenance = store.provenance
        require_disjoint(store.provenance.dataset, store.groups, "Trajectories")
        parts = open_parts(store, device, work_bytes=WORK_BYTES, resident=("train",))
        cells = balanced(config, parts.train.groups)
        heads = [
            TrainHead(cell.sample, learning_rate=config.learning_rate, weight_decay=config.weight_decay, name=cell.name)
            for cell in cells
        ]
        validation = _validation(config, store, parts, device)
        splits = {"train": (parts.train.features, parts.train.groups), "val": (parts.val.features, validation.cells),
                  "test": (parts.test.features, parts.test.groups)}  # fmt: skip
        found = train_heads(
            parts.train.features,
            parts.train.groups.labels,
            heads,
            n_classes=parts.train.groups.n_classes,
            evaluate={name: pair for name, pair in splits.items() if len(pair[1])},
            settings=config.sgd,
            progress=on_progress,
        )
    report = TrajectoryReport(
        config=config,
        provenance=provenance,
        ledger=ledger_of(config, selects=len(parts.val.groups) > 0),
        runs=tuple(_run(config, cell, found, i, parts, validation) for i, cell in enumerate(cells)),
        notes=(*_notes(config, parts), *notes_of(config.select, validation)),
        device=device,
        proxy=None if validation.proxy is None else validation.proxy.as_dict(validation.groups),
    )
    return _written(report, cells, found, parts.train.groups)


def _validation(config: TrajectoryConfig, store: FeatureStore, parts: Parts, device: DeviceName) -> ValidationArrays:
    proxy = None
    if needs_proxy(config, parts.val):
        labels, n_classes = to_device(parts.train.groups.labels, device), parts.train.groups.n_classes
        proxy = fit_bias_proxy(parts.train.features, labels, n_classes=n_classes, l2=config.proxy_l2)
    return validation_arrays(store, parts.val, proxy)


def _run(
    config: TrajectoryConfig, cell: Cell, found: Trajectories, head: int, parts: Parts, validation: ValidationArrays
) -> TrajectoryRun:
    best_epoch = None
    scores: dict[str, NDArray[Any]] = {}
    correct = {split: found.correct[split][:, head] for split in found.groups}
    groups = dict(found.groups)
    if "val" in correct:
        by_select, scores = scores_of(config.select, validation, correct["val"])
        best_epoch = best(by_select) + 1
        correct["val"], groups["val"] = validation.by_group(correct["val"]), validation.groups

    def on_test(epoch: int) -> GroupMetrics:
        return metrics_of_counts(correct["test"][epoch], groups["test"], train_counts=parts.train.groups.counts)

    last = on_test(-1)
    notes = [*cell.sample.notes, *last.notes]
    if found.diverged[head]:
        notes.append(f"{cell.method}, seed {cell.seed}: training diverged; lower --lr")
    return TrajectoryRun(
        method=cell.method, seed=cell.seed, steps=found.steps[:, head], rows=found.rows[:, head],
        loss=found.loss[:, head],
        accuracy={split: _accuracy(correct[split], groups[split].counts) for split in groups},
        average={split: found.average(split)[:, head] for split in groups},
        counts={split: own.counts for split, own in groups.items()}, val_scores=scores,
        last=last, best_epoch=best_epoch, best=None if best_epoch is None else on_test(best_epoch - 1),
        balance=balance_summary(cell.sample, parts.train.groups, batch_size=config.sgd.batch_size), notes=tuple(notes),
    )  # fmt: skip


def _accuracy(correct: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """(E, g) float64; NaN for groups without rows."""
    return np.where(counts > 0, correct / np.maximum(counts, 1), np.nan)


def _notes(config: TrajectoryConfig, parts: Parts) -> tuple[str, ...]:
    if config.sgd.match is Match.EPOCHS:
        notes = ["equal epochs: methods take different numbers of steps, since they keep different numbers of rows"]
    else:
        notes = ["equal steps: every head takes as many steps per epoch as all training rows would"]
    if len(parts.val.groups) == 0:
        notes.append("there are no validation rows, so only the last epoch is reported")
    if parts.note:
        notes.append(parts.note)
    return tuple(notes)


def _written(
    report: TrajectoryReport, cells: tuple[Cell, ...], found: Trajectories, train: Groups
) -> TrajectoryReport:  # fmt: skip
    """Append records, save heads and draw, where asked for."""
    config = report.config
    recorded("trajectory", report)
    if config.save is not None:
        save_heads(_heads(report, cells, found, train), config.save)
    if config.figures is None:
        return report
    points = [point for run in report.runs for point in _points(report.provenance.dataset, run)]
    return replace(report, figures=tuple(str(p) for p in plot_trajectories(points, config.figures / "trajectories")))


def _heads(report: TrajectoryReport, cells: tuple[Cell, ...], found: Trajectories, train: Groups) -> Heads:
    infos = [
        HeadInfo(
            name=cell.name, method=str(run.method), by=str(report.config.by), ratio=cell.sample.ratio, seed=run.seed,
            l2=report.config.weight_decay, status="diverged" if diverged else f"epoch {run.loss.size}",
            objective=float(run.loss[-1]),
        )
        for cell, run, diverged in zip(cells, report.runs, found.diverged.tolist(), strict=True)
    ]  # fmt: skip
    return Heads.of_probes(
        found.probes, infos, class_names=train.class_names, attribute_names=train.attribute_names,
        provenance=report.provenance,
    )  # fmt: skip


def _points(dataset: str, run: TrajectoryRun) -> list[TrajectoryPoint]:
    val = run.wga("val").tolist() if "val" in run.accuracy else [None] * run.loss.size
    columns = (run.steps.tolist(), run.rows.tolist(), _finite(run.loss.tolist()), run.wga("test").tolist(),
               run.average["test"].tolist(), val, run.average["train"].tolist())  # fmt: skip
    return [
        TrajectoryPoint(dataset, str(run.method), run.seed, epoch, *values)
        for epoch, values in enumerate(zip(*columns, strict=True), start=1)
    ]


def _finite(values: Any) -> Any:
    """The same lists with None for what JSON cannot hold."""
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if math.isfinite(values) else None
