"""Sums over rows on a GPU, in float64 and in a fixed order: means and deviations of the features."""

from typing import Any

import numpy as np

from grobust.device._interface import NULL, Device
from grobust.typing import Array

__all__ = ["column_moments", "mean_and_scale", "reduce"]

THREADS, LANES, MOST_BLOCKS = 256, 16, 512
# Rows whose mean is near enough to all rows' that squares about it lose no digits.
FIRST_ROWS = 4096


def mean_and_scale(device: Device, features: Any, block: int) -> tuple[Array, Array]:
    """(d) float64 means and standard deviations of float16 or float32 features (n, d), `block` rows at a time."""
    xp, (n, d) = device.xp, features.shape
    few = min(n, FIRST_ROWS)
    shift = column_moments(device, xp.ascontiguousarray(features[:few, :]), None, None)[0] / few
    total = xp.zeros((2, d), dtype=np.float64)
    for lo in range(0, n, block):
        rows = xp.ascontiguousarray(features[lo : min(lo + block, n), :])
        total += column_moments(device, rows, shift, None)
    total /= n
    return shift + total[0], xp.sqrt(xp.maximum(total[1] - total[0] ** 2, 0))


def reduce(device: Device, partials: Array, totals: Array, *, add: bool) -> None:
    """totals (outputs) = or += the sums of partials (outputs, parts)."""
    outputs, parts = partials.shape
    device.launch(
        "reduce", (-(-outputs // (THREADS // 32)),), (THREADS,),
        (partials, np.int32(parts), np.int32(outputs), np.int32(add), totals),
    )  # fmt: skip


def column_moments(device: Device, rows: Array, shift: Array | None, weights: Array | None) -> Array:
    """(2, d) float64 sums over contiguous rows (b, d) of w (x − shift) and w (x − shift)²."""
    xp, (b, d) = device.xp, rows.shape
    blocks = min(-(-b // (8 * LANES)), MOST_BLOCKS)
    partials = xp.empty((2 * d, blocks), dtype=np.float64)
    device.launch(
        "column_moments", (-(-d // 32), blocks), (32, LANES),
        (rows, np.int32(rows.dtype == np.float16), np.int64(d), np.int64(b), np.int32(d),
         NULL if shift is None else shift, NULL if weights is None else weights, partials),
    )  # fmt: skip
    sums = xp.empty((2, d), dtype=np.float64)
    reduce(device, partials, sums, add=False)
    return sums
