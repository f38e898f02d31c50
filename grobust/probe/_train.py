"""`train_heads`: K heads trained on minibatches, with the accuracy of every group after every epoch.

The paper's over-training curves: each head draws minibatches from its own balanced sample and seed. A minibatch is
gathered, standardized, multiplied and used while it is in the cache; heads run side by side, and are evaluated together
in one pass over each split.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import is_array, on_cuda, to_numpy
from grobust.balancing import BalancedSample
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.metrics import GroupMetrics, metrics_of_counts
from grobust.probe import _numba
from grobust.probe._cuda import cuda
from grobust.probe._cuda_train import DeviceTrainer
from grobust.probe._design import HOST_BLOCK, Design, design
from grobust.probe._evaluate import correct_by_group
from grobust.probe._head import Probe
from grobust.settings import SGD, Match, Optimizer, WeightNormalization
from grobust.threads import Threads, threads

__all__ = ["TrainHead", "Trajectories", "train_heads"]


@dataclass(frozen=True, eq=False)
class TrainHead:
    """One head to train.

    Parameters
    ----------
    sample : rows of the training split, how they are drawn and weighted; its seed decides the minibatches
    learning_rate, weight_decay : of the optimizer; the decay is on the intercepts too
    name : for the result
    start : head to begin from, on raw features; None begins at zero, where the objective is convex anyway
    """

    sample: BalancedSample
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    name: str = ""
    start: Probe | None = None


@dataclass(frozen=True, eq=False)
class Trajectories:
    """K heads over E epochs.

    Parameters
    ----------
    names : K names
    match : what an epoch is: a pass over a head's own rows, or the same number of steps for every head
    steps, rows : (E, K) int64 minibatches and rows drawn since the start
    loss : (E, K) float64 mean of the epoch's minibatch losses, before each update; not finite where training diverged
    groups : the groups of each split evaluated
    correct : for each split (E, K, g) int64 rows predicted correctly, by group
    probes : K heads as they are at the end
    """

    names: tuple[str, ...]
    match: Match
    steps: NDArray[Any]
    rows: NDArray[Any]
    loss: NDArray[Any]
    groups: Mapping[str, Groups]
    correct: Mapping[str, NDArray[Any]]
    probes: tuple[Probe, ...]

    @property
    def diverged(self) -> NDArray[Any]:
        """(K) bool, heads whose loss was not finite in some epoch: a smaller learning rate may help."""
        diverged: NDArray[Any] = ~np.isfinite(self.loss).all(axis=0)
        return diverged

    def accuracy(self, split: str) -> NDArray[Any]:
        """(E, K, g) float64 accuracy by group; NaN for a group without rows."""
        counts = self.groups[split].counts
        return np.where(counts > 0, self.correct[split] / np.maximum(counts, 1), np.nan)

    def wga(self, split: str) -> NDArray[Any]:
        """(E, K) float64 worst-group accuracy over the groups that have rows."""
        present = self.groups[split].counts > 0
        return np.asarray(self.accuracy(split)[:, :, present].min(axis=2))

    def average(self, split: str) -> NDArray[Any]:
        """(E, K) float64 accuracy over rows."""
        return np.asarray(self.correct[split].sum(axis=2) / len(self.groups[split]))

    def metrics(self, split: str, epoch: int, head: int) -> GroupMetrics:
        """All metrics of one head after one epoch (from 0; −1 is the last)."""
        return metrics_of_counts(self.correct[split][epoch, head], self.groups[split])


def train_heads(
    features: Any,
    labels: NDArray[Any],
    heads: Sequence[TrainHead],
    *,
    n_classes: int,
    evaluate: Mapping[str, tuple[Any, Groups]],
    settings: SGD | None = None,
    standardize: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Train K heads with SGD or AdamW, each on minibatches of its own balanced sample.

    The loss of a minibatch B is ``Σ_B w_i · cross-entropy_i / Σ_B w_i``, or over |B|, as the sample says
    (`WeightNormalization`). Weights and their moments are float32, as torch keeps them; losses are summed in float64.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64 rows of the training split: NumPy, a memory map, or a
        `FeatureStore.view`, whose rows are gathered from the file and never loaded whole; or CuPy: on a GPU a block per
        head goes through its minibatches
    labels : (n) integers 0 … k−1
    heads : K heads; their samples must be of these n rows
    n_classes : k ≥ 2
    evaluate : features (m, d) and groups of each split to evaluate after every epoch, by name; on the features' device
    settings : optimizer, epochs, batch size, schedule, and what the heads have in common
    standardize : subtract the mean and divide by the standard deviation of the n training rows
    progress : called after every epoch with its number and E

    Raises
    ------
    ShapeError
        If arrays do not fit together or a feature is not finite.
    ConfigError
        If a learning rate or weight decay is not a number of at least 0.
    """
    settings = settings or SGD()
    _check(features, labels, heads, n_classes, evaluate)
    with threads() as pool:
        data = design(features, standardize=standardize, threads=pool, block_rows=HOST_BLOCK, small=0)
        if not standardize:
            data = data.as_stored()
        splits = {name: (replace(data, features=rows), groups) for name, (rows, groups) in evaluate.items()}
        backend = _backend(data, to_numpy(labels), heads, n_classes, settings, pool)
        draws = [_Draws(head.sample, settings.batch_size) for head in heads]
        shape = (settings.epochs, len(heads))
        steps, rows, loss = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
        correct = {name: np.zeros((*shape, groups.n_groups), np.int64) for name, (_, groups) in splits.items()}
        shared = math.ceil(labels.shape[0] / settings.batch_size)
        for epoch in range(settings.epochs):
            batches = [draw.take(shared if settings.match is Match.STEPS else draw.per_epoch) for draw in draws]
            factor = settings.schedule.factor(
                epoch, settings.epochs, step_size=settings.step_size, gamma=settings.gamma
            )
            loss[epoch] = backend.train(batches, [head.learning_rate * factor for head in heads])
            steps[epoch] = [part.offsets.size - 1 for part in batches]
            rows[epoch] = [part.rows.size for part in batches]
            for name, (part, groups) in splits.items():
                correct[name][epoch] = backend.correct(part, groups)
            if progress is not None:
                progress(epoch + 1, settings.epochs)
        return Trajectories(
            names=tuple(head.name for head in heads), match=settings.match, steps=steps.cumsum(axis=0),
            rows=rows.cumsum(axis=0), loss=loss, groups={name: groups for name, (_, groups) in splits.items()},
            correct=correct, probes=backend.probes(),
        )  # fmt: skip


def _check(
    features: Any, labels: NDArray[Any], heads: Sequence[TrainHead], n_classes: int,
    evaluate: Mapping[str, tuple[Any, Groups]],
) -> None:  # fmt: skip
    if features.ndim != 2 or labels.shape != (features.shape[0],) or 0 in features.shape:
        raise ShapeError(f"features {features.shape} and labels {labels.shape} do not fit; expected (n, d) and (n).")
    if n_classes < 2 or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise ConfigError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; expected 0 to n_classes − 1, of at least 2 "
            f"classes, with n_classes={n_classes}."
        )
    for name, (rows, groups) in evaluate.items():
        if rows.ndim != 2 or rows.shape != (len(groups), features.shape[1]):
            expected = (len(groups), features.shape[1])
            raise ShapeError(f"features of '{name}' have shape {rows.shape}; expected {expected}.")
        if len(groups) == 0:
            raise ShapeError(f"'{name}' has no rows to evaluate on; leave it out.")
    for i, head in enumerate(heads):
        what = f"Head {i}" + (f" ({head.name})" if head.name else "")
        if head.sample.n != labels.shape[0]:
            raise ShapeError(f"{what}: its sample is of {head.sample.n} rows, the features have {labels.shape[0]}.")
        for key, value in (("learning_rate", head.learning_rate), ("weight_decay", head.weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{what}: {key} must be a number of at least 0, got {value!r}.")
        if head.start is not None and tuple(head.start.weight.shape) != (n_classes, features.shape[1]):
            expected = (n_classes, features.shape[1])
            raise ShapeError(f"{what}: its start has weights {tuple(head.start.weight.shape)}, expected {expected}.")


class _Draws:
    """Minibatches of a sample, epoch after epoch of its own; each epoch's last may be smaller."""

    def __init__(self, sample: BalancedSample, batch_size: int) -> None:
        self.per_epoch = math.ceil(len(sample) / batch_size)
        self._sample, self._batch_size = sample, batch_size
        self._epoch, self._rows = 0, np.zeros(0, dtype=np.int64)

    def take(self, steps: int) -> "_Minibatches":
        """The next minibatches."""
        parts, sizes = [], []
        while steps > 0:
            if self._rows.size == 0:
                self._rows = self._sample.draw(self._epoch)
                self._epoch += 1
            part, self._rows = np.split(self._rows, [steps * self._batch_size])
            whole, rest = divmod(part.size, self._batch_size)
            sizes += [self._batch_size] * whole + [rest] * (rest > 0)
            parts.append(part)
            steps -= whole + (rest > 0)
        rows = np.concatenate(parts)
        weights = self._sample.loss_weight_of(rows).astype(np.float32)
        return _Minibatches(rows, np.cumsum([0, *sizes]), weights)


class _Minibatches(NamedTuple):
    """Rows (s) int64 in order, where each minibatch begins (b + 1) int64, and loss weights (s) float32."""

    rows: NDArray[Any]
    offsets: NDArray[Any]
    weights: NDArray[Any]


class _Host:
    """Compiled loops, a head to a thread. Of two opposite columns only the second is kept."""

    def __init__(
        self, data: Design, labels: NDArray[Any], heads: Sequence[TrainHead], n_classes: int, settings: SGD,
        threads: Threads,
    ) -> None:  # fmt: skip
        self._data, self._heads, self._settings, self._threads = data, heads, settings, threads
        features, self._numbers = _mapped(data.features)
        self._features = features.view(np.int16) if features.dtype == np.float16 else features
        self._labels = labels.astype(np.int32)
        if self._numbers is not None:
            # The loops read label and features by the same number: that of the row in the file.
            self._labels = np.zeros(len(features), dtype=np.int32)
            self._labels[self._numbers] = labels
        self._mean, self._inverse = data.mean.astype(np.float32), (1 / data.scale).astype(np.float32)
        self._w = _initial(heads, data, n_classes)
        self._first, self._second = np.zeros_like(self._w), np.zeros_like(self._w)
        self._steps = np.zeros(len(heads), dtype=np.int64)

    def train(self, batches: list[_Minibatches], rates: list[float]) -> NDArray[Any]:
        """Train every head on its minibatches; (K) mean losses."""
        settings = self._settings
        adam = settings.optimizer is Optimizer.ADAMW
        beta1, beta2 = settings.betas if adam else (settings.momentum, 0.0)

        def one(k: int) -> float:
            head, (rows, offsets, weights) = self._heads[k], batches[k]
            rows = rows if self._numbers is None else self._numbers[rows]
            loss = _numba.minibatches(
                self._features, rows, offsets, self._labels, weights, self._mean, self._inverse, self._w[k],
                self._first[k], self._second[k], int(self._steps[k]), adam,
                head.sample.normalize is WeightNormalization.BATCH, rates[k], head.weight_decay, beta1, beta2,
                settings.epsilon, settings.batch_size,
            )  # fmt: skip
            self._steps[k] += offsets.size - 1
            return float(loss)

        return np.array(self._threads.map(one, range(len(self._heads))))

    def correct(self, part: Design, groups: Groups) -> NDArray[Any]:
        """(K, g) int64 rows predicted correctly."""
        return correct_by_group(part, self._w, groups, self._threads)

    def probes(self) -> tuple[Probe, ...]:
        """The heads as they are, on raw features."""
        inner = self._data.uncentred(self._w.astype(np.float64))
        if inner.shape[1] == 1:
            inner = np.concatenate([-inner, inner], axis=1)
        return tuple(Probe(w[:, :-1], w[:, -1]) for w in inner)


def _backend(
    data: Design, labels: NDArray[Any], heads: Sequence[TrainHead], n_classes: int, settings: SGD, threads: Threads
) -> _Host | DeviceTrainer:
    """Loops on the host, or kernels for features on a GPU."""
    if not on_cuda(data.mean):
        return _Host(data, labels, heads, n_classes, settings, threads)
    if not is_array(data.features):
        raise ConfigError("Minibatches are drawn from everywhere: give features that fit on the GPU, or the host's.")
    on_host = replace(data, mean=to_numpy(data.mean), scale=to_numpy(data.scale))
    return DeviceTrainer(
        cuda(), data, labels, _initial(heads, on_host, n_classes),
        weight_decays=[head.weight_decay for head in heads],
        normalize=[head.sample.normalize is WeightNormalization.BATCH for head in heads], settings=settings,
    )  # fmt: skip


def _initial(heads: Sequence[TrainHead], data: Design, n_classes: int) -> NDArray[Any]:
    """(K, c, d + 1) float32 initial weights on standardized features; of two opposite columns only the second."""
    starts = [_start(head.start, data, n_classes) for head in heads]
    opposite = n_classes == 2 and all(np.array_equal(start[0], -start[1]) for start in starts)
    return np.ascontiguousarray(np.stack(starts).astype(np.float32)[:, 1 if opposite else 0 :])


def _mapped(features: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """An array that rows can be gathered from, and the numbers of the rows in it if it has others too."""
    if isinstance(features, np.ndarray):
        return features, None
    array, numbers = features.mapped()
    return array, numbers


def _start(start: Probe | None, data: Design, n_classes: int) -> NDArray[Any]:
    """(k, d + 1) float64 initial weights on standardized features."""
    if start is None:
        return np.zeros((n_classes, data.mean.size + 1))
    raw = np.concatenate([to_numpy(start.weight), to_numpy(start.bias)[:, None]], axis=1)
    centred: NDArray[Any] = data.centred(raw[None])[0]
    return centred
