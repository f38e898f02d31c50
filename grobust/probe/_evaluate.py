"""Rows that heads predict correctly, by group: all heads in one pass over the features, block by block."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, on_cuda, to_numpy
from grobust.device._cuda import cuda
from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.metrics import GroupMetrics, metrics_of_counts
from grobust.probe import _numba
from grobust.probe._cuda_counts import count_correct, counted_by
from grobust.probe._design import DEVICE_BLOCK, HOST_BLOCK, LARGEST_OFFSET, Design
from grobust.probe._head import Probe
from grobust.probe._numba_products import multiply
from grobust.threads import Threads, threads
from grobust.typing import Array

__all__ = ["correct_by_group", "evaluate_probes", "logits_by_block"]

# Rows whose mean is subtracted before a float32 product, so that a large offset costs no digits.
MEAN_ROWS = 1024
# Of a block of features in float64.
LOGIT_BYTES, DEVICE_LOGIT_BYTES = 4 << 20, 128 << 20


def evaluate_probes(
    probes: Sequence[Probe], features: Any, groups: Groups, *, train_counts: NDArray[Any] | None = None
) -> tuple[GroupMetrics, ...]:
    """Metrics of K heads in one pass over the features.

    Products are float32, on features less their mean. Where two logits agree to its rounding, a prediction can differ
    from `Probe.predict`, which is float64.

    Parameters
    ----------
    probes : K heads of equal shape, on the features' device
    features : (n, d) NumPy or CuPy, or an array whose row slices are (a memory map, `FeatureStore.view`,
        `DeviceStream`)
    groups : of the n rows
    train_counts : (g) rows per group of the full training set, for `average_train_weighted`

    Raises
    ------
    ShapeError
        If heads, features and groups do not fit together.
    """
    if not probes:
        return ()
    shapes = {tuple(probe.weight.shape) for probe in probes}
    expected = (groups.n_classes, features.shape[1])
    if shapes != {expected} or features.shape[0] != len(groups):
        raise ShapeError(
            f"heads {sorted(shapes)}, features {tuple(features.shape)} and {len(groups)} rows with {groups.n_classes} "
            f"classes do not fit; expected heads {expected} and as many features as rows."
        )
    if len(groups) == 0:
        correct = np.zeros((len(probes), groups.n_groups), dtype=np.int64)
    else:
        first = features[:1, :]
        if isinstance(first, np.ndarray):
            correct = _on_host(probes, features, groups)
        elif on_cuda(first) and features.dtype != np.float64:
            correct = _on_cuda(probes, features, groups)
        else:
            correct = _on_device(probes, features, groups)
    return tuple(metrics_of_counts(row, groups, train_counts=train_counts) for row in correct)


def correct_by_group(part: Design, weights: NDArray[Any], groups: Groups, pool: Threads) -> NDArray[Any]:
    """(K, g) int64 rows predicted correctly by heads (K, c, d + 1) on standardized features, the intercept last.

    One column (c = 1) means two classes, of which the second has positive logits. Ties go to the first class.
    """
    heads, columns, width = weights.shape
    small, offset = part.fold(weights.astype(np.float64))
    flat = np.ascontiguousarray(small, dtype=np.float32).reshape(heads * columns, width - 1)
    shift = offset.astype(np.float32)[:, :, None]
    labels, ids = groups.labels.astype(np.int32), groups.ids.astype(np.int32)

    def work(start: int, stop: int) -> NDArray[Any]:
        correct = np.zeros((heads, groups.n_groups), dtype=np.int64)
        room = np.empty((HOST_BLOCK, width - 1), dtype=np.float32) if part.shift is not None else None
        for lo in range(start, stop, HOST_BLOCK):
            hi = min(lo + HOST_BLOCK, stop)
            logits = np.empty((heads * columns, hi - lo), dtype=np.float32)
            multiply(flat, part.block(lo, hi, room), logits)
            _numba.count_correct(
                logits.reshape(heads, columns, hi - lo) + shift, labels[lo:hi], ids[lo:hi], correct
            )  # fmt: skip
        return correct

    return np.asarray(np.sum(pool.ranges(work, len(groups), HOST_BLOCK), axis=0))


def logits_by_block(probes: Sequence[Probe], features: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and float64 logits (b, K, k) of one block of rows after another, on the host.

    Parameters
    ----------
    probes : K heads, wherever they are
    features : (n, d); products are float64, where the rows are
    """
    n, d = features.shape
    xp = array_namespace(features[:1, :])
    weight = xp.asarray(np.concatenate([to_numpy(probe.weight) for probe in probes]), dtype=xp.float64)
    bias = xp.asarray(np.concatenate([to_numpy(probe.bias) for probe in probes]), dtype=xp.float64)
    host = isinstance(weight, np.ndarray)
    block = max(64, (LOGIT_BYTES if host else DEVICE_LOGIT_BYTES) // (8 * d))
    for lo in range(0, n, block):
        rows = xp.astype(features[lo : min(lo + block, n), :], xp.float64)
        yield lo, to_numpy(rows @ weight.T + bias).reshape(rows.shape[0], len(probes), -1)


def _on_host(probes: Sequence[Probe], features: Any, groups: Groups) -> NDArray[Any]:
    n, d = features.shape
    rows = features[:: max(1, -(-n // MEAN_ROWS)), :]
    mean = rows.mean(axis=0, dtype=np.float64)
    part = Design(features, mean, np.ones(d), np.float32, mean.astype(np.float32))
    raw = np.stack([np.concatenate([p.weight, p.bias[:, None]], axis=1) for p in probes]).astype(np.float64)
    if groups.n_classes == 2:
        raw = raw[:, 1:] - raw[:, :1]
    with threads() as pool:
        return correct_by_group(part, part.centred(raw), groups, pool)


def _on_cuda(probes: Sequence[Probe], features: Any, groups: Groups) -> NDArray[Any]:
    """On tensor cores or in float32; rows are centred where their mean would cost digits."""
    device, d = cuda(), features.shape[1]
    xp = device.xp
    rows = features[:: max(1, -(-features.shape[0] // MEAN_ROWS)), :].astype(np.float64)
    mean = xp.mean(rows, axis=0)
    scale = xp.sqrt(xp.mean((rows - mean[None, :]) ** 2, axis=0))
    near = bool(xp.all(xp.abs(mean) <= LARGEST_OFFSET * scale))
    part = Design(features, mean, xp.ones(d, dtype=np.float64), np.float32, None, near)
    raw = xp.stack([xp.concatenate([p.weight, p.bias[:, None]], axis=1) for p in probes]).astype(np.float64)
    if groups.n_classes == 2:
        raw = raw[:, 1:] - raw[:, :1]
    return count_correct(device, part, part.centred(raw), *counted_by(device, groups), groups.n_groups)


def _on_device(probes: Sequence[Probe], features: Array, groups: Groups) -> NDArray[Any]:
    """General array code: float64 products of a block of rows with all heads."""
    xp = array_namespace(features[:1, :])
    heads, n = len(probes), features.shape[0]
    weight = xp.concat([probe.weight for probe in probes], axis=0)
    bias = xp.concat([probe.bias for probe in probes], axis=0)
    labels, ids = xp.asarray(groups.labels), xp.asarray(groups.ids)
    of_group = xp.arange(groups.n_groups)[:, None]
    correct = xp.zeros((groups.n_groups, heads), dtype=xp.int64)
    for lo in range(0, n, DEVICE_BLOCK):
        hi = min(lo + DEVICE_BLOCK, n)
        logits = xp.astype(features[lo:hi, :], xp.float64) @ weight.T + bias
        chosen = xp.argmax(xp.reshape(logits, (hi - lo, heads, groups.n_classes)), axis=2)
        hit = xp.astype(chosen == labels[lo:hi][:, None], xp.float64)
        counted = xp.astype(ids[lo:hi][None, :] == of_group, xp.float64) @ hit
        correct = correct + xp.astype(counted, xp.int64)
    return to_numpy(correct.T)
