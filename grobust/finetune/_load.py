"""Training inputs: items by their place in the run's minibatches, so that each augmentation has a name of its own."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grobust.data.dataset import GroupedDataset
from grobust.features._batches import Batch, Collate, load_batches
from grobust.finetune._evaluate import check_readable
from grobust.finetune._plan import Plan, Shares
from grobust.models.augment import TrainingCollate, training_collate
from grobust.models.backbone import Backbone

__all__ = ["TrainingInputs"]

Drawn = tuple[Any, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """Minibatches of a run, decoded, augmented and collated ahead of their use.

    Parameters
    ----------
    dataset, plan, train_rows : items, places, and the rows of the data set that are the training split
    backbone : whose inputs are made
    augment : the seed of random crops and flips; None for none
    """

    dataset: GroupedDataset
    plan: Plan
    train_rows: NDArray[np.int64]
    backbone: Backbone
    augment: int | None

    def load(self, shares: Shares, *, workers: int) -> Generator[Batch, None, None]:
        """Batches of one process, in order; `Batch.rows` are rows of the data set.

        Raises
        ------
        DataError
            If an input cannot be read; all of the batch are named.
        BackboneError
            If images are to be augmented and the backbone does not say what it takes.
        """
        drawn = None if self.augment is None else training_collate(self.backbone, seed=self.augment)
        collate = _Collate(self.backbone.collate, drawn)
        for batch in load_batches(_Items(self), collate, shares, workers=workers):
            failures = tuple((int(self.rows_at(np.array([place]))[0]), why) for place, why in batch.failures)
            rows = Batch(self.rows_at(batch.rows), batch.tensors, failures)
            check_readable(self.dataset, rows)
            yield rows

    def rows_at(self, places: NDArray[Any]) -> NDArray[Any]:
        """Rows of the data set at places of the minibatches."""
        rows: NDArray[Any] = self.train_rows[self.plan.rows_at(places)]
        return rows


@dataclass(frozen=True, eq=False)
class _Items:
    """Place → item, and the step and place within it that name the draw."""

    inputs: TrainingInputs

    def __getitem__(self, index: int) -> Drawn:
        row = int(self.inputs.rows_at(np.array([index]))[0])
        return self.inputs.dataset[row], divmod(index, self.inputs.plan.batch_size)


@dataclass(frozen=True, eq=False)
class _Collate:
    """Items with their draws → batch, augmented or as the evaluation sees them."""

    plain: Collate
    drawn: TrainingCollate | None

    def __call__(self, pairs: Sequence[Drawn]) -> dict[str, Tensor]:
        items = [item for item, _ in pairs]
        return self.plain(items) if self.drawn is None else self.drawn(items, [draw for _, draw in pairs])
