"""Minibatches of a `BalancedSample`: index arrays for grobust's own loop, a torch sampler for everybody else's.

Both give what `BalancedSample.draw` gives for (seed, epoch), in that order, so a loop of one's own sees the very rows
that `grobust finetune` sees.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from grobust.balancing import BalancedSample
from grobust.errors import ConfigError

__all__ = ["BalancedSampler", "minibatches"]

# Python integers made at a time: an epoch of twenty million rows as one list would take most of a gigabyte.
CHUNK = 1 << 16


def minibatches(
    sample: BalancedSample, *, epoch: int, batch_size: int, seed: int | None = None
) -> tuple[NDArray[Any], ...]:
    """Minibatches of one epoch, in order; the last one may be smaller and is kept.

    A function of (sample, seed, epoch) alone: a run that begins again at step s takes ``minibatches(...)[s:]``.

    Parameters
    ----------
    epoch : from 0
    batch_size : rows of a minibatch
    seed : of the draws; None for the sample's own

    Returns
    -------
    ⌈m / batch_size⌉ arrays of int64 rows of the training split. Their loss weights: `BalancedSample.loss_weight_of`.

    Raises
    ------
    ConfigError
        If the epoch or the seed is negative, or the batch size is not at least 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    rows = _draw(sample, seed, epoch)
    return tuple(np.split(rows, range(batch_size, rows.size, batch_size)))


class BalancedSampler(Sampler[int]):
    """Rows of a training split, drawn as a `BalancedSample` says, for a torch `DataLoader`.

    Call `set_epoch` before each epoch, as with torch's `DistributedSampler`; Hugging Face's `Trainer`, accelerate and
    Lightning do so by themselves. The rows are those of the training split that the sample was made from: give the
    loader a data set with exactly these rows. Upweighting does nothing by its draws: multiply the losses by
    `BalancedSample.loss_weight_of`.

    Several processes: accelerate and `Trainer` share out the batches of this sampler among processes; leave `replicas`
    alone there, so that together they use each draw once. In a `DistributedDataParallel` loop of your own, give
    `replicas` and `rank`: each process takes every `replicas`-th row of the same draw, and the first rows fill up the
    last round, so that all processes have equally many. Lightning takes its own shares of any sampler; pass
    ``use_distributed_sampler=False`` with `replicas`, or leave both out.

    Parameters
    ----------
    sample : made with one of the balancing methods
    seed : of the draws; None for the sample's own, which also decided the subset
    epoch : the first epoch
    replicas, rank : number of processes that share the draws, and which one this is

    Raises
    ------
    ConfigError
        If the epoch or the seed is negative, or there is no such rank.
    """

    def __init__(
        self, sample: BalancedSample, *, seed: int | None = None, epoch: int = 0, replicas: int = 1, rank: int = 0
    ) -> None:
        if not 0 <= rank < replicas:
            raise ConfigError(f"rank must be from 0 to replicas - 1, got rank {rank} of {replicas}.")
        self._sample, self._replicas, self._rank = _seeded(sample, seed), replicas, rank
        self.set_epoch(epoch)

    @property
    def sample(self) -> BalancedSample:
        """What is drawn from."""
        return self._sample

    @property
    def epoch(self) -> int:
        """The epoch that the next pass draws."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; without it every pass repeats the same one."""
        self._epoch = _checked("epoch", epoch)

    def __len__(self) -> int:
        """Rows of one epoch in this process."""
        return -(-len(self._sample) // self._replicas)

    def __iter__(self) -> Iterator[int]:
        rows = _draw(self._sample, None, self._epoch)
        # np.resize repeats from the beginning.
        own = np.resize(rows, len(self) * self._replicas)[self._rank :: self._replicas]
        for start in range(0, own.size, CHUNK):
            yield from own[start : start + CHUNK].tolist()


def _draw(sample: BalancedSample, seed: int | None, epoch: int) -> NDArray[Any]:
    rows: NDArray[Any] = _seeded(sample, seed).draw(_checked("epoch", epoch))
    return rows


def _seeded(sample: BalancedSample, seed: int | None) -> BalancedSample:
    """The sample with another seed of its draws; the rows kept stay."""
    if seed is None or seed == sample.seed:
        return sample
    return replace(sample, seed=_checked("seed", seed))


def _checked(name: str, value: int) -> int:
    if value < 0:
        raise ConfigError(f"{name} must not be negative, got {value}.")
    return value
