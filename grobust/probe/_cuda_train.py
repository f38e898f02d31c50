"""Heads trained on a GPU: a block per head goes through all its minibatches of an epoch in one launch.

The counterpart of `_train._Host`, on the same draws; evaluation is one product and one count per split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import to_numpy
from grobust.device._interface import NULL, Device
from grobust.groups import Groups
from grobust.probe._cuda_counts import count_correct, counted_by
from grobust.probe._design import Design
from grobust.probe._head import Probe
from grobust.settings import SGD, Optimizer
from grobust.typing import Array

__all__ = ["DeviceTrainer"]

MOST_THREADS = 512
# Shared memory that the kernel uses beside what it is given.
RESERVED = 1024


class DeviceTrainer:
    """K heads in float32 on a device.

    Parameters
    ----------
    device : where the arrays are
    data : float16 or float32 features and their standardization
    labels : (n) integers
    weights : (K, c, d + 1) float32 initial weights on standardized features; one column is a class's half of two
        opposite ones
    weight_decays : (K)
    normalize : (K) bool, whether a minibatch's loss is divided by the sum of its weights
    """

    def __init__(
        self, device: Device, data: Design, labels: NDArray[Any], weights: NDArray[Any], *,
        weight_decays: Sequence[float], normalize: Sequence[bool], settings: SGD,
    ) -> None:  # fmt: skip
        xp = device.xp
        self._device, self._data, self._settings = device, data, settings
        narrow = data.features.dtype in (np.float16, np.float32)
        self._features = xp.ascontiguousarray(data.features if narrow else data.features.astype(np.float32))
        self._labels = xp.asarray(labels.astype(np.uint16))
        self._mean = xp.asarray(data.mean, dtype=np.float32)
        self._inverse = xp.asarray(1 / data.scale, dtype=np.float32)
        self._w = xp.asarray(weights, dtype=np.float32)
        self._first, self._second = xp.zeros_like(self._w), xp.zeros_like(self._w)
        self._steps = np.zeros(weights.shape[0], dtype=np.int64)
        self._decays = xp.asarray(np.array(weight_decays, dtype=np.float64))
        self._normalize = xp.asarray(np.array(normalize, dtype=np.int32))
        self._groups: dict[int, tuple[Groups, Array, Array]] = {}
        heads, columns, width = weights.shape
        batch = settings.batch_size
        self._shared, self._placed = _placement(columns, width, batch, device.shared_bytes - RESERVED)
        residual, own, tile = (self._placed[name] for name in ("residual", "weights", "tile"))
        self._flags = (np.int32(own), np.int32(tile), np.int32(residual))
        self._tiles = NULL if tile else xp.empty((heads, batch, width - 1), dtype=np.float32)
        self._residuals = NULL if residual else xp.empty((heads, columns, batch), dtype=np.float32)

    def train(self, batches: Sequence[Any], rates: Sequence[float]) -> NDArray[Any]:
        """Train every head on its minibatches (rows, offsets, weights); (K) float64 mean losses."""
        xp, settings = self._device.xp, self._settings
        heads, columns, width = self._w.shape
        adam = settings.optimizer is Optimizer.ADAMW
        beta1, beta2 = settings.betas if adam else (settings.momentum, 0.0)
        draws = np.cumsum([0, *(part.rows.size for part in batches)])
        starts = np.cumsum([0, *(part.offsets.size for part in batches)])
        losses = xp.empty(heads, dtype=np.float64)
        threads = int(np.clip(-(-columns * width // 32) * 32, 128, MOST_THREADS))
        self._device.launch(
            "minibatches", (heads,), (threads,),
            (self._features, np.int32(self._features.dtype == np.float16), np.int32(width - 1), np.int32(columns),
             np.int32(settings.batch_size), self._labels,
             xp.asarray(np.concatenate([part.rows for part in batches]).astype(np.int32)),
             xp.asarray(np.concatenate([part.weights for part in batches]).astype(np.float32)),
             xp.asarray(draws[:-1].astype(np.int64)),
             xp.asarray(np.concatenate([part.offsets for part in batches]).astype(np.int32)),
             xp.asarray(starts.astype(np.int32)), self._mean, self._inverse, self._w, self._first, self._second,
             xp.asarray(self._steps.copy()), np.int32(adam), self._normalize,
             xp.asarray(np.array(rates, dtype=np.float64)), self._decays, np.float64(beta1), np.float64(beta2),
             np.float64(settings.epsilon), *self._flags, self._tiles, self._residuals, losses),
            shared=self._shared,
        )  # fmt: skip
        self._steps += [part.offsets.size - 1 for part in batches]
        return to_numpy(losses)

    def correct(self, part: Design, groups: Groups) -> NDArray[Any]:
        """(K, g) int64 rows predicted correctly."""
        labels, ids = self._of(groups)
        return count_correct(self._device, part, self._w.astype(np.float64), labels, ids, groups.n_groups)

    def probes(self) -> tuple[Probe, ...]:
        """The heads as they are, on raw features, on the device."""
        inner = self._data.uncentred(self._w.astype(np.float64))
        if inner.shape[1] == 1:
            inner = self._device.xp.concatenate([-inner, inner], axis=1)
        return tuple(Probe(w[:, :-1], w[:, -1]) for w in inner)

    def _of(self, groups: Groups) -> tuple[Array, Array]:
        """Labels and group ids on the device."""
        if id(groups) not in self._groups:
            self._groups[id(groups)] = (groups, *counted_by(self._device, groups))
        return self._groups[id(groups)][1:]


def _placement(columns: int, width: int, batch: int, limit: int) -> tuple[int, dict[str, bool]]:
    """Bytes of shared memory, and what is in it, by size of use: residuals, weights, the standardized minibatch."""
    used = _rounded(8 * batch)
    placed = {}
    for name, size in (("residual", columns * batch), ("weights", columns * width), ("tile", batch * (width - 1))):
        needed = _rounded(4 * size)
        placed[name] = used + needed <= limit
        used += needed if placed[name] else 0
    return used, placed


def _rounded(size: int) -> int:
    return -(-size // 16) * 16
