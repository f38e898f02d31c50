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

from grobust.arrays import resolve_device
from grobust.balancing import BalanceSummary, balance_summary
from grobust.data.schemes import overlapping_cells
from grobust.errors import ConfigError
from grobust.experiments.config import TrajectoryConfig
from grobust.experiments.records import LabelLedger, append_records
from grobust.experiments.splits import Cell, Parts, balanced, best, ledger_of, open_parts, record_of, score_of
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.metrics import GroupMetrics, metrics_of_counts
from grobust.probe import TrainHead, Trajectories, train_heads
from grobust.report.curves import TrajectoryPoint, plot_trajectories
from grobust.settings import BalanceMethod, Match

__all__ = ["TrajectoryReport", "TrajectoryRun", "run_trajectories"]


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


@dataclass(frozen=True, eq=False)
class TrajectoryReport:
    """All runs of one `TrajectoryConfig`, in the order of methods and seeds."""

    config: TrajectoryConfig
    provenance: Provenance
    ledger: LabelLedger
    runs: tuple[TrajectoryRun, ...]
    notes: tuple[str, ...]
    device: str
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
        If ``cuda`` is asked for and there is no GPU.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        provenance = store.provenance
        if overlapping_cells(provenance.dataset, store.groups.class_names, store.groups.attribute_names) is not None:
            raise ConfigError(
                f"Trajectories are curves of disjoint groups; {provenance.dataset} is reported on overlapping ones.\n"
                "Leave out --trajectory, or extract the data set with its disjoint groups (civilcomments)."
            )
        parts = open_parts(store, device)
        cells = balanced(config, parts.train.groups)
        heads = [
            TrainHead(cell.sample, learning_rate=config.learning_rate, weight_decay=config.weight_decay, name=cell.name)
            for cell in cells
        ]
        splits = {"train": parts.train, "val": parts.val, "test": parts.test}
        found = train_heads(
            parts.train.features,
            parts.train.groups.labels,
            heads,
            n_classes=parts.train.groups.n_classes,
            evaluate={name: (part.features, part.groups) for name, part in splits.items() if len(part.groups)},
            settings=config.sgd,
            progress=on_progress,
        )
    report = TrajectoryReport(
        config=config,
        provenance=provenance,
        ledger=ledger_of(config, selects=len(parts.val.groups) > 0),
        runs=tuple(_run(config, cell, found, i, parts) for i, cell in enumerate(cells)),
        notes=_notes(config, parts),
        device=device,
    )
    return _written(report, cells, found, parts.train.groups)


def _run(config: TrajectoryConfig, cell: Cell, found: Trajectories, head: int, parts: Parts) -> TrajectoryRun:
    counts = parts.train.groups.counts
    best_epoch = None
    if "val" in found.groups:
        epochs = range(found.loss.shape[0])
        scores = [score_of(config.select, found.metrics("val", epoch, head)) for epoch in epochs]
        best_epoch = best(np.array(scores)) + 1

    def on_test(epoch: int) -> GroupMetrics:
        return metrics_of_counts(found.correct["test"][epoch, head], found.groups["test"], train_counts=counts)

    last = on_test(-1)
    notes = [*cell.sample.notes, *last.notes]
    if found.diverged[head]:
        notes.append(f"{cell.method}, seed {cell.seed}: training diverged; lower --lr")
    return TrajectoryRun(
        method=cell.method, seed=cell.seed, steps=found.steps[:, head], rows=found.rows[:, head],
        loss=found.loss[:, head],
        accuracy={split: found.accuracy(split)[:, head] for split in found.groups},
        average={split: found.average(split)[:, head] for split in found.groups},
        last=last, best_epoch=best_epoch, best=None if best_epoch is None else on_test(best_epoch - 1),
        balance=balance_summary(cell.sample, parts.train.groups, batch_size=config.sgd.batch_size), notes=tuple(notes),
    )  # fmt: skip


def _notes(config: TrajectoryConfig, parts: Parts) -> tuple[str, ...]:
    if config.sgd.match is Match.EPOCHS:
        notes = ["equal epochs: methods take different numbers of steps, since they keep different numbers of rows"]
    else:
        notes = ["equal steps: every head takes as many steps per epoch as all training rows would"]
    if len(parts.val.groups) == 0:
        notes.append("there are no validation rows, so only the last epoch is reported")
    return tuple(notes)


def _written(
    report: TrajectoryReport, cells: tuple[Cell, ...], found: Trajectories, train: Groups
) -> TrajectoryReport:  # fmt: skip
    """Append records, save heads and draw, where asked for."""
    config = report.config
    if config.records is not None:
        append_records(
            config.records,
            [
                record_of(
                    "trajectory", config, provenance=report.provenance, ledger=report.ledger, device=report.device,
                    seed=run.seed, results=run.as_dict(),
                )
                for run in report.runs
            ],
        )  # fmt: skip
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
