"""What is measured over training: groups predicted correctly on every split, epoch by epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.groups import Groups
from grobust.metrics import GroupMetrics, metrics_of_counts

__all__ = ["Curve", "Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """One look at the network.

    Parameters
    ----------
    epoch : from 1
    step, rows : minibatches and rows drawn since the start
    loss : mean of the losses that were minimized, over the minibatches since the evaluation before
    lr : learning rate of the last of them
    correct : for each split, rows predicted correctly by group
    split_loss : for each split, mean cross-entropy of its rows, all weighted alike
    seconds : of this process since it began; not part of the result
    """

    epoch: int
    step: int
    rows: int
    loss: float
    lr: float
    correct: dict[str, list[int]]
    split_loss: dict[str, float | None]
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Curve:
    """All evaluations of a run, and the groups that they count.

    Parameters
    ----------
    evaluations : E, in order
    groups : of the kept training rows (``train``), and of ``val`` and ``test`` where they have rows
    train_counts : (g) rows of the full training split
    """

    evaluations: tuple[Evaluation, ...]
    groups: Mapping[str, Groups]
    train_counts: NDArray[Any]

    def metrics(self, split: str, index: int = -1) -> GroupMetrics:
        """All metrics of a split at one evaluation, the last by default."""
        correct = np.array(self.evaluations[index].correct[split], dtype=np.int64)
        return metrics_of_counts(correct, self.groups[split], train_counts=self.train_counts)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were evaluated."""
        return tuple(self.groups)

    @property
    def interpolation_epoch(self) -> int | None:
        """The first epoch evaluated at which every kept training row was predicted correctly; None if there is none."""
        rows = len(self.groups["train"])
        return next((e.epoch for e in self.evaluations if sum(e.correct["train"]) == rows), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able columns; what is undefined is None."""
        columns: dict[str, Any] = {
            name: [getattr(e, field) for e in self.evaluations]
            for name, field in (
                ("epochs", "epoch"),
                ("steps", "step"),
                ("rows", "rows"),
                ("loss", "loss"),
                ("lr", "lr"),
            )
        }
        for split in self.splits:
            metrics = [self.metrics(split, i) for i in range(len(self.evaluations))]
            columns[split] = {
                "wga": [_finite(m.wga.value) for m in metrics],
                "worst_group": [m.worst_group_name for m in metrics],
                "average": [_finite(m.average.value) for m in metrics],
                "average_train_weighted": [_finite(m.average_train_weighted.value) for m in metrics],
                "worst_class": [_finite(m.worst_class.value) for m in metrics],
                "groups": [[_finite(a) for a in m.accuracy.tolist()] for m in metrics],
                "correct": [e.correct[split] for e in self.evaluations],
                "loss": [e.split_loss[split] for e in self.evaluations],
            }
        return columns


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
