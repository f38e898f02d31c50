"""Which rows each update is made of: a function of settings and step alone, on every process and after every kill."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from grobust.balancing import BalancedSample
from grobust.finetune.sampler import minibatches
from grobust.finetune.settings import FinetuneSettings
from grobust.settings import Match, WeightNormalization

__all__ = ["Plan", "Shares", "plan_of"]

IntArray = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """The minibatches of a run.

    Parameters
    ----------
    sample : how rows of the training split are kept, drawn and weighted
    batch_size : rows of a minibatch; the last of a draw may be smaller
    per_epoch : minibatches of an epoch
    steps : minibatches of the whole run
    """

    sample: BalancedSample
    batch_size: int
    per_epoch: int
    steps: int

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; the last may be cut short."""
        return math.ceil(self.steps / self.per_epoch)

    @property
    def per_draw(self) -> int:
        """Minibatches of a draw of all kept rows."""
        return math.ceil(len(self.sample) / self.batch_size)

    def batch(self, step: int) -> IntArray:
        """(b) rows of the training split of the minibatch `step`, from 0.

        When the rows of a draw are used up the next one begins, whether or not an epoch ends there.
        """
        draw, index = divmod(step, self.per_draw)
        return _draw(self, draw)[index]

    def rows_until(self, step: int) -> int:
        """Rows drawn by the first `step` minibatches."""
        draws, rest = divmod(step, self.per_draw)
        return draws * len(self.sample) + min(rest * self.batch_size, len(self.sample))

    def weights(self, rows: IntArray) -> tuple[NDArray[Any], float]:
        """(b) float64 loss weights of a minibatch, and what their sum of losses is divided by."""
        weights = self.sample.loss_weight_of(rows)
        whole = float(weights.sum()) if self.sample.normalize is WeightNormalization.BATCH else float(rows.size)
        return weights, whole


def plan_of(sample: BalancedSample, settings: FinetuneSettings) -> Plan:
    """The plan of a run on a balanced sample."""
    rows = sample.n if settings.match is Match.STEPS else len(sample)
    per_epoch = math.ceil(rows / settings.batch_size)
    steps = per_epoch * settings.epochs
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    return Plan(sample, settings.batch_size, per_epoch, steps)


@lru_cache(maxsize=2)
def _draw(plan: Plan, draw: int) -> Sequence[IntArray]:
    """Minibatches of one draw; that of the loader and that of the loop are at most one draw apart."""
    return minibatches(plan.sample, seed=plan.sample.seed, epoch=draw, batch_size=plan.batch_size)


@dataclass(frozen=True, eq=False)
class Shares(Sequence[IntArray]):
    """What one process loads: its share of each piece of each minibatch from `first` on, as rows of the data set.

    A minibatch is cut into ``processes * accumulate`` pieces, so that neither changes which rows an update is made of.
    A piece without rows holds the minibatch's first one; its loss does not count.
    """

    plan: Plan
    rows: IntArray
    first: int
    accumulate: int = 1
    process: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return (self.plan.steps - self.first) * self.accumulate

    @overload
    def __getitem__(self, index: int) -> IntArray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[IntArray]: ...

    def __getitem__(self, index: int | slice) -> IntArray | Sequence[IntArray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        step, piece = divmod(index, self.accumulate)
        loaded, _ = self.piece(self.first + step, piece)
        taken: IntArray = self.rows[loaded]
        return taken

    def piece(self, step: int, piece: int) -> tuple[IntArray, NDArray[Any]]:
        """(b) rows of the training split of a piece, and (b) float64 loss weights as shares of the whole batch's."""
        batch = self.plan.batch(step)
        weights, whole = self.plan.weights(batch)
        place = self.process * self.accumulate + piece
        part = np.array_split(np.arange(batch.size), self.processes * self.accumulate)[place]
        if part.size == 0:
            return batch[:1], np.zeros(1)
        return batch[part], weights[part] / whole
