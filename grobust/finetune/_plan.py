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

    def rows_at(self, places: IntArray) -> IntArray:
        """(b) rows of the training split at places of minibatches, see `Shares`."""
        steps, within = np.divmod(places, self.batch_size)
        return np.array(
            [self.batch(s)[i] for s, i in zip(steps.tolist(), within.tolist(), strict=True)], dtype=np.int64
        )

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
    """What one process loads: the places of its share of each piece of each minibatch from the step `first` on.

    A place is ``step * batch_size + i`` for the i-th row of a minibatch: with replacement a row can come twice, a place
    cannot. A minibatch is cut into ``processes * accumulate`` pieces, so that neither changes which rows an update is
    made of. A piece without rows holds the minibatch's first one; its loss does not count.
    """

    plan: Plan
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
        step += self.first
        part = self._part(step, piece)
        return step * self.plan.batch_size + (part if part.size else np.zeros(1, dtype=np.int64))

    def weights(self, step: int, piece: int) -> NDArray[Any]:
        """(b) float64 loss weights of a piece, as shares of the whole minibatch's."""
        weights, whole = self.plan.weights(self.plan.batch(step))
        part = self._part(step, piece)
        return weights[part] / whole if part.size else np.zeros(1)

    def _part(self, step: int, piece: int) -> IntArray:
        place, pieces = self.process * self.accumulate + piece, self.processes * self.accumulate
        return np.array_split(np.arange(self.plan.batch(step).size), pieces)[place]
